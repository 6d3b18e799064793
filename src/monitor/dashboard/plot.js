// A small plot over time: two lines at most, a gap where nothing is known, figures under the pointer.

import { clock, make, setText } from "./parts.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150;
const EDGE = { left: 52, right: 4, top: 8, bottom: 20 };

/** How much time a plot shows, and how much at first, when there is little to be seen. */
export const SHOWN_MS = 5 * 60 * 1000;
const SHOWN_FIRST_MS = 60 * 1000;

function draw(tag, attributes = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** The next larger of 1, 2 and 5 times a power of ten (within KiB, MiB …): what people count in. */
export function roundUp(value, base = 10) {
  if (!(value > 0)) return 1;
  const unit = base === 10 ? 1 : base ** Math.max(0, Math.floor(Math.log(value) / Math.log(base)));
  return unit * roundUpTens(value / unit);
}

function roundUpTens(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5, 10].find((one) => value <= one * power * 1.0000001);
  return step * power;
}

/** A path through points, which begins anew behind each gap. */
export function path(points) {
  let text = "";
  let isOpen = false;
  for (const point of points) {
    if (point === null) {
      isOpen = false;
      continue;
    }
    text += `${isOpen ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    isOpen = true;
  }
  return text;
}

export class Plot {
  /** `series`: names and keys of samples; `format`: how a value is written. */
  constructor({ title, series, format, least = 1, base = 10 }) {
    Object.assign(this, { title, series, format, least, base, samples: [], now: 0 });
    this.keys = series.map(([label], at) => {
      const value = make("b", { text: "–" });
      const key = make("span", { class: at ? "key two" : "key" }, make("i", { "aria-hidden": "true" }), `${label} `, value);
      return { key, value };
    });
    this.svg = draw("svg", { role: "img", "aria-label": title, focusable: "false" });
    this.tip = make("div", { class: "tip", hidden: true });
    const head = make("div", { class: "head" }, make("h3", { text: title }), make("span", { class: "keys" }, ...this.keys.map(({ key }) => key)));
    this.node = make("div", { class: "card plot" }, head, this.svg, this.tip);
    this.prepare();
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.unpoint());
    new ResizeObserver(() => this.show(this.samples, this.now)).observe(this.svg);
  }

  prepare() {
    this.grid = [0, 1, 2].map(() => ({ line: draw("line", { class: "grid" }), label: draw("text", { "text-anchor": "end" }) }));
    this.times = ["start", "middle", "end"].map((anchor) => draw("text", { "text-anchor": anchor, y: HEIGHT - 5 }));
    this.area = draw("path", { class: "area" });
    this.lines = this.series.map((_, at) => draw("path", at ? { class: "two" } : {}));
    this.cross = draw("line", { class: "cross", visibility: "hidden" });
    this.empty = draw("text", { class: "empty", y: HEIGHT / 2 });
    for (const { line, label } of this.grid) this.svg.append(line, label);
    this.svg.append(this.area, ...this.lines.toReversed(), this.cross, this.empty, ...this.times);
  }

  /** Draws samples (`{ at, … }`, ascending); a value that is `null` is a gap. */
  show(samples, now) {
    Object.assign(this, { samples, now, width: this.svg.clientWidth || 400 });
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const keys = this.series.map(([, key]) => key);
    const values = samples.flatMap((sample) => keys.map((key) => sample[key])).filter((value) => value !== null);
    this.top = roundUp(Math.max(this.least, ...values), this.base);
    this.span = Math.min(SHOWN_MS, Math.max(SHOWN_FIRST_MS, now - (samples[0]?.at ?? now)));
    this.showGrid();
    keys.forEach((key, at) => {
      const points = samples.map((sample) => (sample[key] === null ? null : [this.x(sample.at), this.y(sample[key])]));
      this.lines[at].setAttribute("d", path(points));
      if (at === 0) this.area.setAttribute("d", this.areaOf(points));
      setText(this.keys[at].value, this.format(samples.at(-1)?.[key] ?? null));
    });
    this.empty.setAttribute("x", (this.width + EDGE.left) / 2);
    setText(this.empty, values.length ? "" : "no figures yet");
    this.svg.setAttribute("aria-label", this.summary(samples.at(-1)));
  }

  summary(last) {
    const said = this.series.map(([label, key]) => `${label} ${this.format(last?.[key] ?? null)}`);
    return `${this.title}, the last ${Math.round(this.span / 1000)} seconds; now: ${said.join(", ")}`;
  }

  showGrid() {
    this.grid.forEach(({ line, label }, at) => {
      const value = (this.top * at) / 2;
      const y = this.y(value);
      for (const [name, where] of [["x1", EDGE.left], ["x2", this.width - EDGE.right], ["y1", y], ["y2", y]]) line.setAttribute(name, where);
      label.setAttribute("x", EDGE.left - 7);
      label.setAttribute("y", y + 4);
      setText(label, this.format(value));
    });
    const minutes = this.span / 60000;
    [`${minutes.toFixed(minutes % 1 < 0.05 ? 0 : 1)} min ago`, "", "now"].forEach((text, at) => {
      this.times[at].setAttribute("x", [EDGE.left, this.width / 2, this.width - EDGE.right][at]);
      setText(this.times[at], text);
    });
  }

  areaOf(points) {
    const floor = this.y(0).toFixed(1);
    const runs = [[]];
    for (const point of points) point === null ? runs.push([]) : runs.at(-1).push(point);
    const whole = runs.filter((run) => run.length > 1);
    return whole.map((run) => `${path(run)}L${run.at(-1)[0].toFixed(1)} ${floor}L${run[0][0].toFixed(1)} ${floor}Z`).join("");
  }

  x(at) {
    const share = Math.max(0, 1 - (this.now - at) / this.span);
    return EDGE.left + share * (this.width - EDGE.left - EDGE.right);
  }

  y(value) {
    return HEIGHT - EDGE.bottom - (value / this.top) * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = event.clientX - box.left;
    const near = this.samples.reduce((best, sample) => {
      const away = Math.abs(this.x(sample.at) - x);
      return away < (best?.away ?? 24) ? { away, sample } : best;
    }, null);
    if (!near) return this.unpoint();
    const at = this.x(near.sample.at);
    for (const [name, where] of [["x1", at], ["x2", at], ["y1", EDGE.top], ["y2", HEIGHT - EDGE.bottom]]) this.cross.setAttribute(name, where);
    this.cross.setAttribute("visibility", "visible");
    const said = this.series.map(([label, key]) => `${label} ${this.format(near.sample[key])}`);
    this.tip.textContent = [clock(near.sample.at), ...said].join("   ");
    this.tip.hidden = false;
    const left = Math.min(Math.max(8, at - this.tip.clientWidth / 2 + 16), this.node.clientWidth - this.tip.clientWidth - 8);
    this.tip.style.left = `${left}px`;
  }

  unpoint() {
    this.cross.setAttribute("visibility", "hidden");
    this.tip.hidden = true;
  }
}
