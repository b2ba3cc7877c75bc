//! Every bound in one place, with the relations between them asserted at compile time.
//!
//! A name ends in its unit and in `MAX`, `MIN` or `DEFAULT`.

use std::time::Duration;

/// Longest plugin or cluster name, in bytes.
pub const NAME_LENGTH_MAX: usize = 64;
/// Longest topic name, in bytes (Kafka's own bound).
pub const TOPIC_NAME_LENGTH_MAX: usize = 249;
/// Longest key of a record, in bytes.
pub const KEY_BYTES_MAX: usize = 32 * 1024;
/// Largest record that is taken over HTTP by default, key, value and headers together.
pub const RECORD_BYTES_DEFAULT: usize = 1024 * 1024;
/// Largest record that any setting allows.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most partitions of one topic.
pub const PARTITIONS_MAX: u32 = 1_024;
/// Partitions of a topic that is created without saying how many.
pub const PARTITIONS_DEFAULT: u32 = 4;

/// Most events in one call into a plugin.
pub const BATCH_EVENTS_MAX: usize = 4_096;
/// Most bytes of keys, values and headers in one call into a plugin, unless a single record is larger.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of states that go into one call, unless a single state is larger.
pub const BATCH_STATE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes that wait in front of one partition's worker.
pub const READER_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What every partition's queue may hold, however many there are.
pub const READER_QUEUE_BYTES_MIN: usize = 256 * 1024;
/// Most bytes that wait in front of all workers of a host.
pub const READER_QUEUES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What may wait in front of all workers of a host with little memory for states.
pub const READER_QUEUES_BYTES_MIN: usize = 16 * 1024 * 1024;
/// Most bytes of records that readers of a host leave for those behind them.
pub const SHARED_READS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What readers may leave for those behind them on a host with little memory for states.
pub const SHARED_READS_BYTES_MIN: usize = 8 * 1024 * 1024;
/// So much that others have left makes a reader stop reading from the log.
pub const SHARED_READ_AHEAD_BYTES: usize = 1024 * 1024;
/// How long a reader may wait for another one that is about to read the same, before it has worked for anything.
pub const SHARED_READ_WAIT_MIN: Duration = Duration::from_millis(20);
/// How long it waits at most, however long it has worked.
pub const SHARED_READ_WAIT_MAX: Duration = Duration::from_millis(100);

/// Bytes of the headers that the host adds to a record: names, the plugin's name, a position, and what
/// travels from cause to output.
pub const STAMP_BYTES_MAX: usize = 2 * 1024;
/// Longest value of a header that travels from cause to output; a longer one stays behind.
pub const TRAVELLING_HEADER_BYTES_MAX: usize = 512;
/// Bytes of records that a partition has made and not yet published, beyond which it folds no more.
pub const PUBLISH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Records that a partition has made and not yet published, beyond which it folds no more.
pub const PUBLISH_RECORDS_MAX: usize = 20_000;
/// Shortest time between two state commits of what publishes, unless its commit interval is longer:
/// states are folded again from the last, and nothing is published again.
pub const PUBLISHER_STATE_INTERVAL: Duration = Duration::from_secs(2);
/// Seconds without anything to write after which a partition's writer is closed, unless the configuration says
/// otherwise: it has threads and connections of its own. The next record has the partition opened again.
pub const WRITER_IDLE_SECONDS: u32 = 5 * 60;
/// Most that the configuration may say.
pub const WRITER_IDLE_SECONDS_MAX: usize = 7 * 24 * 3600;
/// Shortest time between two transactions that copy records of one partition into a merge topic.
pub const MERGE_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Newest records of a partition of an owned topic that one look for foreign ones reads.
pub const FOREIGN_LOOK_RECORDS_MAX: u64 = 1_000;
/// How often it is asked whether a record that was just committed is visible.
pub const LOOKUP_PAUSE: Duration = Duration::from_millis(5);
/// First look for the last record of its kind: this many records before the end of the partition. Records that lie no
/// further apart are read in one go.
pub const LOOKUP_RECORDS_MIN: u64 = 64;

/// Largest component.
pub const COMPONENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest manifest inside a component.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;
/// Linear memory of one instance, unless the manifest says otherwise.
pub const PLUGIN_MEMORY_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// Most linear memory that a manifest may ask for.
pub const PLUGIN_MEMORY_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Fuel of one call, unless the manifest says otherwise: about 0.1 s.
pub const PLUGIN_FUEL_DEFAULT: u64 = 200_000_000;
/// Most fuel that a manifest may ask for one call.
pub const PLUGIN_FUEL_MAX: u64 = 100_000_000_000;
/// Largest state of one key, unless the manifest says otherwise.
pub const STATE_BYTES_DEFAULT: usize = 1024 * 1024;
/// Largest state of one key that a manifest may ask for.
pub const STATE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest answer of a query, unless the manifest says otherwise.
pub const ANSWER_BYTES_DEFAULT: usize = 4 * 1024 * 1024;
/// Largest answer of a query that a manifest may ask for.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Wall-clock bound on one call, a watchdog only: fuel decides outcomes.
pub const PLUGIN_CALL_MAX: Duration = Duration::from_secs(30);
/// Log lines of one plugin in a second, beyond which they are counted and dropped.
pub const PLUGIN_LOG_LINES_PER_SECOND_MAX: u32 = 20;
/// Longest log line of a plugin, in bytes.
pub const PLUGIN_LOG_LINE_BYTES_MAX: usize = 4 * 1024;

