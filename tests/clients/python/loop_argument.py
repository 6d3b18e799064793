"""Lets asyncio-nats-client 0.11 run on Python 3.10 and later.

It passes `loop=` to parts of asyncio that took it until Python 3.9 and refuse it since. The argument
only repeated the running loop, so it is dropped. Import this before the client.
"""

import asyncio


def without_loop(call):
    def wrapped(*arguments, loop=None, **named):
        return call(*arguments, **named)

    return wrapped


for name in ("Queue", "sleep", "wait_for", "open_connection", "gather"):
    setattr(asyncio, name, without_loop(getattr(asyncio, name)))
