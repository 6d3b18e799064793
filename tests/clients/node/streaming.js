const assert = require('assert')
const { once } = require('events')
const stan = require('node-nats-streaming')

const CLUSTER_ID = 'test-cluster'
const PATIENCE_MS = 10000
const FIRST = stan.StartPosition.FIRST

async function connect (url, id, options = {}) {
  const sc = stan.connect(CLUSTER_ID, id, { url, ...options })
  await once(sc, 'connect')
  return sc
}

function close (sc) {
  const closed = once(sc, 'close')
  sc.close()
  return closed
}

function publish (sc, channel, data) {
  return new Promise((resolve, reject) => {
    sc.publish(channel, data, (error, guid) => error ? reject(error) : resolve(guid))
  })
}

async function publishN (sc, channel, first, last) {
  for (let number = first; number <= last; number++) await publish(sc, channel, `${number}`)
}

// What arrives at a subscription, to be taken one by one.
class Arrivals {
  constructor () {
    this.waiting = []
    this.wake = () => {}
  }

  push (message) {
    this.waiting.push(message)
    this.wake()
  }

  async next (ms = PATIENCE_MS) {
    if (this.waiting.length === 0) {
      let timer
      await new Promise((resolve, reject) => {
        this.wake = resolve
        timer = setTimeout(() => reject(new Error(`nothing for ${ms} ms`)), ms)
      })
      clearTimeout(timer)
    }
    return this.waiting.shift()
  }

  async expect (...sequences) {
    for (const want of sequences) assert.strictEqual((await this.next()).getSequence(), want)
  }
}

// Subscribes as `set` changes the default options.
async function collect (sc, channel, set = (o) => o, group = undefined) {
  const options = set(sc.subscriptionOptions())
  const sub = group ? sc.subscribe(channel, group, options) : sc.subscribe(channel, options)
  const got = new Arrivals()
  sub.on('message', (message) => got.push(message))
  await Promise.race([once(sub, 'ready'), once(sub, 'error').then(([error]) => { throw error })])
  return [sub, got]
}

async function publishSync (url) {
  const sc = await connect(url, 'node-sync')
  await publishN(sc, 'node.sync', 1, 20)
  const [, got] = await collect(sc, 'node.sync', (o) => o.setDeliverAllAvailable())
  for (let number = 1; number <= 20; number++) {
    const message = await got.next()
    assert.strictEqual(message.getSequence(), number)
    assert.strictEqual(message.getRawData().toString(), `${number}`)
    assert.ok(!message.isRedelivered() && message.getTimestampRaw() > 0)
  }
  await close(sc)
}

async function publishAsync (url) {
  const sc = await connect(url, 'node-async')
  const acks = []
  for (let i = 0; i < 2000; i++) acks.push(publish(sc, 'node.async', 'x'))
  assert.strictEqual(new Set(await Promise.all(acks)).size, 2000)
  const [, got] = await collect(sc, 'node.async', (o) => o.setStartAtSequence(2000))
  await got.expect(2000)
  await close(sc)
}

async function replay (url) {
  const sc = await connect(url, 'node-replay')
  const channel = 'node.replay'
  await publishN(sc, channel, 1, 3)
  // Time is the subject here: a moment that lies clearly between 3 and 4.
  await new Promise((resolve) => setTimeout(resolve, 200))
  const between = Date.now() - 100
  await publishN(sc, channel, 4, 5)
  const cases = [
    [(o) => o.setDeliverAllAvailable(), [1, 2, 3, 4, 5, 6]],
    [(o) => o.setStartAt(FIRST), [1, 2, 3, 4, 5, 6]],
    [(o) => o.setStartAtSequence(3), [3, 4, 5, 6]],
    [(o) => o.setStartWithLastReceived(), [5, 6]],
    [(o) => o.setStartTime(new Date(between)), [4, 5, 6]],
    [(o) => o.setStartAtTimeDelta(Date.now() - between), [4, 5, 6]],
    [(o) => o.setStartAtTimeDelta(3600000), [1, 2, 3, 4, 5, 6]],
    [(o) => o.setStartAt(stan.StartPosition.NEW_ONLY), [6]]
  ]
  const all = []
  for (const [set] of cases) all.push((await collect(sc, channel, set))[1])
  await publishN(sc, channel, 6, 6)
  for (const index in cases) await all[index].expect(...cases[index][1])
  await close(sc)
}

async function durable (url) {
  const channel = 'node.durable'
  const set = (o) => o.setDurableName('d').setDeliverAllAvailable().setManualAckMode(true)
  let sc = await connect(url, 'node-durable')
  await publishN(sc, channel, 1, 3)
  let [sub, got] = await collect(sc, channel, set)
  for (let i = 0; i < 3; i++) {
    const message = await got.next()
    if (message.getSequence() < 3) message.ack()
  }
  await assert.rejects(collect(sc, channel, set), /duplicate durable/)
  const closed = once(sub, 'closed')
  sub.close()
  await closed
  await publishN(sc, channel, 4, 5)
  ;[, got] = await collect(sc, channel, set)
  await got.expect(3, 4, 5)
  await close(sc)
  sc = await connect(url, 'node-durable')
  ;[sub, got] = await collect(sc, channel, set)
  await got.expect(3, 4, 5)
  const gone = once(sub, 'unsubscribed')
  sub.unsubscribe()
  await gone
  ;[, got] = await collect(sc, channel, set)
  await got.expect(1, 2, 3, 4, 5)
  await close(sc)
}

