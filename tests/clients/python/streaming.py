"""asyncio-nats-streaming against servers of ../servers.py; last line: N passed, N failed."""

import asyncio
import sys
import time

import loop_argument  # noqa: F401  (must come before the client)
from nats.aio.client import Client as Nats
from stan.aio.client import Client as Stan
from stan.aio.errors import StanError

from harness import PATIENCE, run_checks

CLUSTER_ID = "test-cluster"


async def on_nats_error(_error):
    """A killed server is no news here; without this the client prints a trace for each attempt."""


class Connection:
    """A streaming client with the NATS connection under it."""

    async def open(self, urls, client_id, **options):
        self.nats = Nats()
        await self.nats.connect(
            servers=urls.split(","),
            loop=asyncio.get_running_loop(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,
            error_cb=on_nats_error,
        )
        self.stan = Stan()
        await self.stan.connect(CLUSTER_ID, client_id, nats=self.nats, **options)
        return self

    async def close(self):
        await self.stan.close()
        await self.nats.close()

    async def publish(self, channel, first, last):
        for number in range(first, last + 1):
            await self.stan.publish(channel, str(number).encode(), ack_wait=PATIENCE)

    async def collect(self, channel, **options):
        """Subscribes; the queue of what arrives."""
        got = asyncio.Queue()

        async def on_message(message):
            await got.put(message)

        sub = await self.stan.subscribe(channel, cb=on_message, **options)
        return sub, got


async def take(got):
    return await asyncio.wait_for(got.get(), PATIENCE)


async def expect(got, *sequences):
    for want in sequences:
        sequence = (await take(got)).sequence
        assert sequence == want, f"got {sequence}, want {want} of {sequences}"


async def publish_acked_one_by_one(url):
    c = await Connection().open(url, "py-sync")
    await c.publish("py.sync", 1, 20)
    _, got = await c.collect("py.sync", deliver_all_available=True)
    for number in range(1, 21):
        message = await take(got)
        assert message.sequence == number and message.data == str(number).encode()
        assert message.timestamp > 0 and not message.proto.redelivered
    await c.close()


async def publish_asynchronously(url):
    c = await Connection().open(url, "py-async", max_pub_acks_inflight=64)
    acks = asyncio.Queue()

    async def on_ack(ack):
        await acks.put(ack)

    for _ in range(1000):
        await c.stan.publish("py.async", b"x", ack_handler=on_ack)
    guids = set()
    for _ in range(1000):
        ack = await take(acks)
        assert ack.error == "", ack.error
        guids.add(ack.guid)
    assert len(guids) == 1000
    _, got = await c.collect("py.async", start_at="sequence", sequence=1000)
    await expect(got, 1000)
    await c.close()


async def replay_from_every_start_position(url):
    c = await Connection().open(url, "py-replay")
    await c.publish("py.replay", 1, 5)
    cases = [
        ({"deliver_all_available": True}, range(1, 7)),
        ({"start_at": "first"}, range(1, 7)),
        ({"start_at": "sequence", "sequence": 3}, range(3, 7)),
        ({"start_at": "last_received"}, range(5, 7)),
        # This client rounds the distance in time to whole seconds.
        ({"start_at": "time", "time": time.time() - 3600}, range(1, 7)),
        ({"start_at": "time", "time": time.time()}, range(6, 7)),
        ({}, range(6, 7)),
    ]
    queues = [(await c.collect("py.replay", **options))[1] for options, _ in cases]
    await c.publish("py.replay", 6, 6)
    for got, (_, want) in zip(queues, cases):
        await expect(got, *want)
    await c.close()


async def a_durable_goes_on_where_it_stopped(url):
    options = {"durable_name": "d", "deliver_all_available": True, "manual_acks": True}
    c = await Connection().open(url, "py-durable")
    await c.publish("py.durable", 1, 3)
    sub, got = await c.collect("py.durable", **options)
    for _ in range(3):
        message = await take(got)
        if message.sequence < 3:
            await c.stan.ack(message)
    try:
        await c.collect("py.durable", **options)
    except StanError as error:
        assert "duplicate durable" in str(error), error
    else:
        raise AssertionError("a durable was opened twice")
    await sub.close()
    await c.publish("py.durable", 4, 5)
    _, got = await c.collect("py.durable", **options)
    await expect(got, 3, 4, 5)
    await c.close()
    c = await Connection().open(url, "py-durable")
    sub, got = await c.collect("py.durable", **options)
    await expect(got, 3, 4, 5)
    await sub.unsubscribe()
    _, got = await c.collect("py.durable", **options)
    await expect(got, 1, 2, 3, 4, 5)
    await c.close()


async def a_queue_group_shares_messages(url):
    c = await Connection().open(url, "py-queue")
    got = asyncio.Queue()

    async def on_message(message):
        await got.put(message)

    for _ in range(2):
        await c.stan.subscribe("py.queue", queue="q", cb=on_message)
    await c.publish("py.queue", 1, 100)
    sequences = sorted([(await take(got)).sequence for _ in range(100)])
    assert sequences == list(range(1, 101)), sequences
    await c.close()


async def a_durable_queue_group_outlives_its_members(url):
    options = {"queue": "q", "durable_name": "d", "start_at": "first", "manual_acks": True}
    c = await Connection().open(url, "py-queue-durable")
    await c.publish("py.queue.durable", 1, 3)
    sub, got = await c.collect("py.queue.durable", **options)
    for _ in range(3):
        message = await take(got)
        if message.sequence != 2:
            await c.stan.ack(message)
    await sub.close()
    await c.publish("py.queue.durable", 4, 4)
    _, got = await c.collect("py.queue.durable", **options)
    await expect(got, 2, 4)
    await c.close()


async def max_in_flight_holds_messages_back(url):
    c = await Connection().open(url, "py-inflight")
    await c.publish("py.inflight", 1, 6)
    _, got = await c.collect(
        "py.inflight", deliver_all_available=True, max_inflight=2, manual_acks=True
    )
    for first in (1, 3, 5):
        pair = [await take(got), await take(got)]
        assert [message.sequence for message in pair] == [first, first + 1]
        # A round trip: what was let out too early would have arrived by then.
        await c.publish("py.inflight.other", 1, 1)
        assert got.empty()
        for message in pair:
            await c.stan.ack(message)
    await c.close()


async def unacked_messages_come_again_acked_ones_do_not(url):
    c = await Connection().open(url, "py-redelivery")
    _, got = await c.collect("py.redelivery", manual_acks=True, ack_wait=1)
    await c.publish("py.redelivery", 1, 3)
    for _ in range(3):
        message = await take(got)
        if message.sequence == 2:
            await c.stan.ack(message)
    for round_ in (1, 2):
        for want in (1, 3):
            message = await take(got)
            assert message.sequence == want and message.proto.redelivered, message
            if round_ == 2:
                await c.stan.ack(message)
    try:
        message = await asyncio.wait_for(got.get(), 1.5)
    except asyncio.TimeoutError:
        await c.close()
    else:
        raise AssertionError(f"acked, and yet again: {message}")


async def a_second_client_with_the_same_id_is_refused(url):
    c = await Connection().open(url, "py-twice")
    try:
        await Connection().open(url, "py-twice")
    except StanError as error:
        assert str(error) == "stan: clientID already registered", error
    else:
        raise AssertionError("not refused")
    await c.publish("py.twice", 1, 1)
    await c.close()


async def nothing_acked_is_lost_across_kill_9_of_the_active(servers):
    lost = []

    async def on_lost(error):
        lost.append(error)

    c = await Connection().open(
        await servers.ask("pair"), "py-failover", ping_interval=1, ping_max_out=60,
        conn_lost_cb=on_lost,
    )
    heard = [set(), set()]

    def note(into):
        async def on_message(message):
            into.add(message.data)

        return on_message

    await c.stan.subscribe("py.failover", cb=note(heard[0]), durable_name="d", ack_wait=2)
    for _ in range(2):
        await c.stan.subscribe(
            "py.failover", queue="q", cb=note(heard[1]), durable_name="q", ack_wait=2
        )
    each = 150
    for number in range(3 * each):
        if number == 2 * each:
            await servers.ask("heal")
        if number in (each, 2 * each):
            await servers.ask("kill")
        while True:
            assert not lost, lost
            try:
                await c.stan.publish("py.failover", str(number).encode(), ack_wait=1)
                break
            except (asyncio.TimeoutError, KeyError):
                continue
    acked = {str(number).encode() for number in range(3 * each)}
    _, got = await c.collect("py.failover", deliver_all_available=True)
    stored, sequence = set(), 0
    while stored != acked:
        message = await take(got)
        sequence += 1
        assert message.sequence == sequence, f"{message.sequence} where {sequence} belongs"
        stored.add(message.data)
    deadline = time.monotonic() + 2 * PATIENCE
    while any(listener != acked for listener in heard):
        missing = [len(acked - listener) for listener in heard]
        assert time.monotonic() < deadline, f"deliveries missing: {missing}"
        await asyncio.sleep(0.01)
    await c.close()


CHECKS = [
    publish_acked_one_by_one,
    publish_asynchronously,
    replay_from_every_start_position,
    a_durable_goes_on_where_it_stopped,
    a_queue_group_shares_messages,
    a_durable_queue_group_outlives_its_members,
    max_in_flight_holds_messages_back,
    unacked_messages_come_again_acked_ones_do_not,
    a_second_client_with_the_same_id_is_refused,
]

if __name__ == "__main__":
    pair = [nothing_acked_is_lost_across_kill_9_of_the_active]
    sys.exit(asyncio.run(run_checks("python streaming", CHECKS, pair)))