/// Most inputs of one plugin; an event carries the index of its input in a byte.
pub const PLUGIN_INPUTS_MAX: usize = 16;
/// Most generations of one plugin that are kept beside the serving one: the previous.
pub const GENERATIONS_KEPT_MAX: u8 = 1;
/// Least linear memory that a manifest may ask for: a Rust guest starts with a little more.
pub const PLUGIN_MEMORY_BYTES_MIN: usize = 1024 * 1024;
/// Least fuel that a manifest may ask for one call.
pub const PLUGIN_FUEL_MIN: u64 = 1_000_000;
/// Stack of a call inside the sandbox.
pub const PLUGIN_STACK_BYTES_MAX: usize = 512 * 1024;
/// Elements of one table of an instance (a Rust guest has one per function whose address is taken).
pub const PLUGIN_TABLE_ELEMENTS_MAX: usize = 100_000;
/// Core instances, memories and tables inside one instance of a component.
pub const PLUGIN_CORE_INSTANCES_MAX: usize = 32;
/// Fuel that a log line costs, besides one unit for each of its bytes.
pub const PLUGIN_LOG_LINE_FUEL: u64 = 1_000;
/// Pace of the watchdog that stops stuck calls.
pub const PLUGIN_WATCHDOG_TICK: Duration = Duration::from_secs(1);
/// Longest code of a rejection or of a query's error, in bytes; it becomes a metric's label.
pub const PLUGIN_CODE_BYTES_MAX: usize = 64;
/// Longest sentence that a plugin says about a rejection or an error, in bytes; more is cut.
pub const PLUGIN_REASON_BYTES_MAX: usize = 1024;
/// Longest media type of an answer, in bytes.
pub const PLUGIN_MEDIA_TYPE_BYTES_MAX: usize = 256;
/// Most queries, and most commands, of one plugin.
pub const PLUGIN_OPERATIONS_MAX: usize = 64;
/// Largest schema of one operation, in bytes.
pub const PLUGIN_SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Most bytes that the host takes back from one call, however much memory the plugin may have: a
/// list may name the same bytes again and again.
pub const PLUGIN_RETURNED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Most records that one call may emit.
pub const EMITTED_RECORDS_MAX: usize = 65_536;
/// Most headers on all records that one call emits.
pub const EMITTED_HEADERS_MAX: usize = 262_144;
/// Most bytes of keys, values and headers that one call may emit.
pub const EMITTED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest name of a header that a plugin emits, in bytes.
pub const EMITTED_HEADER_NAME_BYTES_MAX: usize = 1024;
/// Most events that one command may cause.
pub const COMMAND_EVENTS_MAX: usize = 1_000;
/// Most headers on all events of one command.
pub const COMMAND_HEADERS_MAX: usize = 16_384;
/// Most bytes of keys, values and headers of the events of one command.
pub const COMMAND_EVENTS_BYTES_MAX: usize = 1024 * 1024;
/// Longest details of a refusal, in bytes of JSON: they are kept with the outcome for every repeat.
pub const PLUGIN_DETAILS_BYTES_MAX: usize = 16 * 1024;
/// Most keys that one call may name for the records that it routes.
pub const ROUTED_KEYS_MAX: usize = 65_536;
/// Most bytes of the copies that one call of `route` asks for: each key that it names is a record of
/// the merge topic, with value and headers.
pub const ROUTED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Deepest message that the frame of a schema registry may name: `protoc` nests no deeper than 32.
pub const FRAME_INDEXES_MAX: usize = 32;
/// Machine code of plugins that is kept on disk; the longest unused goes first.
pub const MACHINE_CODE_CACHE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// What a compiler said last and `plugin build` keeps for its error, in bytes.
pub const BUILD_OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// Commit interval of a view, unless the manifest says otherwise.
pub const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
/// Commit interval of a plugin that writes to the log, unless the manifest says otherwise: readers
/// of its topic see a record once the transaction that holds it is committed.
pub const COMMIT_INTERVAL_WRITER_DEFAULT: Duration = Duration::from_millis(200);
/// Shortest commit interval that a manifest may ask for.
pub const COMMIT_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longest commit interval that a manifest may ask for.
pub const COMMIT_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Bytes of changed states in one partition that force a commit, however much memory there is.
pub const DIRTY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes of states that all partitions of a host keep in memory unless it is told how many.
pub const STATE_CACHE_BYTES_DEFAULT_MAX: usize = 512 * 1024 * 1024;
/// And at most one part in this many of the memory that the host may use.
pub const STATE_CACHE_MEMORY_SHARE: u64 = 8;
/// Fewest bytes for states that a configuration may give.
pub const STATE_CACHE_BYTES_MIN: usize = 1024 * 1024;

