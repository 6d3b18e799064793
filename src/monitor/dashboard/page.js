// The page as a whole: which view is shown, the question that is asked every second, and what is
// said when no answer comes: figures of before are never shown as those of now.

import * as channel from "./channel.js";
import * as lists from "./lists.js";
import * as overview from "./overview.js";
import { Refused, ask, byId, clock, count, setShown, setText, short } from "./parts.js";

const ASK_EVERY_MS = 1000;
const LIST_EVERY_MS = 4000;
const ASK_AGAIN_MAX_MS = 5000;
const NEWS_SHOWN_MS = 15000;
const VIEWS = ["overview", "channels", "channel", "clients", "connections", "log"];

let now = null;
let view = "overview";
let listAt = 0;
let failures = 0;
let answeredAt = null;

// ---- views --------------------------------------------------------------------------------------

/** `#channel/NAME`, or a view's name. */
function readHash() {
  const [first, ...rest] = location.hash.slice(1).split("/");
  let name = "";
  try {
    name = decodeURIComponent(rest.join("/"));
  } catch {
    // Half an escape is no name.
  }
  if (first === "channel" && name) return ["channel", name];
  return [VIEWS.includes(first) && first !== "channel" ? first : "overview", ""];
}

function showView(isByHand) {
  const [next, name] = readHash();
  view = next;
  for (const one of VIEWS) setShown(byId(`view-${one}`), one === view);
  for (const link of document.querySelectorAll("nav a")) {
    const target = link.hash.slice(1);
    const isHere = target === view || (view === "channel" && target === "channels");
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "channel") channel.open(name);
  if (isByHand) {
    window.scrollTo(0, 0);
    byId(`head-${view}`).focus();
  }
  listAt = 0;
  refreshView();
}

async function refreshView() {
  if (!now || view === "overview" || Date.now() - listAt < LIST_EVERY_MS) return;
  listAt = Date.now();
  try {
    if (view === "channel") await channel.refresh(now);
    else await lists.refresh(view, now);
  } catch (error) {
    // The next question, a second later, says what is wrong.
    if (error instanceof Refused) setText(byId("live-text"), error.message);
  }
}

// ---- what is said -------------------------------------------------------------------------------

let newsTimer;

function say(text) {
  const news = byId("news");
  setText(news, text);
  setShown(news, true);
  clearTimeout(newsTimer);
  newsTimer = setTimeout(() => setShown(news, false), NEWS_SHOWN_MS);
}

function roleOf({ state, is_streaming: isStreaming, is_active: isActive, group }) {
  const own = group?.members?.[0];
  if (!isStreaming) return ["core server", "good"];
  if (own?.role === "taking_over") return ["taking over", "warn"];
  if (isActive) return [state === "STANDALONE" ? "stand-alone" : "active", "good"];
  if (state === "FT_STANDBY") return ["standby", ""];
  return [state.toLowerCase().replace("ft_", ""), "warn"];
}

function showHead() {
  const own = now.group?.members?.[0];
  const title = now.group?.cluster_id || "stanby";
  const group = now.group?.group;
  setText(byId("title"), group ? `${short(title)} · ${short(group)}` : short(title));
  setText(byId("subtitle"), `${short(now.name || now.server_id)}${own ? `, process ${own.pid} on ${short(own.host)}` : ""}`);
  const [role, tone] = roleOf(now);
  const pill = byId("role");
  setText(pill, role);
  pill.className = `pill ${tone}`;
  document.title = `${role} · ${short(title)} · stanby`;
  setText(byId("release"), `stanby ${now.release}`);
  const logged = byId("log-count");
  setText(logged, count(now.complaints));
  setShown(logged, now.complaints > 0);
}

function showTrouble() {
  const parts = [];
  if (now.trouble) parts.push(`This server is not ready: ${short(now.trouble)}.`);
  if (now.rival && now.rival !== now.trouble) parts.push(short(now.rival));
  // The server's own thread tells of the group every second.
  if (now.is_streaming && now.group_age_ms > 5000) parts.push(`What is shown of the group is ${count(Math.round(now.group_age_ms / 1000))} s old.`);
  setText(byId("alert"), parts.join(" "));
  setShown(byId("alert"), parts.length > 0);
}

/** Says what has changed in the group since the answer before. */
function tellChanges(before) {
  if (!before) return;
  if (before.server_id !== now.server_id) return say("The server was started anew: its counters begin at nothing.");
  const [was, is] = [overview.activeOf(before), overview.activeOf(now)];
  if (is && is.server_id !== was?.server_id) {
    const done = is.take_overs?.at(-1);
    const took = done && done.epoch === is.epoch ? `, after a take-over of ${done.millis.toFixed(1)} ms` : "";
    return say(`${short(overview.titleOf(is))} is active now, epoch ${count(is.epoch)}${took}.`);
  }
  if (was && !is) return say("Nobody is active that this server knows of.");
  const roles = (one) => roleOf(one)[0];
  if (roles(before) !== roles(now)) say(`This server is ${roles(now)} now.`);
}

// ---- asking -------------------------------------------------------------------------------------

function onAnswer(answer) {
  const before = now;
  now = answer;
  if (before && before.server_id !== now.server_id) {
    overview.restart();
    lists.restart();
  }
  if (failures) listAt = 0;
  [failures, answeredAt] = [0, Date.now()];
  document.body.dataset.live = "yes";
  setText(byId("live-text"), "live");
  lists.setActive(now.is_active);
  showHead();
  showTrouble();
  overview.show(now);
  tellChanges(before);
  refreshView();
}

function onFailure(error) {
  failures += 1;
  // One answer may be late while a loop is busy; then figures of a second ago are still true.
  if (failures === 1 && error.name === "TimeoutError") return;
  document.body.dataset.live = "no";
  const since = answeredAt ? `No answer since ${clock(answeredAt)}` : "No answer";
  setText(byId("live-text"), "no answer");
  const why = error instanceof Refused ? ` (${error.message})` : "";
  setText(byId("alert"), `${since}${why}. What is below is of then. Asking again until there is one.`);
  setShown(byId("alert"), true);
  byId("role").className = "pill";
  setText(byId("role"), "unknown");
  document.title = "no answer · stanby";
  overview.gap();
}

async function tick() {
  if (document.visibilityState !== "hidden") {
    try {
      onAnswer(await ask("dashboard/now"));
    } catch (error) {
      onFailure(error);
    }
  }
  setTimeout(tick, Math.min(ASK_AGAIN_MAX_MS, ASK_EVERY_MS * (1 + failures / 4)));
}

// ---- theme --------------------------------------------------------------------------------------

const THEMES = ["automatic", "light", "dark"];

function stored() {
  try {
    return localStorage.getItem("stanby-theme");
  } catch {
    // A browser that keeps nothing shows what its settings say.
    return null;
  }
}

function setTheme(theme) {
  if (theme === "automatic") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText(byId("theme"), `Theme: ${theme}`);
  try {
    localStorage.setItem("stanby-theme", theme);
  } catch {
    // As above.
  }
}

function beginTheme() {
  setTheme(THEMES.includes(stored()) ? stored() : "automatic");
  byId("theme").addEventListener("click", () => {
    const at = THEMES.findIndex((theme) => byId("theme").textContent.endsWith(theme));
    setTheme(THEMES[(at + 1) % THEMES.length]);
  });
}

beginTheme();
overview.begin();
lists.begin();
channel.begin(() => {
  listAt = 0;
  refreshView();
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
window.addEventListener("hashchange", () => showView(true));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") overview.gap();
});
showView(false);
tick();
