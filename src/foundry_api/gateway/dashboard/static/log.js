// The audit log: who changed or tried what.

import { get } from "./api.js";
import { h, makeTable, setText } from "./dom.js";
import { formatMoment } from "./format.js";

export function create() {
  let events = [], revision = null;
  const note = h("p.notice.warn", { hidden: true, role: "status" });
  const filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter events", oninput: draw });
  const failures = h("input", { type: "checkbox", onchange: draw });
  const table = makeTable("Events, the newest first", [
    { title: "Time", text: (event) => formatMoment(event.time) },
    { title: "Event", class: "mono", text: (event) => event.event },
    { title: "Result", create: () => h("span"), update: showResult },
    { title: "Target", text: (event) => event.target ?? "" },
    { title: "By", text: (event) => event.key ?? event.user ?? "" },
    { title: "Address", class: "mono", text: (event) => event.address ?? "" },
    { title: "Request", class: "mono", text: (event) => event.request_id ?? "" },
  ], (event) => event.number, "No event fits.");
  load();

  function showResult(cell, event) {
    cell.firstChild.className = event.result === "ok" ? "tag good" : "tag bad";
    setText(cell.firstChild, event.count > 1 ? `${event.result} × ${event.count}` : event.result);
  }

  async function load() {
    try {
      const answer = await get("/api/log");
      const seen = new Map(); // several may have the same time and request
      events = answer.events.map((event) => {
        const name = Object.values(event).join(" ");
        seen.set(name, (seen.get(name) ?? 0) + 1);
        return { ...event, number: `${name} ${seen.get(name)}` };
      });
      note.hidden = answer.is_recorded;
      setText(note, "This gateway records no events (audit_log = false).");
    } catch (error) {
      note.hidden = false;
      setText(note, error.message);
    }
    draw();
  }

  function draw() {
    const text = filter.value.trim().toLowerCase();
    table.update(events.filter((event) => (!failures.checked || event.result !== "ok") &&
      Object.values(event).join(" ").toLowerCase().includes(text)));
  }

  return {
    element: h("div.stack", {}, h("div.bar", {}, filter, h("label.check", {}, failures, "Failures only")), note,
      table.element, h("p.hint", {}, "The last 500 events. The files of the gateway have more.")),
    update(event) {
      const next = event.revisions?.log;
      if (next !== undefined && next !== revision) {
        if (revision !== null) load();
        revision = next;
      }
    },
  };
}