/// Fewest bytes of blocks, indexes and filters that all stores of a host share in memory.
pub const STATE_BLOCK_CACHE_BYTES_MIN: usize = 32 * 1024 * 1024;
/// Most bytes of blocks, indexes and filters that all stores of a host share in memory.
pub const STATE_BLOCK_CACHE_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024;
/// One part in this many of them is for blocks: a state that is asked for again is in memory itself. The rest is for what
/// finds these, one to two bytes for a hundred of states on disk.
pub const STATE_BLOCKS_CACHE_SHARE: u64 = 4;
/// Fewest bytes for commits that are being written, all stores of a host together.
pub const STATE_COMMITS_BYTES_MIN: usize = 16 * 1024 * 1024;
/// Files that reads may have looked into for each byte of unmerged commits before merging these pays:
/// a look costs about a microsecond, and so does merging some twenty bytes.
pub const STATE_MERGE_LOOKS_PER_BYTE: f64 = 0.05;
/// Pages of states that a scan reads at once.
pub const STATE_SCAN_PAGES_MAX: usize = 32;
/// Bytes of states that a scan returns at once, unless a single state is larger.
pub const STATE_SCAN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Pages of states that one commit writes anew because they have become too large, or empty.
pub const STATE_PAGES_REWRITTEN_MAX: usize = 256;
/// States of one batch that are read from a store at the same time.
pub const STATE_READS_CONCURRENT_MAX: usize = 32;
/// Threads that wait for the disk on behalf of the stores.
pub const STATE_DISK_THREADS_MAX: usize = 32;
/// How long one call to a store may take before it counts as unanswered.
pub const STATE_CALL_MAX: Duration = Duration::from_secs(20);
/// How long closing a store may take; nothing is lost by cutting it short.
pub const STATE_CLOSE_MAX: Duration = Duration::from_secs(5);
/// Commits of one store that wait to be merged before a merge is worth while.
pub const STATE_MERGE_COMMITS: usize = 16;
/// Commits of one store that may wait to be merged; the next commit merges first.
pub const STATE_UNMERGED_COMMITS_MAX: usize = 32;
/// How long one merge may take before it is put off; it goes on from there the next time.
pub const STATE_MERGE_MAX: Duration = Duration::from_secs(60);
/// Merges that run at the same time in a host; the others wait.
pub const STATE_MERGES_CONCURRENT_MAX: usize = 2;
/// Largest file that a merge writes: it is in memory until it is written.
pub const STATE_RUN_FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that a merge reads ahead from each of the files it merges.
pub const STATE_MERGE_READ_BYTES: usize = 256 * 1024;
/// Commits of one store between two collections of what is no longer referenced.
pub const STATE_COLLECT_COMMITS: u64 = 64;
/// How long replaced states stay readable for reads that began before they were replaced.
pub const STATE_GARBAGE_AGE: Duration = Duration::from_secs(60);
/// How long replaced manifests stay. A host that stalls for longer inside a commit may take a commit
/// for done that nobody will ever read.
pub const STATE_MANIFEST_AGE: Duration = Duration::from_secs(600);
/// How long a snapshot of a store keeps its files from being collected if nobody lets go of it;
/// longer than any migration takes.
pub const STATE_SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(6 * 3600);
/// Keys whose states are migrated between two looks at whether to stop.
pub const MIGRATION_KEYS_MAX: usize = 4_096;
/// Deployments of one plugin that are remembered, for looking at and for going back.
pub const DEPLOYMENTS_REMEMBERED_MAX: usize = 100;
/// Records of one plugin that may be skipped.
pub const SKIPS_MAX: usize = 1_000;
/// Records of one partition that may be parked; then it stops instead of parking more.
pub const PARKED_RECORDS_MAX: usize = 100_000;
/// Bytes of records of one partition that may be parked: they are in memory as well as in the store.
pub const PARKED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Replays of one plugin that are remembered: those that no owner has come to yet, and more.
pub const REPLAYS_REMEMBERED_MAX: usize = 100;
/// Discards of one plugin: each stays for good, since later generations leave the records out too.
pub const DISCARDS_MAX: usize = 1_000;
/// How long the deletion of a key is remembered in the feed of changes, unless the manifest says otherwise.
pub const FEED_DELETIONS_KEPT_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Shortest time that a manifest may ask for.
pub const FEED_DELETIONS_KEPT_MIN: Duration = Duration::from_secs(1);
/// Longest time that a manifest may ask for.
pub const FEED_DELETIONS_KEPT_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Deletions that one commit stops to remember.
pub const FEED_EXPIRED_AT_ONCE_MAX: usize = 1_024;
/// Keys of one partition whose last change is known without a look into the store.
pub const FEED_KNOWN_KEYS_MAX: usize = 4_096;
/// Changed keys of one partition with a feed that force a commit: each is several entries.
pub const FEED_COMMIT_KEYS_MAX: usize = 32_768;
/// Streams of changes that are served at the same time; each keeps a connection.
pub const FEED_STREAMS_MAX: usize = 1_024;
/// How often a stream of changes says that it is still there, if there is nothing to tell.
pub const FEED_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// How often a stream of changes looks who has which partition by now.
pub const FEED_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Commands of one partition that wait for their turn.
pub const COMMANDS_QUEUED_MAX: usize = 1_024;
/// Commands that are decided in one go, and written in one transaction.
pub const COMMANDS_AT_ONCE_MAX: usize = 512;
/// Bytes of commands that are decided in one go, but for the last of them.
pub const COMMANDS_AT_ONCE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a command's body.
pub const COMMAND_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a batch of commands.
pub const COMMAND_BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Commands of one batch.
pub const COMMAND_BATCH_COMMANDS_MAX: usize = 10_000;
/// Commands of one batch that wait for their turn or whose answers wait for those before them.
pub const COMMAND_BATCH_WAITING_MAX: usize = 256;
/// Batches of commands that are decided at the same time; more wait.
pub const COMMAND_BATCHES_CONCURRENT_MAX: usize = 16;
/// Bytes of the id of a command (`Idempotency-Key`).
pub const COMMAND_ID_BYTES_MAX: usize = 255;
/// How long the outcome of a command is kept, unless the manifest says otherwise: a repeat in that time gets it again.
pub const OUTCOMES_KEPT_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// Shortest time that a manifest may ask for: whoever repeats a command has waited for its answer before.
pub const OUTCOMES_KEPT_MIN: Duration = Duration::from_secs(60);
/// Longest time that a manifest may ask for.
pub const OUTCOMES_KEPT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Memory for the outcomes of one partition; full = it takes no commands until one may be forgotten.
pub const OUTCOMES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Room that there must be for the outcome of a command before it is decided.
pub const OUTCOME_RESERVED_BYTES: usize = 8 * 1024;
/// Bytes of a reply to a command: it is one record of the journal.
pub const OUTCOME_REPLY_BYTES_MAX: usize = 256 * 1024;
/// Keys of one partition whose states are told in events in a second, unless a request says otherwise.
pub const BOOTSTRAP_KEYS_PER_SECOND_DEFAULT: u32 = 1_000;
/// Most that a request may ask for.
pub const BOOTSTRAP_KEYS_PER_SECOND_MAX: u32 = 10_000;
/// How often a partition tells some of its states, at most.
pub const BOOTSTRAP_INTERVAL: Duration = Duration::from_millis(100);
/// How long it makes events of states before it writes them; commands wait meanwhile.
pub const BOOTSTRAP_SLICE_MAX: Duration = Duration::from_millis(20);
/// Of the time, telling states takes one part in this many at most: the rest belongs to commands.
pub const BOOTSTRAP_TIME_SHARE: u32 = 4;
/// Bytes of events that tell states and are written in one transaction, but for the last key's.
pub const BOOTSTRAP_BYTES_AT_ONCE_MAX: usize = 1024 * 1024;
/// States that are fetched at once to be told.
pub const BOOTSTRAP_SCAN_KEYS: usize = 128;
/// Outcomes whose time is over that are deleted with one transaction.
pub const OUTCOMES_EXPIRED_AT_ONCE_MAX: usize = 1_024;
/// How long a command waits for its answer, at most.
pub const COMMAND_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest reason that is given for a decision, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;
/// How often a running plugin compares what runs with what was decided, and tells what became ready.
pub const ALIGN_INTERVAL: Duration = Duration::from_millis(20);
/// How long until a report that the fold does not know yet is written again.
pub const REPORT_REPEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Reports of one plugin that are written at the same time.
pub const REPORTS_CONCURRENT_MAX: usize = 64;
/// Codes of rejections that are counted apart for one partition; the others count as `other`.
pub const METRIC_REJECTION_CODES_MAX: usize = 32;

