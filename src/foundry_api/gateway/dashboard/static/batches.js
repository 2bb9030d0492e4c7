// Batches: upload a file, see how far it is, cancel it, download what was answered.

import { get, post, call } from "./api.js";
import { button, confirm, field, h, makeTable, notify, reconcile, setText } from "./dom.js";
import { formatMoment, formatNumber, plural } from "./format.js";

const UNFINISHED = new Set(["validating", "in_progress", "finalizing", "cancelling"]);
const KINDS = { completed: "good", failed: "bad", expired: "warn", cancelled: "warn" };
const POLL_S = 2;
const SHOWN_PROBLEMS = 5;

export function create(app) {
  let batches = [], count = 0, isLoading = false, after = null, hasMore = false;
  const table = makeTable("Batches, the newest first", [
    { title: "Batch", create: (batch) => h("div", {}, h("span.mono", {}, batch.id), h("small", {}, batch.endpoint)) },
    { title: "State", create: () => h("span"), update: showState },
    { title: "Progress", create: () => h("div", {}, h("progress", { max: 1 }), h("small"), h("ul.problems")), update: showProgress },
    { title: "Created", text: (batch) => formatMoment(batch.created_at) },
    { title: "", class: "end", create: makeActions, update: updateActions },
  ], (batch) => batch.id, "There are no batches.");
  const more = button("Show older ones", () => load(true));
  const element = h("div.stack", {}, app.can("inference") ? makeUpload() : null, table.element, more,
    h("p.hint", {}, "Each line of the file is a request. A batch goes on after a restart of the gateway."));
  load();

  async function load(isOlder = false) {
    if (isLoading) return;
    isLoading = true;
    try {
      const page = await get(`/v1/batches?limit=20${isOlder && after ? `&after=${after}` : ""}`);
      const known = new Map((isOlder ? [...batches, ...page.data] : [...page.data, ...batches]).map((batch) => [batch.id, batch]));
      if (!isOlder) for (const batch of page.data) known.set(batch.id, batch);
      batches = [...known.values()];
      if (isOlder || after === null) [after, hasMore] = [page.last_id, page.has_more];
      more.hidden = !hasMore;
      table.update(batches);
    } finally {
      isLoading = false;
    }
  }

  function showState(cell, batch) {
    cell.firstChild.className = `tag ${KINDS[batch.status] ?? ""}`;
    setText(cell.firstChild, batch.status.replace("_", " "));
  }

  function showProgress(cell, batch) {
    const [bar, text, problems] = cell.firstChild.children;
    const { total, completed, failed } = batch.request_counts;
    bar.hidden = !UNFINISHED.has(batch.status);
    bar.setAttribute("aria-label", `Progress of ${batch.id}`);
    if (total) bar.value = (completed + failed) / total;
    else bar.removeAttribute("value");
    setText(text, total ? `${formatNumber(completed)} of ${plural(total, "line")} answered` +
      (failed ? `, ${formatNumber(failed)} failed` : "") : "");
    const errors = (batch.errors?.data ?? []).slice(0, SHOWN_PROBLEMS);
    reconcile(problems, errors, (error) => `${error.line} ${error.message}`,
      (error) => h("li", {}, `${error.line ? `Line ${error.line}: ` : ""}${error.message} (${error.code})`));
    problems.hidden = !errors.length;
  }

  function makeActions(batch, row) {
    const download = (text) => h("a.button.small", { download: "" }, text);
    row.actions = { output: download("Answers"), errors: download("Failures"), cancel: button("Cancel", () => cancel(row.item), "danger small") };
    row.actions.cancel.setAttribute("aria-label", `Cancel ${batch.id}`);
    row.actions.output.setAttribute("aria-label", `Download the answers of ${batch.id}`);
    row.actions.errors.setAttribute("aria-label", `Download the failures of ${batch.id}`);
    return h("div.actions", {}, Object.values(row.actions));
  }

  function updateActions(_cell, batch, row) {
    row.item = batch;
    for (const [name, id] of [["output", batch.output_file_id], ["errors", batch.error_file_id]]) {
      const link = row.actions[name];
      link.hidden = !id;
      if (id) {
        link.setAttribute("href", `/v1/files/${id}/content`);
        link.setAttribute("download", `${batch.id}-${name}.jsonl`);
      }
    }
    row.actions.cancel.hidden = !UNFINISHED.has(batch.status) || batch.status === "cancelling";
  }

  async function cancel(batch) {
    if (!await confirm(`Cancel ${batch.id}?`, "No further line starts. What was answered is kept.", "Cancel the batch")) return;
    await post(`/v1/batches/${batch.id}/cancel`);
    await load();
  }

  function makeUpload() {
    const file = h("input", { type: "file", accept: ".jsonl,application/jsonl", required: true });
    const endpoint = h("select", {}, ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"].map((path) => h("option", {}, path)));
    const problem = h("p.notice.bad", { role: "alert", hidden: true });
    const submit = h("button.primary", { type: "submit" }, "Upload and start");
    return h("form.panel", { onsubmit: async (event) => {
      event.preventDefault();
      submit.disabled = true;
      problem.hidden = true;
      try {
        const form = new FormData();
        form.append("purpose", "batch");
        form.append("file", file.files[0], file.files[0].name);
        const { id } = await call("POST", "/v1/files", { form });
        await post("/v1/batches", { input_file_id: id, endpoint: endpoint.value, completion_window: "24h" });
        event.target.reset();
        notify("The batch has started.");
        await load();
      } catch (error) {
        setText(problem, error.message);
        problem.hidden = false;
      } finally {
        submit.disabled = false;
      }
    } }, h("h2", {}, "New batch"), problem,
    h("div.columns", {}, field("File (JSONL)", file), field("Route", endpoint)), h("div.actions", {}, submit));
  }

  return {
    element,
    update() {
      count += 1;
      const isActive = batches.some(({ status }) => UNFINISHED.has(status));
      if (count % (isActive ? POLL_S : 5 * POLL_S) === 0) load().catch(() => {});
    },
  };
}
