// The dashboard as a person sees it: each view, an empty server, a standby, a take-over while it is
// open, 10,000 channels, names that are traps, the keyboard alone, a phone, both themes.

import { join } from "node:path";
import { chromium } from "playwright-core";
import { Client, Server, freePort, newFolder, waitFor } from "./servers.js";

const CHROMIUM = process.env.STANBY_CHROMIUM ?? "/usr/bin/chromium";
const SHOTS = process.env.STANBY_SHOTS;
// Where the pictures of the README go; without it none are made.
const IMAGES = process.env.STANBY_IMAGES;
const VIEWS = ["overview", "channels", "clients", "connections", "log"];
const PHONE = { width: 390, height: 844 };

// As bad as names of channels can be: none has a `>`, a `*` or a `/`.
const HOSTILE = [
  "<img src=x onerror=alert(1) alt=",
  "\"'<svg onload=alert(2) id=",
  "javascript:alert(3)",
  "\u202Egnp.exe\u202C\u200B",
  "שלום.عربى",
  "%3Cb%3E%2F#channel%2Fx?y&z",
  "\r\nSet-Cookie: a=b",
  "x".repeat(10_000),
];

function assert(isTrue, what) {
  if (!isTrue) throw new Error(what);
}

// ---- pages --------------------------------------------------------------------------------------

let browser;

/** A page of a server; whatever it must never do is noted in `wrongs`. */
async function open(server, { hash = "", ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1240, height: 900 }, ...options });
  const page = await context.newPage();
  page.wrongs = [];
  page.setDefaultTimeout(30_000);
  page.on("dialog", (dialog) => {
    page.wrongs.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("pageerror", (error) => page.wrongs.push(`an error: ${error.message}`));
  page.on("console", (line) => {
    // A server that is away, or refuses, is what some of these tests are about.
    if (line.type() === "error" && !line.text().startsWith("Failed to load resource")) page.wrongs.push(line.text());
  });
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== server.url) page.wrongs.push(`it asks ${request.url()}`);
  });
  await page.goto(`${server.url}/dashboard${hash}`);
  await page.waitForSelector("body[data-live=yes]");
  return page;
}

async function close(page) {
  const { wrongs } = page;
  await page.context().close();
  assert(wrongs.length === 0, wrongs.join("; "));
}

const shot = (page, name) => page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: true });

async function go(page, view) {
  await page.evaluate((hash) => (location.hash = hash), view);
  await page.waitForSelector(`#view-${view.split("/")[0]}:not([hidden])`);
}

const textOf = (page, selector) => page.locator(selector).innerText();

/** Waits until an element's text fits; its text then. */
async function until(page, selector, pattern) {
  let text = "";
  await waitFor(`${selector} is like ${pattern}`, async () => {
    text = await page.locator(selector).first().innerText().catch(() => "");
    return pattern.test(text);
  }).catch((error) => {
    throw new Error(`${error.message}; it is ${JSON.stringify(text.slice(0, 300))}`);
  });
  return text;
}

// ---- servers ------------------------------------------------------------------------------------

const USER = "dashboard { user: ada, password: lovelace }\n";

/** A server with channels of all kinds, one of them with a subscription that is stalled. */
async function busy() {
  const server = await Server.start({ config: USER });
  const client = await Client.connect(server, "billing", "<b>billing</b>");
  for (const name of HOSTILE) await client.publish(name, name);
  const orders = Array.from({ length: 40 }, (_, at) => client.publish("orders.de", JSON.stringify({ order: at, customer: "<img src=x onerror=alert(4)>" })));
  await Promise.all(orders);
  await client.publish("bytes", Buffer.from([0, 1, 2, 254, 255, 10, 0xe2, 0x80, 0xae]));
  await client.subscribe("orders.de", { durable: "invoices", inFlight: 16 });
  await client.subscribe("orders.de", { queue: "<i>workers</i>", inFlight: 1024 });
  return { server, client };
}

function member(store, ports, own, name) {
  const routes = ports.filter((port) => port !== ports[own]).map((port) => `nats://127.0.0.1:${port}`).join(",");
  const args = ["-store", "file", "-dir", store, "-ft_group", "g", "-cluster", `nats://127.0.0.1:${ports[own]}`, "-routes", routes];
  return Server.start({ args, config: `server_name: ${name}\n`, isReady: own === 0 });
}

