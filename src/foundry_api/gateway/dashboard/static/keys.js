// Keys: what they may do, what they have used, and changes.

import { call, get, post } from "./api.js";
import { button, confirm, copy, field, h, makeTable, notify, reconcile, setText, showDialog } from "./dom.js";
import { formatMoment, formatNumber, formatSeconds } from "./format.js";

const SCOPES = { inference: "calls of models", manage: "this page, models and keys", metrics: "plots, and /metrics for Prometheus" };
const UNITS = { s: "a second", m: "a minute", h: "an hour", d: "a day", mo: "a month" };

export function create(app) {
  let keys = [], revision = null, count = 0;
  const table = makeTable("Keys", [
    { title: "Key", create: (key) => h("div", {}, h("strong", {}, key.name), h("small.mono", {}, key.id)) },
    { title: "State", create: () => h("span"), update: showState },
    { title: "Opens", text: (key) => key.scopes.join(", ") },
    { title: "Models", text: (key) => (key.models ? key.models.join(", ") : "all") },
    { title: "Limits and use", create: () => h("div.budgets"), update: showBudgets },
    { title: "Ends", text: describeEnd },
    { title: "", class: "end", create: makeActions, update: updateActions },
  ], (key) => key.id, "There are no keys: everybody on this machine may call the gateway.");
  const element = h("div.stack", {}, h("div.bar", {}, button("Create a key", openForm, "primary")), table.element,
    h("p.hint", {}, "Tokens are stored as digests only. A lost token is replaced by a rotation."));
  load();

  async function load() {
    ({ keys } = await get("/api/keys"));
    table.update(keys);
  }

  function showState(cell, key) {
    cell.firstChild.className = `tag ${{ active: "good", expired: "warn", revoked: "bad" }[key.state]}`;
    setText(cell.firstChild, key.state);
  }

  function describeEnd(key) {
    if (key.revoked_at) return `revoked ${formatMoment(key.revoked_at)}`;
    const end = key.expires_at ? formatMoment(key.expires_at) : "never";
    return key.grace_until ? `${end}; earlier token ${formatMoment(key.grace_until)}` : end;
  }

  function showBudgets(cell, key) {
    const limits = key.budgets.map((budget) => ({ ...budget, id: budget.unit }));
    if (key.parallel) limits.push({ id: "parallel", limit: key.parallel, remaining: key.parallel - key.running });
    reconcile(cell.firstChild, limits, ({ id }) => id,
      () => h("div", {}, h("meter", { min: 0 }), h("small")),
      (row, { id, unit, limit, remaining, reset_s: reset }) => {
        const [what, period] = id === "parallel" ? ["calls at once"] : unit.split("/");
        const used = limit - remaining;
        const [meter, text] = row.children;
        meter.max = limit;
        meter.high = limit * 0.9;
        meter.value = used;
        meter.setAttribute("aria-label", `${what} in use`);
        setText(text, `${formatNumber(used)} of ${formatNumber(limit)} ${what}${period ? ` ${UNITS[period]}` : ""}`);
        row.title = used && reset ? `Nothing of it is used in ${formatSeconds(reset)}` : "";
      });
    if (!limits.length) setText(cell.firstChild, "no limits");
  }

  function makeActions(key, row) {
    row.actions = {
      change: button("Change", () => change(row.item), "small"),
      rotate: button("Rotate", () => rotate(row.item), "small"),
      revoke: button("Revoke", () => revoke(row.item), "danger small"),
      remove: button("Delete", () => remove(row.item), "danger small"),
    };
    for (const one of Object.values(row.actions)) one.setAttribute("aria-label", `${one.textContent} ${key.name}`);
    return h("div.actions", {}, Object.values(row.actions));
  }

  function updateActions(_cell, key, row) {
    row.item = key;
    const isOwn = app.session.key?.id === key.id;
    row.actions.change.hidden = row.actions.rotate.hidden = key.state !== "active";
    row.actions.revoke.hidden = key.state === "revoked" || isOwn;
    row.actions.remove.hidden = key.state === "active";
  }

  async function change(key) {
    const answer = await showDialog(`Change ${key.name}`, (close) => makeForm(app, { key }, close));
    if (!answer) return;
    notify(`${key.name} is changed.`);
    await load();
  }

  async function rotate(key) {
    const grace = await showDialog(`A new token for ${key.name}`, (close) => {
      const select = h("select", {}, [["24h", "24 hours"], ["1h", "1 hour"], ["7d", "7 days"],
        ...(app.session.key?.id === key.id ? [] : [["0", "not at all: others may have seen it"]])]
        .map(([value, text]) => h("option", { value }, text)));
      return [field("The earlier token stays valid for", select), h("div.actions", {},
        h("button", { type: "button", onclick: () => close() }, "Cancel"),
        h("button.primary", { type: "button", onclick: () => close(select.value) }, "Rotate"))];
    });
    if (grace === undefined) return;
    const answer = await post(`/api/keys/${key.id}/rotate`, { grace });
    await load();
    await showToken(answer, "has a new token");
  }

  async function revoke(key) {
    const isSure = await confirm(`Revoke ${key.name}?`, "Its tokens and its running calls end at once. It stays in the list.", "Revoke");
    if (!isSure) return;
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

  async function openForm() {
    const answer = await showDialog("Create a key", (close) => makeForm(app, { isFirst: keys.length === 0 }, close));
    if (!answer) return;
    await showToken(answer, "is created");
    // The first key closes a gateway that served without: sign in with it.
    if (app.session.requires_key) await load();
    else app.refresh();
  }

  return {
    element,
    update(event) {
      const next = event.revisions?.keys;
      count += 1;
      // What keys have used changes with each call.
      if (next !== revision || count % 5 === 0) load().catch(() => {});
      revision = next ?? revision;
    },
  };
}

// The form of a new key, or of one that is changed.
function makeForm(app, { key = null, isFirst = false }, close) {
  const text = (attributes) => h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...attributes });
  const name = text({ required: !key, maxlength: "64" });
  const scopes = app.session.scopes.map((scope) => h("label.check", {},
    h("input", { type: "checkbox", value: scope, checked: key ? key.scopes.includes(scope) : isFirst || scope === "inference" }),
    `${scope}: ${SCOPES[scope]}`));
  const models = text({ placeholder: "all", value: key?.models?.join(", ") });
  const expires = h("select", {}, [...(key ? [["keep", "as it is"]] : []), ["", "without end"], ["1d", "1 day"], ["30d", "30 days"], ["90d", "90 days"], ["365d", "1 year"]]
    .map(([value, title]) => h("option", { value }, title)));
  const rate = text({ placeholder: "any number", value: key?.rate });
  const tokens = text({ placeholder: "any number", value: key?.tokens.join(", ") });
  const parallel = h("input", { type: "number", min: "1", max: "100000", placeholder: "any number",
    value: key?.parallel && String(key.parallel) });
  const weight = h("input", { type: "number", min: "0", max: "1000", step: "any", value: String(key?.weight ?? 1) });
  const problem = h("p.notice.bad", { role: "alert", hidden: true });
  const split = (value) => value.split(",").map((part) => part.trim()).filter(Boolean);
  return h("form", { onsubmit: async (event) => {
    event.preventDefault();
    try {
      close(await post(key ? `/api/keys/${key.id}/update` : "/api/keys", {
        name: key ? undefined : name.value.trim(),
        scopes: scopes.map((label) => label.firstChild).filter((box) => box.checked).map((box) => box.value),
        models: models.value.trim() ? split(models.value) : null,
        expires: expires.value === "keep" ? undefined : expires.value || null,
        rate: rate.value.trim() || null,
        tokens: split(tokens.value),
        parallel: parallel.value ? Number(parallel.value) : null,
        weight: Number(weight.value),
      }));
    } catch (error) {
      setText(problem, error.message);
      problem.hidden = false;
    }
  } },
  isFirst ? h("p.notice.warn", {}, "This is the first key. From then on every request needs one, this page too. " +
    "Give it the scope manage, or only the command line can manage the gateway.") : null,
  problem,
  key ? null : field("Name", name, "Who uses it, such as a program or a team."),
  h("fieldset", {}, h("legend", {}, "Opens"), scopes),
  h("div.columns", {},
    field("Models", models, "Aliases or ids, with commas."), field(key ? "Valid from now on for" : "Valid for", expires),
    field("Requests", rate, "Such as 60/m; s, m, h or d."), field("Tokens", tokens, "Such as 2000/m, 100000/d; m, h, d or mo."),
    field("Calls at the same time", parallel), field("Weight", weight, "Its share while the service is busy.")),
  h("div.actions", {}, h("button", { type: "button", onclick: () => close() }, "Cancel"),
    h("button.primary", { type: "submit" }, key ? "Change" : "Create")));
}

function showToken({ key, token }, change) {
  return showDialog(`${key.name} ${change}`, (close) => [
    h("p", {}, "Store its token now. It is shown this one time only."),
    h("output.token", {}, token),
    h("div.actions", {}, button("Copy", () => copy(token)),
      h("button.primary", { type: "button", onclick: () => close() }, "I have stored it")),
  ], { isUnique: true });
}
