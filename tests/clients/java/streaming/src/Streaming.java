import io.nats.client.Connection;
import io.nats.client.Nats;
import io.nats.streaming.AckHandler;
import io.nats.streaming.Message;
import io.nats.streaming.MessageHandler;
import io.nats.streaming.Options;
import io.nats.streaming.StreamingConnection;
import io.nats.streaming.StreamingConnectionFactory;
import io.nats.streaming.Subscription;
import io.nats.streaming.SubscriptionOptions;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicReference;

/** java-nats-streaming against servers of ../../servers.py; last line: N passed, N failed. */
public final class Streaming {
    private static final String CLUSTER_ID = "test-cluster";
    private static final Duration PATIENCE = Duration.ofSeconds(10);

    public static void main(String[] arguments) throws Exception {
        int code;
        try (Harness harness = new Harness("java streaming")) {
            String url = harness.ask("single");
            harness.check("publish, acked one by one", () -> publishSync(url));
            harness.check("publish asynchronously", () -> publishAsync(url));
            harness.check("replay from every start position", () -> replay(url));
            harness.check("a durable goes on where it stopped", () -> durable(url));
            harness.check("a queue group shares messages", () -> queueGroup(url));
            harness.check("a durable queue group outlives its members", () -> durableQueue(url));
            harness.check("max in flight holds messages back", () -> maxInFlight(url));
            harness.check("unacked messages come again, acked ones do not", () -> redelivery(url));
            harness.check("a second client with the same id is refused", () -> duplicateId(url));
            harness.check("nothing acked is lost across kill -9 of the active", () -> failover(harness));
            code = harness.exitCode();
        }
        System.exit(code);
    }

    private static Options.Builder options(String url, String id) {
        return new Options.Builder().clusterId(CLUSTER_ID).clientId(id).natsUrl(url);
    }

    private static StreamingConnection connect(Options.Builder options) throws Exception {
        return new StreamingConnectionFactory(options.build()).createConnection();
    }

    private static byte[] bytes(Object value) {
        return value.toString().getBytes(StandardCharsets.UTF_8);
    }

    private static String text(Message message) {
        return new String(message.getData(), StandardCharsets.UTF_8);
    }

    private static void publish(StreamingConnection sc, String channel, int first, int last)
            throws Exception {
        for (int number = first; number <= last; number++) {
            sc.publish(channel, bytes(number));
        }
    }

    private static SubscriptionOptions.Builder all() {
        return new SubscriptionOptions.Builder().deliverAllAvailable();
    }

    private static SubscriptionOptions.Builder durableAll() {
        return all().durableName("d").manualAcks();
    }

    private static Message take(BlockingQueue<Message> got) throws InterruptedException {
        Message message = got.poll(PATIENCE.toSeconds(), TimeUnit.SECONDS);
        Harness.isTrue(message != null, "nothing arrived");
        return message;
    }

    private static void expect(BlockingQueue<Message> got, long... sequences) throws Exception {
        for (long want : sequences) {
            Harness.same(want, take(got).getSequence());
        }
    }

    private static void publishSync(String url) throws Exception {
        try (StreamingConnection sc = connect(options(url, "java-sync"))) {
            publish(sc, "java.sync", 1, 20);
            BlockingQueue<Message> got = new LinkedBlockingQueue<>();
            sc.subscribe("java.sync", got::add, all().build());
            for (int number = 1; number <= 20; number++) {
                Message message = take(got);
                Harness.same((long) number, message.getSequence());
                Harness.same(String.valueOf(number), text(message));
                Harness.isTrue(!message.isRedelivered() && message.getTimestamp() > 0, "marks");
            }
        }
    }

    private static void publishAsync(String url) throws Exception {
        try (StreamingConnection sc = connect(options(url, "java-async").maxPubAcksInFlight(64))) {
            Set<String> guids = ConcurrentHashMap.newKeySet();
            BlockingQueue<String> acks = new LinkedBlockingQueue<>();
            AckHandler handler = (guid, error) -> acks.add(error == null ? "" : error.toString());
            for (int i = 0; i < 2000; i++) {
                guids.add(sc.publish("java.async", bytes("x"), handler));
            }
            for (int i = 0; i < 2000; i++) {
                Harness.same("", acks.poll(PATIENCE.toSeconds(), TimeUnit.SECONDS));
            }
            Harness.same(2000, guids.size());
            BlockingQueue<Message> got = new LinkedBlockingQueue<>();
            SubscriptionOptions.Builder last = new SubscriptionOptions.Builder().startAtSequence(2000);
            sc.subscribe("java.async", got::add, last.build());
            expect(got, 2000);
        }
    }

    private record Start(SubscriptionOptions options, long[] want) {
        static Start of(SubscriptionOptions.Builder options, long... want) {
            return new Start(options.build(), want);
        }
    }

