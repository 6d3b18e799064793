// The first view: who is active, who would take over, what goes through, and how long it takes.

import { byId, bytes, cell, count, dateTime, make, micros, name, rate, setCell, setName, setShown, setText, short, showFacts, showRows, span } from "./parts.js";
import { Plot, SHOWN_MS } from "./plot.js";

// Percentiles over the last seconds, so that a few batches are enough for one.
const WINDOW_MS = 8000;
// Between two answers that are further apart nobody knows what was.
const GAP_MS = 5000;

const plots = [
  new Plot({ title: "Messages a second", series: [["in", "inMessages"], ["out", "outMessages"]], format: rate, least: 10 }),
  new Plot({ title: "Bytes a second", series: [["in", "inBytes"], ["out", "outBytes"]], format: bytes, least: 1024, base: 1024 }),
  new Plot({ title: "Commit of a batch", series: [["p50", "commit50"], ["p99", "commit99"]], format: micros, least: 1000 }),
  new Plot({ title: "Wait for the disk", series: [["p50", "sync50"], ["p99", "sync99"]], format: micros, least: 1000 }),
];

let documents = [];
let samples = [];

export function begin() {
  byId("plots").append(...plots.map((plot) => plot.node));
}

/** Forgets all that cannot be compared with what comes: another process counts from nothing. */
export function restart() {
  documents = [];
  note({ at: Date.now() });
}

const EMPTY = { inMessages: null, outMessages: null, inBytes: null, outBytes: null, commit50: null, commit99: null, sync50: null, sync99: null };

function note(sample) {
  samples = samples.filter((one) => sample.at - one.at < SHOWN_MS);
  samples.push({ ...EMPTY, ...sample });
}

/** Nothing is known of this moment. */
export function gap() {
  note({ at: Date.now() });
  showPlots();
  showTiles(null);
}

/** The counters whose rates are shown: of the streaming server, or of a core server. */
function counters(now) {
  return now.is_active && now.streaming ? now.streaming : now.core;
}

function grown(now, before, key) {
  const more = counters(now)[key] - counters(before)[key];
  return more < 0 ? null : (more * 1000) / (now.at - before.at);
}

/** The value below which `share` of those lie that two histograms differ by; microseconds. */
export function percentile(now, before, share) {
  const counts = now.counts.map((all, at) => all - (before?.counts[at] ?? 0));
  const total = counts.reduce((sum, one) => sum + one, 0);
  if (total <= 0 || counts.some((one) => one < 0)) return null;
  let left = total * share;
  for (const [at, one] of counts.entries()) {
    if (left <= one && one > 0) {
      const low = at ? now.bounds[at - 1] : 0;
      const high = now.bounds[at] ?? now.bounds.at(-1);
      return low + (high - low) * (left / one);
    }
    left -= one;
  }
  return now.bounds.at(-1);
}

function sampleOf(now) {
  const before = documents.at(-1);
  documents.push(now);
  documents = documents.filter((one) => now.at - one.at <= WINDOW_MS || one === before);
  const isNext = before && now.at > before.at && now.at - before.at < GAP_MS && before.is_active === now.is_active;
  if (!isNext) return { at: Date.now() };
  const from = documents[0].stores;
  return {
    at: Date.now(),
    inMessages: grown(now, before, "in_messages"),
    outMessages: grown(now, before, "out_messages"),
    inBytes: grown(now, before, "in_bytes"),
    outBytes: grown(now, before, "out_bytes"),
    commit50: percentile(now.stores.commit, from.commit, 0.5),
    commit99: percentile(now.stores.commit, from.commit, 0.99),
    sync50: percentile(now.stores.sync, from.sync, 0.5),
    sync99: percentile(now.stores.sync, from.sync, 0.99),
  };
}

export function show(now) {
  note(sampleOf(now));
  showGroup(now);
  showTiles(now);
  showPlots();
  showTakeOvers(now);
  showServer(now);
}

function showPlots() {
  const now = Date.now();
  for (const plot of plots) plot.show(samples, now);
}

// ---- the group ----------------------------------------------------------------------------------

/** The member that is active, as far as the server that answers can tell. */
export function activeOf(now) {
  const members = now.group?.members ?? [];
  const own = members[0];
  if (own?.role === "active") return own;
  return members.find((one) => one.server_id === own?.active?.server_id) ?? members.find((one) => one.role === "active");
}

