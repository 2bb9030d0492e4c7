// The models of this machine and of the catalog: load, unload, download, delete.

import { call, get, post, readEvents, send } from "./api.js";
import { Button, confirm, notify, Table } from "./components.js";
import { formatBytes, formatNumber, formatSeconds, UNKNOWN } from "./format.js";
import { html, useEffect, useState } from "./preact-htm.js";

// Downloads go on while other views are open, so they are not those of one view.
const downloads = new Map();
const changes = new EventTarget();
const announce = () => changes.dispatchEvent(new Event("change"));

async function pull(model) {
  const download = { model, percent: 0, controller: new AbortController() };
  downloads.set(model.id, download);
  announce();
  try {
    const path = `/api/models/${encodeURIComponent(model.id)}/pull`;
    for await (const data of readEvents(await send("POST", path, { signal: download.controller.signal }))) {
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      Object.assign(download, event);
      announce();
    }
    notify(`${model.alias} is on this machine.`);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    notify(`The download of ${model.alias} was cancelled; it goes on from there the next time.`);
  } finally {
    downloads.delete(model.id);
    announce();
  }
}

const isHere = (model) => model.cached !== false;
const getSize = (model) => model.size_mb && model.size_mb * 2 ** 20;

export function View({ app, event }) {
  const [models, setModels] = useState([]);
  const [problem, setProblem] = useState("");
  const [text, setText] = useState("");
  const [showsCatalog, setShowsCatalog] = useState(false);
  const [busy, setBusy] = useState(new Map());
  const [, setChanges] = useState(0);
  const revision = event?.revisions?.models;

  async function load() {
    try {
      setModels((await get(`/api/models${showsCatalog ? "?catalog=true" : ""}`)).models);
      setProblem("");
    } catch (error) {
      setProblem(error.message);
      if (showsCatalog) get("/api/models").then((answer) => setModels(answer.models), () => {});
    }
  }

  useEffect(() => void load(), [showsCatalog, revision, downloads.size]);
  useEffect(() => {
    const draw = () => setChanges((count) => count + 1);
    changes.addEventListener("change", draw);
    return () => changes.removeEventListener("change", draw);
  }, []);

  async function change(model, action, doing) {
    setBusy((all) => new Map(all).set(model.id, doing));
    try {
      await post(`/api/models/${encodeURIComponent(model.id)}/${action}`);
      notify(`${model.alias} is ${action === "load" ? "in memory" : "unloaded"}.`);
    } finally {
      setBusy((all) => new Map([...all].filter(([id]) => id !== model.id)));
      await load();
    }
  }

  async function remove(model) {
    const isSure = await confirm(`Delete ${model.alias}?`,
      `The files of ${model.id} (${formatBytes(getSize(model))}) are deleted from the gateway's machine.`, "Delete");
    if (!isSure) return;
    const { freed_bytes: freed } = await call("DELETE", `/api/models/${encodeURIComponent(model.id)}`);
    notify(`${model.alias} is deleted; ${formatBytes(freed)} are free again.`);
    await load();
  }

  function listActions(model) {
    const download = downloads.get(model.id);
    const actions = [];
    if (download) actions.push(["Cancel", () => download.controller.abort(), "small"]);
    else if (!busy.has(model.id)) {
      if (model.loaded) actions.push(["Unload", () => change(model, "unload", "Unloading…"), "small"]);
      else if (isHere(model)) actions.push(["Load", () => change(model, "load", "Loading…"), "small"]);
      else actions.push(["Download", () => pull(model), "small"]);
      if (isHere(model) && model.catalog === "public") actions.push(["Delete", () => remove(model), "danger small"]);
    }
    return html`<div class="actions">${actions.map(([title, action, kind]) =>
      html`<${Button} key=${title} class=${kind} label=${`${title} ${model.alias}`} action=${action}>${title}<//>`)}</div>`;
  }

  const columns = [
    { title: "Model", cell: (model) => html`<strong>${model.alias}</strong><small class="mono">${model.id}</small>` },
    { title: "State", cell: (model) => html`<${ModelState} model=${model} doing=${busy.get(model.id)}
      download=${downloads.get(model.id) ?? findDownload(event?.downloads, model)} />` },
    { title: "Device", cell: (model) => model.device ?? UNKNOWN },
    { title: "Size", class: "number", cell: (model) => formatBytes(getSize(model)) },
    { title: "Context", class: "number", cell: (model) => formatNumber(model.context_length) },
  ];
  if (app.can("manage")) columns.push({ title: "", class: "end", cell: listActions });
  const missing = [...downloads.values()].map(({ model }) => model).filter(({ id }) => !models.some((one) => one.id === id));
  const shown = [...models, ...missing].filter(({ id, alias }) => `${id} ${alias}`.toLowerCase().includes(text.trim().toLowerCase()));
  return html`<div class="stack">
    <div class="bar">
      <input type="search" placeholder="Filter" aria-label="Filter models" value=${text} onInput=${(change) => setText(change.target.value)} />
      <label class="check"><input type="checkbox" checked=${showsCatalog} onChange=${(change) => setShowsCatalog(change.target.checked)} />Show the catalog</label>
    </div>
    ${problem && html`<p class="notice warn" role="status">${problem}</p>`}
    <${Table} label="Models" columns=${columns} items=${shown} getKey=${(model) => model.id} empty="There are no models." />
  </div>`;
}

function ModelState({ model, doing, download }) {
  if (download) {
    return html`<progress max="100" value=${download.percent ?? 0} aria-label=${`Download of ${model.alias}`}></progress>
      <small>${describeDownload(download)}</small>`;
  }
  const state = doing ?? (model.loaded ? "in memory" : isHere(model) ? "on this machine" : "in the catalog");
  return html`<span class=${model.loaded ? "tag good" : "tag"}>${state}</span>`;
}

// Another program may have started it through the gateway.
function findDownload(running, model) {
  const progress = running?.[model.alias] ?? running?.[model.id];
  if (!progress) return null;
  const [part] = Object.values(progress);
  return { percent: part?.total ? (100 * part.done) / part.total : 0 };
}

function describeDownload({ percent, done_mb: done, total_mb: total, mb_per_s: speed, remaining_s: rest }) {
  const parts = [`${Math.floor(percent ?? 0)} %`];
  if (done && total) parts.push(`${formatNumber(done)} of ${formatNumber(total)} MB`);
  if (speed) parts.push(`${formatNumber(speed)} MB/s`);
  if (rest) parts.push(`${formatSeconds(rest)} left`);
  return parts.join(" · ");
}
