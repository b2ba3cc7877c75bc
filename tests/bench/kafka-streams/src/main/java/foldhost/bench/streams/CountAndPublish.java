package foldhost.bench.streams;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.ContextualFixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * What a published record costs: for each event, how many its key has had by then, under the same key. Built by
 * {@link Main} where there is an output.
 *
 * <p>A processor, not `count().toStream()`: that publishes every count only if the store has no cache, and the cache
 * makes one write to RocksDB and to the changelog of all updates of a key within a commit. Keys and counts stay byte
 * arrays (a count is what `LongSerializer` makes of it), so that no serde costs anything.
 */
final class CountAndPublish extends ContextualFixedKeyProcessor<byte[], byte[], byte[]> {
    private static final String STORE = "counts";
    private static final VarHandle COUNT =
            MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);

    private KeyValueStore<byte[], byte[]> store;

    static Topology topology(String topic, String output) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(Stores.keyValueStoreBuilder(
                        Stores.persistentKeyValueStore(STORE), Serdes.ByteArray(), Serdes.ByteArray())
                .withCachingEnabled());
        builder.stream(topic, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .processValues(CountAndPublish::new, STORE)
                .to(output, Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
        return builder.build();
    }

    @Override
    public void init(FixedKeyProcessorContext<byte[], byte[]> context) {
        super.init(context);
        store = context.getStateStore(STORE);
    }

    @Override
    public void process(FixedKeyRecord<byte[], byte[]> event) {
        byte[] before = store.get(event.key());
        byte[] count = new byte[Long.BYTES];
        COUNT.set(count, 0, before == null ? 1L : (long) COUNT.get(before, 0) + 1);
        store.put(event.key(), count);
        context().forward(event.withValue(count));
    }
}
