// One channel: how full it is, who reads it, and its messages for whoever may see them.

import { Refused, ask, byId, bytes, cell, count, dateTime, make, setCell, setName, setShown, setText, showFacts, showRows, span, visible } from "./parts.js";
import { share } from "./lists.js";

let shownName = null;
let subscriptionsFrom = 0;

// ---- figures and subscriptions ------------------------------------------------------------------

/** Shows another channel, or the same again; nothing of the one before stays. */
export function open(name) {
  if (name === shownName) return;
  [shownName, subscriptionsFrom] = [name, 0];
  byId("head-channel").replaceChildren(make("bdi", { text: visible(name.length > 1000 ? `${name.slice(0, 1000)}… (${count(name.length)} characters)` : name) }));
  byId("channel-body").hidden = true;
  forgetMessages();
}

export async function refresh(now) {
  const name = shownName;
  let found;
  try {
    found = await ask("dashboard/channel", { name, offset: subscriptionsFrom });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    setText(byId("channel-trouble"), `${error.message}.`);
    setShown(byId("channel-trouble"), true);
    byId("channel-body").hidden = true;
    return;
  }
  if (name !== shownName) return;
  setShown(byId("channel-trouble"), false);
  byId("channel-body").hidden = false;
  showFill(found);
  showLimits(found);
  showSubscriptions(found);
  showAccess(now);
}

function showFill(found) {
  const { limits } = found;
  const rows = [
    ["Messages", count(found.messages), count(limits.max_msgs), share(found.messages, limits.max_msgs)],
    ["Bytes", bytes(found.bytes), bytes(limits.max_bytes), share(found.bytes, limits.max_bytes)],
    ["Subscriptions", count(found.found), count(limits.max_subscriptions), share(found.found, limits.max_subscriptions)],
  ];
  const place = byId("channel-fill");
  if (!place.childElementCount) place.append(...rows.map(() => make("div", { class: "fill-row" }, make("span"), make("span", { class: "n" }), make("div", { class: "fill", "aria-hidden": "true" }, make("i")))));
  rows.forEach(([term, value, max, full], at) => {
    const [label, said, bar] = place.children[at].children;
    setText(label, term);
    setText(said, full === null ? `${value}, no limit` : `${value} of ${max} (${(full * 100).toFixed(full < 0.1 ? 1 : 0)} %)`);
    bar.className = full >= 0.999 ? "fill warn" : "fill";
    bar.firstElementChild.style.width = `${(full ?? 0) * 100}%`;
  });
}

const time = (nanos) => (nanos > 0 ? span(nanos / 1e6) : "for ever");

function showLimits({ limits, first, last }) {
  showFacts(byId("channel-limits"), [
    ["First sequence", count(first)],
    ["Last sequence", count(last)],
    ["Messages are kept", time(limits.max_age)],
    ["Goes when unused for", limits.max_inactivity > 0 ? span(limits.max_inactivity / 1e6) : "never"],
  ]);
}

function stateOf(row) {
  if (row.is_stalled) return [`stalled: ${count(row.pending)} of ${count(row.in_flight_max)} not acknowledged`, "warn"];
  if (row.waits) return [`waits: ${row.waits}`, "warn"];
  if (row.is_offline) return ["offline", ""];
  return ["online", "good"];
}

function showSubscriptions(found) {
  const draw = () => [cell(), cell(), cell(), cell("n"), cell("n"), cell("n wide"), cell("n wide")];
  showRows(byId("channel-subs"), found.rows, draw, (cells, row) => {
    setName(cells[0], row.client);
    setName(cells[1], row.durable || row.queue);
    setCell(cells[2], ...stateOf(row));
    setCell(cells[3], count(row.behind));
    setCell(cells[4], `${count(row.pending)} of ${count(row.in_flight_max)}`);
    setCell(cells[5], count(row.last_sent));
    setCell(cells[6], `${count(row.ack_wait_secs)} s`);
  });
  const isPart = found.found > found.rows.length;
  setText(byId("channel-subs-range"), isPart ? `${count(found.offset + 1)}–${count(found.offset + found.rows.length)} of ${count(found.found)}` : "");
  setShown(byId("channel-subs-none"), found.found === 0);
  const [before, next] = [byId("channel-subs-before"), byId("channel-subs-next")];
  setShown(before.parentElement, isPart);
  before.disabled = found.offset === 0;
  next.disabled = found.found <= found.offset + found.rows.length;
}

// ---- messages -----------------------------------------------------------------------------------