// ---- tests --------------------------------------------------------------------------------------

const tests = {
  async "an empty server says that it is empty"() {
    const server = await Server.start();
    const page = await open(server, { colorScheme: "dark" });
    await until(page, "#who", /serves, alone, since/);
    await until(page, "#tiles", /Channels\s+0/);
    await shot(page, "empty");
    await go(page, "channels");
    await until(page, "#channels-none", /There are no channels yet/);
    await go(page, "clients");
    await until(page, "#clients-none", /No streaming client/);
    await go(page, "connections");
    await until(page, "#connections-none", /Nobody is connected/);
    await go(page, "log");
    await until(page, "#log-range", /complained about nothing/);
    await close(page);
  },

  async "each view shows what there is"() {
    const { server, client } = await busy();
    const page = await open(server);
    await until(page, "#tiles", /Clients\s+1/);
    await until(page, "#facts", /Running for/);
    await shot(page, "overview");
    await go(page, "clients");
    await until(page, "#clients-rows", /billing/);
    await go(page, "connections");
    await until(page, "#connections-rows", /127\.0\.0\.1/);
    await shot(page, "connections");
    await go(page, "channels");
    await page.click("#channels-rows a:has-text('orders.de')");
    await until(page, "#head-channel", /^orders\.de$/);
    const rows = await until(page, "#channel-subs", /stalled: 16 of 16/);
    assert(rows.includes("invoices") && rows.includes("<i>workers</i>"), rows);
    await until(page, "#channel-fill", /40 of 1,000,000/);
    await shot(page, "channel");
    client.end();
    await close(page);
  },

  async "the pictures of the README are made"() {
    if (!IMAGES) return;
    const ports = [await freePort(), await freePort()];
    const store = join(newFolder(), "store");
    const first = await member(store, ports, 0, "stan-a");
    await member(store, ports, 1, "stan-b");
    const client = await Client.connect(first, "shop");
    for (const channel of ["invoices", "orders.de", "orders.fr", "returns", "stock"]) await client.publish(channel, "x");
    await client.subscribe("orders.de", { durable: "billing", inFlight: 1024 });
    await client.subscribe("orders.de", { queue: "packing", inFlight: 64 });
    const page = await open(first);
    const end = Date.now() + 40_000;
    for (let at = 0; Date.now() < end; at += 1) {
      await Promise.all(Array.from({ length: 5 + (at % 7) }, (_, order) => client.publish("orders.de", JSON.stringify({ at, order }))));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await until(page, "#members", /stan-b/);
    const picture = (name) => page.screenshot({ path: join(IMAGES, `${name}.png`) });
    await picture("dashboard-light");
    await page.emulateMedia({ colorScheme: "dark" });
    await go(page, "channel/orders.de");
    await until(page, "#channel-subs", /billing[\s\S]*packing|packing[\s\S]*billing/);
    await picture("dashboard-dark");
    client.end();
    await close(page);
  },

  async "figures are written as people read them"() {
    const page = await open(await Server.start());
    const wrong = await page.evaluate(async () => {
      const at = (name) => import(new URL(`dashboard/${name}.js`, location.href).href);
      const [parts, plot, overview, channel] = await Promise.all(["parts", "plot", "overview", "channel"].map(at));
      const before = { bounds: [100, 1000], counts: [5, 5, 0] };
      const now = { bounds: [100, 1000], counts: [5, 15, 1] };
      const pairs = [
        [parts.rate(0), "0"], [parts.rate(0.25), "0.25"], [parts.rate(7), "7"], [parts.rate(999.9), "1.0k"], [parts.rate(12_345), "12k"], [parts.rate(null), "–"],
        [parts.bytes(512), "512 B"], [parts.bytes(1536), "1.5 KiB"], [parts.bytes(1_048_576), "1.0 MiB"],
        [parts.micros(460), "460 µs"], [parts.micros(4321), "4.3 ms"], [parts.micros(2_500_000), "2.5 s"],
        [parts.span(59_999), "59 s"], [parts.span(3_661_000), "1 h 01 min"], [parts.span(90_000_000), "1 d 01 h"],
        [parts.visible("a\u202eb\n"), "a\\u{202e}b\\u{a}"],
        [plot.roundUp(0), 1], [plot.roundUp(1.2), 2], [plot.roundUp(5000), 5000], [plot.roundUp(5001), 10_000], [plot.roundUp(1500, 1024), 2048],
        [plot.path([[1, 2], [3, 4], null, [5, 6]]), "M1.0 2.0L3.0 4.0M5.0 6.0"],
        [overview.percentile(now, before, 0.5), 100 + 900 * 0.55], [overview.percentile(now, before, 0.99), 1000],
        [overview.percentile(before, now, 0.5), null], [overview.percentile(now, now, 0.5), null],
        [overview.pageOf({ monitoring: "javascript:alert(1)" }), null], [overview.pageOf({ monitoring: "http://a:1/" }), "http://a:1/dashboard"],
        [channel.hexView(new Uint8Array([65, 0])), `00000000  41 00${" ".repeat(42)}  |A.|`],
      ];
      return pairs.filter(([is, wanted]) => is !== wanted).map(([is, wanted]) => `${is} is not ${wanted}`);
    });
    assert(wrong.length === 0, wrong.join("; "));
    await close(page);
  },

  async "names that are traps are text"() {
    const { server, client } = await busy();
    const page = await open(server, { hash: "#channels" });
    await page.waitForSelector("#channels-rows tr:nth-child(8)");
    const links = page.locator("#channels-rows a");
    const shown = await links.allInnerTexts();
    for (const name of HOSTILE.slice(0, 3)) assert(shown.includes(name), `${name} is not in ${shown}`);
    assert(shown.some((text) => text.startsWith("\\u{202e}gnp.exe")), `${shown}`);
    assert(shown.some((text) => /^x{100,}… \(10,000 characters\)$/.test(text)), "the long name is cut");
    for (const name of HOSTILE) {
      await go(page, `channel/${encodeURIComponent(name)}`);
      await until(page, "#channel-fill", /1 of 1,000,000/);
      const made = await page.evaluate(() => document.querySelectorAll("main img, main script, main b b, main i:not([aria-hidden=true]):not([aria-hidden=true] i)").length);
      assert(made === 0, `${name} made ${made} elements`);
    }
    await shot(page, "long-name");
    assert(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "a name makes the page wide");
    client.end();
    await close(page);
  },

  async "messages are shown to the user alone, as text and as bytes"() {
    const { server, client } = await busy();
    const page = await open(server, { hash: "#channel/orders.de" });
    await until(page, "#messages-why", /the user whom the configuration/);
    const give = async (password) => {
      await page.fill("#messages-user", "ada");
      await page.fill("#messages-password", password);
      await page.press("#messages-password", "Enter");
    };
    await give("guess");
    await until(page, "#messages-error", /User or password is wrong/);
    assert((await page.locator("#messages li").count()) === 0, "nothing is shown");
    // A second guess has to wait.
    await new Promise((resolve) => setTimeout(resolve, 1100));
    await give("lovelace");
    await until(page, "#messages", /"order":39/);
    assert((await page.locator("#messages img").count()) === 0, "a payload is text");
    await page.click("#messages-older");
    await until(page, "#messages-range", /^21–30; the channel has 1–40$/);
    await page.click("#messages-view");
    await until(page, "#messages pre", /^00000000 {2}7b 22 6f 72 64 65 72/);
    await shot(page, "messages");
    await page.click("#messages-view");
    await go(page, "channel/bytes");
    assert((await page.locator("#messages li").count()) === 0, "those of another channel are gone");
    await page.click("#messages-last");
    const text = await until(page, "#messages pre", /\\u\{0\}\\u\{1\}/);
    assert(text.includes("\\u{202e}"), text);
    await page.click("#messages-leave");
    assert(await page.isVisible("#messages-form"), "the password is asked for again");
    client.end();
    await close(page);
    const closed = await Server.start();
    const other = await Client.connect(closed, "c");
    await other.publish("orders", "x");
    const second = await open(closed, { hash: "#channel/orders" });
    await until(second, "#messages-why", /names no user who may see them/);
    other.end();
    await close(second);
  },

  async "10,000 channels are searched, sorted and shown in pages"() {
    const server = await Server.start({ args: ["-mc", "0"] });
    const client = await Client.connect(server, "many");
    for (let from = 0; from < 10_000; from += 500) {
      await Promise.all(Array.from({ length: 500 }, (_, at) => client.publish(`orders.${["de", "fr", "uk", "us"][at % 4]}.${String(from + at).padStart(5, "0")}`, "x")));
    }
    await Promise.all(Array.from({ length: 30 }, () => client.publish("orders.fr.07777", "again")));
    const page = await open(server, { hash: "#channels" });
    await until(page, "#channels-range", /^1–50 of 10,000/);
    await page.click("#channels-next");
    await until(page, "#channels-range", /^51–100 of 10,000/);
    await page.fill("#channels-search", "FR.077");
    await until(page, "#channels-range", /^1–25 of 25, of 10,000 in all/);
    await page.fill("#channels-search", "orders.*.09999");
    await until(page, "#channels-range", /^1–1 of 1,/);
    await page.fill("#channels-search", "nothing");
    await until(page, "#channels-none", /Nothing fits “nothing”/);
    await page.fill("#channels-search", "");
    await page.click("#channels-head button:has-text('Messages')");
    await until(page, "#channels-rows tr:first-child", /orders\.fr\.07777\s+31/);
    assert((await page.getAttribute("#channels-head th:nth-child(2)", "aria-sort")) === "descending", "it says how it is sorted");
    await shot(page, "many-channels");
    const begun = Date.now();
    const answer = await (await fetch(`${server.url}/dashboard/channels?sort=bytes&order=down&limit=100000`)).json();
    assert(answer.rows.length === 100, "no answer has all of them");
    console.log(`   a page of 10,000 channels: ${Date.now() - begun} ms`);
    client.end();
    await close(page);
  },

  async "the keyboard is enough"() {
    const { server, client } = await busy();
    const page = await open(server);
    await page.waitForSelector("#channels-rows", { state: "attached" });
    const focus = () => page.evaluate(() => document.activeElement.id || document.activeElement.innerText);
    const press = async (key, count = 1) => {
      for (let at = 0; at < count; at += 1) await page.keyboard.press(key);
      return focus();
    };
    assert((await press("Tab")) === "skip", "the first stop leads over the head");
    assert((await press("Tab")) === "theme", await focus());
    await page.keyboard.press("Enter");
    assert((await page.getAttribute("html", "data-theme")) === "light", "the switch works");
    assert((await press("Tab")) === "Overview", await focus());
    assert((await press("Tab")) === "Channels", await focus());
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert(outline !== "none", "the focus can be seen");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#view-channels:not([hidden])");
    assert((await focus()) === "head-channels", "the focus follows to the view");
    assert((await press("Tab")) === "channels-search", await focus());
    await page.keyboard.type("orders.de");
    await until(page, "#channels-range", /^1–1 of 1/);
    // Over the table, which can be scrolled, and the buttons of its head, to the first row.
    for (let at = 0; at < 12 && (await focus()) !== "orders.de"; at += 1) await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await until(page, "#head-channel", /^orders\.de$/);
    assert((await focus()) === "head-channel", await focus());
    client.end();
    await close(page);
  },

  async "a list that is asked for again keeps the focus"() {
    const { server, client } = await busy();
    const page = await open(server, { hash: "#channels" });
    await page.focus("#channels-rows tr:nth-child(3) a");
    const before = await until(page, "#channels-range", /as of/);
    await waitFor("the list is asked for again", async () => (await textOf(page, "#channels-range")) !== before);
    assert(await page.evaluate(() => document.activeElement.matches("#channels-rows tr:nth-child(3) a")), "it is where it was");
    client.end();
    await close(page);
  },

  async "a phone shows each view without scrolling sideways"() {
    const { server, client } = await busy();
    const page = await open(server, { viewport: PHONE, colorScheme: "dark", isMobile: true, hasTouch: true });
    for (const view of [...VIEWS, "channel/orders.de", `channel/${encodeURIComponent(HOSTILE.at(-1))}`]) {
      await go(page, view);
      await page.waitForTimeout(600);
      const [width, shown] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
      assert(width <= shown, `${view} is ${width} wide on ${shown}`);
      if (!view.includes("xx")) await shot(page, `phone-${view.split("/")[0]}`);
    }
    client.end();
    await close(page);
  },

  async "texts stand out from what is behind them"() {
    const { server, client } = await busy();
    for (const colorScheme of ["light", "dark"]) {
      const page = await open(server, { colorScheme });
      for (const view of [...VIEWS, "channel/orders.de"]) {
        await go(page, view);
        await page.waitForTimeout(500);
        const faint = await page.evaluate(faintTexts);
        assert(faint.length === 0, `${colorScheme} ${view}: ${faint.join("; ")}`);
      }
      await close(page);
    }
    client.end();
  },

  async "a server that is gone is not shown as live, and comes back by itself"() {
    const server = await Server.start();
    const client = await Client.connect(server, "c");
    await client.publish("orders", "x");
    const page = await open(server);
    await until(page, "#tiles", /Channels\s+1/);
    await server.kill();
    await page.waitForSelector("body[data-live=no]");
    await until(page, "#alert", /^No answer since \d\d:\d\d:\d\d/);
    const tiles = await until(page, "#tiles", /Channels\s+–/);
    assert(!/\d+(\.\d+)?k?\s+messages a second/.test(tiles), tiles);
    assert((await textOf(page, "#role")) === "unknown", "nobody knows what it is");
    await shot(page, "no-answer");
    server.run();
    await page.waitForSelector("body[data-live=yes]");
    await until(page, "#news", /was started anew/);
    assert(!(await page.isVisible("#alert")), "the trouble is over");
    await until(page, "#tiles", /Channels\s+0/);
    client.end();
    await close(page);
  },

  async "a take-over is seen while the page is open"() {
    const ports = [await freePort(), await freePort()];
    const store = join(newFolder(), "store");
    const first = await member(store, ports, 0, "m1");
    const second = await member(store, ports, 1, "m2");
    await waitFor("the standby is ready", async () => {
      const members = (await second.get("/streaming/groupz"))?.members ?? [];
      return members.length === 2 && members.every((one) => one.trouble === null);
    });
    const client = await Client.connect(second, "survivor");
    await client.publish("orders", "x");
    const page = await open(second);
    await until(page, "#who", /^m1 is active since .* epoch 1\. Its dashboard$/);
    const link = await page.getAttribute("#who a", "href");
    assert(link.endsWith(`:${first.http}/dashboard`), link);
    assert((await textOf(page, "#role")) === "standby", "it says what it is");
    assert((await page.locator("#members tr").count()) === 2, "both are shown");
    await shot(page, "standby");
    await go(page, "channels");
    await until(page, "#channels-none", /shown by the active/);
    await go(page, "overview");
    await first.kill();
    await until(page, "#news", /^m2 is active now, epoch 2, after a take-over of [\d.]+ ms\.$/);
    await until(page, "#who", /^m2 is active since/);
    await until(page, "#takeovers", /epoch 2 by m2[\s\S]*epoch 1 by m1/);
    assert((await textOf(page, "#role")) === "active", "it says what it is now");
    await until(page, "#members", /silent/);
    await shot(page, "take-over");
    await go(page, "channels");
    await until(page, "#channels-rows", /orders/);
    client.end();
    await close(page);
  },
};

/** Texts whose contrast is below what WCAG asks for (AA); runs in the page. */
function faintTexts() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (color) => {
    const [r, g, b] = Array.from(rgba(color)).map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (rgba(color)[3] > 250) return color;
    }
    return "#fff";
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *")) {
    const text = Array.from(node.childNodes).filter((one) => one.nodeType === Node.TEXT_NODE).map((one) => one.data.trim()).join("");
    if (!text || !node.checkVisibility() || node.matches(":disabled, .unseen, .skip, noscript, script")) continue;
    const style = getComputedStyle(node);
    const [a, b] = [luminance(node instanceof SVGElement ? style.fill : style.color), luminance(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${text.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return faint;
}

// ---- running ------------------------------------------------------------------------------------

async function runAll(wanted) {
  let [passed, failed] = [0, 0];
  for (const [name, test] of Object.entries(tests)) {
    if (wanted && !name.includes(wanted)) continue;
    const begun = Date.now();
    try {
      await test();
      passed += 1;
      console.log(`ok     ${name} (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}: ${error.message}`);
    }
    for (const server of Server.all.splice(0)) await server.kill();
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0;
}

browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
const isGood = await runAll(process.argv[2]);
await browser.close();
process.exit(isGood ? 0 : 1);