/// Bytes that are read and thrown away so that a client sees the 413 for its too large body.
pub const BODY_DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest body of an append by default.
pub const APPEND_BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most records in one append.
pub const APPEND_RECORDS_MAX: usize = 100_000;
/// Most keys or records on one page.
pub const PAGE_ITEMS_MAX: usize = 1_000;
/// Keys or records on a page unless the request says otherwise.
pub const PAGE_ITEMS_DEFAULT: usize = 100;
/// Longest wait that `Prefer: wait=` may ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Wait of a query with `Foldhost-Min-Position`, unless `Prefer: wait=` says otherwise.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// Queries of one plugin that are answered at the same time, each on an instance of its own.
pub const QUERIES_CONCURRENT_MAX: usize = 8;
/// Threads that answer what takes longer than an attempt, for all plugins.
pub const ANSWER_THREADS_MAX: usize = 64;
/// Fuel of an attempt to answer on the thread that took the request, some tenths of a millisecond; what needs
/// more is answered on a thread that may be kept busy.
pub const QUERY_ATTEMPT_FUEL: u64 = 500_000;
/// Most questions to one plugin that are answered elsewhere before another attempt is made.
pub const QUERY_ATTEMPT_PAUSE_MAX: u32 = 1_024;
/// How long the verdict on a deployment may take to come back through the log.
pub const VERDICT_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often a running plugin looks whether its input topic is still what it was.
pub const TOPIC_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Requests that are served at the same time; more wait in the listener's backlog.
pub const REQUESTS_CONCURRENT_MAX: usize = 4_096;

