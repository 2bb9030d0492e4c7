// Batches: upload a file, see how far it is, cancel it, download what was answered.

import { call, get, post } from "./api.js";
import { Button, confirm, Field, notify, Problem, Table } from "./components.js";
import { formatMoment, formatNumber, plural } from "./format.js";
import { html, useEffect, useState } from "./preact-htm.js";

const UNFINISHED = new Set(["validating", "in_progress", "finalizing", "cancelling"]);
const KINDS = { completed: "good", failed: "bad", expired: "warn", cancelled: "warn" };
const ROUTES = ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"];
// Seconds between two looks, while a batch runs and otherwise.
const ACTIVE_S = 2, IDLE_S = 10;
const SHOWN_PROBLEMS = 5;

export function View({ app, event }) {
  const [{ batches, last, hasMore }, setList] = useState({ batches: [], last: null, hasMore: false });

  // Adds older ones at the end, or newer ones at the start; those that are known are replaced.
  async function load(isOlder = false) {
    const page = await get(`/v1/batches?limit=20${isOlder && last ? `&after=${last}` : ""}`);
    setList((now) => {
      const read = new Map(page.data.map((batch) => [batch.id, batch]));
      const known = now.batches.map((batch) => read.get(batch.id) ?? batch);
      const added = page.data.filter(({ id }) => !now.batches.some((batch) => batch.id === id));
      const batches = isOlder ? [...known, ...added] : [...added, ...known];
      return isOlder || now.last === null ? { batches, last: page.last_id, hasMore: page.has_more } : { ...now, batches };
    });
  }

  const interval = batches.some(({ status }) => UNFINISHED.has(status)) ? ACTIVE_S : IDLE_S;
  useEffect(() => void load().catch(() => {}), [Math.floor((event?.tick ?? 0) / interval)]);

  async function cancel(batch) {
    if (!await confirm(`Cancel ${batch.id}?`, "No further line starts. What was answered is kept.", "Cancel the batch")) return;
    await post(`/v1/batches/${batch.id}/cancel`);
    await load();
  }

  const link = (batch, title, name, id) => id && html`<a class="button small" download=${`${batch.id}-${name}.jsonl`}
    href=${`/v1/files/${id}/content`} aria-label=${`${title} of ${batch.id}`}>${title}</a>`;
  const columns = [
    { title: "Batch", cell: (batch) => html`<span class="mono">${batch.id}</span><small>${batch.endpoint}</small>` },
    { title: "State", cell: ({ status }) => html`<span class=${`tag ${KINDS[status] ?? ""}`}>${status.replace("_", " ")}</span>` },
    { title: "Progress", cell: (batch) => html`<${BatchProgress} batch=${batch} />` },
    { title: "Created", cell: (batch) => formatMoment(batch.created_at) },
    { title: "", class: "end", cell: (batch) => html`<div class="actions">
      ${link(batch, "Answers", "output", batch.output_file_id)}${link(batch, "Failures", "errors", batch.error_file_id)}
      ${UNFINISHED.has(batch.status) && batch.status !== "cancelling" &&
        html`<${Button} class="danger small" label=${`Cancel ${batch.id}`} action=${() => cancel(batch)}>Cancel<//>`}</div>` },
  ];
  return html`<div class="stack">
    ${app.can("inference") && html`<${Upload} onStarted=${load} />`}
    <${Table} label="Batches, the newest first" columns=${columns} items=${batches} getKey=${(batch) => batch.id} empty="There are no batches." />
    ${hasMore && html`<${Button} action=${() => load(true)}>Show older ones<//>`}
    <p class="hint">Each line of the file is a request. A batch goes on after a restart of the gateway.</p>
  </div>`;
}

function BatchProgress({ batch }) {
  const { total, completed, failed } = batch.request_counts;
  const errors = (batch.errors?.data ?? []).slice(0, SHOWN_PROBLEMS);
  return html`
    ${UNFINISHED.has(batch.status) && html`<progress max="1" value=${total ? (completed + failed) / total : null}
      aria-label=${`Progress of ${batch.id}`}></progress>`}
    <small>${total ? `${formatNumber(completed)} of ${plural(total, "line")} answered` : ""}${failed ? `, ${formatNumber(failed)} failed` : ""}</small>
    ${errors.length > 0 && html`<ul class="problems">${errors.map(({ line, message, code }) =>
      html`<li>${line ? `Line ${line}: ` : ""}${message} (${code})</li>`)}</ul>`}`;
}

function Upload({ onStarted }) {
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);

  async function submit(event) {
    event.preventDefault();
    const form = event.target;
    const data = new FormData(form);
    setBusy(true);
    setProblem("");
    try {
      const file = new FormData();
      file.append("purpose", "batch");
      file.append("file", data.get("file"));
      const { id } = await call("POST", "/v1/files", { form: file });
      await post("/v1/batches", { input_file_id: id, endpoint: data.get("endpoint"), completion_window: "24h" });
      form.reset();
      notify("The batch has started.");
      await onStarted();
    } catch (error) {
      setProblem(error.message);
    } finally {
      setBusy(false);
    }
  }

  return html`<form class="panel" onSubmit=${submit}>
    <h2>New batch</h2>
    <${Problem} text=${problem} />
    <div class="columns">
      <${Field} label="File (JSONL)">${(common) => html`<input type="file" name="file" accept=".jsonl,application/jsonl" required ...${common} />`}<//>
      <${Field} label="Route">${(common) => html`<select name="endpoint" ...${common}>${ROUTES.map((path) => html`<option value=${path}>${path}</option>`)}</select>`}<//>
    </div>
    <div class="actions"><button type="submit" class="primary" disabled=${isBusy}>Upload and start</button></div>
  </form>`;
}
