package foldhost.bench.streams;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;

/**
 * How far an earlier run came, and how far the topic goes, as both are when this run starts. Read by
 * {@link Main} before Kafka Streams starts.
 *
 * <p>Offsets count events exactly: the input has no transactions and is not compacted. With
 * exactly-once the group's offsets commit in one transaction with the state's changelog, so what lies
 * before them is what the state holds.
 *
 * @param partitions of the topic
 * @param folded events that the state holds
 * @param end events in the topic
 */
record Progress(int partitions, long folded, long end) {
    static Progress read(String bootstrap, String topic, String group) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            int partitions =
                    admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size();
            Map<TopicPartition, Long> first = offsets(admin, topic, partitions, OffsetSpec.earliest());
            Map<TopicPartition, Long> ends = offsets(admin, topic, partitions, OffsetSpec.latest());
            Map<TopicPartition, OffsetAndMetadata> committed =
                    admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            long folded = 0;
            long end = 0;
            for (TopicPartition partition : first.keySet()) {
                OffsetAndMetadata next = committed.get(partition);
                folded += next == null ? 0 : next.offset() - first.get(partition);
                end += ends.get(partition) - first.get(partition);
            }
            return new Progress(partitions, folded, end);
        }
    }

    private static Map<TopicPartition, Long> offsets(Admin admin, String topic, int partitions, OffsetSpec spec)
            throws Exception {
        Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
        for (int partition = 0; partition < partitions; partition++) {
            asked.put(new TopicPartition(topic, partition), spec);
        }
        Map<TopicPartition, ListOffsetsResultInfo> found = admin.listOffsets(asked).all().get();
        return asked.keySet().stream().collect(Collectors.toMap(Function.identity(), at -> found.get(at).offset()));
    }
}