export function titleOf(member) {
  return member.name || member.server_id;
}

/** What the other machine says of itself may be wrong; only a plain web address becomes a link. */
export function pageOf(member) {
  let url;
  try {
    url = new URL(member.monitoring ?? "");
  } catch {
    return null;
  }
  if (!["http:", "https:"].includes(url.protocol) || url.username || url.password) return null;
  return `${url.href.replace(/\/+$/, "")}/dashboard`;
}

function showGroup(now) {
  const active = activeOf(now);
  const own = now.group?.members?.[0];
  const last = lastTakeOver(now);
  const who = byId("who");
  const parts = [];
  if (!now.is_streaming) parts.push("A core NATS server: it has no channels and no group.");
  else if (!own) parts.push("The server has not told of its group yet.");
  else if (active) parts.push(...activeSentence(now, own, active));
  else if (own.active) parts.push("The store names ", name(own.active.server_id), ` on ${short(own.active.host)} as active (epoch ${own.active.epoch}), and no route brings anything of it.`);
  else parts.push(own.role === "taking_over" ? "This server is taking over." : "Nobody is active that this server knows of.");
  who.replaceChildren(...parts);
  const behind = last && active && last.epoch === active.epoch ? `It took over in ${millis(last.millis)}; the one before: ${short(last.after)}.` : "";
  const waits = own?.waits_for && own.role === "standby" ? ` This server waits: ${short(own.waits_for)}.` : "";
  setText(byId("why"), `${behind}${waits}`.trim() || (now.group?.store ? `Store: ${short(now.group.store)}` : ""));
  showMembers(now);
}

function activeSentence(now, own, active) {
  const since = span(now.at - active.since / 1e6);
  const does = now.group.group ? "is active" : "serves, alone,";
  const parts = [name(titleOf(active)), ` ${does} since ${since}, epoch ${count(active.epoch)}.`];
  const page = pageOf(active);
  if (active !== own && page) parts.push(" ", make("a", { href: page, rel: "noreferrer", text: "Its dashboard" }));
  return parts;
}

const ROLES = { active: "good", standby: "", taking_over: "warn", leaving: "warn", silent: "bad", gone: "bad", unknown: "warn" };

function readiness(member) {
  if (member.role === "silent") return [`silent for ${span(member.silent_ms)}`, "bad"];
  return member.trouble ? [`no: ${short(member.trouble)}`, "bad"] : ["yes", "good"];
}

function showMembers(now) {
  const members = now.group?.members ?? [];
  const draw = () => [cell(), make("td", {}, make("span", { class: "pill" })), cell("n wide"), cell("n wide"), cell("wide"), cell("n wide"), cell("wide"), cell("text")];
  showRows(byId("members"), members, draw, (cells, member) => {
    setMember(cells[0], member, member === members[0]);
    const pill = cells[1].firstElementChild;
    setText(pill, member.role.replace("_", " "));
    pill.className = `pill ${ROLES[member.role] ?? "warn"}`;
    setCell(cells[2], span(now.at - member.since / 1e6));
    setCell(cells[3], count(member.epoch));
    setCell(cells[4], `${member.pid} on ${short(member.host)}`);
    setCell(cells[5], count(member.routes));
    setCell(cells[6], short(member.release));
    setCell(cells[7], ...readiness(member));
  });
}

function setMember(at, member, isAsked) {
  const page = isAsked ? null : pageOf(member);
  const key = `${titleOf(member)} ${page} ${isAsked}`;
  if (at.dataset.key === key) return;
  at.dataset.key = key;
  const shown = name(titleOf(member));
  const linked = page ? make("a", { href: page, rel: "noreferrer" }, shown) : shown;
  at.replaceChildren(linked, ...(isAsked ? [make("span", { class: "quiet", text: "  this one" })] : []));
}

// ---- take-overs ---------------------------------------------------------------------------------

const TAKE_OVERS_SHOWN = 8;
const seen = new Map();

