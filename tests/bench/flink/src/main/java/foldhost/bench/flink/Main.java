package foldhost.bench.flink;

import static foldhost.bench.Protocol.required;

import foldhost.bench.Protocol;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.TopicPartition;
import sun.misc.Signal;

/**
 * The benchmark's Flink contestant: folds a topic into a count and a last value per key, exactly once,
 * in a local environment. Started, killed and measured from outside by the benchmark's driver, which
 * talks the contestant protocol with it (README.md).
 */
public final class Main {
    private static final long SAVEPOINT_S_MAX = 120;
    /** How often the main thread looks whether all is folded: the error of `live` and `done`. */
    private static final long LOOK_MS = 5;

    private Main() {}

    /** See README.md for the arguments. */
    public static void main(String[] args) throws Exception {
        Protocol.event("started");
        Map<String, String> arguments = Protocol.arguments(args);
        Settings settings = new Settings(arguments);
        Protocol.settings(settings.printed());
        if (arguments.containsKey("verify")) {
            Verify.run(arguments);
            return;
        }
        JobClient job = start(arguments, settings);
        job.getJobExecutionResult().whenComplete((result, error) -> {
            if (error != null) {
                error.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
        });
        Signal.handle(new Signal("TERM"), signal -> stop(job));
        Thread commands = new Thread(() -> obey(job), "commands");
        commands.setDaemon(true);
        commands.start();
        long end = events(required(arguments, "bootstrap"), required(arguments, "topic"));
        watch(end, Long.parseLong(required(arguments, "expect")));
    }

    private static JobClient start(Map<String, String> arguments, Settings settings) throws Exception {
        Configuration configuration = settings.configuration();
        if (arguments.containsKey("restore")) {
            configuration.setString(
                    "execution.state-recovery.path",
                    Checkpoints.find(arguments.get("restore"), required(arguments, "state-dir")));
        }
        StreamExecutionEnvironment flink = StreamExecutionEnvironment.createLocalEnvironment(configuration);
        Properties consumer = new Properties();
        consumer.putAll(settings.consumer());
        KafkaSource<Tuple2<String, byte[]>> source =
                KafkaSource.<Tuple2<String, byte[]>>builder()
                        .setBootstrapServers(required(arguments, "bootstrap"))
                        .setTopics(required(arguments, "topic"))
                        .setGroupId(required(arguments, "group"))
                        .setStartingOffsets(OffsetsInitializer.earliest())
                        .setDeserializer(new EventSchema())
                        .setProperties(consumer)
                        .build();
        flink.fromSource(source, WatermarkStrategy.noWatermarks(), "topic")
                .uid("topic")
                .keyBy(event -> event.f0)
                .process(new CountAndLast())
                .returns(Types.VOID)
                .uid(CountAndLast.UID)
                .sinkTo(new DiscardingSink<>())
                .uid("nothing");
        return flink.executeAsync("count and last");
    }

    /** Events in the topic now: it has no transactions and is not compacted. */
    private static long events(String bootstrap, String topic) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            int partitions =
                    admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size();
            return offsets(admin, topic, partitions, OffsetSpec.latest())
                    - offsets(admin, topic, partitions, OffsetSpec.earliest());
        }
    }

    private static long offsets(Admin admin, String topic, int partitions, OffsetSpec spec) throws Exception {
        Map<TopicPartition, OffsetSpec> asked = IntStream.range(0, partitions)
                .boxed()
                .collect(Collectors.toMap(partition -> new TopicPartition(topic, partition), partition -> spec));
        return admin.listOffsets(asked).all().get().values().stream().mapToLong(found -> found.offset()).sum();
    }

    /** Tells when the state is complete up to the topic's end at start, and when all is folded. */
    private static void watch(long end, long expect) throws InterruptedException {
        boolean live = false;
        boolean done = false;
        while (!live || !done) {
            long events = CountAndLast.FOLDED.sum();
            if (!live && events >= end) {
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

    /** Lines on stdin: `checkpoint`, `stop`. Its end (the driver is gone) is a `stop`, too. */
    private static void obey(JobClient job) {
        try (BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = lines.readLine(); line != null && !line.equals("stop"); line = lines.readLine()) {
                if (line.equals("checkpoint")) {
                    Protocol.line("checkpoint", "path", savepoint(job));
                } else {
                    System.err.println("unknown command (`check` is `--verify`): " + line);
                }
            }
        } catch (Exception error) {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
        }
        stop(job);
    }

    /** A savepoint. Right after a start some task may not run yet; then it is tried again. */
    private static String savepoint(JobClient job) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(SAVEPOINT_S_MAX);
        while (true) {
            try {
                return job.triggerSavepoint(null, SavepointFormatType.NATIVE)
                        .get(SAVEPOINT_S_MAX, TimeUnit.SECONDS);
            } catch (ExecutionException error) {
                if (System.nanoTime() > deadline) {
                    throw error;
                }
                Thread.sleep(LOOK_MS);
            }
        }
    }

    /** Stops with a last savepoint, so that a restart has nothing to fold again. */
    private static synchronized void stop(JobClient job) {
        try {
            Protocol.line("checkpoint", "path", job.stopWithSavepoint(false, null, SavepointFormatType.NATIVE)
                    .get(SAVEPOINT_S_MAX, TimeUnit.SECONDS));
        } catch (Exception error) {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
        }
        System.exit(0);
    }
}