async function queueGroup (url) {
  const sc = await connect(url, 'node-queue')
  const got = new Arrivals()
  for (let member = 0; member < 2; member++) {
    const [, own] = await collect(sc, 'node.queue', (o) => o, 'q')
    own.push = (message) => got.push(message)
  }
  await publishN(sc, 'node.queue', 1, 100)
  const sequences = []
  for (let i = 0; i < 100; i++) sequences.push((await got.next()).getSequence())
  sequences.sort((a, b) => a - b)
  sequences.forEach((sequence, index) => assert.strictEqual(sequence, index + 1))
  await close(sc)
}

async function durableQueue (url) {
  const channel = 'node.queue.durable'
  const set = (o) => o.setDurableName('d').setDeliverAllAvailable().setManualAckMode(true)
  const sc = await connect(url, 'node-queue-durable')
  await publishN(sc, channel, 1, 3)
  let [sub, got] = await collect(sc, channel, set, 'q')
  for (let i = 0; i < 3; i++) {
    const message = await got.next()
    if (message.getSequence() !== 2) message.ack()
  }
  const closed = once(sub, 'closed')
  sub.close()
  await closed
  await publishN(sc, channel, 4, 4)
  ;[sub, got] = await collect(sc, channel, set, 'q')
  await got.expect(2, 4)
  await close(sc)
}

async function maxInFlight (url) {
  const sc = await connect(url, 'node-inflight')
  await publishN(sc, 'node.inflight', 1, 6)
  const [, got] = await collect(sc, 'node.inflight',
    (o) => o.setDeliverAllAvailable().setMaxInFlight(2).setManualAckMode(true))
  for (const first of [1, 3, 5]) {
    const pair = [await got.next(), await got.next()]
    assert.deepStrictEqual(pair.map((m) => m.getSequence()), [first, first + 1])
    // A round trip: what was let out too early would have arrived by then.
    await publishN(sc, 'node.inflight.other', 1, 1)
    assert.strictEqual(got.waiting.length, 0)
    pair.forEach((message) => message.ack())
  }
  await close(sc)
}

async function redelivery (url) {
  const sc = await connect(url, 'node-redelivery')
  const [, got] = await collect(sc, 'node.redelivery', (o) => o.setAckWait(1000).setManualAckMode(true))
  await publishN(sc, 'node.redelivery', 1, 3)
  for (let i = 0; i < 3; i++) {
    const message = await got.next()
    if (message.getSequence() === 2) message.ack()
  }
  for (const round of [1, 2]) {
    for (const want of [1, 3]) {
      const message = await got.next()
      assert.strictEqual(message.getSequence(), want)
      assert.ok(message.isRedelivered())
      assert.strictEqual(message.getRedeliveryCount(), round)
      if (round === 2) message.ack()
    }
  }
  await assert.rejects(got.next(1500), /nothing for/)
  await close(sc)
}

async function duplicateId (url) {
  const sc = await connect(url, 'node-twice')
  const other = stan.connect(CLUSTER_ID, 'node-twice', { url })
  const [error] = await once(other, 'error')
  assert.match(`${error}`, /clientID already registered/)
  await publish(sc, 'node.twice', 'still here')
  await close(sc)
}

// Publishes while the active is killed twice; a durable and a queue group listen.
async function failover (servers) {
  const urls = (await servers.ask('pair')).split(',')
  const sc = stan.connect(CLUSTER_ID, 'node-failover', {
    servers: urls,
    ackTimeout: 1000,
    stanPingInterval: 1000,
    stanMaxPingOut: 60,
    reconnectTimeWait: 50,
    maxReconnectAttempts: -1
  })
  const lost = []
  sc.on('connection_lost', (error) => lost.push(error))
  sc.on('error', (error) => lost.push(error))
  await once(sc, 'connect')
  const channel = 'node.failover'
  const heard = [new Set(), new Set()]
  const listen = async (name, into, group) => {
    const [, got] = await collect(sc, channel, (o) => o.setDurableName(name).setAckWait(2000), group)
    got.push = (message) => into.add(message.getRawData().toString())
  }
  await listen('d', heard[0])
  await listen('q', heard[1], 'q')
  await listen('q', heard[1], 'q')
  const each = 150
  for (let number = 0; number < 3 * each; number++) {
    if (number === 2 * each) await servers.ask('heal')
    if (number === each || number === 2 * each) await servers.ask('kill')
    for (;;) {
      assert.deepStrictEqual(lost, [])
      try {
        await publish(sc, channel, `${number}`)
        break
      } catch (error) {
        assert.match(`${error}`, /timeout|timed out/i)
      }
    }
  }
  const [, got] = await collect(sc, channel, (o) => o.setDeliverAllAvailable())
  const stored = new Set()
  for (let next = 1; stored.size < 3 * each; next++) {
    const message = await got.next()
    assert.strictEqual(message.getSequence(), next)
    stored.add(message.getRawData().toString())
  }
  const deadline = Date.now() + 2 * PATIENCE_MS
  while (heard.some((listener) => listener.size < 3 * each)) {
    assert.ok(Date.now() < deadline, `heard only ${heard.map((listener) => listener.size)}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  await close(sc)
}

module.exports = {
  failover,
  checks: [
    ['publish, acked one by one', publishSync],
    ['publish asynchronously', publishAsync],
    ['replay from every start position', replay],
    ['a durable goes on where it stopped, an unsubscribed one starts anew', durable],
    ['a queue group shares messages', queueGroup],
    ['a durable queue group outlives its members', durableQueue],
    ['max in flight holds messages back', maxInFlight],
    ['unacked messages come again, acked ones do not', redelivery],
    ['a second client with the same id is refused', duplicateId]
  ]
}
