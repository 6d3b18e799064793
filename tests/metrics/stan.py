"""As much of a NATS Streaming client as a load needs: connect, subscribe, publish with a window."""

import socket
import time

WINDOW = 256


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """One field of a protobuf message: bytes, text or a number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def texts(document):
    """The fields of a message that are bytes."""
    found, at = {}, 0
    while at < len(document):
        number, shift = 0, 0
        while True:
            byte = document[at]
            number |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                break
        tag, kind = number >> 3, number & 7
        value, shift = 0, 0
        while True:
            byte = document[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                break
        if kind == 2:
            found[tag] = document[at : at + value]
            at += value
    return found


class Client:
    """A client of a cluster; it fails loudly and tries nothing again."""

    def __init__(self, port, cluster, name):
        self.name, self.count = name, 0
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.lines = self.socket.makefile("rb")
        self.lines.readline()
        inbox = f"_INBOX.{name}"
        self.send(b'CONNECT {"verbose":false}\r\n')
        self.send(f"SUB {inbox}.answer 1\r\nSUB {inbox}.beat 2\r\nSUB {inbox}.sub 3\r\n".encode())
        request = field(1, name) + field(2, f"{inbox}.beat")
        answer = self.ask(f"_STAN.discover.{cluster}", request)
        assert not answer.get(5), answer[5]
        self.prefix, self.subscribe_at = answer[1].decode(), answer[2].decode()

    def send(self, data):
        self.socket.sendall(data)

    def message(self):
        """The next message: subject, reply, payload. Heartbeats are answered."""
        while True:
            line = self.lines.readline()
            assert line, "the server closed the connection"
            if line.startswith(b"PING"):
                self.send(b"PONG\r\n")
            elif line.startswith(b"MSG "):
                words = line.split()
                payload = self.lines.read(int(words[-1]) + 2)[:-2]
                reply = words[3] if len(words) == 5 else b""
                if words[1].endswith(b".beat"):
                    self.send(b"PUB " + reply + b" 0\r\n\r\n")
                else:
                    return words[1], reply, payload
            else:
                assert line.startswith((b"PONG", b"INFO", b"+OK")), line

    def ask(self, subject, request):
        head = f"PUB {subject} _INBOX.{self.name}.answer {len(request)}\r\n".encode()
        self.send(head + request + b"\r\n")
        while True:
            at, _, payload = self.message()
            if at.endswith(b".answer"):
                return texts(payload)

    def subscribe(self, channel, durable="", group="", in_flight=5):
        """A subscription from the first message on that acknowledges nothing."""
        request = field(1, self.name) + field(2, channel) + (field(3, group) if group else b"")
        request += field(4, f"_INBOX.{self.name}.sub") + field(5, in_flight) + field(6, 3600)
        request += (field(7, durable) if durable else b"") + field(10, 4)
        answer = self.ask(self.subscribe_at, request)
        assert not answer.get(3), answer[3]

    def publication(self, channel, payload):
        """The bytes that publish a message."""
        self.count += 1
        document = field(1, self.name) + field(2, f"{self.name}-{self.count}")
        document += field(3, channel) + field(5, payload)
        head = f"PUB {self.prefix}.{channel} _INBOX.{self.name}.answer {len(document)}\r\n"
        return head.encode() + document + b"\r\n"

    def publish(self, channels, payload):
        """A message to each of `channels`, so many without an answer at a time."""
        for begin in range(0, len(channels), WINDOW):
            part = channels[begin : begin + WINDOW]
            self.send(b"".join(self.publication(channel, payload) for channel in part))
            left = len(part)
            while left:
                at, _, answer = self.message()
                if at.endswith(b".answer"):
                    found = texts(answer)
                    assert not found.get(2), found[2]
                    left -= 1


class Flood:
    """Publishes the same messages again and again, as fast as they are acknowledged."""

    ROUNDS_OPEN = 4

    def __init__(self, client, channels, payload):
        self.client, self.count = client, len(channels)
        self.bytes = b"".join(client.publication(channel, payload) for channel in channels)
        self.mark = f"MSG _INBOX.{client.name}.answer ".encode()
        self.tail = b""

    def run(self, seconds):
        """For so long; gives how many were acknowledged."""
        deadline = time.monotonic() + seconds
        sent = answered = 0
        while time.monotonic() < deadline or answered < sent:
            if time.monotonic() < deadline and sent - answered < self.ROUNDS_OPEN * self.count:
                self.client.send(self.bytes)
                sent += self.count
            answered += self.answers()
        return answered

    def run_rounds(self, rounds):
        """So many times all of them."""
        for _ in range(rounds):
            self.client.send(self.bytes)
            left = self.count
            while left > 0:
                left -= self.answers()

    def answers(self):
        got = self.client.socket.recv(1 << 20)
        assert got, "the server closed the connection"
        got = self.tail + got
        # A whole answer is longer than the mark; what is cut is looked at with the next bytes.
        self.tail = got[-len(self.mark) + 1 :]
        if b"PING\r\n" in got:
            self.client.send(b"PONG\r\n")
        return got.count(self.mark)
