// Who waits for the service, and for how long; the calls that run or wait.

import { post } from "./api.js";
import { Button, notify, Table } from "./components.js";
import { formatNumber, formatSeconds, plural } from "./format.js";
import { html } from "./preact-htm.js";

function describeWait({ estimated_wait_s: wait }) {
  if (wait === null) return "not known yet";
  return wait ? `about ${formatSeconds(wait)}` : "not at all";
}

function describeQueue(event) {
  if (event.slots === undefined) return "Your calls that run or wait.";
  return `${plural(event.in_flight, "call has", "calls have")} a slot, ${formatNumber(event.waiting)} ` +
    `${event.waiting === 1 ? "waits" : "wait"}. The service takes ${plural(event.slots, "call")} at the same time.`;
}

export function View({ app, event }) {
  if (!event) return null;
  const total = event.keys.reduce((sum, key) => sum + key.running + key.waiting, 0);
  const columns = [
    { title: "Key", cell: (key) => key.key },
    { title: "Running", class: "number", cell: (key) => formatNumber(key.running) },
    { title: "Waiting", class: "number", cell: (key) => formatNumber(key.waiting) },
    { title: "A new call would wait", class: "number", cell: describeWait },
    { title: "Share of the queue", cell: ({ running, waiting }) => {
      const share = total ? (running + waiting) / total : 0;
      return html`<meter min="0" max="1" value=${share} aria-label=${`${Math.round(share * 100)} %`}></meter>`;
    } },
  ];
  return html`<div class="stack">
    <p class="lead">${describeQueue(event)}</p>
    <${Table} label="Queue by key" columns=${columns} items=${event.keys} getKey=${(key) => key.key} empty="No key has calls." />
    <section><h2>Calls</h2><${CallTable} app=${app} calls=${event.calls} /></section>
  </div>`;
}

const CALLS = [
  { title: "Call", class: "mono", cell: (call) => call.id },
  { title: "Key", cell: (call) => call.key },
  { title: "Model", cell: (call) => call.model ?? "" },
  { title: "Route", class: "mono", cell: (call) => call.route },
  { title: "State", cell: (call) => call.state },
  { title: "Age", class: "number", cell: (call) => formatSeconds(call.age_s) },
  { title: "Tokens", class: "number", cell: (call) => formatNumber(call.output_tokens) },
];
const STOP = {
  title: "",
  class: "end",
  cell: ({ id }) => html`<${Button} class="danger small" label=${`Stop ${id}`} action=${() => stop(id)}>Stop<//>`,
};

async function stop(id) {
  await post(`/api/calls/${id}/stop`);
  notify(`Stopped ${id}.`);
}

export function CallTable({ app, calls }) {
  return html`<${Table} label="Running and waiting calls" columns=${app.can("manage") ? [...CALLS, STOP] : CALLS}
    items=${calls} getKey=${(call) => call.id} empty="No call runs or waits." />`;
}
