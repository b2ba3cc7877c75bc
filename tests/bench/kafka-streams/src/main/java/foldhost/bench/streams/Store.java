package foldhost.bench.streams;

import foldhost.bench.Protocol;
import org.apache.kafka.common.utils.Utils;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.errors.InvalidStateStoreException;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;

/**
 * The folded state, read by interactive queries. Used by {@link QueryServer} and by `check`.
 *
 * <p>One handle per partition, obtained once: a key is looked up in the partition that it was produced
 * to (murmur2, as Java's producer does), not in all of them.
 */
final class Store {
    private final KafkaStreams streams;
    private volatile ReadOnlyKeyValueStore<byte[], byte[]>[] partitions;

    Store(KafkaStreams streams) {
        this.streams = streams;
    }

    /** To be called once Kafka Streams runs. */
    void open(int count) {
        @SuppressWarnings({"unchecked", "rawtypes"})
        ReadOnlyKeyValueStore<byte[], byte[]>[] opened = new ReadOnlyKeyValueStore[count];
        for (int partition = 0; partition < count; partition++) {
            opened[partition] = streams.store(StoreQueryParameters.fromNameAndType(
                            CountAndLast.STORE, QueryableStoreTypes.<byte[], byte[]>keyValueStore())
                    .withPartition(partition));
        }
        partitions = opened;
    }

    /** The state of a key, or null. */
    byte[] get(byte[] key) {
        ReadOnlyKeyValueStore<byte[], byte[]>[] opened = opened();
        return opened[Utils.toPositive(Utils.murmur2(key)) % opened.length].get(key);
    }

    /** Answers `check` from all that is in the store. */
    void check() {
        long keys = 0;
        long events = 0;
        long digest = 0;
        for (ReadOnlyKeyValueStore<byte[], byte[]> partition : opened()) {
            try (KeyValueIterator<byte[], byte[]> all = partition.all()) {
                while (all.hasNext()) {
                    KeyValue<byte[], byte[]> entry = all.next();
                    long count = CountAndLast.count(entry.value);
                    keys++;
                    events += count;
                    digest += Protocol.digest(
                            entry.key, count, entry.value, CountAndLast.COUNT_BYTES, entry.value.length);
                }
            }
        }
        Protocol.check(keys, events, digest);
    }

    private ReadOnlyKeyValueStore<byte[], byte[]>[] opened() {
        ReadOnlyKeyValueStore<byte[], byte[]>[] opened = partitions;
        if (opened == null) {
            throw new InvalidStateStoreException("Kafka Streams does not run yet");
        }
        return opened;
    }
}
