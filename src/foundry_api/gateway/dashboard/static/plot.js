// Line plots by uPlot, with the same facts as text and as a table.

import { TIME } from "./api.js";
import { formatDay, formatMinute, formatTime, UNKNOWN } from "./format.js";
import { html, useEffect, useRef, useState } from "./preact-htm.js";

const { uPlot } = globalThis; // a classic script; see index.html
const HEIGHT = 140;
const TABLE_ROWS = 12;
const LABEL_PX = 56; // of a time
const DAY_S = 86400;
// Powers of two, for sizes.
const BINARY_STEPS = Array.from({ length: 50 }, (_, power) => 2 ** power);

// Canvases know no variables of the style sheet, and the colours change with the theme.
const readColour = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const THEMES = ["(prefers-color-scheme: dark)", "(forced-colors: active)"].map((query) => matchMedia(query));

// `series` are { name, index } into the points; `format` writes a value; `least` is the smallest top of
// the scale; `isBinary` sets steps of powers of two.
export function Plot({ title, series, format, points, start, end, least = 1, isBinary = false }) {
  const box = useRef();
  const chart = useRef();
  const span = useRef(0);
  const [shown, setShown] = useState(null); // the point below the pointer
  const [isOpen, setOpen] = useState(false);
  const rows = useRef([]);
  rows.current = markGaps(points);
  span.current = end - start;

  useEffect(() => {
    const axis = { stroke: readColour("--faint"), font: "11px system-ui, sans-serif", ticks: { show: false } };
    const plot = (chart.current = new uPlot({
      width: box.current.clientWidth,
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: {}, y: { range: (_, __, highest) => [0, Math.max(highest ?? 0, least) * 1.1] } },
      axes: [
        { ...axis, grid: { show: false }, size: 26, gap: 7, space: 70, values: (plot, times) => formatTimes(plot, times, span.current) },
        { ...axis, grid: { stroke: readColour("--line"), width: 1 }, size: 62, space: 40,
          ...(isBinary ? { incrs: BINARY_STEPS } : {}), values: (_, values) => values.map(format) },
      ],
      series: [{}, ...series.map((_, number) => ({
        stroke: readColour(`--series-${number}`),
        fill: series.length === 1 ? readColour("--series-area") : undefined,
        width: 1.75,
        dash: number ? [5, 4] : undefined,
        points: { size: 4 },
      }))],
      hooks: { setCursor: [({ cursor }) => setShown(cursor.idx === null ? null : rows.current[cursor.idx] ?? null)] },
    }, undefined, box.current));
    const resize = new ResizeObserver(() => plot.setSize({ width: box.current.clientWidth, height: HEIGHT }));
    const redraw = () => plot.redraw(false, true);
    resize.observe(box.current);
    for (const theme of THEMES) theme.addEventListener("change", redraw);
    return () => {
      resize.disconnect();
      for (const theme of THEMES) theme.removeEventListener("change", redraw);
      plot.destroy();
    };
  }, []);

  useEffect(() => chart.current.batch(() => {
    const times = rows.current.map((point) => point[TIME]);
    chart.current.setData([times, ...series.map(({ index }) => rows.current.map((point) => point[index] ?? null))], false);
    chart.current.setScale("x", { min: start, max: end });
  }), [points.length, points.at(-1), start, end]);

  const describe = (point) => series.map(({ name, index }) =>
    `${series.length > 1 ? `${name} ` : ""}${format(point[index])}`).join(", ");
  const last = points.at(-1);
  return html`<figure class="plot">
    <figcaption><h3>${title}</h3>${series.length > 1 && html`<ul class="legend">${series.map(({ name }, number) =>
      html`<li class=${`series-${number}`}>${name}</li>`)}</ul>`}</figcaption>
    <p class="readout">${shown ? `${formatTime(shown[TIME])}: ${describe(shown)}` : last ? `Now ${describe(last)}` : "No data yet"}</p>
    <div class="chart" ref=${box} role="img" aria-label=${`${title}. ${summarise(points, series, format)}.`}></div>
    <details onToggle=${(event) => setOpen(event.target.open)}>
      <summary>As a table<span class="hidden">: ${title}</span></summary>
      ${isOpen && html`<${ValueTable} ...${{ title, series, format, points }} />`}
    </details>
  </figure>`;
}

function ValueTable({ title, series, format, points }) {
  const length = Math.ceil(points.length / TABLE_ROWS) || 1;
  const groups = [];
  for (let end = points.length; end > 0; end -= length) groups.push(points.slice(Math.max(0, end - length), end));
  return html`<div class="scroller" tabindex="0" role="region" aria-label=${`${title}, as a table`}>
    <table>
      <thead><tr><th scope="col">Until</th>${series.map(({ name }) => html`<th scope="col">${name}</th>`)}</tr></thead>
      <tbody>${groups.map((group) => html`<tr><th scope="row">${formatTime(group.at(-1)[TIME])}</th>
        ${series.map(({ index }) => html`<td>${format(findMean(listValues(group, index)))}</td>`)}</tr>`)}</tbody>
    </table>
  </div>`;
}

function summarise(points, series, format) {
  return series.map(({ name, index }) => {
    const values = listValues(points, index);
    if (!values.length) return `${name}: no data`;
    return `${name}: lowest ${format(Math.min(...values))}, mean ${format(findMean(values))}, ` +
      `highest ${format(Math.max(...values))}, last ${format(values.at(-1))}`;
  }).join(". ");
}

const listValues = (points, index) => points.map((point) => point[index]).filter((value) => value !== null && value !== undefined);
const findMean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

// Adds an empty point where the gateway did not run, so that no line goes across.
function markGaps(points) {
  const gap = points.length > 1 ? ((points.at(-1)[TIME] - points[0][TIME]) / (points.length - 1)) * 6 + 2 : 0;
  return points.flatMap((point, number) =>
    number && point[TIME] - points[number - 1][TIME] > gap ? [[point[TIME] - gap / 2], point] : [point]);
}

function formatTimes(plot, times, span) {
  const format = span > 2 * DAY_S ? formatDay : span > 600 ? formatMinute : formatTime;
  const texts = times.map(format);
  // Those of the same day, and those that the edge would cut, are left out.
  return texts.map((text, number) =>
    text === texts[number - 1] || plot.valToPos(times[number], "x") > plot.over.clientWidth - LABEL_PX / 2 ? "" : text);
}
