// Who waits for the service, and for how long.

import { makeCallTable } from "./calls.js";
import { h, makeTable, setText } from "./dom.js";
import { formatNumber, formatSeconds, plural } from "./format.js";

export function create(app) {
  const summary = h("p.lead");
  const table = makeTable("Queue by key", [
    { title: "Key", text: (item) => item.key },
    { title: "Running", class: "number", text: (item) => formatNumber(item.running) },
    { title: "Waiting", class: "number", text: (item) => formatNumber(item.waiting) },
    { title: "A new call would wait", class: "number", text: describeWait },
    { title: "Share of the queue", create: () => h("meter", { min: 0, max: 1 }), update: showShare },
  ], (item) => item.key, "No key has calls.");
  const calls = makeCallTable(app);
  let total = 0;

  function describeWait({ estimated_wait_s: wait }) {
    if (wait === null) return "not known yet";
    return wait ? `about ${formatSeconds(wait)}` : "not at all";
  }

  function showShare(cell, item) {
    const share = total ? (item.running + item.waiting) / total : 0;
    cell.firstChild.value = share;
    cell.firstChild.setAttribute("aria-label", `${Math.round(share * 100)} %`);
  }

  return {
    element: h("div.stack", {}, summary, table.element, h("section", {}, h("h2", {}, "Calls"), calls.element)),
    update(event) {
      total = event.keys.reduce((sum, item) => sum + item.running + item.waiting, 0);
      table.update(event.keys);
      calls.update(event.calls);
      setText(summary, event.slots === undefined ? "Your calls that run or wait."
        : `${plural(event.in_flight, "call has", "calls have")} a slot, ${formatNumber(event.waiting)} ` +
          `${event.waiting === 1 ? "waits" : "wait"}. The service takes ${plural(event.slots, "call")} at the same time.`);
    },
  };
}
