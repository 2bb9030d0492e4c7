// The audit log: who changed or tried what.

import { get } from "./api.js";
import { Table } from "./components.js";
import { formatMoment } from "./format.js";
import { html, useEffect, useState } from "./preact-htm.js";

const COLUMNS = [
  { title: "Time", cell: (event) => formatMoment(event.time) },
  { title: "Event", class: "mono", cell: (event) => event.event },
  { title: "Result", cell: ({ result, count }) =>
    html`<span class=${result === "ok" ? "tag good" : "tag bad"}>${count > 1 ? `${result} × ${count}` : result}</span>` },
  { title: "Target", cell: (event) => event.target ?? "" },
  { title: "By", cell: (event) => event.key ?? event.user ?? "" },
  { title: "Address", class: "mono", cell: (event) => event.address ?? "" },
  { title: "Request", class: "mono", cell: (event) => event.request_id ?? "" },
];

// Gives each event a key: several may have the same time and request.
function number(events) {
  const seen = new Map();
  return events.map((event) => {
    const name = Object.values(event).join(" ");
    seen.set(name, (seen.get(name) ?? 0) + 1);
    return { ...event, name, number: `${name} ${seen.get(name)}` };
  });
}

export function View({ event }) {
  const [events, setEvents] = useState([]);
  const [note, setNote] = useState("");
  const [text, setText] = useState("");
  const [failuresOnly, setFailuresOnly] = useState(false);
  const revision = event?.revisions?.log;

  useEffect(() => {
    get("/api/log").then((answer) => {
      setEvents(number(answer.events));
      setNote(answer.is_recorded ? "" : "This gateway records no events (audit_log = false).");
    }, (error) => setNote(error.message));
  }, [revision]);

  const shown = events.filter(({ result, name }) =>
    (!failuresOnly || result !== "ok") && name.toLowerCase().includes(text.trim().toLowerCase()));
  return html`<div class="stack">
    <div class="bar">
      <input type="search" placeholder="Filter" aria-label="Filter events" value=${text} onInput=${(change) => setText(change.target.value)} />
      <label class="check"><input type="checkbox" checked=${failuresOnly} onChange=${(change) => setFailuresOnly(change.target.checked)} />Failures only</label>
    </div>
    ${note && html`<p class="notice warn" role="status">${note}</p>`}
    <${Table} label="Events, the newest first" columns=${COLUMNS} items=${shown} getKey=${(one) => one.number} empty="No event fits." />
    <p class="hint">The last 500 events. The files of the gateway have more.</p>
  </div>`;
}