    private static SubscriptionOptions.Builder from() {
        return new SubscriptionOptions.Builder();
    }

    private static void replay(String url) throws Exception {
        try (StreamingConnection sc = connect(options(url, "java-replay"))) {
            publish(sc, "java.replay", 1, 3);
            // Time is the subject here: a moment that lies clearly between 3 and 4.
            Thread.sleep(200);
            Instant between = Instant.now().minusMillis(100);
            publish(sc, "java.replay", 4, 5);
            List<Start> starts = List.of(
                    Start.of(all(), 1, 2, 3, 4, 5, 6),
                    Start.of(from().startAtSequence(3), 3, 4, 5, 6),
                    Start.of(from().startWithLastReceived(), 5, 6),
                    Start.of(from().startAtTime(between), 4, 5, 6),
                    Start.of(from().startAtTimeDelta(Duration.between(between, Instant.now())), 4, 5, 6),
                    Start.of(from().startAtTimeDelta(1, TimeUnit.HOURS), 1, 2, 3, 4, 5, 6),
                    Start.of(from(), 6));
            List<BlockingQueue<Message>> arrivals = new ArrayList<>();
            for (Start start : starts) {
                BlockingQueue<Message> got = new LinkedBlockingQueue<>();
                sc.subscribe("java.replay", got::add, start.options());
                arrivals.add(got);
            }
            publish(sc, "java.replay", 6, 6);
            for (int i = 0; i < starts.size(); i++) {
                expect(arrivals.get(i), starts.get(i).want());
            }
        }
    }

    private static void durable(String url) throws Exception {
        String channel = "java.durable";
        try (StreamingConnection sc = connect(options(url, "java-durable"))) {
            publish(sc, channel, 1, 3);
            BlockingQueue<Message> got = new LinkedBlockingQueue<>();
            Subscription sub = sc.subscribe(channel, got::add, durableAll().build());
            for (int i = 0; i < 3; i++) {
                Message message = take(got);
                if (message.getSequence() < 3) {
                    message.ack();
                }
            }
            try {
                sc.subscribe(channel, got::add, durableAll().build());
                throw new AssertionError("a durable was opened twice");
            } catch (IOException error) {
                Harness.isTrue(error.getMessage().contains("duplicate durable"), error.toString());
            }
            sub.close();
            publish(sc, channel, 4, 5);
            BlockingQueue<Message> again = new LinkedBlockingQueue<>();
            sc.subscribe(channel, again::add, durableAll().build());
            expect(again, 3, 4, 5);
        }
        try (StreamingConnection sc = connect(options(url, "java-durable"))) {
            BlockingQueue<Message> got = new LinkedBlockingQueue<>();
            Subscription sub = sc.subscribe(channel, got::add, durableAll().build());
            expect(got, 3, 4, 5);
            sub.unsubscribe();
            BlockingQueue<Message> anew = new LinkedBlockingQueue<>();
            sc.subscribe(channel, anew::add, durableAll().build());
            expect(anew, 1, 2, 3, 4, 5);
        }
    }

    private static void queueGroup(String url) throws Exception {
        try (StreamingConnection sc = connect(options(url, "java-queue"))) {
            BlockingQueue<Message> got = new LinkedBlockingQueue<>();
            sc.subscribe("java.queue", "q", got::add);
            sc.subscribe("java.queue", "q", got::add);
            publish(sc, "java.queue", 1, 100);
            Set<Long> sequences = new HashSet<>();
            for (int i = 0; i < 100; i++) {
                long sequence = take(got).getSequence();
                Harness.isTrue(sequences.add(sequence), sequence + " twice");
            }
        }
    }

    private static void durableQueue(String url) throws Exception {
        String channel = "java.queue.durable";
        try (StreamingConnection sc = connect(options(url, "java-queue-durable"))) {
            publish(sc, channel, 1, 3);
            BlockingQueue<Message> got = new LinkedBlockingQueue<>();
            Subscription sub = sc.subscribe(channel, "q", got::add, durableAll().build());
            for (int i = 0; i < 3; i++) {
                Message message = take(got);
                if (message.getSequence() != 2) {
                    message.ack();
                }
            }
            sub.close();
            publish(sc, channel, 4, 4);
            BlockingQueue<Message> again = new LinkedBlockingQueue<>();
            sc.subscribe(channel, "q", again::add, durableAll().build());
            expect(again, 2, 4);
        }
    }

