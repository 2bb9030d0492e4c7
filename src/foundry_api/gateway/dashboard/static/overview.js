// What an operator wants to know first: does it work, who uses it, how has it been.

import { makeCallTable } from "./calls.js";
import { h, makeTable, notify, reconcile, setText } from "./dom.js";
import { makeFailures } from "./failures.js";
import { formatBytes, formatNumber, formatSeconds, plural, UNKNOWN } from "./format.js";
import { ERRORS, FIRST_P50, FIRST_P95, LENGTHS, MEMORY, REQUESTS, RUNNING, TIME, TOKENS, WAITING } from "./live.js";
import { Plot } from "./plot.js";

const LEAST_SPAN_S = 60;
const WINDOWS = [["15m", "15 min"], ["6h", "6 hours"], ["7d", "7 days"]];

export function create(app) {
  const hasMetrics = app.can("manage", "metrics");
  const verdict = h("h2", {}, "Connecting…");
  const reasons = h("ul");
  const banner = h("section.banner", { "aria-live": "polite" }, verdict, reasons);
  const tiles = hasMetrics ? makeTiles() : null;
  const plots = hasMetrics ? makePlots(app) : null;
  const calls = makeCallTable(app);
  const failures = app.can("manage") ? makeFailures() : null;
  const upstreams = makeTable("Services behind the gateway", [
    { title: "Service", create: (one) => h("div", {}, h("strong", {}, one.name), h("small", {}, one.kind)) },
    { title: "State", create: () => h("div", {}, h("span"), h("small")), update: showUpstream },
    { title: "Running", class: "number", text: (one) => `${one.in_flight} of ${one.slots}` },
    { title: "Waiting", class: "number", text: (one) => formatNumber(one.waiting) },
    { title: "Models", text: (one) => one.models.join(", ") },
  ], (one) => one.name, "");
  const services = h("section", { hidden: true }, h("h2", {}, "Services"), upstreams.element);
  const count = h("span.count");
  const element = h("div.stack", {}, banner, tiles?.element, plots?.element,
    h("section", {}, h("h2", {}, app.can("manage") ? "Calls" : "Your calls", " ", count), calls.element),
    services, failures && h("section", {}, h("h2", {}, "Recent failures"), failures.element));
  return {
    element,
    update(event) {
      const problems = event.problems ?? [];
      banner.className = `banner ${!event.ready ? "bad" : problems.length ? "warn" : "good"}`;
      setText(verdict, event.ready ? "The gateway serves calls" : "The gateway cannot serve all calls");
      reconcile(reasons, problems, (text) => text, (text) => h("li", {}, text));
      reasons.hidden = !problems.length;
      tiles?.update(event);
      calls.update(event.calls);
      failures?.update(event);
      services.hidden = !event.upstreams?.length;
      if (event.upstreams) upstreams.update(event.upstreams);
      setText(count, event.call_count > event.calls.length
        ? `the oldest ${event.calls.length} of ${event.call_count}` : event.call_count || "");
    },
    updatePlots() {
      tiles?.updateRecent(app.history.getPoints("15m"));
      plots?.update();
    },
  };
}

function showUpstream(cell, { state, problem }) {
  const [tag, text] = cell.firstChild.children;
  tag.className = `tag ${{ up: "good", unknown: "" }[state] ?? "bad"}`;
  setText(tag, state);
  setText(text, problem);
}

function makeTiles() {
  const values = {};
  const element = h("dl.tiles", {}, [
    ["running", "Running calls"], ["waiting", "Waiting calls"], ["requests", "Requests, last minute"],
    ["errors", "Failed, last 15 min"], ["first", "Time to first token"], ["tokens", "Tokens per second"],
    ["memory", "Engine memory"], ["engine", "Engine"],
  ].map(([name, title]) => {
    values[name] = { main: h("span"), more: h("small") };
    return h("div", {}, h("dt", {}, title), h("dd", {}, values[name].main, values[name].more));
  }));
  const show = (name, main, more = "") => {
    setText(values[name].main, main);
    setText(values[name].more, more);
  };
  return {
    element,
    update(event) {
      const { engine } = event;
      show("running", formatNumber(event.in_flight), ` of ${plural(event.slots, "slot")}`);
      show("waiting", formatNumber(event.waiting));
      show("memory", formatBytes(engine?.memory_bytes));
      const name = engine ? engine.version ?? engine.service_generation : "not called yet";
      show("engine", event.upstreams?.length ? plural(event.upstreams.length, "service") : name,
        engine?.uptime_s ? ` up ${formatSeconds(engine.uptime_s)}` : "");
    },
    updateRecent(points) {
      const end = points.at(-1)?.[TIME] ?? 0;
      const sum = (index, seconds) => points.reduce((total, point, number) =>
        point[TIME] > end - seconds ? total + point[index] * (number ? point[TIME] - points[number - 1][TIME] : 1)
          : total, 0);
      const firsts = points.filter((point) => point[FIRST_P50] !== null);
      show("requests", formatNumber(Math.round(sum(REQUESTS, 60))));
      show("errors", formatNumber(Math.round(sum(ERRORS, 900))));
      const recent = points.slice(-10);
      show("tokens", formatNumber(recent.reduce((total, point) => total + point[TOKENS], 0) / (recent.length || 1)));
      const last = firsts.at(-1);
      show("first", last ? formatSeconds(last[FIRST_P50]) : UNKNOWN,
        last ? ` 95 %: ${formatSeconds(last[FIRST_P95])}` : "");
    },
  };
}

function makePlots(app) {
  let selected = "15m";
  const plots = [
    new Plot("Requests per second", [{ name: "requests", index: REQUESTS }], formatNumber),
    new Plot("Failures per second", [{ name: "failures", index: ERRORS }], formatNumber),
    new Plot("Time to first token", [{ name: "median", index: FIRST_P50 }, { name: "95 %", index: FIRST_P95 }], formatSeconds, { least: 0.01 }),
    new Plot("Tokens per second", [{ name: "tokens", index: TOKENS }], formatNumber),
    new Plot("Calls", [{ name: "running", index: RUNNING }, { name: "waiting", index: WAITING }], formatNumber, { least: 2 }),
    new Plot("Engine memory", [{ name: "memory", index: MEMORY }], formatBytes, { base: 1024, least: 2 ** 20 }),
  ];
  const load = async (name) => {
    try {
      await app.history.load(name);
    } catch (error) {
      notify(error.message, "bad");
    }
  };
  const choice = h("fieldset.choice", {}, h("legend.hidden", {}, "Time that the plots show"),
    WINDOWS.map(([name, title]) => h("label", {}, h("input", {
      type: "radio", name: "window", value: name, checked: name === selected,
      onchange: () => { selected = name; load(name); },
    }), h("span", {}, title))));
  load("15m");
  return {
    element: h("section", {}, h("div.heading", {}, h("h2", {}, "Activity"), choice),
      h("div.plots", {}, plots.map((plot) => plot.element))),
    update() {
      const points = app.history.getPoints(selected);
      const end = points.at(-1)?.[TIME] ?? Date.now() / 1000;
      // A gateway that has just started shows less, not mostly nothing.
      const start = Math.min(Math.max(end - LENGTHS[selected], points[0]?.[TIME] ?? 0), end - LEAST_SPAN_S);
      for (const plot of plots) plot.update(points, start, end);
    },
  };
}
