// The conversation with ../servers.py, which starts and kills servers.
const { spawn } = require('child_process')
const path = require('path')
const readline = require('readline')

class Servers {
  constructor () {
    this.process = spawn('python3', [path.join(__dirname, '..', 'servers.py')], {
      stdio: ['pipe', 'pipe', 'inherit']
    })
    this.answers = readline.createInterface({ input: this.process.stdout })[Symbol.asyncIterator]()
  }

  async ask (line) {
    this.process.stdin.write(line + '\n')
    const { value = '' } = await this.answers.next()
    if (!value.startsWith('ok')) throw new Error(`${line}: ${value}`)
    return value.slice(3)
  }

  stop () {
    return new Promise((resolve) => {
      this.process.once('exit', resolve)
      this.process.stdin.end()
    })
  }
}

module.exports = { Servers }