/// How long a client may take to send the head of a request; a connection that asks nothing for this
/// long is closed.
pub const REQUEST_HEAD_MAX: Duration = Duration::from_secs(60);
/// How long a client may take to send a body.
pub const REQUEST_BODY_MAX: Duration = Duration::from_secs(120);
/// Bytes of bodies that are held in memory at the same time; more wait.
pub const BODIES_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Largest body of a question to a view.
pub const QUESTION_BYTES_MAX: usize = 1024 * 1024;
/// Largest JSON body of requests about topics.
pub const SETTINGS_BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of answers or records on one page, unless a single one is larger.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Keys whose states are fetched at once for a page or a stream.
pub const PAGE_SCAN_KEYS: usize = 1_024;
/// Questions of one page or stream that are answered at the same time.
pub const PAGE_ANSWERS_CONCURRENT: usize = 4;
/// Reads of topics over HTTP that run at the same time; more wait.
pub const TOPIC_READS_CONCURRENT_MAX: usize = 32;
/// Events of a history that are read from the log at once.
pub const HISTORY_READ_EVENTS: usize = 32;
/// How long reading one page of a history may take.
pub const HISTORY_PAGE_MAX: Duration = Duration::from_secs(10);
/// Positions in one `Foldhost-Min-Position`.
pub const POSITIONS_MAX: usize = 4_096;
/// How long running requests may take to end once the host stops.
pub const HTTP_DRAIN_MAX: Duration = Duration::from_secs(5);

/// Consumer group session: a killed host's partitions move after it.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// Consumer group heartbeat.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// How long a revoked partition may take to commit before the assignment goes on without it.
pub const REVOKE_COMMIT_MAX: Duration = Duration::from_secs(10);
/// First pause before something that failed is tried again.
pub const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Pause before a host joins a group again that has ended its membership for good.
pub const REJOIN_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause before something that failed is tried again.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a clean stop may take before the process ends anyway; nothing is lost by it.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

/// Most threads that fold.
pub const WORKER_THREADS_MAX: usize = 256;

/// Events of the demo's data that are written in one transaction, with the loader's progress.
pub const DEMO_TRANSACTION_EVENTS: usize = 5_000;
/// Most rows of a data set that the demo takes; it sorts them in memory.
pub const DEMO_ROWS_MAX: usize = 5_000_000;
/// Largest answer that the command line takes from a host, in bytes.
pub const CLIENT_ANSWER_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Records that the command line sends in one append.
pub const CLIENT_APPEND_RECORDS_MAX: usize = 10_000;
/// Commands that the command line sends in one batch.
pub const CLIENT_BATCH_COMMANDS_MAX: usize = 1_000;
/// Bytes of commands that the command line sends in one batch, unless a single one is larger.
pub const CLIENT_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of records that the command line sends in one append, unless a single one is larger.
pub const CLIENT_APPEND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of records in one chunk of the embedded log, unless a single record is larger: large enough
/// that an entry's own cost vanishes, small enough that a reader may hold one.
pub const EMBEDDED_CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Bytes of appends that wait for the embedded log's writer; a larger one waits alone.
pub const EMBEDDED_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Fewest bytes that a waiting append counts as: bounds how many wait.
pub const EMBEDDED_QUEUE_ITEM_BYTES_MIN: usize = 1024;
/// Bytes of appends that share one fsync, unless a single one is larger.
pub const EMBEDDED_GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Block cache of the embedded log.
pub const EMBEDDED_CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Memory that the embedded log fills before it writes a table; it may hold five of these.
pub const EMBEDDED_MEMTABLE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Sealed journals of the embedded log: what opening it may have to read again.
pub const EMBEDDED_JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Partitions of all topics of an embedded log together.
pub const EMBEDDED_PARTITIONS_MAX: usize = 100_000;
/// New bytes in a partition of a compacted topic before it is compacted again.
pub const EMBEDDED_COMPACT_BYTES_MIN: usize = 1024 * 1024;
/// Distinct keys that one pass of compaction remembers; records behind them wait for another pass.
pub const EMBEDDED_COMPACT_KEYS_MAX: usize = 1_000_000;
/// Bytes that one step of background work reads between two groups of appends.
pub const EMBEDDED_CHORE_BYTES_MAX: usize = 1024 * 1024;
/// Chunks that one step of background work removes between two groups of appends.
pub const EMBEDDED_CHORE_CHUNKS_MAX: usize = 1_024;
/// How long an append waits before it asks whether the store still works.
pub const EMBEDDED_PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Longest transactional id, in bytes.
pub const TRANSACTIONAL_ID_BYTES_MAX: usize = 512;

