package foldhost.bench.streams;

import static foldhost.bench.Protocol.required;

import foldhost.bench.Protocol;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.InvalidStateStoreException;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/**
 * The benchmark's Kafka Streams contestant: folds a topic into a count and a last value per key, exactly
 * once, and answers queries; or publishes a running count for each event. Started, killed and measured
 * from outside by the benchmark's driver, which talks the contestant protocol with it (README.md).
 */
public final class Main {
    private static final Duration STOPS_WITHIN = Duration.ofSeconds(30);
    /** How often the main thread looks whether all is folded: the error of `live` and `done`. */
    private static final long LOOK_MS = 5;

    private Main() {}

    /** See README.md for the arguments. */
    public static void main(String[] args) throws Exception {
        Protocol.event("started");
        Map<String, String> arguments = Protocol.arguments(args);
        Settings settings = new Settings(arguments);
        Protocol.settings(settings.printed());

        String topic = required(arguments, "topic");
        String output = arguments.get("output");
        CountAndLast fold = new CountAndLast();
        Progress progress =
                Progress.read(required(arguments, "bootstrap"), topic, required(arguments, "group"));
        Topology topology = output == null ? fold.topology(topic) : CountAndPublish.topology(topic, output);
        KafkaStreams streams = new KafkaStreams(topology, settings.properties());
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Store store = new Store(streams);
        int port = Integer.parseInt(arguments.getOrDefault("http-port", "0"));
        if (port != 0) {
            new QueryServer(port, store);
        }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(STOPS_WITHIN)));
        Thread commands = new Thread(() -> obey(store), "commands");
        commands.setDaemon(true);
        commands.start();
        streams.start();
        if (output != null) {
            return; // how far it is, shows in the output
        }
        watch(streams, store, fold, progress, Long.parseLong(required(arguments, "expect")));
    }

    /** Tells when the state is complete up to the topic's end at start, and when all is folded. */
    private static void watch(
            KafkaStreams streams, Store store, CountAndLast fold, Progress progress, long expect)
            throws InterruptedException {
        // RUNNING: what earlier runs left is restored.
        while (streams.state() != KafkaStreams.State.RUNNING || !opened(store, progress.partitions())) {
            Thread.sleep(LOOK_MS);
        }
        boolean live = false;
        boolean done = false;
        while (!live || !done) {
            long events = progress.folded() + fold.folded();
            if (!live && events >= progress.end()) {
                live = true;
                Protocol.event("live");
            }
            if (!done && events >= expect) {
                done = true;
                Protocol.event("done", "events", events);
            }
            Thread.sleep(LOOK_MS);
        }
    }

    private static boolean opened(Store store, int partitions) {
        try {
            store.open(partitions);
            return true;
        } catch (InvalidStateStoreException error) {
            return false; // partitions are moving from one thread to another
        }
    }

    /** Lines on stdin: `check`, `stop`. Its end (the driver is gone) is a `stop`, too. */
    private static void obey(Store store) {
        try (BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = lines.readLine(); line != null && !line.equals("stop"); line = lines.readLine()) {
                if (line.equals("check")) {
                    store.check();
                } else {
                    System.err.println("unknown command: " + line);
                }
            }
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1);
        }
        System.exit(0); // the shutdown hook closes Kafka Streams
    }
}
