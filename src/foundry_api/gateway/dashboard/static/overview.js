// What an operator wants to know first: does it work, who uses it, how has it been.

import { ERRORS, FIRST_P50, FIRST_P95, get, LENGTHS, MEMORY, REQUESTS, RUNNING, TIME, TOKENS, WAITING } from "./api.js";
import { Choice, notify, Table } from "./components.js";
import { formatBytes, formatNumber, formatSeconds, formatTime, plural, UNKNOWN } from "./format.js";
import { Plot } from "./plot.js";
import { html, useEffect, useState } from "./preact-htm.js";
import { CallTable } from "./queue.js";

const LEAST_SPAN_S = 60;
const WINDOWS = [["15m", "15 min"], ["6h", "6 hours"], ["7d", "7 days"]];

const PLOTS = [
  { title: "Requests per second", series: [{ name: "requests", index: REQUESTS }], format: formatNumber },
  { title: "Failures per second", series: [{ name: "failures", index: ERRORS }], format: formatNumber },
  { title: "Time to first token", series: [{ name: "median", index: FIRST_P50 }, { name: "95 %", index: FIRST_P95 }], format: formatSeconds, least: 0.01 },
  { title: "Tokens per second", series: [{ name: "tokens", index: TOKENS }], format: formatNumber },
  { title: "Calls", series: [{ name: "running", index: RUNNING }, { name: "waiting", index: WAITING }], format: formatNumber, least: 2 },
  { title: "Engine memory", series: [{ name: "memory", index: MEMORY }], format: formatBytes, least: 2 ** 20, isBinary: true },
];

const SERVICES = [
  { title: "Service", cell: (one) => html`<strong>${one.name}</strong><small>${one.kind}</small>` },
  { title: "State", cell: (one) => html`<span class=${`tag ${{ up: "good", unknown: "" }[one.state] ?? "bad"}`}>${one.state}</span><small>${one.problem}</small>` },
  { title: "Running", class: "number", cell: (one) => `${one.in_flight} of ${one.slots}` },
  { title: "Waiting", class: "number", cell: (one) => formatNumber(one.waiting) },
  { title: "Models", cell: (one) => one.models.join(", ") },
];

export function View({ app, event, history }) {
  const hasMetrics = app.can("manage", "metrics");
  const canManage = app.can("manage");
  const calls = event?.calls ?? [];
  const count = event && event.call_count > calls.length ? `the oldest ${calls.length} of ${event.call_count}` : event?.call_count || "";
  return html`<div class="stack">
    <${Banner} event=${event} />
    ${hasMetrics && html`<${Tiles} event=${event} points=${history.getPoints("15m")} /><${Activity} history=${history} />`}
    <section><h2>${canManage ? "Calls" : "Your calls"} <span class="count">${count}</span></h2><${CallTable} app=${app} calls=${calls} /></section>
    ${event?.upstreams?.length > 0 && html`<section><h2>Services</h2>
      <${Table} label="Services behind the gateway" columns=${SERVICES} items=${event.upstreams} getKey=${(one) => one.name} /></section>`}
    ${canManage && html`<section><h2>Recent failures</h2><${Failures} revision=${event?.revisions?.failures} />
      <p class="hint">Those of authentication are in the event log.</p></section>`}
  </div>`;
}

function Banner({ event }) {
  const problems = event?.problems ?? [];
  const [kind, verdict] = !event ? ["", "Connecting…"]
    : !event.ready ? ["bad", "The gateway cannot serve all calls"]
    : [problems.length ? "warn" : "good", "The gateway serves calls"];
  return html`<section class=${`banner ${kind}`} aria-live="polite"><h2>${verdict}</h2>
    ${problems.length > 0 && html`<ul>${problems.map((text) => html`<li key=${text}>${text}</li>`)}</ul>`}</section>`;
}

