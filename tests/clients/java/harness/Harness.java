import java.io.BufferedReader;
import java.io.IOException;
import java.io.Writer;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/** Servers by the program ../servers.py, checks with a bound, and the last line. */
final class Harness implements AutoCloseable {
    private static final long CHECK_SECONDS = 60;

    interface Check {
        void run() throws Exception;
    }

    private final String title;
    private final Process servers;
    private final BufferedReader answers;
    private final Writer questions;
    private final ExecutorService runner = Executors.newCachedThreadPool(run -> {
        Thread thread = new Thread(run);
        thread.setDaemon(true);
        return thread;
    });
    private int passed;
    private int failed;

    Harness(String title) throws IOException {
        this.title = title;
        ProcessBuilder builder = new ProcessBuilder("python3", "../../servers.py");
        builder.redirectError(ProcessBuilder.Redirect.INHERIT);
        servers = builder.start();
        answers = servers.inputReader();
        questions = servers.outputWriter();
    }

    String ask(String line) throws IOException {
        questions.write(line + "\n");
        questions.flush();
        String answer = answers.readLine();
        if (answer == null || !answer.startsWith("ok")) {
            throw new IOException(line + ": " + answer);
        }
        return answer.substring(2).trim();
    }

    void check(String name, Check check) {
        Future<?> done = runner.submit(() -> {
            check.run();
            return null;
        });
        try {
            done.get(CHECK_SECONDS, TimeUnit.SECONDS);
            passed++;
            System.out.println("ok " + title + ": " + name);
        } catch (Exception error) {
            failed++;
            done.cancel(true);
            Throwable cause = error.getCause() == null ? error : error.getCause();
            System.out.println("FAILED " + title + ": " + name + ": " + cause);
            cause.printStackTrace(System.out);
        }
    }

    static void same(Object want, Object found) {
        if (!want.equals(found)) {
            throw new AssertionError("want " + want + ", found " + found);
        }
    }

    static void isTrue(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    int exitCode() {
        System.out.println(passed + " passed, " + failed + " failed");
        return failed == 0 ? 0 : 1;
    }

    @Override
    public void close() throws Exception {
        questions.close();
        servers.waitFor();
    }
}
