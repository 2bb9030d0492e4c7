// Line plots as SVG, with the same facts as text and as a table.

import { h, setText, svg } from "./dom.js";
import { UNKNOWN, formatDay, formatMinute, formatTime } from "./format.js";

const HEIGHT = 132, LEFT = 52, RIGHT = 8, TOP = 8, BOTTOM = 22;
const TABLE_ROWS = 12;

// `series` are { name, index } into the points; `format` writes a value; `base` is of its units;
// `least` is the smallest top of the scale.
export class Plot {
  constructor(title, series, format, { base = 10, least = 1 } = {}) {
    this.title = title;
    this.base = base;
    this.least = least;
    this.series = series;
    this.format = format;
    this.points = [];
    this.width = 0;
    this.graphic = svg("svg", { role: "img", height: HEIGHT });
    this.readout = h("p.readout");
    this.table = h("tbody");
    const details = h("details", { ontoggle: () => this.drawTable() },
      h("summary", {}, "As a table", h("span.hidden", {}, `: ${title}`)),
      h("div.scroller", { tabindex: "0", role: "region", "aria-label": `${title}, as a table` },
        h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Until"),
          series.map(({ name }) => h("th", { scope: "col" }, name)))), this.table)));
    this.details = details;
    const legend = series.length > 1
      ? h("ul.legend", {}, series.map(({ name }, index) => h(`li.series-${index}`, {}, name))) : null;
    this.element = h("figure.plot", {},
      h("figcaption", {}, h("h3", {}, title), legend), this.readout, this.graphic, details);
    this.graphic.addEventListener("pointermove", (event) => this.point(event));
    this.graphic.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(([entry]) => {
      this.width = Math.floor(entry.contentRect.width);
      this.draw();
    }).observe(this.element);
  }

  update(points, start, end) {
    this.points = points;
    this.start = start;
    this.end = end;
    this.draw();
    if (this.details.open) this.drawTable();
  }

  draw() {
    if (this.width < LEFT + RIGHT + 20 || this.end === undefined) return;
    const { points, series } = this;
    let highest = this.least;
    for (const point of points) for (const { index } of series) highest = Math.max(highest, point[index] ?? 0);
    const top = niceCeiling(highest, this.base);
    this.x = (time) => LEFT + ((time - this.start) / (this.end - this.start)) * (this.width - LEFT - RIGHT);
    this.y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);
    this.cursor = svg("line.cursor", { y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    this.graphic.setAttribute("width", this.width);
    this.graphic.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.graphic.replaceChildren(
      ...[0, 0.5, 1].map((share) => this.drawLevel(top * share)),
      ...this.drawTimes(),
      ...(series.length === 1 ? [svg("path.area", { d: this.drawArea(series[0].index) })] : []),
      ...series.map(({ index }, number) => svg(`path.line.series-${number}`, { d: this.drawLine(index) })),
      this.cursor);
    this.summarise();
  }

  drawLevel(value) {
    const y = this.y(value);
    return svg("g", {}, svg("line.grid", { x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }),
      svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, this.format(value)));
  }

  drawTimes() {
    const span = this.end - this.start;
    const step = span > 86400 ? 86400 : span / (this.width < 340 ? 2 : 3);
    const first = span > 86400 ? new Date(this.start * 1000).setHours(24, 0, 0, 0) / 1000 : this.start;
    const labels = [];
    for (let time = first; time <= this.end + 1; time += step) {
      const x = this.x(time);
      const anchor = x < LEFT + 12 ? "start" : x > this.width - 24 ? "end" : "middle";
      const format = span > 86400 ? formatDay : span > 600 ? formatMinute : formatTime;
      labels.push(svg("text", { x, y: HEIGHT - 6, "text-anchor": anchor }, format(time)));
    }
    return labels.filter((_, index) => span <= 86400 || this.width > 420 || index % 2 === 0);
  }

  // The runs of a series without gaps, as positions.
  findRuns(index) {
    const { points } = this, runs = [];
    const gap = points.length > 1 ? ((points.at(-1)[0] - points[0][0]) / (points.length - 1)) * 6 + 2 : 0;
    let run = null, last = 0;
    for (const point of points) {
      const value = point[index];
      if (value === null || value === undefined) continue;
      if (!run || point[0] - last > gap) runs.push((run = []));
      run.push(`${this.x(point[0]).toFixed(1)} ${this.y(value).toFixed(1)}`);
      last = point[0];
    }
    return runs;
  }

  drawLine(index) {
    // A single point is a dot, by the round ends of the line.
    return this.findRuns(index).map((run) => `M${run[0]}h0${run.slice(1).map((place) => `L${place}`).join("")}`).join("");
  }

  drawArea(index) {
    const bottom = HEIGHT - BOTTOM;
    return this.findRuns(index).map((run) =>
      `M${run[0].split(" ")[0]} ${bottom}L${run.join("L")}L${run.at(-1).split(" ")[0]} ${bottom}Z`).join("");
  }

  describe(point) {
    return this.series.map(({ name, index }) =>
      `${this.series.length > 1 ? `${name} ` : ""}${point ? this.format(point[index]) : UNKNOWN}`).join(", ");
  }

  summarise() {
    const last = this.points.at(-1);
    setText(this.readout, last ? `Now ${this.describe(last)}` : "No data yet");
    const facts = this.series.map(({ name, index }) => {
      const values = this.points.map((point) => point[index]).filter((value) => value !== null);
      if (!values.length) return `${name}: no data`;
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      return `${name}: lowest ${this.format(Math.min(...values))}, mean ${this.format(mean)}, ` +
        `highest ${this.format(Math.max(...values))}, last ${this.format(values.at(-1))}`;
    });
    this.graphic.setAttribute("aria-label", `${this.title}. ${facts.join(". ")}.`);
  }

  point(event) {
    if (!this.cursor || !this.points.length) return;
    if (!event) {
      this.cursor.setAttribute("visibility", "hidden");
      this.summarise();
      return;
    }
    const x = event.clientX - this.graphic.getBoundingClientRect().left;
    const nearest = this.points.reduce((best, point) =>
      Math.abs(this.x(point[0]) - x) < Math.abs(this.x(best[0]) - x) ? point : best);
    const at = this.x(nearest[0]);
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, at);
    this.cursor.setAttribute("visibility", "visible");
    setText(this.readout, `${formatTime(nearest[0])}: ${this.describe(nearest)}`);
  }

  drawTable() {
    if (!this.details.open) return;
    const length = Math.ceil(this.points.length / TABLE_ROWS) || 1;
    const rows = [];
    for (let end = this.points.length; end > 0; end -= length) {
      const group = this.points.slice(Math.max(0, end - length), end);
      const cells = this.series.map(({ index }) => {
        const values = group.map((point) => point[index]).filter((value) => value !== null);
        const mean = values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
        return h("td", {}, this.format(mean));
      });
      rows.push(h("tr", {}, h("th", { scope: "row" }, formatTime(group.at(-1)[0])), cells));
    }
    this.table.replaceChildren(...rows);
  }
}

// The least round number that is not below a value.
function niceCeiling(value, base) {
  const power = base ** Math.floor(Math.log(value) / Math.log(base));
  const factors = base === 10 ? [1, 2, 5, 10] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
  return (factors.find((factor) => factor * power >= value) ?? base) * power;
}