function Tiles({ event, points }) {
  const end = points.at(-1)?.[TIME] ?? 0;
  const sum = (index, seconds) => points.reduce((total, point, number) => point[TIME] > end - seconds
    ? total + point[index] * (number ? Math.min(point[TIME] - points[number - 1][TIME], 2) : 1) : total, 0);
  const recent = points.slice(-10);
  const last = points.findLast((point) => point[FIRST_P50] !== null);
  const engine = event?.engine;
  const name = engine ? engine.version ?? engine.service_generation : "not called yet";
  const tiles = [
    ["Running calls", formatNumber(event?.in_flight), event && `of ${plural(event.slots, "slot")}`],
    ["Waiting calls", formatNumber(event?.waiting)],
    ["Requests, last minute", formatNumber(Math.round(sum(REQUESTS, 60)))],
    ["Failed, last 15 min", formatNumber(Math.round(sum(ERRORS, 900)))],
    ["Time to first token", formatSeconds(last?.[FIRST_P50]), last && `95 %: ${formatSeconds(last[FIRST_P95])}`],
    ["Tokens per second", formatNumber(recent.reduce((total, point) => total + point[TOKENS], 0) / (recent.length || 1))],
    ["Engine memory", formatBytes(engine?.memory_bytes)],
    ["Engine", !event ? UNKNOWN : event.upstreams?.length ? plural(event.upstreams.length, "service") : name,
      engine?.uptime_s && `up ${formatSeconds(engine.uptime_s)}`],
  ];
  return html`<dl class="tiles">${tiles.map(([title, value, more]) =>
    html`<div><dt>${title}</dt><dd><span>${value}</span>${more && html`<small>${more}</small>`}</dd></div>`)}</dl>`;
}

function Activity({ history }) {
  const [name, setName] = useState("15m");
  useEffect(() => {
    history.load(name).catch((error) => notify(error.message, "bad"));
  }, [name]);
  const points = history.getPoints(name);
  const end = points.at(-1)?.[TIME] ?? Date.now() / 1000;
  // A gateway that has just started shows less, not mostly nothing.
  const start = Math.min(Math.max(end - LENGTHS[name], points[0]?.[TIME] ?? 0), end - LEAST_SPAN_S);
  return html`<section>
    <div class="heading"><h2>Activity</h2>
      <${Choice} legend="Time that the plots show" name="window" options=${WINDOWS} value=${name} onChoose=${setName} /></div>
    <div class="plots">${PLOTS.map((plot) => html`<${Plot} key=${plot.title} ...${plot} points=${points} start=${start} end=${end} />`)}</div>
  </section>`;
}

const SHOWN_FAILURES = 20;
const FAILURES = [
  { title: "Last", cell: ({ time, id }) => html`<span>${formatTime(time)}</span><small class="mono">${id}</small>` },
  { title: "Key", cell: (failure) => failure.key },
  { title: "Cause", cell: ({ code, meaning }) => html`<span class="tag bad">${code}</span><small>${meaning}</small>` },
  { title: "Times", class: "number", cell: (failure) => failure.count },
  { title: "Model", cell: (failure) => failure.model },
  { title: "Route", class: "mono", cell: (failure) => failure.route },
];

// A client that is refused repeats itself.
const nameGroup = ({ key, code, model, route }) => `${code} ${route} ${model} ${key}`;

function group(failures) {
  const groups = new Map();
  for (const failure of failures) {
    const known = groups.get(nameGroup(failure)) ?? { ...failure, count: 0 };
    known.count += 1;
    groups.set(nameGroup(failure), known);
  }
  return [...groups.values()].slice(0, SHOWN_FAILURES);
}

// `revision` changes when there are further ones.
function Failures({ revision }) {
  const [groups, setGroups] = useState([]);
  const [failed, setFailed] = useState(0);
  useEffect(() => {
    if (revision === undefined) return;
    get("/api/failures").then(({ failures }) => setGroups(group(failures)), () => setTimeout(() => setFailed(failed + 1), 1000));
  }, [revision, failed]);
  return html`<${Table} label="Requests that failed, by key and cause, the last ones first" columns=${FAILURES}
    items=${groups} getKey=${nameGroup} empty="No request has failed." />`;
}
