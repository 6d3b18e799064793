// Servers of the tests, and a client that says just enough of the protocol to make channels, messages
// and subscriptions, with names that no decent client would choose.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PATIENCE_MS = 60_000;

/** Looks again and again until `look` gives something. */
export async function waitFor(what, look) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A port that nobody has at this moment. */
export async function freePort() {
  const listener = net.createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

const folders = [];
process.on("exit", () => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })));

/** A folder that goes with the process. */
export function newFolder() {
  const folder = mkdtempSync(join(tmpdir(), "stanby-dashboard-"));
  folders.push(folder);
  return folder;
}

export class Server {
  static all = [];

  static async start({ args = [], config = "", isReady = true } = {}) {
    const server = new Server();
    [server.port, server.http] = [await freePort(), await freePort()];
    server.folder = newFolder();
    [server.args, server.config] = [args, config];
    server.run();
    Server.all.push(server);
    if (isReady) await server.ready();
    return server;
  }

  run() {
    const file = join(this.folder, "server.conf");
    writeFileSync(file, this.config);
    const own = ["-a", "127.0.0.1", "-p", String(this.port), "-m", String(this.http), "-sc", file];
    this.child = spawn(process.env.STANBY_BIN, [...own, ...this.args], { cwd: this.folder, stdio: "ignore" });
  }

  get url() {
    return `http://127.0.0.1:${this.http}`;
  }

  async get(target) {
    try {
      const answer = await fetch(`${this.url}${target}`);
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }

  ready() {
    return waitFor("the server serves", async () => (await this.get("/dashboard/now"))?.is_active);
  }

  async kill() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill("SIGKILL");
    await once(this.child, "exit");
  }
}

// ---- the protocol -------------------------------------------------------------------------------

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Buffer.from([...bytes, value]);
}

/** A document of fields by number: texts, bytes and numbers. */
function encode(fields) {
  const parts = Object.entries(fields).map(([number, value]) => {
    const key = (kind) => varint(Number(number) * 8 + kind);
    if (typeof value === "number") return Buffer.concat([key(0), varint(value)]);
    const bytes = Buffer.from(value);
    return Buffer.concat([key(2), varint(bytes.length), bytes]);
  });
  return Buffer.concat(parts);
}

/** The first text with that number in a document whose fields are all texts or numbers. */
function textOf(document, wanted) {
  let at = 0;
  const next = () => {
    let [value, scale] = [0, 1];
    for (;;) {
      const byte = document[at++];
      value += (byte % 128) * scale;
      if (byte < 128) return value;
      scale *= 128;
    }
  };
  while (at < document.length) {
    const key = next();
    const size = next();
    if (key % 8 !== 2) continue;
    if (key >> 3 === wanted) return document.subarray(at, at + size).toString();
    at += size;
  }
  return "";
}

/** One streaming client on a connection of its own. */
export class Client {
  /** Its ID is of letters, as the server asks for; the name of its connection may be anything. */
  static async connect(server, id, name = id) {
    const client = new Client();
    Object.assign(client, { id, answers: new Map(), number: 0, rest: Buffer.alloc(0), inbox: `_INBOX.${Math.random().toString(36).slice(2)}` });
    client.socket = net.connect(server.port, "127.0.0.1");
    client.socket.on("data", (bytes) => client.read(bytes));
    client.socket.on("error", () => {});
    await once(client.socket, "connect");
    client.socket.write(`CONNECT {"verbose":false,"name":${JSON.stringify(name)}}\r\nSUB ${client.inbox}.* 1\r\n`);
    const request = encode({ 1: id, 2: `${client.inbox}.heartbeat`, 3: 1, 4: "connection" });
    const answer = await client.ask("_STAN.discover.test-cluster", request);
    const refusal = textOf(answer, 5);
    if (refusal) throw new Error(`${id}: ${refusal}`);
    client.prefix = textOf(answer, 1);
    client.subscriptions = textOf(answer, 2);
    return client;
  }

  read(bytes) {
    this.rest = Buffer.concat([this.rest, bytes]);
    for (;;) {
      const end = this.rest.indexOf("\r\n");
      if (end < 0) return;
      const [verb, subject, , ...numbers] = this.rest.subarray(0, end).toString().split(" ");
      if (verb === "PING") this.socket.write("PONG\r\n");
      if (verb !== "MSG") {
        this.rest = this.rest.subarray(end + 2);
        continue;
      }
      const size = Number(numbers.at(-1));
      if (this.rest.length < end + 4 + size) return;
      const payload = Buffer.from(this.rest.subarray(end + 2, end + 2 + size));
      this.rest = this.rest.subarray(end + 4 + size);
      this.take(subject.slice(this.inbox.length + 1), payload, numbers.length > 1 ? numbers[0] : "");
    }
  }

  take(name, payload, reply) {
    if (name === "heartbeat") {
      this.say(reply, "");
      return;
    }
    this.answers.get(name)?.(payload);
    this.answers.delete(name);
  }

  say(subject, payload, reply = "") {
    const bytes = Buffer.from(payload);
    this.socket.write(Buffer.concat([Buffer.from(`PUB ${subject} ${reply} ${bytes.length}\r\n`), bytes, Buffer.from("\r\n")]));
  }

  ask(subject, request) {
    const name = `a${++this.number}`;
    return new Promise((resolve, reject) => {
      const patience = setTimeout(() => reject(new Error(`not within ${PATIENCE_MS} ms: an answer on ${subject}`)), PATIENCE_MS);
      this.answers.set(name, (answer) => {
        clearTimeout(patience);
        resolve(answer);
      });
      this.say(subject, request, `${this.inbox}.${name}`);
    });
  }

  /** The subject does not name the channel: a name may have blanks, or 10,000 letters. */
  async publish(channel, data) {
    const request = encode({ 1: this.id, 2: `g${++this.number}`, 3: channel, 5: data });
    const refusal = textOf(await this.ask(`${this.prefix}.x`, request), 2);
    if (refusal) throw new Error(`${channel.slice(0, 100)}: ${refusal}`);
  }

  /** Of which it never acknowledges a message. */
  async subscribe(channel, { durable = "", queue = "", inFlight = 16 } = {}) {
    const request = encode({ 1: this.id, 2: channel, 3: queue, 4: `${this.inbox}.messages`, 5: inFlight, 6: 30, 7: durable, 10: 4 });
    const refusal = textOf(await this.ask(this.subscriptions, request), 3);
    if (refusal) throw new Error(`${channel.slice(0, 100)}: ${refusal}`);
  }

  end() {
    this.socket.destroy();
  }
}
