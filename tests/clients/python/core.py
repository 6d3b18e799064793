"""nats-py against a server of ../servers.py; last line: N passed, N failed."""

import asyncio
import sys

import nats
from nats.errors import NoRespondersError

from harness import PATIENCE, run_checks


async def publish_and_subscribe_with_wildcards(url):
    nc = await nats.connect(url)
    star = await nc.subscribe("core.*.b")
    rest = await nc.subscribe("core.>")
    await nc.publish("core.a.b", b"1")
    await nc.publish("core.a.c", b"2")
    for sub, subject in ((star, "core.a.b"), (rest, "core.a.b"), (rest, "core.a.c")):
        assert (await sub.next_msg(PATIENCE)).subject == subject
    await nc.close()


async def a_queue_group_shares_messages(url):
    nc = await nats.connect(url)
    counts = [0, 0]
    done = asyncio.Event()

    def member(index):
        async def on_message(_message):
            counts[index] += 1
            if sum(counts) == 200:
                done.set()

        return on_message

    for index in (0, 1):
        await nc.subscribe("jobs", queue="workers", cb=member(index))
    for _ in range(200):
        await nc.publish("jobs", b"")
    await asyncio.wait_for(done.wait(), PATIENCE)
    await nc.flush()
    assert sum(counts) == 200 and min(counts) > 0, counts
    await nc.close()


async def request_and_reply(url):
    nc = await nats.connect(url)

    async def answer(message):
        await message.respond(message.data + b"!")

    await nc.subscribe("upper", cb=answer)
    assert (await nc.request("upper", b"hi", timeout=PATIENCE)).data == b"hi!"
    await nc.close()


async def a_request_without_responders_fails_at_once(url):
    nc = await nats.connect(url)
    try:
        await nc.request("nobody.home", b"", timeout=PATIENCE)
    except NoRespondersError:
        pass
    else:
        raise AssertionError("somebody answered")
    await nc.close()


async def headers_arrive(url):
    nc = await nats.connect(url)
    sub = await nc.subscribe("headed")
    await nc.publish("headed", b"body", headers={"Color": "red", "Shape": "round"})
    got = await sub.next_msg(PATIENCE)
    assert got.headers == {"Color": "red", "Shape": "round"} and got.data == b"body"
    await nc.close()


async def drain_delivers_what_is_pending(url):
    nc = await nats.connect(url)
    got = []

    async def on_message(message):
        got.append(message)

    await nc.subscribe("drained", cb=on_message)
    for _ in range(100):
        await nc.publish("drained", b"")
    await nc.drain()
    assert nc.is_closed and len(got) == 100, len(got)


CHECKS = [
    publish_and_subscribe_with_wildcards,
    a_queue_group_shares_messages,
    request_and_reply,
    a_request_without_responders_fails_at_once,
    headers_arrive,
    drain_delivers_what_is_pending,
]

if __name__ == "__main__":
    sys.exit(asyncio.run(run_checks("python core", CHECKS, [])))
