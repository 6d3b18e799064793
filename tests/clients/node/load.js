// A load without any retry, for what happens to a group meanwhile: `main.js load URLS LEDGER IN_FLIGHT`. What it
// does and is told goes into the ledger, whose lines are in ../ledger.md; `tests/group_report` reads it.
const fs = require('fs')
const readline = require('readline')
const { once } = require('events')
const stan = require('node-nats-streaming')

const CLUSTER_ID = 'test-cluster'
const CHANNELS = ['orders', 'events', 'jobs', 'news']
const PUBLISHERS = 2
const MEMBERS = 2
const PASSERS = 1
// Of one subscription: a client that has much to take in answers late, which is no fault of a server.
const UNACKED_MAX = 64
// How long durables and queue groups may take to get everything at the end.
const CATCH_UP_MS = 90000

// All programs of the load share the wall clock of this machine.
const wallAtStart = BigInt(Date.now()) * 1000000n
const startedAt = process.hrtime.bigint()
const now = () => wallAtStart + process.hrtime.bigint() - startedAt
const words = (error) => error ? `${error.message || error}`.split(/\s+/).join(' ') : ''
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

class Load {
  constructor (urls, path, inFlight) {
    this.servers = urls.split(',')
    this.ledger = fs.createWriteStream(path)
    this.inFlight = inFlight
    this.isOver = false
    // Of each subscription (by its name and channel) the sequences that came.
    this.seen = new Map()
    this.running = []
    this.sessions = []
  }

  write (line) {
    this.ledger.write(line + '\n')
  }

  // A session on a connection of its own, whose end is written down.
  async connect (name) {
    const sc = stan.connect(CLUSTER_ID, name, {
      servers: this.servers,
      noRandomize: true,
      reconnectTimeWait: 50,
      maxReconnectAttempts: -1,
      maxPubAcksInflight: this.inFlight
    })
    const lost = (what) => (error) => {
      if (!sc.isLeaving) this.write(`lost ${name} ${now()} ${what}: ${words(error)}`)
    }
    await new Promise((resolve, reject) => {
      sc.once('connect', resolve)
      sc.once('error', reject)
    })
    sc.on('error', lost('error'))
    sc.on('connection_lost', lost('session'))
    sc.on('disconnect', lost('connection'))
    sc.on('reconnect', () => this.write(`back ${name} ${now()} ${sc.nc.currentServer.url.host}`))
    return sc
  }

  async close (sc) {
    sc.isLeaving = true
    const closed = once(sc, 'close')
    sc.close()
    const [error] = await closed
    if (error) throw error
  }

  // Publishes with many in flight until it is told to stop, and waits for the end of each.
  async publish (sc, name) {
    let open = 0
    let wake = () => {}
    for (let number = 0; !this.isOver; number++) {
      while (open === this.inFlight) await new Promise((resolve) => { wake = resolve })
      const sent = now()
      open++
      const data = `${name}:${`${number}`.padStart(8, '0')}`
      sc.publish(CHANNELS[number % CHANNELS.length], data, (error) => {
        this.write(`ack ${name} ${number} ${sent} ${now()} ${words(error)}`)
        open--
        wake()
      })
      // Everybody else of this one thread has a turn.
      if (number % 64 === 63) await new Promise((resolve) => setImmediate(resolve))
    }
    while (open > 0) await new Promise((resolve) => { wake = resolve })
  }

  // Subscribes to every channel, durably, and acknowledges by hand.
  async listen (sc, name, queue) {
    for (const channel of CHANNELS) {
      const key = `${name} ${channel}`
      const seen = this.seen.get(key) || new Set()
      this.seen.set(key, seen)
      const options = sc.subscriptionOptions()
      options.setDurableName('dur').setDeliverAllAvailable().setManualAckMode(true).setMaxInFlight(UNACKED_MAX)
      const sub = queue ? sc.subscribe(channel, queue, options) : sc.subscribe(channel, options)
      sub.on('message', (message) => {
        message.ack()
        const sequence = message.getSequence()
        this.write(`got ${name} ${channel} ${sequence} ${message.getRedeliveryCount()} ${now()} ${message.getRawData()}`)
        seen.add(sequence)
      })
      await this.granted(sub, 'ready')
    }
  }

