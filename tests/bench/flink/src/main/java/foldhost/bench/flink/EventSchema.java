package foldhost.bench.flink;

import java.nio.charset.StandardCharsets;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * A record of the topic as an event: key and value. Used by {@link Main}'s source.
 *
 * <p>A tuple has Flink's cheapest serializer. The key becomes a string, because Flink cannot key by an
 * array. One tuple is used again and again: Flink serializes it before the next one is asked for.
 */
final class EventSchema implements KafkaRecordDeserializationSchema<Tuple2<String, byte[]>> {
    private static final long serialVersionUID = 1;

    static final TypeInformation<Tuple2<String, byte[]>> TYPE =
            Types.TUPLE(Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);

    private transient Tuple2<String, byte[]> event;

    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Tuple2<String, byte[]>> out) {
        if (event == null) {
            event = new Tuple2<>();
        }
        event.f0 = new String(record.key(), StandardCharsets.UTF_8);
        event.f1 = record.value();
        out.collect(event);
    }

    @Override
    public TypeInformation<Tuple2<String, byte[]>> getProducedType() {
        return TYPE;
    }
}
