#!/usr/bin/env python3
"""Starts servers for the client suites and kills them when told.

A suite runs this program and talks to it by lines on stdin and stdout:

| line            | what happens                                             | answer          |
|-----------------|----------------------------------------------------------|-----------------|
| `single FLAG …` | a stand-alone server (memory store unless flags differ)  | `ok URL`        |
| `pair FLAG …`   | an active and a standby on one directory                 | `ok URL,URL`    |
| `kill`          | SIGKILL for the active of the pair                       | `ok`            |
| `heal`          | waits until the other is active, restarts the killed one | `ok`            |

With STANBY_OVER (a program and its first arguments) each of them runs over a core NATS server of that
program, and the URL is that server's.

Anything that goes wrong answers `error TEXT`. End of input ends every server. The executable is
`target/release/stanby` or what STANBY_BIN names.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = os.environ.get("STANBY_BIN") or str(ROOT / "target/release/stanby")
OVER = os.environ.get("STANBY_OVER", "").split()
CLUSTER_ID = "test-cluster"
WAIT_SECONDS = 30
READY = "STREAM: Streaming Server is ready"
STANDBY = "STREAM: Starting in standby mode"
CORE_READY = "] Server is ready"


def free_port():
    """A port below the range from which the kernel gives ports to outgoing connections."""
    for _ in range(1000):
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


class Server:
    def __init__(self, folder, flags, port, core=None):
        self.url = core.url if core else f"nats://127.0.0.1:{port}"
        self.port = core.port if core else port
        self.command = [BIN, "-a", "127.0.0.1", "-p", str(port), "-cluster_id", CLUSTER_ID, *flags]
        if core:
            self.command += ["-ns", core.url]
        self.begin(folder, port)

    def begin(self, folder, port):
        self.log = folder / f"{port}.log"
        self.seen_from = 0
        self.start()

    def start(self):
        self.seen_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def text(self):
        """What the process logged since its last start."""
        return self.log.read_bytes()[self.seen_from:].decode(errors="replace")

    def wait_for(self, *lines):
        """Waits until the log has one of `lines`; says which."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            text = self.text()
            for line in lines:
                if line in text:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        tail = "\n".join(self.text().splitlines()[-20:])
        raise RuntimeError(f"server {self.url}: none of {lines}; its log ends:\n{tail}")

    def kill(self):
        self.process.kill()
        self.process.wait()


class Core(Server):
    def __init__(self, folder, port):
        self.url = f"nats://127.0.0.1:{port}"
        self.port = port
        self.command = [*OVER, "-a", "127.0.0.1", "-p", str(port)]
        self.begin(folder, port)


def wait_until_served(port):
    """Waits until the streaming server answers a request that enters by this NATS port."""
    deadline = time.monotonic() + WAIT_SECONDS
    request = f'CONNECT {{"verbose":false}}\r\nSUB _INBOX.probe 1\r\nPUB _STAN.discover.{CLUSTER_ID} _INBOX.probe 0\r\n\r\n'
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as peer:
                peer.sendall(request.encode())
                peer.settimeout(0.2)
                got = b""
                while b"MSG _INBOX.probe" not in got:
                    chunk = peer.recv(4096)
                    if not chunk:
                        break
                    got += chunk
                else:
                    return
        except OSError:
            time.sleep(0.01)
    raise RuntimeError(f"no streaming server answers by port {port}")


class Servers:
    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="stanby-clients-"))
        self.all = []
        self.pair = []
        self.active = 0

    def add(self, flags, port, core=None):
        server = Server(self.folder, flags, port, core)
        self.all.append(server)
        return server

    def add_core(self):
        """The server that streaming servers run over; None where they have their own."""
        if not OVER:
            return None
        core = Core(self.folder, free_port())
        self.all.append(core)
        core.wait_for(CORE_READY)
        return core

    def on_single(self, flags):
        server = self.add(flags, free_port(), self.add_core())
        server.wait_for(READY)
        return server.url

    def on_pair(self, flags):
        store = self.folder / f"store-{len(self.all)}"
        routes = [free_port(), free_port()]
        self.pair = []
        core = self.add_core()
        for this, other in ((0, 1), (1, 0)):
            own = ["-store", "file", "-dir", str(store), "-ft_group", "g"]
            if not core:
                own += ["-cluster", f"nats://127.0.0.1:{routes[this]}"]
                own += ["-routes", f"nats://127.0.0.1:{routes[other]}"]
            server = self.add(own + flags, free_port(), core)
            server.wait_for(STANDBY if self.pair else READY)
            self.pair.append(server)
        self.active = 0
        wait_until_served(self.pair[1].port)
        return core.url if core else ",".join(server.url for server in self.pair)

    def on_kill(self, _flags):
        self.pair[self.active].kill()
        return ""

    def on_heal(self, _flags):
        killed = self.pair[self.active]
        self.active = 1 - self.active
        self.pair[self.active].wait_for(READY)
        killed.start()
        killed.wait_for(STANDBY)
        wait_until_served(killed.port)
        return ""

    def stop(self):
        for server in self.all:
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    servers = Servers()
    commands = {
        "single": servers.on_single,
        "pair": servers.on_pair,
        "kill": servers.on_kill,
        "heal": servers.on_heal,
    }
    try:
        for line in sys.stdin:
            word, *flags = line.split()
            try:
                answer = f"ok {commands[word](flags)}".strip()
            except Exception as error:
                print(error, file=sys.stderr)
                answer = "error " + " ".join(str(error).split())
            print(answer, flush=True)
    finally:
        servers.stop()


if __name__ == "__main__":
    main()
