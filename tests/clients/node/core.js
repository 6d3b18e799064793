const assert = require('assert')
const { connect, headers, StringCodec, ErrorCode } = require('nats')

const text = StringCodec()
const TIMEOUT_MS = 10000

// The next `count` messages of a subscription, which then ends by itself.
async function take (sub, count) {
  const got = []
  for await (const message of sub) {
    got.push(message)
    if (got.length === count) break
  }
  return got
}

async function pubSub (url) {
  const nc = await connect({ servers: url })
  const star = nc.subscribe('core.*.b', { max: 1, timeout: TIMEOUT_MS })
  const rest = nc.subscribe('core.>', { max: 2, timeout: TIMEOUT_MS })
  nc.publish('core.a.b', text.encode('1'))
  nc.publish('core.a.c', text.encode('2'))
  assert.deepStrictEqual((await take(star, 1)).map((m) => m.subject), ['core.a.b'])
  assert.deepStrictEqual((await take(rest, 2)).map((m) => m.subject), ['core.a.b', 'core.a.c'])
  await nc.close()
}

async function queue (url) {
  const nc = await connect({ servers: url })
  const counts = [0, 0]
  for (const member of [0, 1]) {
    nc.subscribe('jobs', { queue: 'workers', callback: () => { counts[member]++ } })
  }
  for (let i = 0; i < 200; i++) nc.publish('jobs')
  // The answer to this ping comes behind all deliveries.
  await nc.flush()
  assert.strictEqual(counts[0] + counts[1], 200)
  assert.ok(Math.min(...counts) > 0, `${counts}`)
  await nc.close()
}

async function request (url) {
  const nc = await connect({ servers: url })
  nc.subscribe('upper', { callback: (_error, m) => m.respond(text.encode(text.decode(m.data) + '!')) })
  const reply = await nc.request('upper', text.encode('hi'), { timeout: TIMEOUT_MS })
  assert.strictEqual(text.decode(reply.data), 'hi!')
  await nc.close()
}

async function noResponders (url) {
  const nc = await connect({ servers: url })
  await assert.rejects(nc.request('nobody.home', text.encode(''), { timeout: TIMEOUT_MS }),
    (error) => error.code === ErrorCode.NoResponders)
  await nc.close()
}

async function headersArrive (url) {
  const nc = await connect({ servers: url })
  const sub = nc.subscribe('headed', { max: 1, timeout: TIMEOUT_MS })
  const sent = headers()
  sent.append('Color', 'red')
  sent.append('Color', 'blue')
  nc.publish('headed', text.encode('body'), { headers: sent })
  const [got] = await take(sub, 1)
  assert.deepStrictEqual(got.headers.values('Color'), ['red', 'blue'])
  assert.strictEqual(text.decode(got.data), 'body')
  await nc.close()
}

async function drain (url) {
  const nc = await connect({ servers: url })
  let count = 0
  nc.subscribe('drained', { callback: () => { count++ } })
  for (let i = 0; i < 100; i++) nc.publish('drained')
  await nc.drain()
  assert.strictEqual(count, 100)
}

module.exports = {
  checks: [
    ['core: publish and subscribe with wildcards', pubSub],
    ['core: a queue group shares messages', queue],
    ['core: request and reply', request],
    ['core: a request without responders fails at once', noResponders],
    ['core: headers arrive', headersArrive],
    ['core: drain delivers what is pending', drain]
  ]
}
