import io.nats.client.Connection;
import io.nats.client.Dispatcher;
import io.nats.client.Message;
import io.nats.client.Nats;
import io.nats.client.Subscription;
import io.nats.client.impl.Headers;
import io.nats.client.impl.NatsMessage;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** jnats against a server of ../../servers.py; last line: N passed, N failed. */
public final class Core {
    private static final Duration PATIENCE = Duration.ofSeconds(10);

    public static void main(String[] arguments) throws Exception {
        int code;
        try (Harness harness = new Harness("java core")) {
            String url = harness.ask("single");
            harness.check("publish and subscribe with wildcards", () -> pubSub(url));
            harness.check("a queue group shares messages", () -> queue(url));
            harness.check("request and reply", () -> request(url));
            harness.check("a request without responders fails at once", () -> noResponders(url));
            harness.check("headers arrive", () -> headers(url));
            harness.check("drain delivers what is pending", () -> drain(url));
            code = harness.exitCode();
        }
        System.exit(code);
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static void pubSub(String url) throws Exception {
        try (Connection nc = Nats.connect(url)) {
            Subscription star = nc.subscribe("core.*.b");
            Subscription rest = nc.subscribe("core.>");
            nc.publish("core.a.b", bytes("1"));
            nc.publish("core.a.c", bytes("2"));
            Harness.same("core.a.b", star.nextMessage(PATIENCE).getSubject());
            Harness.same("core.a.b", rest.nextMessage(PATIENCE).getSubject());
            Harness.same("core.a.c", rest.nextMessage(PATIENCE).getSubject());
        }
    }

    private static void queue(String url) throws Exception {
        try (Connection nc = Nats.connect(url)) {
            Subscription one = nc.subscribe("jobs", "workers");
            Subscription other = nc.subscribe("jobs", "workers");
            for (int i = 0; i < 200; i++) {
                nc.publish("jobs", null);
            }
            // The answer to this ping comes behind all deliveries.
            nc.flush(PATIENCE);
            long first = one.getPendingMessageCount();
            long second = other.getPendingMessageCount();
            Harness.same(200L, first + second);
            Harness.isTrue(first > 0 && second > 0, first + " and " + second);
        }
    }

    private static void request(String url) throws Exception {
        try (Connection nc = Nats.connect(url)) {
            Dispatcher answers = nc.createDispatcher(m -> nc.publish(m.getReplyTo(), bytes("hi!")));
            answers.subscribe("upper");
            Message reply = nc.request("upper", bytes("hi"), PATIENCE);
            Harness.same("hi!", new String(reply.getData(), StandardCharsets.UTF_8));
        }
    }

    private static void noResponders(String url) throws Exception {
        try (Connection nc = Nats.connect(url)) {
            nc.request("nobody.home", null).get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
            throw new AssertionError("somebody answered");
        } catch (CancellationException | ExecutionException expected) {
            // A time-out would have been a TimeoutException.
        }
    }

    private static void headers(String url) throws Exception {
        try (Connection nc = Nats.connect(url)) {
            Subscription sub = nc.subscribe("headed");
            Headers sent = new Headers().add("Color", "red", "blue");
            nc.publish(NatsMessage.builder().subject("headed").headers(sent).data("body").build());
            Message got = sub.nextMessage(PATIENCE);
            Harness.same(List.of("red", "blue"), got.getHeaders().get("Color"));
            Harness.same("body", new String(got.getData(), StandardCharsets.UTF_8));
        }
    }

    private static void drain(String url) throws Exception {
        AtomicInteger count = new AtomicInteger();
        Connection nc = Nats.connect(url);
        nc.createDispatcher(m -> count.incrementAndGet()).subscribe("drained");
        for (int i = 0; i < 100; i++) {
            nc.publish("drained", null);
        }
        nc.drain(PATIENCE).get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
        Harness.same(100, count.get());
        Harness.same(Connection.Status.CLOSED, nc.getStatus());
    }
}