/// Threads that wait for the log's client at the same time: a transaction takes one until its records are delivered.
pub const LOG_THREADS_MAX: usize = 128;
/// Longest wait for one answer of a Kafka broker about topics and offsets.
pub const KAFKA_REQUEST_MAX: Duration = Duration::from_secs(10);
/// Longest time that a record may take to be written to Kafka, retries included.
pub const KAFKA_DELIVERY_MAX: Duration = Duration::from_secs(30);
/// Longest time for a transaction to be committed.
pub const KAFKA_TRANSACTION_MAX: Duration = Duration::from_secs(30);
/// How long a batch of a transaction that is being handed over waits for more; its end does not wait.
pub const KAFKA_TRANSACTION_LINGER: Duration = Duration::from_millis(20);
/// How long a created or deleted topic may take to be seen as such by the brokers.
pub const KAFKA_TOPIC_SETTLE_MAX: Duration = Duration::from_secs(30);
/// How long a broker may hold back an answer to a fetch because there is nothing to read: of partitions that
/// are behind, and so will have something soon. A partition whose queue was full is held up so long at most, less than
/// it takes to empty that queue; shorter waits are questions that brokers answer with nothing, where folding is slow.
pub const KAFKA_CATCH_UP_FETCH_WAIT_MAX: Duration = Duration::from_millis(40);
/// The same, of partitions at their ends. What comes is sent at once; only who joins them waits for it, and is read where
/// it was before meanwhile. Each fetch costs a partition that has nothing some ten microseconds.
pub const KAFKA_TAIL_FETCH_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a partition counts as behind once much of it was read without an end.
pub const KAFKA_CATCH_UP_LASTS: Duration = Duration::from_secs(1);
/// How long leaving a group may take before the membership is given up without it.
pub const KAFKA_LEAVE_MAX: Duration = Duration::from_secs(5);
/// Age from which on the number of a topic's partitions is asked for again.
pub const KAFKA_TOPIC_AGE_MAX: Duration = Duration::from_secs(1);
/// Age from which on a topic's largest record is asked for again.
pub const KAFKA_TOPIC_SETTING_AGE_MAX: Duration = Duration::from_secs(60);
/// How old the end of a topic may be where partitions watch it.
pub const KAFKA_ENDS_AGE_MAX: Duration = Duration::from_secs(1);
/// Records up to this size are written without asking whether their topic takes them.
pub const KAFKA_RECORD_UNQUESTIONED_BYTES_MAX: usize = 256 * 1024;
/// Most topics whose number of partitions is remembered.
pub const KAFKA_TOPICS_CACHED_MAX: usize = 1_024;
/// Bytes that wait to be written by one Kafka producer.
pub const KAFKA_WRITER_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of keys and values that are fetched of a partition at once, unless a single record is larger.
pub const KAFKA_FETCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Records that wait in front of one partition's worker, as its queue's bytes are, before no more are fetched
/// from Kafka: each costs some hundred bytes besides its own.
#[must_use]
pub const fn kafka_reader_queue_records(queue_bytes_max: usize) -> usize {
    if queue_bytes_max < 100 {
        1
    } else {
        queue_bytes_max / 100
    }
}
/// What Kafka's protocol adds to the bytes of a record and of a batch that holds only it.
pub const KAFKA_RECORD_OVERHEAD_BYTES_MAX: usize = 64 * 1024;
/// Events of one Kafka client that are served before other tasks get their turn.
pub const KAFKA_EVENTS_SERVED_MAX: usize = 256;
/// Records that one step takes from, or gives to, a Kafka client before other tasks get their turn.
pub const KAFKA_RECORDS_TAKEN_MAX: usize = 1_024;
/// Changes of an assignment that wait to be taken from a membership.
pub const ASSIGNMENT_CHANGES_MAX: usize = 64;

