// What all views share: elements, figures as people read them, and questions to the server.
// Nothing here or elsewhere turns a text into HTML: whatever clients have named stays text.

export const byId = (id) => document.getElementById(id);

/** An element; `attributes` may have `class`, `text`, and whatever else HTML knows. */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Sets a text only where it changes, so that a selection and a screen reader are left alone. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setShown(node, isShown) {
  if (node.hidden === isShown) node.hidden = !isShown;
}

// Controls, marks that turn the direction of writing, and what has no width: a name with them
// would look like another one.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** A name that somebody else chose, with all that cannot be seen written out. */
export function visible(text) {
  return text.replace(INVISIBLE, (mark) => `\\u{${mark.codePointAt(0).toString(16)}}`);
}

const NAME_SHOWN_MAX = 160;

/** A name cut to what a table can hold. */
export function short(text) {
  const letters = Array.from(visible(text.slice(0, 4 * NAME_SHOWN_MAX)));
  if (letters.length <= NAME_SHOWN_MAX && text.length <= 4 * NAME_SHOWN_MAX) return letters.join("");
  return `${letters.slice(0, NAME_SHOWN_MAX).join("")}… (${count(text.length)} characters)`;
}

/** A name in a table, isolated from the direction of writing around it. */
export function name(text) {
  return make("bdi", { class: "name", title: visible(text.slice(0, 1000)), text: short(text) });
}

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export function count(value) {
  return value === null || value === undefined ? "–" : WHOLE.format(value);
}

function scaled(value, step, units) {
  let [scale, at] = [value, 0];
  while (step * 0.9995 <= scale && at < units.length - 1) {
    scale /= step;
    at += 1;
  }
  const digits = scale < 10 && (at > 0 || scale % 1 !== 0) ? (scale < 1 && at === 0 ? 2 : 1) : 0;
  return [scale.toFixed(digits), units[at]];
}

/** `12.3k`: for rates, which nobody reads to the last digit. */
export function rate(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 0.005) return "0";
  return scaled(value, 1000, ["", "k", "M", "G"]).join("");
}

export function bytes(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return scaled(Math.round(value), 1024, [" B", " KiB", " MiB", " GiB", " TiB"]).join("");
}

/** A short time, given in microseconds. */
export function micros(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 1000) return `${value.toFixed(0)} µs`;
  if (value < 1e6) return `${(value / 1000).toFixed(value < 1e4 ? 1 : 0)} ms`;
  return `${(value / 1e6).toFixed(1)} s`;
}

/** A time that has passed, given in milliseconds, in its two largest units. */
export function span(millis) {
  const seconds = Math.max(0, Math.floor(millis / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${two(Math.floor((seconds % 3600) / 60))} min`;
  return `${Math.floor(seconds / 86400)} d ${two(Math.floor((seconds % 86400) / 3600))} h`;
}

const two = (number) => String(number).padStart(2, "0");

/** `2026-11-30 05:32:47`, as the clock of whoever looks has it. */
export function dateTime(millis) {
  const at = new Date(millis);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(millis)}`;
}

export function clock(millis) {
  const at = new Date(millis);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

const PATIENCE_MS = 6000;

/** The server's own words for what it does not do; `status` is that of HTTP. */
export class Refused extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

/** A document of the server, relative to this page: so a prefix of a proxy stays. */
export async function ask(path, parameters = {}, headers = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== ""));
  const target = `${path}${query.size ? `?${query}` : ""}`;
  const options = { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) };
  const answer = await fetch(target, options);
  const text = await answer.text();
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    throw new Refused(answer.status, text.trim().slice(0, 300) || `HTTP status ${answer.status}`);
  }
  if (!answer.ok) throw new Refused(answer.status, document.error ?? `HTTP status ${answer.status}`);
  return document;
}

/**
 * Shows `rows` in a table's body and keeps the elements that are there: a link that has the focus
 * has it still when the list was asked for again. `draw` makes the cells of a row, `fill` fills them.
 */
export function showRows(body, rows, draw, fill) {
  while (body.rows.length > rows.length) body.lastElementChild.remove();
  rows.forEach((row, at) => {
    if (at === body.rows.length) {
      const line = make("tr");
      line.append(...draw());
      body.append(line);
    }
    fill(body.rows[at].cells, row);
  });
}

/** A cell with the class of its column. */
export const cell = (kind = "") => make("td", kind ? { class: kind } : {});

/** Sets what a cell says, and its class beside that of its column. */
export function setCell(at, text, tone = "") {
  setText(at, text);
  for (const each of ["good", "warn", "bad"]) at.classList.toggle(each, each === tone);
}

/** Sets a cell to a name that somebody else chose. */
export function setName(at, text) {
  if (at.dataset.name === text && at.firstElementChild) return;
  at.dataset.name = text;
  at.replaceChildren(text === "" ? "–" : name(text));
}

/** Terms and what they are, in a definition list that keeps its elements. */
export function showFacts(list, facts) {
  const key = facts.map(([term]) => term).join("|");
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...facts.map(([term]) => make("div", {}, make("dt", { text: term }), make("dd"))));
  }
  facts.forEach(([, value, tone], at) => {
    const said = list.children[at].lastElementChild;
    setText(said, value);
    said.className = tone ?? "";
  });
}