    private static void maxInFlight(String url) throws Exception {
        try (StreamingConnection sc = connect(options(url, "java-inflight"))) {
            publish(sc, "java.inflight", 1, 6);
            BlockingQueue<Message> got = new LinkedBlockingQueue<>();
            sc.subscribe("java.inflight", got::add, all().maxInFlight(2).manualAcks().build());
            for (long first = 1; first <= 5; first += 2) {
                Message one = take(got);
                Message other = take(got);
                Harness.same(first, one.getSequence());
                Harness.same(first + 1, other.getSequence());
                // A round trip: what was let out too early would have arrived by then.
                publish(sc, "java.inflight.other", 1, 1);
                Harness.isTrue(got.isEmpty(), "messages beyond max in flight");
                one.ack();
                other.ack();
            }
        }
    }

    private static void redelivery(String url) throws Exception {
        try (StreamingConnection sc = connect(options(url, "java-redelivery"))) {
            BlockingQueue<Message> got = new LinkedBlockingQueue<>();
            SubscriptionOptions.Builder set = from().manualAcks().ackWait(Duration.ofSeconds(1));
            sc.subscribe("java.redelivery", got::add, set.build());
            publish(sc, "java.redelivery", 1, 3);
            for (int i = 0; i < 3; i++) {
                Message message = take(got);
                if (message.getSequence() == 2) {
                    message.ack();
                }
            }
            for (int round = 1; round <= 2; round++) {
                for (long want : new long[] {1, 3}) {
                    Message message = take(got);
                    Harness.same(want, message.getSequence());
                    Harness.isTrue(message.isRedelivered(), "not marked as redelivered");
                    if (round == 2) {
                        message.ack();
                    }
                }
            }
            Message more = got.poll(1500, TimeUnit.MILLISECONDS);
            Harness.isTrue(more == null, "acked, and yet again: " + more);
        }
    }

    private static void duplicateId(String url) throws Exception {
        try (StreamingConnection sc = connect(options(url, "java-twice"))) {
            try {
                connect(options(url, "java-twice")).close();
                throw new AssertionError("not refused");
            } catch (IOException error) {
                String text = error.getMessage();
                Harness.isTrue(text.contains("clientID already registered"), text);
            }
            publish(sc, "java.twice", 1, 1);
        }
    }

    /** Publishes while the active is killed twice; a durable and a queue group listen. */
    private static void failover(Harness harness) throws Exception {
        String urls = harness.ask("pair");
        io.nats.client.Options core = new io.nats.client.Options.Builder()
                .servers(urls.split(","))
                .maxReconnects(-1)
                .reconnectWait(Duration.ofMillis(50))
                .build();
        AtomicReference<Exception> lost = new AtomicReference<>();
        Connection nc = Nats.connect(core);
        Options.Builder options = options(urls, "java-failover").natsConn(nc)
                .pubAckWait(Duration.ofSeconds(1))
                .pingInterval(Duration.ofSeconds(1))
                .maxPingsOut(60)
                .connectionLostHandler((connection, error) -> lost.set(error));
        String channel = "java.failover";
        int each = 150;
        try (StreamingConnection sc = connect(options)) {
            Set<String> durable = ConcurrentHashMap.newKeySet();
            Set<String> group = ConcurrentHashMap.newKeySet();
            SubscriptionOptions.Builder set = from().ackWait(Duration.ofSeconds(2));
            sc.subscribe(channel, m -> durable.add(text(m)), set.durableName("d").build());
            MessageHandler member = m -> group.add(text(m));
            for (int i = 0; i < 2; i++) {
                sc.subscribe(channel, "q", member, set.durableName("q").build());
            }
            for (int number = 0; number < 3 * each; number++) {
                if (number == 2 * each) {
                    harness.ask("heal");
                }
                if (number == each || number == 2 * each) {
                    harness.ask("kill");
                }
                publishUntilAcked(sc, channel, number, lost);
            }
            verify(sc, channel, 3 * each, List.of(durable, group));
        } finally {
            nc.close();
        }
    }

    private static void publishUntilAcked(StreamingConnection sc, String channel, int number,
            AtomicReference<Exception> lost) throws Exception {
        while (true) {
            Harness.isTrue(lost.get() == null, "connection lost: " + lost.get());
            try {
                sc.publish(channel, bytes(number));
                return;
            } catch (TimeoutException | IOException | IllegalStateException retry) {
                Thread.onSpinWait();
            }
        }
    }

    private static void verify(StreamingConnection sc, String channel, int acked,
            List<Set<String>> listeners) throws Exception {
        BlockingQueue<Message> got = new LinkedBlockingQueue<>();
        sc.subscribe(channel, got::add, all().build());
        Set<String> stored = new HashSet<>();
        for (long next = 1; stored.size() < acked; next++) {
            Message message = take(got);
            Harness.same(next, message.getSequence());
            stored.add(text(message));
        }
        long deadline = System.nanoTime() + 2 * PATIENCE.toNanos();
        for (Set<String> listener : listeners) {
            while (listener.size() < acked) {
                Harness.isTrue(System.nanoTime() < deadline, "heard only " + listener.size());
                Thread.sleep(10);
            }
        }
    }
}
