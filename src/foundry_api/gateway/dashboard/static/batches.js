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
// The lists of batches; `read` returns a batch as OpenAI's API shows it, with the addresses of its results.
const LISTS = [
  { path: "/v1/batches", cursor: "after", read: readBatch },
  { path: "/v1/messages/batches", cursor: "after_id", read: readMessageBatch },
];

function readBatch(batch) {
  const address = (id) => id && `/v1/files/${id}/content`;
  return { ...batch, answers: address(batch.output_file_id), failures: address(batch.error_file_id) };
}

function readMessageBatch(batch) {
  const { processing, succeeded, errored, canceled, expired } = batch.request_counts;
  const end = canceled ? "cancelled" : expired ? "expired" : "completed";
  return {
    id: batch.id,
    endpoint: "/v1/messages",
    status: { in_progress: "in_progress", canceling: "cancelling" }[batch.processing_status] ?? end,
    request_counts: { total: processing + succeeded + errored + canceled + expired, completed: succeeded, failed: errored },
    created_at: Date.parse(batch.created_at) / 1000,
    answers: batch.results_url,
  };
}

export function View({ app, event }) {
  const [{ batches, ends }, setList] = useState({ batches: [], ends: {} });

  // Adds older ones or newer ones; those that are known are replaced. `ends` is where each list goes on.
  async function load(isOlder = false) {
    const lists = LISTS.filter(({ path }) => !isOlder || ends[path]?.hasMore);
    const pages = await Promise.all(lists.map(({ path, cursor }) =>
      get(`${path}?limit=20${isOlder ? `&${cursor}=${ends[path].last}` : ""}`)));
    setList((now) => {
      const known = new Map(now.batches.map((batch) => [batch.id, batch]));
      const ends = { ...now.ends };
      lists.forEach(({ path, read }, index) => {
        const { data, last_id: last, has_more: hasMore } = pages[index];
        for (const batch of data) known.set(batch.id, { ...read(batch), path: `${path}/${batch.id}` });
        if (isOlder || !ends[path]?.last) ends[path] = { last, hasMore };
      });
      return { batches: [...known.values()].sort((first, second) => second.created_at - first.created_at), ends };
    });
  }

  const interval = batches.some(({ status }) => UNFINISHED.has(status)) ? ACTIVE_S : IDLE_S;
  useEffect(() => void load().catch(() => {}), [Math.floor((event?.tick ?? 0) / interval)]);

  async function cancel(batch) {
    if (!await confirm(`Cancel ${batch.id}?`, "No further line starts. What was answered is kept.", "Cancel the batch")) return;
    await post(`${batch.path}/cancel`);
    await load();
  }

  const link = (batch, title, name, address) => address && html`<a class="button small" download=${`${batch.id}-${name}.jsonl`}
    href=${address} aria-label=${`${title} of ${batch.id}`}>${title}</a>`;
  const columns = [
    { title: "Batch", cell: (batch) => html`<span class="mono">${batch.id}</span><small>${batch.endpoint}</small>` },
    { title: "State", cell: ({ status }) => html`<span class=${`tag ${KINDS[status] ?? ""}`}>${status.replace("_", " ")}</span>` },
    { title: "Progress", cell: (batch) => html`<${BatchProgress} batch=${batch} />` },
    { title: "Created", cell: (batch) => formatMoment(batch.created_at) },
    { title: "", class: "end", cell: (batch) => html`<div class="actions">
      ${link(batch, "Answers", "output", batch.answers)}${link(batch, "Failures", "errors", batch.failures)}
      ${UNFINISHED.has(batch.status) && batch.status !== "cancelling" &&
        html`<${Button} class="danger small" label=${`Cancel ${batch.id}`} action=${() => cancel(batch)}>Cancel<//>`}</div>` },
  ];
  return html`<div class="stack">
    ${app.can("inference") && html`<${Upload} onStarted=${load} />`}
    <${Table} label="Batches, the newest first" columns=${columns} items=${batches} getKey=${(batch) => batch.id} empty="There are no batches." />
    ${Object.values(ends).some(({ hasMore }) => hasMore) && html`<${Button} action=${() => load(true)}>Show older ones<//>`}
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