  granted (sub, event) {
    return new Promise((resolve, reject) => {
      sub.once(event, resolve)
      sub.once('error', reject)
      sub.once('timeout', reject)
    })
  }

  // Connects, subscribes, publishes, leaves and closes, again and again.
  async pass (name) {
    for (let count = 0; !this.isOver; count++) {
      let began = now()
      const step = async (what, done) => {
        let failure
        const value = await done.catch((error) => { failure = error })
        this.write(`step ${name} ${what} ${began} ${now()} ${words(failure)}`)
        began = now()
        return failure ? undefined : value || true
      }
      const sc = await step('connect', this.connect(name))
      if (!sc) {
        await pause(20)
        continue
      }
      const options = sc.subscriptionOptions()
      options.setDeliverAllAvailable()
      if (count % 2 === 1) options.setDurableName('passing')
      const sub = sc.subscribe('passing', options)
      sub.on('message', () => {})
      if (await step('subscribe', this.granted(sub, 'ready'))) {
        await step('publish', new Promise((resolve, reject) => {
          sc.publish('passing', 'x', (error) => error ? reject(error) : resolve())
        }))
        const [what, event] = count % 3 === 0 ? ['close', 'closed'] : ['unsubscribe', 'unsubscribed']
        const left = this.granted(sub, event)
        sub[what]()
        await step(what === 'close' ? 'close-subscription' : what, left)
      }
      await step('close', this.close(sc))
    }
  }

  async session (name) {
    const sc = await this.connect(name)
    this.sessions.push(sc)
    return sc
  }

  async listenAll () {
    await this.listen(await this.session('node-durable'), 'node-durable')
    for (let member = 0; member < MEMBERS; member++) {
      await this.listen(await this.session(`node-member-${member}`), 'node-queue', 'node')
    }
  }

  // Starts all that publishes.
  async begin () {
    for (let publisher = 0; publisher < PUBLISHERS; publisher++) {
      const name = `node-publisher-${publisher}`
      this.running.push(this.publish(await this.session(name), name))
    }
    for (let passer = 0; passer < PASSERS; passer++) this.running.push(this.pass(`node-passer-${passer}`))
  }

  hasAll (last) {
    for (const [key, seen] of this.seen) {
      if (seen.size < last[CHANNELS.indexOf(key.split(' ')[1])]) return false
    }
    return true
  }

  // What comes late ends nothing here: it is missing in the ledger.
  async end (last) {
    for (const until = Date.now() + CATCH_UP_MS; !this.hasAll(last) && Date.now() < until;) await pause(5)
    for (const sc of this.sessions) {
      const began = now()
      const failure = await this.close(sc).then(() => undefined, (error) => error)
      this.write(`step node-session close ${began} ${now()} ${words(failure)}`)
    }
  }

  flush () {
    return new Promise((resolve) => this.ledger.end(resolve))
  }
}

// Obeys the lines of the input: `begin` starts the publishers, `stop` ends the publishers, `end N N N N` waits until each listener has
// so many of each channel, `quit` ends everything as it is.
async function run (urls, path, inFlight) {
  const load = new Load(urls, path, Number(inFlight))
  await load.listenAll()
  console.log('ready')
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [word, ...last] = line.split(' ')
    if (word === 'begin') {
      await load.begin()
      console.log('begun')
      continue
    }
    if (word === 'stop') {
      load.isOver = true
      await Promise.all(load.running)
      console.log('stopped')
      continue
    }
    if (word === 'end') await load.end(last.map(Number))
    break
  }
  await load.flush()
}

module.exports = { run }