/** Those that members tell of, and those that were seen while this page was open. */
function takeOvers(now) {
  for (const member of now.group?.members ?? []) {
    for (const one of member.take_overs) seen.set(`${one.epoch} ${one.at}`, { ...one, by: titleOf(member) });
  }
  const all = [...seen.values()].sort((a, b) => b.epoch - a.epoch || b.at - a.at);
  for (const surplus of all.slice(64)) seen.delete(`${surplus.epoch} ${surplus.at}`);
  return all.slice(0, TAKE_OVERS_SHOWN);
}

function lastTakeOver(now) {
  return takeOvers(now)[0];
}

function millis(value) {
  return micros(value * 1000);
}

function showTakeOvers(now) {
  const list = byId("takeovers");
  const found = takeOvers(now);
  setShown(byId("no-takeovers"), found.length === 0);
  const key = found.map((one) => `${one.epoch} ${one.at}`).join();
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  const longest = Math.max(1, ...found.map((one) => one.millis));
  list.replaceChildren(...found.map((one) => takeOver(one, longest)));
}

function takeOver(one, longest) {
  const bar = make("i");
  // Milliseconds and minutes in one picture: the length goes by the logarithm.
  bar.style.width = `${Math.max(4, (100 * Math.log1p(one.millis)) / Math.log1p(longest))}%`;
  const what = make("span", { class: "what" }, `epoch ${count(one.epoch)} by `, name(one.by), make("br"), make("span", { class: "quiet", text: `before: ${short(one.after)}` }));
  return make("li", {},
    make("time", { class: "when quiet", datetime: new Date(one.at / 1e6).toISOString(), text: dateTime(one.at / 1e6) }),
    what, make("span", { class: "bar", "aria-hidden": "true" }, bar), make("span", { class: "n", text: millis(one.millis) }));
}

// ---- figures ------------------------------------------------------------------------------------

function showTiles(now) {
  const last = samples.at(-1) ?? EMPTY;
  const totals = now?.is_active ? now.totals : null;
  const figures = [
    ["In", rate(last.inMessages), "messages a second"],
    ["Out", rate(last.outMessages), "messages a second"],
    ["Commit, p99", micros(last.commit99), `p50 ${micros(last.commit50)}`],
    ["Channels", count(totals?.channels), totals ? `${count(totals.messages)} messages` : "on the active"],
    ["Clients", count(totals?.clients), totals ? `${count(totals.subscriptions)} subscriptions` : "on the active"],
    ["Connections", count(now?.core.connections), `to this server, ${count(now?.core.routes)} routes`],
    ["Waiting jobs", count(now?.stores.waiting), "at the last batch"],
    ["Disk room", bytes(now?.free_bytes), totals ? `${bytes(totals.bytes)} stored` : "free"],
  ];
  const list = byId("tiles");
  if (!list.childElementCount) {
    list.append(...figures.map(([term]) => make("div", {}, make("dt", { text: term }), make("dd"), make("dd", { class: "unit" }))));
  }
  figures.forEach(([, value, unit], at) => {
    setText(list.children[at].children[1], value);
    setText(list.children[at].children[2], unit);
  });
}

function showServer(now) {
  const { process, core, stores } = now;
  const fds = process.max_fds > 0 ? `${count(process.open_fds)} of ${count(process.max_fds)}` : count(process.open_fds);
  const facts = [
    ["Running for", span(now.at - now.started)],
    ["Processor", `${process.cpu_percent.toFixed(1)} % of one core, of ${process.cores}`],
    ["Memory", bytes(process.resident_bytes)],
    ["Open descriptors", fds, process.max_fds > 0 && process.open_fds > 0.8 * process.max_fds ? "warn" : ""],
    ["Connections that wait for room", count(core.held_connections), core.held_connections ? "warn" : ""],
    ["Slow consumers, cut off", count(core.slow_consumers), core.slow_consumers ? "warn" : ""],
    ["Messages in a batch, p50", count(percentile(stores.batch, documents[0]?.stores.batch, 0.5))],
    ["Look at the epoch, p99", micros(percentile(stores.fence, documents[0]?.stores.fence, 0.99))],
  ];
  if (now.streaming) facts.push(["Sent again, since the start", count(now.streaming.redelivered_messages)]);
  if (now.lost_messages) facts.push(["Lost by the database", count(now.lost_messages), "bad"]);
  showFacts(byId("facts"), facts);
}
