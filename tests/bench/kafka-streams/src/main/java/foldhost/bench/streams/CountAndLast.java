package foldhost.bench.streams;

import foldhost.bench.Protocol;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * The benchmark's fold: per key the number of events and the last value. Built by {@link Main}.
 *
 * <p>Keys, values and states stay byte arrays, so that no serde costs anything: a state is the count
 * (8 bytes, little-endian) and the last value. A fold allocates one array and copies one value.
 */
final class CountAndLast {
    /** The store's name: what interactive queries ask for. */
    static final String STORE = "fold";

    private static final VarHandle COUNT =
            MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);
    static final int COUNT_BYTES = Long.BYTES;

    /** Events folded by this process. */
    private final LongAdder folded = new LongAdder();

    private final AtomicBoolean any = new AtomicBoolean();

    /** The topology: no repartitioning (the key stays), no output topic, a changelog for the store. */
    Topology topology(String topic) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .groupByKey(Grouped.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .aggregate(
                        () -> new byte[COUNT_BYTES],
                        (key, value, state) -> fold(value, state),
                        Materialized.<byte[], byte[], KeyValueStore<Bytes, byte[]>>as(STORE)
                                .withKeySerde(Serdes.ByteArray())
                                .withValueSerde(Serdes.ByteArray()));
        return builder.build();
    }

    long folded() {
        return folded.sum();
    }

    static long count(byte[] state) {
        return (long) COUNT.get(state, 0);
    }

    private byte[] fold(byte[] value, byte[] state) {
        byte[] next = new byte[COUNT_BYTES + value.length];
        COUNT.set(next, 0, count(state) + 1);
        System.arraycopy(value, 0, next, COUNT_BYTES, value.length);
        folded.increment();
        if (!any.getPlain() && any.compareAndSet(false, true)) {
            Protocol.event("first");
        }
        return next;
    }
}
