package foldhost.bench.flink;

import static foldhost.bench.Protocol.required;

import foldhost.bench.Protocol;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.apache.flink.api.common.JobExecutionResult;
import org.apache.flink.api.common.RuntimeExecutionMode;
import org.apache.flink.api.common.accumulators.LongCounter;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichMapFunction;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.state.StateBackend;
import org.apache.flink.runtime.state.hashmap.HashMapStateBackend;
import org.apache.flink.state.api.OperatorIdentifier;
import org.apache.flink.state.api.SavepointReader;
import org.apache.flink.state.api.functions.KeyedStateReaderFunction;
import org.apache.flink.state.rocksdb.EmbeddedRocksDBStateBackend;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;

/**
 * Reads the keyed state out of a checkpoint or savepoint and answers `check` from it. Called by
 * {@link Main} for `--verify`, a run of its own after the measured one: nobody outside of a Flink job
 * can read its state while it runs.
 */
final class Verify {
    private Verify() {}

    static void run(Map<String, String> arguments) throws Exception {
        Configuration configuration = new Settings(arguments).configuration();
        StreamExecutionEnvironment flink = StreamExecutionEnvironment.createLocalEnvironment(configuration);
        flink.setRuntimeMode(RuntimeExecutionMode.BATCH);
        StateBackend backend = required(arguments, "backend").equals("heap")
                ? new HashMapStateBackend()
                : new EmbeddedRocksDBStateBackend();
        String path = Checkpoints.find(required(arguments, "verify"), required(arguments, "state-dir"));
        SavepointReader.read(flink, path, backend)
                .readKeyedState(
                        OperatorIdentifier.forUid(CountAndLast.UID),
                        new Reader(),
                        Types.STRING,
                        Types.TUPLE(Types.LONG, Types.LONG))
                .map(new Sum())
                .returns(Types.LONG)
                .sinkTo(new DiscardingSink<>());
        JobExecutionResult result = flink.execute("verify");
        Protocol.check(
                result.<Long>getAccumulatorResult("keys"),
                result.<Long>getAccumulatorResult("events"),
                result.<Long>getAccumulatorResult("digest"));
    }

    /** Of each key its count and its digest. */
    private static final class Reader extends KeyedStateReaderFunction<String, Tuple2<Long, Long>> {
        private static final long serialVersionUID = 1;
        private transient ValueState<Tuple2<Long, byte[]>> state;

        @Override
        public void open(OpenContext context) {
            state = getRuntimeContext().getState(CountAndLast.STATE);
        }

        @Override
        public void readKey(String key, Context context, Collector<Tuple2<Long, Long>> out) throws Exception {
            Tuple2<Long, byte[]> folded = state.value();
            byte[] bytes = key.getBytes(StandardCharsets.UTF_8);
            out.collect(Tuple2.of(
                    folded.f0, Protocol.digest(bytes, folded.f0, folded.f1, 0, folded.f1.length)));
        }
    }

    /** Sums up in accumulators, which come back with the job's result. */
    private static final class Sum extends RichMapFunction<Tuple2<Long, Long>, Long> {
        private static final long serialVersionUID = 1;
        private final LongCounter keys = new LongCounter();
        private final LongCounter events = new LongCounter();
        private final LongCounter digest = new LongCounter(); // a wrapping sum

        @Override
        public void open(OpenContext context) {
            getRuntimeContext().addAccumulator("keys", keys);
            getRuntimeContext().addAccumulator("events", events);
            getRuntimeContext().addAccumulator("digest", digest);
        }

        @Override
        public Long map(Tuple2<Long, Long> key) {
            keys.add(1L);
            events.add(key.f0);
            digest.add(key.f1);
            return key.f0;
        }
    }
}
