// Runs node-nats-streaming and nats against servers of ../servers.py; last line: N passed, N failed. With
// `load URLS LEDGER IN_FLIGHT` it loads servers that somebody else runs.
const { Servers } = require('./servers')
const core = require('./core')
const load = require('./load')
const streaming = require('./streaming')

// A check that takes longer than this has failed.
const CHECK_MS = 60000

async function bounded (run) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${CHECK_MS} ms`)), CHECK_MS)
  })
  try {
    await Promise.race([run(), late])
  } finally {
    clearTimeout(timer)
  }
}

async function main () {
  const servers = new Servers()
  let passed = 0
  let failed = 0
  const check = async (name, run) => {
    try {
      await bounded(run)
      passed++
      console.log(`ok node: ${name}`)
    } catch (error) {
      failed++
      console.log(`FAILED node: ${name}: ${error.stack || error}`)
    }
  }
  let url
  await check('a server starts', async () => { url = await servers.ask('single') })
  if (url) {
    for (const [name, run] of [...core.checks, ...streaming.checks]) await check(name, () => run(url))
  }
  await check('nothing acked is lost across kill -9 of the active', () => streaming.failover(servers))
  await servers.stop()
  console.log(`${passed} passed, ${failed} failed`)
  process.exit(failed === 0 ? 0 : 1)
}

async function loadOnly (...options) {
  await load.run(...options)
  process.exit(0)
}

const [mode, ...options] = process.argv.slice(2)
if (mode === 'load') loadOnly(...options)
else main()