// Only here, and gone with the page.
let authorization = "";
let page = null;
let isHex = false;

function showAccess(now) {
  const may = now.shows_messages;
  setText(byId("messages-why"), may
    ? authorization ? "" : "Messages are shown to the user whom the configuration of this server names."
    : "Messages are not shown: the configuration of this server names no user who may see them (dashboard { user, password }).");
  setShown(byId("messages-form"), may && !authorization);
  setShown(byId("messages-tools"), may && authorization !== "");
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

async function readMessages(from) {
  const name = shownName;
  const error = byId("messages-error");
  try {
    const found = await ask("dashboard/messages", { name, from }, { Authorization: authorization });
    if (name !== shownName) return;
    page = found;
    setShown(error, false);
    showMessages();
  } catch (problem) {
    if (problem.status === 401 || problem.status === 403 || problem.status === 429) authorization = "";
    setText(error, problem.message);
    setShown(error, true);
  }
  showAccess({ shows_messages: true });
}

function forgetMessages() {
  page = null;
  byId("messages").replaceChildren();
  setText(byId("messages-range"), "");
  setShown(byId("messages-error"), false);
}

function showMessages() {
  const { rows, first, last, from } = page;
  byId("messages").replaceChildren(...rows.map(message));
  const range = rows.length ? `${count(rows[0].sequence)}–${count(rows.at(-1).sequence)}; the channel has ${count(first)}–${count(last)}` : "There is no message here.";
  setText(byId("messages-range"), range);
  byId("messages-older").disabled = from <= first;
  byId("messages-newer").disabled = !rows.length || last <= rows.at(-1).sequence;
  const view = byId("messages-view");
  view.setAttribute("aria-pressed", String(isHex));
}

function octets(hex) {
  return Uint8Array.from({ length: hex.length / 2 }, (_, at) => Number.parseInt(hex.slice(2 * at, 2 * at + 2), 16));
}

/** `00000000  68 65 6c …  |hel…|`, as everybody has it. */
export function hexView(bytesOf) {
  const lines = [];
  for (let at = 0; at < bytesOf.length; at += 16) {
    const part = Array.from(bytesOf.slice(at, at + 16));
    const digits = part.map((one) => one.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    const letters = part.map((one) => (one >= 0x20 && one < 0x7f ? String.fromCharCode(one) : ".")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${digits}  |${letters}|`);
  }
  return lines.join("\n");
}

/** Payloads keep their lines and tabs; all else that cannot be seen is written out. */
function textView(bytesOf) {
  return new TextDecoder().decode(bytesOf).split(/([\n\t])/).map((part) => (part === "\n" || part === "\t" ? part : visible(part))).join("");
}

function message({ sequence, at, size, hex }) {
  const data = octets(hex);
  const said = size === null ? "cannot be decoded" : bytes(size);
  const cut = size > data.length ? `, the first ${bytes(data.length)} of them` : "";
  const head = make("p", { class: "head" }, make("b", { text: count(sequence) }), make("time", { class: "quiet", datetime: new Date(at).toISOString(), text: dateTime(at) }), make("span", { class: "quiet", text: `${said}${cut}` }));
  const shown = isHex ? make("pre", { class: "hex", tabindex: "0", text: hexView(data) }) : make("pre", { tabindex: "0", dir: "auto", text: textView(data) });
  return make("li", {}, head, ...(data.length ? [shown] : []));
}

export function begin(refreshNow) {
  const turn = (step) => {
    subscriptionsFrom = Math.max(0, subscriptionsFrom + step);
    refreshNow();
  };
  byId("channel-subs-before").addEventListener("click", () => turn(-200));
  byId("channel-subs-next").addEventListener("click", () => turn(200));
  byId("messages-form").addEventListener("submit", (event) => {
    event.preventDefault();
    authorization = `Basic ${base64(`${byId("messages-user").value}:${byId("messages-password").value}`)}`;
    byId("messages-password").value = "";
    readMessages("");
  });
  byId("messages-older").addEventListener("click", () => readMessages(Math.max(1, page.from - 10)));
  byId("messages-newer").addEventListener("click", () => readMessages(page.rows.at(-1).sequence + 1));
  byId("messages-last").addEventListener("click", () => readMessages(""));
  byId("messages-view").addEventListener("click", () => {
    isHex = !isHex;
    showMessages();
  });
  byId("messages-leave").addEventListener("click", () => {
    authorization = "";
    forgetMessages();
    showAccess({ shows_messages: true });
    byId("messages-user").focus();
  });
}
