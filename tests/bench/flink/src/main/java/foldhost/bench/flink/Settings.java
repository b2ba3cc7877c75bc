package foldhost.bench.flink;

import static foldhost.bench.Protocol.required;

import foldhost.bench.Protocol;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.util.EnvironmentInformation;

/**
 * Everything that is tuned, each with its reason; what is not here is Flink's default. Used by
 * {@link Main}, which also prints it, and by {@link Verify}.
 */
final class Settings {
    private final Map<String, String> flink = new LinkedHashMap<>();
    private final Map<String, String> consumer = new LinkedHashMap<>();

    Settings(Map<String, String> arguments) {
        String stateDir = required(arguments, "state-dir");
        threads(required(arguments, "threads"));
        checkpoints(stateDir, arguments.getOrDefault("commit-ms", "1000"));
        state(required(arguments, "backend"), stateDir);
        memory();
        reading();
    }

    private void threads(String threads) {
        flink.put("parallelism.default", threads);
        flink.put("taskmanager.numberOfTaskSlots", threads);
        // Fixed, so that a checkpoint can be read with any number of slots.
        flink.put("pipeline.max-parallelism", "128");
        // No copies between operators.
        flink.put("pipeline.object-reuse", "true");
        // Kryo would be slow: fail if a type needs it.
        flink.put("pipeline.generic-types", "false");
        // There is no event time here.
        flink.put("pipeline.auto-watermark-interval", "0");
        // A failure must be seen, not be hidden in a figure.
        flink.put("restart-strategy.type", "none");
        flink.put("rest.bind-port", "0");
    }

    private void checkpoints(String stateDir, String intervalMs) {
        flink.put("execution.checkpointing.mode", "EXACTLY_ONCE");
        flink.put("execution.checkpointing.interval", intervalMs + "ms");
        // If a checkpoint takes longer than the interval, let the job work for a while before the next.
        flink.put("execution.checkpointing.min-pause", "500ms");
        flink.put("execution.checkpointing.storage", "filesystem");
        flink.put("execution.checkpointing.dir", Checkpoints.root(stateDir).toUri().toString());
        flink.put("execution.checkpointing.savepoint-dir", Checkpoints.savepoints(stateDir).toUri().toString());
        flink.put("execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
        flink.put("execution.checkpointing.num-retained", "2");
        // A restored checkpoint belongs to the new run: no full copy of it is made, it goes in time.
        flink.put("execution.state-recovery.claim-mode", "CLAIM");
    }

    private void state(String backend, String stateDir) {
        flink.put("io.tmp.dirs", stateDir + "/tmp");
        if (backend.equals("heap")) {
            flink.put("state.backend.type", "hashmap");
            return;
        }
        flink.put("state.backend.type", "rocksdb");
        flink.put("execution.checkpointing.incremental", "true");
        flink.put("state.backend.rocksdb.localdir", stateDir + "/rocksdb");
        // Kafka Streams uses Bloom filters by default.
        flink.put("state.backend.rocksdb.use-bloom-filter", "true");
        // More threads for flushes and the files of a checkpoint than processors do not help.
        flink.put("state.backend.rocksdb.thread.num", "2");
    }

    private void memory() {
        // RocksDB's memtables and block cache, off the heap, for the whole process (local default:
        // 128 MiB): it holds the state of a million keys. Heap state uses none of it.
        flink.put("taskmanager.memory.managed.size", "512m");
        // The shuffle between source and fold (local default: 64 MiB).
        flink.put("taskmanager.memory.network.min", "128m");
        flink.put("taskmanager.memory.network.max", "128m");
    }

    private void reading() {
        // The default of 1 MiB a partition and fetch makes a full-speed reader wait for the network.
        consumer.put("max.partition.fetch.bytes", "8388608");
        consumer.put("fetch.max.bytes", "67108864");
        consumer.put("receive.buffer.bytes", "1048576");
        consumer.put("max.poll.records", "10000");
        // The topic's partitions do not change.
        consumer.put("partition.discovery.interval.ms", "-1");
    }

    Map<String, String> consumer() {
        return consumer;
    }

    Configuration configuration() {
        return Configuration.fromMap(flink);
    }

    /** What the report prints. */
    Map<String, String> printed() {
        Map<String, String> printed = new LinkedHashMap<>();
        printed.put("version.flink", EnvironmentInformation.getVersion());
        printed.put("version.kafka-clients", Protocol.kafkaVersion("kafka"));
        printed.put("version.java", Runtime.version().toString());
        printed.putAll(flink);
        consumer.forEach((name, value) -> printed.put("consumer." + name, value));
        return printed;
    }
}
