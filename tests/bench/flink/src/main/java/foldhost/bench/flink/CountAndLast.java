package foldhost.bench.flink;

import foldhost.bench.Protocol;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.LongAdder;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/**
 * The benchmark's fold: per key the number of events and the last value. Put into the job by
 * {@link Main}; its state is read by {@link Verify}.
 *
 * <p>Invariant: {@link #FOLDED} is the number of events that the keyed state of the whole job holds,
 * restored ones included: each subtask keeps its own share in its operator state.
 */
final class CountAndLast extends KeyedProcessFunction<String, Tuple2<String, byte[]>, Void>
        implements CheckpointedFunction {
    private static final long serialVersionUID = 1;

    /** The operator's id in checkpoints. */
    static final String UID = "fold";

    /** Count and last value of a key; a tuple has Flink's cheapest serializer. */
    static final ValueStateDescriptor<Tuple2<Long, byte[]>> STATE = new ValueStateDescriptor<>(
            "count-and-last",
            Types.TUPLE(Types.LONG, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));

    /** All subtasks run in this process, so what they share can be static. */
    static final LongAdder FOLDED = new LongAdder();

    private static final AtomicBoolean ANY = new AtomicBoolean();

    private transient ValueState<Tuple2<Long, byte[]>> state;
    private transient ListState<Long> share;
    private transient long folded;
    private transient boolean any;

    @Override
    public void open(OpenContext context) {
        state = getRuntimeContext().getState(STATE);
    }

    @Override
    public void processElement(Tuple2<String, byte[]> event, Context context, Collector<Void> out) throws Exception {
        Tuple2<Long, byte[]> current = state.value();
        if (current == null) {
            current = Tuple2.of(0L, null);
        }
        current.f0++;
        current.f1 = event.f1;
        state.update(current);
        folded++;
        FOLDED.increment();
        if (!any) {
            any = true;
            if (ANY.compareAndSet(false, true)) {
                Protocol.event("first");
            }
        }
    }

    @Override
    public void initializeState(FunctionInitializationContext context) throws Exception {
        share = context.getOperatorStateStore().getListState(new ListStateDescriptor<>("folded", Types.LONG));
        for (long restored : share.get()) {
            folded += restored;
        }
        FOLDED.add(folded);
    }

    @Override
    public void snapshotState(FunctionSnapshotContext context) throws Exception {
        share.update(List.of(folded));
    }
}
