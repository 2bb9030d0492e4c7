// The table of running and waiting calls, with a button that stops one.

import { post } from "./api.js";
import { button, makeTable, notify } from "./dom.js";
import { formatNumber, formatSeconds } from "./format.js";

export function makeCallTable(app) {
  const columns = [
    { title: "Call", class: "mono", text: (item) => item.id },
    { title: "Key", text: (item) => item.key },
    { title: "Model", text: (item) => item.model ?? "" },
    { title: "Route", class: "mono", text: (item) => item.route },
    { title: "State", text: (item) => item.state },
    { title: "Age", class: "number", text: (item) => formatSeconds(item.age_s) },
    { title: "Tokens", class: "number", text: (item) => formatNumber(item.output_tokens) },
  ];
  if (app.can("manage")) {
    columns.push({
      title: "", class: "end",
      create: (item) => {
        const element = button("Stop", async () => {
          await post(`/api/calls/${item.id}/stop`);
          notify(`Stopped ${item.id}.`);
        }, "danger small");
        element.setAttribute("aria-label", `Stop ${item.id}`);
        return element;
      },
    });
  }
  return makeTable("Running and waiting calls", columns, (item) => item.id, "No call runs or waits.");
}
