package foldhost.bench.streams;

import java.util.Map;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;

/**
 * RocksDB's settings. Instantiated by Kafka Streams (`rocksdb.config.setter`), once per store.
 *
 * <p>Kept from Kafka Streams' defaults: no write-ahead log, universal compaction, Bloom filters, no
 * compression, 4 KiB blocks.
 */
public final class RocksDbSettings implements RocksDBConfigSetter {
    /** All partitions share one block cache that holds the whole state of a million keys. */
    static final long BLOCK_CACHE_BYTES = 256L << 20;

    /**
     * Half of the default: there is no write-ahead log, so what is in a write buffer when the process
     * is killed must be restored from the changelog. With 32 MiB the whole state was.
     */
    static final long WRITE_BUFFER_BYTES = 8L << 20;

    private static final class Shared {
        static final Cache BLOCKS = new LRUCache(BLOCK_CACHE_BYTES);
    }

    @Override
    public void setConfig(String storeName, Options options, Map<String, Object> configs) {
        BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
        table.setBlockCache(Shared.BLOCKS);
        options.setTableFormatConfig(table);
        options.setWriteBufferSize(WRITE_BUFFER_BYTES);
    }

    @Override
    public void close(String storeName, Options options) {
        // The block cache is shared and lives as long as the process.
    }
}
