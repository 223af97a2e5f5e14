// What was over time, by uPlot; each plot says in words what it shows.

import { moment, percent, rate, second, speed } from "./words.js";

const HEIGHT = 150;
const bytes = (value) => speed(value).join(" ");
// Of an axis: 2, not 2.00.
const round = (text) => text.replace(/\.0+(?=\D|$)/, "").replace(/(\.\d)0(?=\D|$)/, "$1");
const TIMES = [15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600];
const shares = { range: [0, 1], write: percent };
const PLOTS = [
  { title: "Tokens a second", write: rate, series: [{ name: "generated", column: "tokens_per_s", colour: "--tier1", isFilled: true }] },
  {
    title: "Tiers' load", ...shares,
    series: [
      { name: "Tier 1", column: "tier1", colour: "--tier1" },
      { name: "busiest worker", column: "tier2", colour: "--tier2" },
    ],
  },
  { title: "KV room", ...shares, series: [{ name: "used", column: "kv", colour: "--kv", isFilled: true }] },
  {
    title: "Link", write: bytes,
    series: [
      { name: "to workers", column: "bytes_out", colour: "--tier1" },
      { name: "back", column: "bytes_back", colour: "--tier2" },
    ],
  },
];

export class Plots {
  constructor(place) {
    this.columns = { at: [] };
    this.plots = PLOTS.map((plot) => new Plot(place, plot));
    new ResizeObserver(() => this.draw()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const plot of this.plots) plot.renew();
      this.draw();
    });
  }

  // Points are all there are if isWhole, else the newest.
  take(points, isWhole) {
    for (const [name, values] of Object.entries(points)) {
      this.columns[name] = isWhole ? values : this.columns[name].concat(values);
    }
    if (isWhole || points.at.length) this.draw();
  }

  draw() {
    for (const plot of this.plots) plot.draw(this.columns);
  }
}

class Plot {
  constructor(place, { title, series, range, write }) {
    Object.assign(this, { title, series, range, write, drawn: null });
    this.figure = document.createElement("figure");
    this.figure.className = "plot";
    const caption = this.figure.appendChild(document.createElement("figcaption"));
    caption.appendChild(document.createElement("h3")).textContent = title;
    const legend = caption.appendChild(document.createElement("ul"));
    this.values = series.map(({ name, colour }) => {
      const entry = legend.appendChild(document.createElement("li"));
      entry.style.setProperty("--series", `var(${colour})`);
      entry.append(`${name} `);
      return entry.appendChild(document.createElement("b"));
    });
    this.canvas = this.figure.appendChild(document.createElement("div"));
    this.canvas.setAttribute("role", "img");
    place.append(this.figure);
  }

  renew() {
    this.drawn?.destroy();
    this.drawn = null;
  }

  draw(columns) {
    const width = this.figure.clientWidth;
    if (!width || !columns.at.length) return;
    const data = [columns.at, ...this.series.map(({ column }) => columns[column])];
    this.drawn ??= new uPlot(this.options(width), data, this.canvas);
    if (this.drawn.width !== width) this.drawn.setSize({ width, height: HEIGHT });
    this.drawn.setData(data);
    this.describe(columns);
  }

  describe(columns) {
    const last = this.series.map(({ column }) => columns[column].at(-1));
    last.forEach((value, index) => { this.values[index].textContent = this.say(value); });
    const said = this.series.map(({ name, column }, index) => {
      const most = Math.max(...columns[column].map((value) => value ?? 0));
      return `${name} now ${this.say(last[index])}, at most ${this.say(most)}`;
    });
    this.canvas.setAttribute("aria-label", `${this.title}: ${said.join("; ")}`);
  }

  say(value) {
    return value === null || value === undefined ? "–" : this.write(value);
  }

  options(width) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--quiet"), font: "12px system-ui, sans-serif", ticks: { show: false },
      grid: { stroke: colour("--line"), width: 1 },
    };
    return {
      width, height: HEIGHT, padding: [8, 8, 0, 0], legend: { show: false }, cursor: { show: false },
      scales: { y: { range: this.range ?? ((_, low, high) => [0, Math.max(high * 1.15, 1)]) } },
      axes: [
        { ...axis, grid: { show: false }, space: 70, size: 28, incrs: TIMES, values: labels },
        { ...axis, size: 64, space: 40, gap: 6, values: (_, ticks) => ticks.map((one) => round(this.write(one))) },
      ],
      series: [{}, ...this.series.map((one) => ({
        stroke: colour(one.colour), width: 1.5, points: { show: false },
        fill: one.isFilled ? `${colour(one.colour)}22` : undefined,
      }))],
    };
  }
}

function labels(_, ticks, _axis, _space, every) {
  return ticks.map((at) => (every < 60 ? second(at) : moment(at, ticks.at(-1))));
}
