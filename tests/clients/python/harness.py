"""What both Python suites share: servers, checks with a bound, the last line."""

import asyncio
import subprocess
import sys
import traceback
from pathlib import Path

CHECK_SECONDS = 60
PATIENCE = 10


class Servers:
    """The conversation with ../servers.py, which starts and kills servers."""

    def __init__(self):
        program = Path(__file__).resolve().parents[1] / "servers.py"
        self.process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask_now(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        word, _, rest = self.process.stdout.readline().strip().partition(" ")
        if word != "ok":
            raise RuntimeError(f"{line}: {word} {rest}")
        return rest

    async def ask(self, line):
        return await asyncio.get_running_loop().run_in_executor(None, self.ask_now, line)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


async def run_checks(title, checks, pair_checks):
    """Runs `checks` with the URL of one server, `pair_checks` with the servers; the exit code."""
    servers = Servers()
    passed = failed = 0
    try:
        url = await servers.ask("single")
        work = [(check, url) for check in checks] + [(check, servers) for check in pair_checks]
        for check, argument in work:
            try:
                await asyncio.wait_for(check(argument), CHECK_SECONDS)
            except Exception:
                failed += 1
                print(f"FAILED {title}: {check.__name__}")
                traceback.print_exc(file=sys.stdout)
            else:
                passed += 1
                print(f"ok {title}: {check.__name__}", flush=True)
    finally:
        servers.stop()
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0
