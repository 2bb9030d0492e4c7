// The models of this machine and of the catalog: load, unload, download, delete.

import { call, get, post, readEvents, send } from "./api.js";
import { button, confirm, h, makeTable, notify, setText } from "./dom.js";
import { formatBytes, formatNumber, formatSeconds, UNKNOWN } from "./format.js";

// Downloads go on while other views are open, so they are not those of one view.
const downloads = new Map();
let view = null;

async function pull(model) {
  const download = { model, percent: 0, controller: new AbortController() };
  downloads.set(model.id, download);
  view?.draw();
  try {
    const path = `/api/models/${encodeURIComponent(model.id)}/pull`;
    for await (const data of readEvents(await send("POST", path, { signal: download.controller.signal }))) {
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      Object.assign(download, event);
      view?.draw();
    }
    notify(`${model.alias} is on this machine.`);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    notify(`The download of ${model.alias} was cancelled; it goes on from there the next time.`);
  } finally {
    downloads.delete(model.id);
    await view?.load();
  }
}

export function create(app) {
  let models = [], showsCatalog = false, revision = null, background = {};
  const busy = new Map();
  const problem = h("p.notice.warn", { hidden: true, role: "status" });
  const filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter models", oninput: draw });
  const columns = [
    { title: "Model", create: () => h("div"), update: showName },
    { title: "State", create: () => h("div"), update: showState },
    { title: "Device", text: (model) => model.device ?? UNKNOWN },
    { title: "Size", class: "number", text: (model) => formatBytes(model.size_mb && model.size_mb * 2 ** 20) },
    { title: "Context", class: "number", text: (model) => formatNumber(model.context_length) },
  ];
  if (app.can("manage")) columns.push({ title: "", class: "end", create: makeActions, update: updateActions });
  const table = makeTable("Models", columns, (model) => model.id, "There are no models.");
  const catalog = h("label.check", {}, h("input", { type: "checkbox", onchange: (event) => {
    showsCatalog = event.target.checked;
    load();
  } }), "Show the catalog");
  const element = h("div.stack", {}, h("div.bar", {}, filter, catalog), problem, table.element);
  view = { load, draw };
  load();

  async function load() {
    try {
      models = (await get(`/api/models${showsCatalog ? "?catalog=true" : ""}`)).models;
      problem.hidden = true;
    } catch (error) {
      setText(problem, error.message);
      problem.hidden = false;
      if (showsCatalog) models = (await get("/api/models").catch(() => ({ models }))).models;
    }
    draw();
  }

  function draw() {
    const text = filter.value.trim().toLowerCase();
    const missing = [...downloads.values()].map(({ model }) => model).filter(({ id }) => !models.some((one) => one.id === id));
    table.update([...models, ...missing].filter(({ id, alias }) => `${id} ${alias}`.toLowerCase().includes(text)));
  }

  const isHere = (model) => model.cached !== false;

  function showName(cell, model) {
    const box = cell.firstChild;
    if (box.childElementCount) return;
    box.append(h("strong", {}, model.alias), h("small.mono", {}, model.id));
  }

  function showState(cell, model) {
    const box = cell.firstChild, download = downloads.get(model.id) ?? findDownload(model);
    if (download) {
      let bar = box.querySelector("progress");
      if (!bar) box.replaceChildren(bar = h("progress", { max: 100, "aria-label": `Download of ${model.alias}` }), h("small"));
      bar.value = download.percent ?? 0;
      setText(box.lastChild, describe(download));
      return;
    }
    const text = busy.get(model.id) ?? (model.loaded ? "in memory" : isHere(model) ? "on this machine" : "in the catalog");
    const kind = model.loaded ? "tag good" : "tag";
    if (box.childElementCount !== 1) box.replaceChildren(h("span"));
    box.firstChild.className = kind;
    setText(box.firstChild, text);
  }

  // Another program may have started it through the gateway.
  function findDownload(model) {
    const progress = background[model.alias] ?? background[model.id];
    if (!progress) return null;
    const [part] = Object.values(progress);
    return { percent: part?.total ? (100 * part.done) / part.total : 0 };
  }

  function describe({ percent, done_mb: done, total_mb: total, mb_per_s: speed, remaining_s: rest }) {
    const parts = [`${Math.floor(percent ?? 0)} %`];
    if (done && total) parts.push(`${formatNumber(done)} of ${formatNumber(total)} MB`);
    if (speed) parts.push(`${formatNumber(speed)} MB/s`);
    if (rest) parts.push(`${formatSeconds(rest)} left`);
    return parts.join(" · ");
  }

  function makeActions(model, row) {
    const actions = {
      load: button("Load", () => change(row.item, "load", "Loading…"), "small"),
      unload: button("Unload", () => change(row.item, "unload", "Unloading…"), "small"),
      pull: button("Download", () => pull(row.item), "small"),
      cancel: button("Cancel", () => downloads.get(row.item.id)?.controller.abort(), "small"),
      remove: button("Delete", () => remove(row.item), "danger small"),
    };
    for (const [name, element] of Object.entries(actions)) element.setAttribute("aria-label", `${element.textContent} ${model.alias}`);
    row.actions = actions;
    return h("div.actions", {}, Object.values(actions));
  }

  function updateActions(_cell, model, row) {
    row.item = model;
    const isDownloading = downloads.has(model.id), isBusy = busy.has(model.id) || isDownloading;
    row.actions.load.hidden = isBusy || model.loaded || !isHere(model);
    row.actions.unload.hidden = isBusy || !model.loaded;
    row.actions.pull.hidden = isBusy || isHere(model);
    row.actions.cancel.hidden = !isDownloading;
    row.actions.remove.hidden = isBusy || !isHere(model) || model.catalog !== "public";
  }

  async function change(model, action, text) {
    busy.set(model.id, text);
    draw();
    try {
      await post(`/api/models/${encodeURIComponent(model.id)}/${action}`);
      notify(`${model.alias} is ${action === "load" ? "in memory" : "unloaded"}.`);
    } finally {
      busy.delete(model.id);
      await load();
    }
  }

  async function remove(model) {
    const isSure = await confirm(`Delete ${model.alias}?`,
      `The files of ${model.id} (${formatBytes(model.size_mb && model.size_mb * 2 ** 20)}) are deleted from the gateway's machine.`, "Delete");
    if (!isSure) return;
    const { freed_bytes: freed } = await call("DELETE", `/api/models/${encodeURIComponent(model.id)}`);
    notify(`${model.alias} is deleted; ${formatBytes(freed)} are free again.`);
    await load();
  }

  return {
    element,
    close: () => { view = null; },
    update(event) {
      background = event.downloads ?? {};
      if (Object.keys(background).length) draw();
      if (revision !== null && event.revisions && event.revisions.models !== revision) load();
      revision = event.revisions?.models ?? revision;
    },
  };
}
