// Keys: what they may do, what they have used, and changes.

import { call, get, post } from "./api.js";
import { Button, confirm, copy, Field, notify, Problem, showDialog, Table } from "./components.js";
import { formatMoment, formatNumber, formatSeconds } from "./format.js";
import { html, useEffect, useState } from "./preact-htm.js";

const SCOPES = { inference: "calls of models", manage: "this page, models and keys", metrics: "plots, and /metrics for Prometheus" };
const UNITS = { s: "a second", m: "a minute", h: "an hour", d: "a day", mo: "a month" };
const STATES = { active: "good", expired: "warn", revoked: "bad" };
const LIFETIMES = [["", "without end"], ["1d", "1 day"], ["30d", "30 days"], ["90d", "90 days"], ["365d", "1 year"]];
// What keys have used changes with each call.
const RELOAD_S = 5;

// No request creates it, as it shuts out everybody who lacks it.
const FIRST_KEY = html`<p class="notice">The first key is created on the gateway's machine. From then on every request needs one, this page too:
  <code>foundry-api keys create --name admin --scope inference,manage,metrics</code></p>`;

export function View({ app, event }) {
  const [keys, setKeys] = useState([]);
  const ownId = app.session.key?.id;

  async function load() {
    setKeys((await get("/api/keys")).keys);
  }

  useEffect(() => {
    load().catch((error) => notify(error.message, "bad"));
  }, [event?.revisions?.keys, Math.floor((event?.tick ?? 0) / RELOAD_S)]);

  async function create() {
    const answer = await showDialog("Create a key", (close) => html`<${KeyForm} app=${app} close=${close} />`);
    if (!answer) return;
    await showToken(answer, "is created");
    await load();
  }

  async function change(key) {
    if (!await showDialog(`Change ${key.name}`, (close) => html`<${KeyForm} app=${app} apiKey=${key} close=${close} />`)) return;
    notify(`${key.name} is changed.`);
    await load();
  }

  async function rotate(key) {
    const grace = await showDialog(`A new token for ${key.name}`, (close) =>
      html`<${RotateForm} canEndAtOnce=${key.id !== ownId} close=${close} />`);
    if (grace === undefined) return;
    const answer = await post(`/api/keys/${key.id}/rotate`, { grace });
    await load();
    await showToken(answer, "has a new token");
  }

  async function revoke(key) {
    if (!await confirm(`Revoke ${key.name}?`, "Its tokens and its running calls end at once. It stays in the list.", "Revoke")) return;
    await post(`/api/keys/${key.id}/revoke`);
    notify(`${key.name} is revoked.`);
    await load();
  }

  async function remove(key) {
    if (!await confirm(`Delete ${key.name}?`, "It disappears from the list, and its name is free again.", "Delete")) return;
    await call("DELETE", `/api/keys/${key.id}`);
    notify(`${key.name} is deleted.`);
    await load();
  }

  function listActions(key) {
    const isActive = key.state === "active";
    const actions = [];
    if (isActive) actions.push(["Change", change, "small"], ["Rotate", rotate, "small"]);
    if (key.state !== "revoked" && key.id !== ownId) actions.push(["Revoke", revoke, "danger small"]);
    if (!isActive) actions.push(["Delete", remove, "danger small"]);
    return html`<div class="actions">${actions.map(([title, action, kind]) =>
      html`<${Button} key=${title} class=${kind} label=${`${title} ${key.name}`} action=${() => action(key)}>${title}<//>`)}</div>`;
  }

  const columns = [
    { title: "Key", cell: (key) => html`<strong>${key.name}</strong><small class="mono">${key.id}</small>` },
    { title: "State", cell: (key) => html`<span class=${`tag ${STATES[key.state]}`}>${key.state}</span>` },
    { title: "Opens", cell: (key) => key.scopes.join(", ") },
    { title: "Models", cell: (key) => (key.models ? key.models.join(", ") : "all") },
    { title: "Limits and use", cell: (key) => html`<${Budgets} apiKey=${key} /><small>${formatNumber(key.used_tokens)} tokens since start</small>` },
    { title: "Ends", cell: describeEnd },
    { title: "", class: "end", cell: listActions },
  ];
  return html`<div class="stack">
    ${app.session.requires_key ? html`<div class="bar"><${Button} class="primary" action=${create}>Create a key<//></div>` : FIRST_KEY}
    <${Table} label="Keys" columns=${columns} items=${keys} getKey=${(key) => key.id}
      empty="There are no keys: everybody on this machine may call the gateway." />
    <p class="hint">Tokens are stored as digests only. A lost token is replaced by a rotation.</p>
  </div>`;
}

function describeEnd(key) {
  if (key.revoked_at) return `revoked ${formatMoment(key.revoked_at)}`;
  const end = key.expires_at ? formatMoment(key.expires_at) : "never";
  return key.grace_until ? `${end}; earlier token ${formatMoment(key.grace_until)}` : end;
}

function Budgets({ apiKey: key }) {
  const limits = key.budgets.map(({ unit, limit, remaining, reset_s: reset }) => {
    const [what, period] = unit.split("/");
    return { id: unit, what, period: ` ${UNITS[period]}`, limit, used: limit - remaining, reset };
  });
  if (key.parallel) limits.push({ id: "parallel", what: "calls at once", period: "", limit: key.parallel, used: key.running });
  if (!limits.length) return "no limits";
  return html`<div class="budgets">${limits.map(({ id, what, period, limit, used, reset }) =>
    html`<div key=${id} title=${used && reset ? `Nothing of it is used in ${formatSeconds(reset)}` : ""}>
      <meter min="0" max=${limit} high=${limit * 0.9} value=${used} aria-label=${`${what} in use`}></meter>
      <small>${formatNumber(used)} of ${formatNumber(limit)} ${what}${period}</small>
    </div>`)}</div>`;
}

// The form of a new key, or of one that is changed.
function KeyForm({ app, apiKey: key, close }) {
  const [problem, setProblem] = useState("");

  async function submit(event) {
    event.preventDefault();
    const data = new FormData(event.target);
    const read = (name) => data.get(name).trim();
    const readList = (name) => read(name).split(",").map((part) => part.trim()).filter(Boolean);
    try {
      close(await post(key ? `/api/keys/${key.id}/update` : "/api/keys", {
        name: key ? undefined : read("name"),
        scopes: data.getAll("scope"),
        models: read("models") ? readList("models") : null,
        expires: read("expires") === "keep" ? undefined : read("expires") || null,
        rate: read("rate") || null,
        tokens: readList("tokens"),
        parallel: read("parallel") ? Number(read("parallel")) : null,
        weight: Number(read("weight")),
      }));
    } catch (error) {
      setProblem(error.message);
    }
  }

  // Their values are defaults, so that showing a problem does not reset what was entered.
  const text = (label, name, value, attributes = {}, hint = "") => html`<${Field} label=${label} hint=${hint}>${(common) =>
    html`<input type="text" name=${name} defaultValue=${value} autocomplete="off" spellcheck="false" ...${attributes} ...${common} />`}<//>`;
  const any = { placeholder: "any number" };
  return html`<form onSubmit=${submit}>
    <${Problem} text=${problem} />
    ${!key && text("Name", "name", "", { required: true, maxlength: 64 }, "Who uses it, such as a program or a team.")}
    <fieldset><legend>Opens</legend>${app.session.scopes.map((scope) => html`<label class="check">
      <input type="checkbox" name="scope" value=${scope}
        defaultChecked=${key ? key.scopes.includes(scope) : scope === "inference"} />${scope}: ${SCOPES[scope]}</label>`)}</fieldset>
    <div class="columns">
      ${text("Models", "models", key?.models?.join(", "), { placeholder: "all" }, "Aliases or ids, with commas.")}
      <${Field} label=${key ? "Valid from now on for" : "Valid for"}>${(common) => html`<select name="expires" ...${common}>
        ${[...(key ? [["keep", "as it is"]] : []), ...LIFETIMES].map(([value, title]) => html`<option value=${value}>${title}</option>`)}</select>`}<//>
      ${text("Requests", "rate", key?.rate, any, "Such as 60/m; s, m, h or d.")}
      ${text("Tokens", "tokens", key?.tokens.join(", "), any, "Such as 2000/m, 100000/d; m, h, d or mo.")}
      ${text("Calls at the same time", "parallel", key?.parallel, { ...any, type: "number", min: 1, max: 100000 })}
      ${text("Weight", "weight", key?.weight ?? 1, { type: "number", min: 0, max: 1000, step: "any" }, "Its share while the service is busy.")}
    </div>
    <div class="actions">
      <button type="button" onClick=${() => close()}>Cancel</button>
      <button type="submit" class="primary">${key ? "Change" : "Create"}</button>
    </div>
  </form>`;
}

function RotateForm({ canEndAtOnce, close }) {
  const [grace, setGrace] = useState("24h");
  const times = [["24h", "24 hours"], ["1h", "1 hour"], ["7d", "7 days"]];
  if (canEndAtOnce) times.push(["0", "not at all: others may have seen it"]);
  return html`
    <${Field} label="The earlier token stays valid for">${(common) =>
      html`<select value=${grace} onChange=${(event) => setGrace(event.target.value)} ...${common}>
        ${times.map(([value, title]) => html`<option value=${value}>${title}</option>`)}</select>`}<//>
    <div class="actions">
      <button type="button" onClick=${() => close()}>Cancel</button>
      <button type="button" class="primary" onClick=${() => close(grace)}>Rotate</button>
    </div>`;
}

function showToken({ key, token }, change) {
  return showDialog(`${key.name} ${change}`, (close) => html`
    <p>Store its token now. It is shown this one time only.</p>
    <output class="token">${token}</output>
    <div class="actions">
      <${Button} action=${() => copy(token)}>Copy<//>
      <button type="button" class="primary" onClick=${() => close()}>I have stored it</button>
    </div>`, { isUnique: true });
}