const _: () = {
    assert!(BATCH_BYTES_MAX <= READER_QUEUE_BYTES_MAX);
    assert!(READER_QUEUE_BYTES_MIN <= READER_QUEUE_BYTES_MAX);
    assert!(READER_QUEUE_BYTES_MAX <= READER_QUEUES_BYTES_MIN);
    assert!(READER_QUEUES_BYTES_MIN <= READER_QUEUES_BYTES_MAX);
    assert!(SHARED_READS_BYTES_MIN <= SHARED_READS_BYTES_MAX);
    assert!(SHARED_READ_WAIT_MIN.as_millis() <= SHARED_READ_WAIT_MAX.as_millis());
    assert!(STATE_CACHE_BYTES_MIN <= STATE_CACHE_BYTES_DEFAULT_MAX);
    assert!(STATE_BLOCK_CACHE_BYTES_MIN <= STATE_BLOCK_CACHE_BYTES_MAX);
    assert!(RECORD_BYTES_DEFAULT <= RECORD_BYTES_MAX);
    assert!(RECORD_BYTES_DEFAULT <= APPEND_BODY_BYTES_MAX);
    assert!(APPEND_BODY_BYTES_MAX <= BODY_DRAIN_BYTES_MAX);
    assert!(KEY_BYTES_MAX < RECORD_BYTES_DEFAULT);
    assert!(RECORD_BYTES_MAX < PARKED_BYTES_MAX);
    assert!(OUTCOME_REPLY_BYTES_MAX + OUTCOME_RESERVED_BYTES < RECORD_BYTES_DEFAULT);
    assert!(COMMAND_BODY_BYTES_MAX <= COMMANDS_AT_ONCE_BYTES_MAX);
    assert!(COMMAND_WAIT_MAX.as_millis() < OUTCOMES_KEPT_MIN.as_millis());
    // In base64, and with what lies around it.
    assert!(2 * COMMAND_BODY_BYTES_MAX <= COMMAND_BATCH_BYTES_MAX);
    assert!(COMMAND_BATCH_BYTES_MAX <= BODIES_BYTES_MAX);
    assert!(COMMAND_BATCH_WAITING_MAX < COMMANDS_QUEUED_MAX);
    assert!(CLIENT_BATCH_COMMANDS_MAX <= COMMAND_BATCH_COMMANDS_MAX);
    assert!(CLIENT_BATCH_BYTES_MAX + 2 * COMMAND_BODY_BYTES_MAX <= COMMAND_BATCH_BYTES_MAX);
    // What is parked between two commits is written with one.
    assert!(PARKED_BYTES_MAX <= DIRTY_BYTES_MAX);
    assert!(EMBEDDED_CHUNK_BYTES_MAX <= EMBEDDED_GROUP_BYTES_MAX);
    assert!(EMBEDDED_GROUP_BYTES_MAX <= EMBEDDED_QUEUE_BYTES_MAX);
    assert!(RECORD_BYTES_MAX <= EMBEDDED_QUEUE_BYTES_MAX);
    assert!(EMBEDDED_QUEUE_BYTES_MAX <= u32::MAX as usize);
    assert!(EMBEDDED_QUEUE_ITEM_BYTES_MIN < EMBEDDED_QUEUE_BYTES_MAX);
    assert!(PARTITIONS_MAX as usize <= EMBEDDED_PARTITIONS_MAX);
    assert!(STATE_BYTES_DEFAULT <= STATE_BYTES_MAX);
    assert!(STATE_BYTES_DEFAULT <= BATCH_STATE_BYTES_MAX);
    assert!(STATE_BYTES_MAX <= DIRTY_BYTES_MAX);
    assert!(ANSWER_BYTES_DEFAULT <= ANSWER_BYTES_MAX);
    assert!(PLUGIN_MEMORY_BYTES_DEFAULT <= PLUGIN_MEMORY_BYTES_MAX);
    // A call copies a batch and its states in and out of the sandbox.
    assert!(2 * (BATCH_BYTES_MAX + BATCH_STATE_BYTES_MAX) < PLUGIN_MEMORY_BYTES_DEFAULT);
    // Whatever an event alone may return comes back: a state and what it emits, or an answer.
    assert!(STATE_BYTES_MAX + EMITTED_BYTES_MAX < PLUGIN_RETURNED_BYTES_MAX);
    assert!(ANSWER_BYTES_MAX < PLUGIN_RETURNED_BYTES_MAX);
    // So no emitted record is larger than a record may be at all, and one call's records are no more
    // than a log's queue takes.
    assert!(EMITTED_BYTES_MAX <= RECORD_BYTES_MAX);
    assert!(EMITTED_BYTES_MAX <= EMBEDDED_QUEUE_BYTES_MAX);
    assert!(EMITTED_BYTES_MAX <= KAFKA_WRITER_QUEUE_BYTES_MAX);
    // What a command causes is folded in one call before it is written, and comes back beside any reply.
    assert!(COMMAND_EVENTS_MAX <= BATCH_EVENTS_MAX);
    assert!(COMMAND_EVENTS_BYTES_MAX <= BATCH_BYTES_MAX);
    assert!(COMMAND_EVENTS_BYTES_MAX + ANSWER_BYTES_MAX < PLUGIN_RETURNED_BYTES_MAX);
    assert!(COMMAND_EVENTS_MAX <= PUBLISH_RECORDS_MAX);
    assert!(COMMAND_EVENTS_BYTES_MAX <= PUBLISH_BYTES_MAX);
    assert!(COMMAND_HEADERS_MAX <= EMITTED_HEADERS_MAX);
    // A long key does not use up what its events may have.
    assert!(KEY_BYTES_MAX < COMMAND_EVENTS_BYTES_MAX);
    // The largest record there is can be routed.
    assert!(RECORD_BYTES_MAX + KEY_BYTES_MAX <= ROUTED_BYTES_MAX);
    assert!(BATCH_EVENTS_MAX <= EMITTED_RECORDS_MAX);
    assert!(BATCH_EVENTS_MAX <= ROUTED_KEYS_MAX);
    assert!(BATCH_BYTES_MAX <= ROUTED_BYTES_MAX);
    assert!(PLUGIN_FUEL_DEFAULT <= PLUGIN_FUEL_MAX);
    assert!(PLUGIN_FUEL_MIN <= PLUGIN_FUEL_DEFAULT);
    assert!(QUERY_ATTEMPT_FUEL < PLUGIN_FUEL_MIN);
    assert!(QUERIES_CONCURRENT_MAX <= ANSWER_THREADS_MAX);
    assert!(PLUGIN_MEMORY_BYTES_MIN <= PLUGIN_MEMORY_BYTES_DEFAULT);
    assert!(PLUGIN_INPUTS_MAX <= u8::MAX as usize);
    assert!(PLUGIN_WATCHDOG_TICK.as_millis() < PLUGIN_CALL_MAX.as_millis());
    assert!(COMMIT_INTERVAL_MIN.as_millis() < COMMIT_INTERVAL_WRITER_DEFAULT.as_millis());
    assert!(COMMIT_INTERVAL_WRITER_DEFAULT.as_millis() < COMMIT_INTERVAL_DEFAULT.as_millis());
    assert!(PAGE_ITEMS_DEFAULT <= PAGE_ITEMS_MAX);
    assert!(FEED_STREAMS_MAX < REQUESTS_CONCURRENT_MAX);
    assert!(FEED_DELETIONS_KEPT_DEFAULT.as_millis() <= FEED_DELETIONS_KEPT_MAX.as_millis());
    assert!(FEED_LOOK_INTERVAL.as_millis() < FEED_HEARTBEAT_INTERVAL.as_millis());
    assert!(CLIENT_APPEND_RECORDS_MAX <= APPEND_RECORDS_MAX);
    assert!(CLIENT_APPEND_BYTES_MAX + RECORD_BYTES_MAX <= APPEND_BODY_BYTES_MAX);
    assert!(STATE_MERGE_COMMITS < STATE_UNMERGED_COMMITS_MAX);
    // What one merge holds of the files it reads from.
    assert!(STATE_UNMERGED_COMMITS_MAX * STATE_MERGE_READ_BYTES <= DIRTY_BYTES_MAX);
    // A scan or a read is over long before what it reads from is collected.
    assert!(STATE_CALL_MAX.as_millis() < STATE_GARBAGE_AGE.as_millis());
    assert!(SESSION_TIMEOUT.as_millis() * 10 < STATE_MANIFEST_AGE.as_millis());
    assert!(APPEND_BODY_BYTES_MAX <= BODIES_BYTES_MAX);
    assert!(COMPONENT_BYTES_MAX <= BODIES_BYTES_MAX);
    assert!(HTTP_DRAIN_MAX.as_millis() < SHUTDOWN_MAX.as_millis());
    assert!(RECORD_BYTES_MAX + KAFKA_RECORD_OVERHEAD_BYTES_MAX <= KAFKA_WRITER_QUEUE_BYTES_MAX);
    // Three heartbeats may be lost before a session ends.
    assert!(HEARTBEAT_INTERVAL.as_millis() * 3 < SESSION_TIMEOUT.as_millis());
};
