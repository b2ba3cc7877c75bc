package foldhost.bench.streams;

import static foldhost.bench.Protocol.required;
import static org.apache.kafka.streams.StreamsConfig.consumerPrefix;
import static org.apache.kafka.streams.StreamsConfig.mainConsumerPrefix;
import static org.apache.kafka.streams.StreamsConfig.producerPrefix;
import static org.apache.kafka.streams.StreamsConfig.restoreConsumerPrefix;

import foldhost.bench.Protocol;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.streams.StreamsConfig;
import org.rocksdb.RocksDB;

/**
 * Everything that is tuned, each with its reason; what is not here is Kafka's default. Used by
 * {@link Main}, which also prints it, and from there it goes into the benchmark's report.
 */
final class Settings {
    private final Map<String, String> values = new LinkedHashMap<>();

    Settings(Map<String, String> arguments) {
        identity(arguments);
        guarantees(arguments);
        reading();
        writing();
        state(arguments);
    }

    private void identity(Map<String, String> arguments) {
        set(StreamsConfig.APPLICATION_ID_CONFIG, required(arguments, "group"));
        set(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, required(arguments, "bootstrap"));
        set(StreamsConfig.STATE_DIR_CONFIG, required(arguments, "state-dir"));
        set(StreamsConfig.NUM_STREAM_THREADS_CONFIG, required(arguments, "threads"));
        // Static membership: after a crash the member comes back under its name, and its partitions
        // with it, without waiting for the session to time out. Streams appends the thread's number.
        set(mainConsumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), required(arguments, "instance"));
        // As foldhost: 6 s is the least that brokers allow by default.
        set(mainConsumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), "6000");
        set(mainConsumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), "500");
        // The mature protocol; foldhost uses it too.
        set(StreamsConfig.GROUP_PROTOCOL_CONFIG, "classic");
    }

    private void guarantees(Map<String, String> arguments) {
        set(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        // The default with exactly-once is 100 ms; foldhost commits every 2 s.
        set(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, arguments.getOrDefault("commit-ms", "2000"));
        set(StreamsConfig.NUM_STANDBY_REPLICAS_CONFIG, "0");
    }

    private void reading() {
        set(consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        // The default of 1 MiB a partition and fetch makes a full-speed reader wait for the network.
        set(consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), "8388608");
        set(consumerPrefix(ConsumerConfig.FETCH_MAX_BYTES_CONFIG), "67108864");
        set(consumerPrefix(ConsumerConfig.RECEIVE_BUFFER_CONFIG), "1048576");
        set(mainConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), "10000");
        set(restoreConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), "10000");
        // Above a poll's records, so that a partition is not paused after each poll (default 1000).
        set(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, "20000");
    }

    private void writing() {
        // The changelog. A commit flushes the store's cache in one burst: full batches, no waiting
        // for memory. (A commit does not wait for the linger time.)
        set(producerPrefix(ProducerConfig.LINGER_MS_CONFIG), "100");
        set(producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), "524288");
        set(producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), "134217728");
        // The broker is on the same machine: the network costs nothing, compressing would.
        set(producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "none");
    }

    private void state(Map<String, String> arguments) {
        // Several updates of a key within a commit become one write to RocksDB and changelog.
        set(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, String.valueOf(128L << 20));
        set(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, RocksDbSettings.class.getName());
        // KIP-892 (new in 4.4, off by default): a crash does not cost the local state, so that a
        // restart need not restore all of it from the changelog.
        set(StreamsConfig.TRANSACTIONAL_STATE_STORES_CONFIG, arguments.getOrDefault("transactional-stores", "true"));
        // What it may hold back before it commits early (default 64 MiB): never before the interval.
        set(StreamsConfig.STATESTORE_UNCOMMITTED_MAX_BYTES_CONFIG, String.valueOf(512L << 20));
    }

    private void set(String name, String value) {
        values.put(name, value);
    }

    Properties properties() {
        Properties properties = new Properties();
        properties.putAll(values);
        return properties;
    }

    /** What the report prints. */
    Map<String, String> printed() {
        Map<String, String> printed = new LinkedHashMap<>();
        printed.put("version.kafka-streams", Protocol.kafkaVersion("kafka-streams"));
        RocksDB.loadLibrary(); // Kafka Streams would do so a moment later
        printed.put("version.rocksdb", RocksDB.rocksdbVersion().toString());
        printed.put("version.java", Runtime.version().toString());
        printed.putAll(values);
        printed.put("rocksdb.block-cache.bytes", String.valueOf(RocksDbSettings.BLOCK_CACHE_BYTES));
        printed.put("rocksdb.write-buffer.bytes", String.valueOf(RocksDbSettings.WRITE_BUFFER_BYTES));
        return printed;
    }
}
