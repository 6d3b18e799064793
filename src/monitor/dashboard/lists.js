// Channels, clients, connections, routes and the log: lists of which the server gives a page.

import { ask, byId, bytes, cell, clock, count, dateTime, make, rate, setCell, setName, setShown, setText, showRows, visible } from "./parts.js";

const ROWS = 50;
// How long a person may go on typing before the server is asked.
const TYPING_MS = 250;

/** A list with a head that sorts, a search if there is one, and pages. */
class List {
  /** `columns`: title, key to sort by or "", classes, how a cell is made and filled. */
  constructor({ id, columns, sort, read, none, isFixed = false }) {
    Object.assign(this, { id, columns, sort, read, none, isFixed, order: "up", offset: 0, search: "", asked: 0 });
    this.part = (part) => byId(`${id}-${part}`);
    this.part("head").append(...columns.map((column) => this.headOf(column)));
    this.part("before").addEventListener("click", () => this.turn(-ROWS));
    this.part("next").addEventListener("click", () => this.turn(ROWS));
    this.prepareSearch();
    this.showOrder();
  }

  prepareSearch() {
    const field = this.part("search");
    if (!field) return;
    this.part("form").addEventListener("submit", (event) => event.preventDefault());
    let timer;
    field.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        [this.search, this.offset] = [field.value, 0];
        this.refresh(true);
      }, TYPING_MS);
    });
  }

  headOf({ title, key, kind }) {
    const head = make("th", { scope: "col", class: kind });
    if (!key) {
      head.textContent = title;
      return head;
    }
    const button = make("button", { type: "button", text: title });
    button.addEventListener("click", () => this.sortBy(key));
    head.append(button);
    return head;
  }

  sortBy(key) {
    const column = this.columns.find((one) => one.key === key);
    const first = column.kind.includes("n") ? "down" : "up";
    const other = this.order === "down" ? "up" : "down";
    const isTurned = this.sort === key && !this.isFixed;
    [this.order, this.sort, this.offset] = [isTurned ? other : first, key, 0];
    this.showOrder();
    this.refresh(true);
  }

  showOrder() {
    this.columns.forEach(({ key }, at) => {
      const head = this.part("head").children[at];
      if (key && key === this.sort) head.setAttribute("aria-sort", this.order === "down" ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  turn(step) {
    this.offset = Math.max(0, this.offset + step);
    this.refresh(true);
  }

  /**
   * Asks for what is shown; an answer that is overtaken by another question is passed over. A screen
   * reader hears of what its user has asked for, and not of the same list every few seconds.
   */
  async refresh(isByHand = false) {
    const question = ++this.asked;
    let list;
    try {
      list = await this.read(this);
    } catch (error) {
      if (question === this.asked) this.fail(error);
      return;
    }
    if (question !== this.asked) return;
    // The list has become shorter than where this page begins.
    if (list.rows.length === 0 && this.offset > 0) {
      this.offset = Math.max(0, Math.floor((list.found - 1) / ROWS) * ROWS);
      if (list.found > 0) return this.refresh(isByHand);
    }
    this.show(list);
    if (isByHand) setText(byId("said"), list.found ? this.part("range").textContent : this.part("none").textContent);
  }

  fail(error) {
    setText(this.part("range"), `No answer: ${error.message}`);
    this.part("range").classList.add("bad");
  }

  show({ rows, found, all, at }) {
    const draw = () => this.columns.map(({ kind, draw: drawn }) => (drawn ? drawn() : cell(kind)));
    showRows(this.part("rows"), rows, draw, (cells, row) => this.columns.forEach((column, index) => column.fill(cells[index], row)));
    const range = found ? `${count(this.offset + 1)}–${count(this.offset + rows.length)} of ${count(found)}` : "";
    const whole = found < all ? `, of ${count(all)} in all` : "";
    setText(this.part("range"), range ? `${range}${whole}${at ? `, as of ${clock(at)}` : ""}` : "");
    this.part("range").classList.remove("bad");
    this.part("before").disabled = this.offset === 0;
    this.part("next").disabled = found <= this.offset + rows.length;
    setShown(this.part("none"), found === 0);
    setText(this.part("none"), found ? "" : this.search ? `Nothing fits “${visible(this.search)}”.` : this.none());
  }
}

const askRows = (path) => ({ search, sort, order, offset }) => ask(path, { search, sort, order, offset, limit: ROWS });

// ---- channels -----------------------------------------------------------------------------------

export const linkOf = (channel) => `#channel/${encodeURIComponent(channel)}`;

function channelCell() {
  return make("td", {}, make("a", { class: "name" }));
}

function setChannel(at, row) {
  const link = at.firstElementChild;
  if (link.dataset.name === row.name) return;
  link.href = linkOf(row.name);
  setName(link, row.name);
}

/** How full, from 0 to 1; `null` without a limit. */
export const share = (value, max) => (max > 0 ? Math.min(1, value / max) : null);

/** A bar beside a figure that says by its colour, and in words, when there is hardly room. */
export function setFill(at, figure, full) {
  if (!at.lastElementChild) at.append(make("span"), make("span", { class: "fill", "aria-hidden": "true" }, make("i")));
  const [said, bar] = at.children;
  setText(said, figure);
  bar.hidden = full === null;
  bar.className = full >= 0.999 ? "fill warn" : "fill";
  bar.firstElementChild.style.width = `${(full ?? 0) * 100}%`;
  at.title = full === null ? "no limit" : `${(full * 100).toFixed(full < 0.1 ? 1 : 0)} % of the limit`;
}

let isActive = true;

const channels = () => new List({
  id: "channels",
  sort: "name",
  read: askRows("dashboard/channels"),
  none: () => (isActive ? "There are no channels yet: the first publish or subscription makes one." : "Channels are shown by the active, and this server is not active."),
  columns: [
    { title: "Name", key: "name", kind: "", draw: channelCell, fill: setChannel },
    { title: "Messages", key: "messages", kind: "n", fill: (at, row) => setFill(at, count(row.messages), share(row.messages, row.messages_max)) },
    { title: "Bytes", key: "bytes", kind: "n", fill: (at, row) => setFill(at, bytes(row.bytes), share(row.bytes, row.bytes_max)) },
    { title: "In a second", key: "rate", kind: "n", fill: (at, row) => setCell(at, rate(row.rate)) },
    { title: "Last", key: "last", kind: "n wide", fill: (at, row) => setCell(at, count(row.last)) },
    { title: "Subscriptions", key: "", kind: "n", fill: (at, row) => setCell(at, count(row.subscriptions)) },
    { title: "Pending", key: "", kind: "n", fill: (at, row) => setCell(at, count(row.pending)) },
    { title: "Stalled", key: "", kind: "n wide", fill: (at, row) => setCell(at, count(row.stalled), row.stalled ? "warn" : "") },
  ],
});

// ---- clients ------------------------------------------------------------------------------------

const clients = () => new List({
  id: "clients",
  sort: "name",
  read: askRows("dashboard/clients"),
  none: () => (isActive ? "No streaming client is connected." : "Clients are shown by the active, and this server is not active."),
  columns: [
    { title: "Client ID", key: "name", kind: "", fill: (at, row) => setName(at, row.id) },
    { title: "Subscriptions", key: "", kind: "n", fill: (at, row) => setCell(at, count(row.subscriptions)) },
    { title: "Pending", key: "", kind: "n", fill: (at, row) => setCell(at, count(row.pending)) },
    { title: "Stalled", key: "", kind: "n", fill: (at, row) => setCell(at, count(row.stalled), row.stalled ? "warn" : "") },
    { title: "Heartbeats missed", key: "heartbeats", kind: "n", fill: (at, row) => setCell(at, count(row.failed_heartbeats), row.failed_heartbeats ? "warn" : "") },
    { title: "Heartbeat inbox", key: "", kind: "wide", fill: (at, row) => setName(at, row.heartbeat_inbox) },
  ],
});

// ---- connections and routes ---------------------------------------------------------------------

/** `/connz` as everybody knows it; it sorts each key in one direction, most first. */
async function readConnections({ sort, offset }) {
  const found = await ask("connz", { sort, offset, limit: ROWS, auth: "1" });
  return { rows: found.connections ?? [], found: found.total, all: found.total, at: Date.parse(found.now) };
}

const connections = () => new List({
  id: "connections",
  sort: "cid",
  isFixed: true,
  read: readConnections,
  none: () => "Nobody is connected to this server.",
  columns: [
    { title: "Number", key: "cid", kind: "", fill: (at, row) => setCell(at, String(row.cid)) },
    { title: "Name", key: "", kind: "", fill: (at, row) => setName(at, row.name ?? "") },
    { title: "Address", key: "", kind: "", fill: (at, row) => setName(at, `${row.ip}:${row.port}`) },
    { title: "User", key: "", kind: "wide", fill: (at, row) => setName(at, row.authorized_user ?? "") },
    { title: "Client", key: "", kind: "wide", fill: (at, row) => setName(at, [row.lang, row.version].filter(Boolean).join(" ")) },
    { title: "Up", key: "", kind: "n", fill: (at, row) => setCell(at, row.uptime) },
    { title: "Idle", key: "", kind: "n wide", fill: (at, row) => setCell(at, row.idle) },
    { title: "Round trip", key: "", kind: "n wide", fill: (at, row) => setCell(at, row.rtt ?? "–") },
    { title: "Waiting", key: "pending", kind: "n", fill: (at, row) => setCell(at, bytes(row.pending_bytes), row.pending_bytes > 1048576 ? "warn" : "") },
    { title: "Messages in", key: "msgs_from", kind: "n", fill: (at, row) => setCell(at, count(row.in_msgs)) },
    { title: "Messages out", key: "msgs_to", kind: "n", fill: (at, row) => setCell(at, count(row.out_msgs)) },
    { title: "Interests", key: "subs", kind: "n wide", fill: (at, row) => setCell(at, count(row.subscriptions)) },
  ],
});

async function refreshRoutes() {
  const found = await ask("routez");
  const draw = () => [cell(), cell(), cell(), cell("n"), cell("n"), cell("n"), cell("n"), cell("n wide")];
  showRows(byId("routes-rows"), found.routes ?? [], draw, (cells, route) => {
    setName(cells[0], route.remote_name || route.remote_id);
    setName(cells[1], `${route.ip}:${route.port}`);
    setCell(cells[2], route.did_solicit ? "this server" : "the other one");
    setCell(cells[3], route.rtt ?? "–");
    setCell(cells[4], bytes(route.pending_size));
    setCell(cells[5], count(route.in_msgs));
    setCell(cells[6], count(route.out_msgs));
    setCell(cells[7], count(route.subscriptions));
  });
  setShown(byId("routes-none"), !(found.routes ?? []).length);
}

// ---- the log ------------------------------------------------------------------------------------

async function refreshLog() {
  const found = await ask("dashboard/complaints");
  const lines = byId("log-lines");
  lines.replaceChildren(...found.lines.map(({ at, level, text }) =>
    make("li", {}, make("time", { class: "quiet", datetime: new Date(at).toISOString(), text: dateTime(at) }), make("span", { class: level === "warning" ? "warn" : "bad", text: level }), make("bdi", { class: "text", text: visible(text) }))));
  setShown(lines, found.lines.length > 0);
  const older = found.count > found.lines.length ? ` The log has the ${count(found.count - found.lines.length)} before them.` : "";
  setText(byId("log-range"), found.count ? `${count(found.lines.length)}, the newest first.${older}` : "This server has complained about nothing since it began.");
}

// ---- together -----------------------------------------------------------------------------------

let lists = {};

export function begin() {
  lists = { channels: channels(), clients: clients(), connections: connections() };
}

/** What the empty lists say depends on what the server is. */
export function setActive(value) {
  isActive = value;
}

let complaints = -1;

/** Asks anew for the list that is shown. */
export async function refresh(view, now) {
  if (lists[view]) await lists[view].refresh();
  if (view === "connections") await refreshRoutes();
  if (view === "log" && now.complaints !== complaints) {
    await refreshLog();
    complaints = now.complaints;
  }
}

/** Another process may have other complaints under the same number. */
export function restart() {
  complaints = -1;
}

