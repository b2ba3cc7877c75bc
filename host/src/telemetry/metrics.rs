//! The figures of a host, in the one table of their names. Written by `partition` and `http`, read
//! by `GET /metrics`.
//!
//! Invariants: a name is written once, in [`names`]; the number of series is bounded: labels are
//! plugins, generations and partitions that are open here, routes as they are declared, and at most
//! [`limits::METRIC_REJECTION_CODES_MAX`] codes of a plugin.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use crate::limits;
use crate::types::{GenerationId, Partition, PluginName};

/// Content type of what [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every name with its help. The registry puts `foldhost_` in front, and `_total` behind counters.
mod names {
    pub(super) struct Name(pub(super) &'static str, pub(super) &'static str);

    pub(super) const LAG: Name = Name(
        "partition_lag_records",
        "Records between the last folded one and the end of the log",
    );
    pub(super) const STATUS: Name = Name(
        "partition_status",
        "0 blocked, 1 opening, 2 replaying, 3 live, 4 paused",
    );
    pub(super) const DEGRADED: Name = Name(
        "partition_degraded",
        "1 = the assignment is lost for now: it answers, and folds nothing",
    );
    pub(super) const GAPS: Name = Name(
        "partition_gap_records",
        "Offsets that were removed from the log before they were folded, where on-gap allows it",
    );
    pub(super) const EVENT_DELAY: Name = Name(
        "event_delay_seconds",
        "Time between the timestamp of the last folded event and its folding",
    );
    pub(super) const FOLD: Name = Name("fold_seconds", "Time that a batch took to fold");
    pub(super) const FUEL: Name =
        Name("fuel_per_event", "Fuel that an event took, mean of a batch");
    pub(super) const COMMIT: Name = Name("commit_seconds", "Time that a commit of states took");
    pub(super) const EVENTS: Name = Name("events_folded", "Events that were folded");
    pub(super) const PUBLISHED: Name = Name(
        "published_records",
        "Records that were published in transactions: outputs and dead letters",
    );
    pub(super) const FOREIGN: Name = Name(
        "foreign_records",
        "Records in the owned topic that somebody else wrote, as far as they were seen",
    );
    pub(super) const PARKED: Name = Name(
        "parked_records",
        "Records that are set aside because their key is parked",
    );
    pub(super) const COMMANDS: Name = Name("commands", "Commands that were decided");
    pub(super) const REFUSALS: Name = Name(
        "command_refusals",
        "Commands that were refused, or meant for another version",
    );
    pub(super) const REJECTIONS: Name =
        Name("rejections", "Events that could not be applied, by code");
    pub(super) const STATE_BYTES: Name = Name("state_bytes", "Bytes of states in memory");
    pub(super) const STATE_LARGEST: Name = Name(
        "state_largest_bytes",
        "Bytes of the largest state seen since the partition was opened",
    );
    pub(super) const CACHE_HITS: Name =
        Name("state_cache_hits", "States that were needed and in memory");
    pub(super) const CACHE_MISSES: Name = Name(
        "state_cache_misses",
        "States that were needed and read from the store",
    );
    pub(super) const MEMORY_PLAN: Name = Name(
        "memory_plan_bytes",
        "Bytes that a part of the host may hold in memory",
    );
    pub(super) const MEMORY_USED: Name = Name(
        "memory_used_bytes",
        "Bytes that a part of the host holds in memory",
    );
    pub(super) const HTTP: Name = Name(
        "http_request_seconds",
        "Time that a request took, by route and status",
    );
}

/// Which partition a figure is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartitionLabels {
    /// Name of the plugin.
    pub plugin: PluginName,
    /// Number of the generation.
    pub generation: GenerationId,
    /// Number of the partition.
    pub partition: Partition,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    plugin: String,
    generation: u64,
    partition: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabels {
    plugin: String,
    generation: u64,
    partition: u32,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    code: u16,
}

/// A figure that goes up and down and is read by whoever changes it. Cheap to clone; all clones are
/// one figure.
#[derive(Debug, Clone, Default)]
pub struct Level(Gauge);

impl Level {
    /// Takes `before` away and adds `after`.
    pub fn change(&self, before: usize, after: usize) {
        let by = count(after as u64) - count(before as u64);
        self.0.inc_by(by);
    }

    /// Where it stands.
    #[must_use]
    pub fn get(&self) -> usize {
        usize::try_from(self.0.get()).unwrap_or(0)
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type FloatGauge = Gauge<f64, AtomicU64>;

/// The figures of a host. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    families: Families,
    open: Mutex<HashMap<PartitionLabels, Arc<Series>>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Families {
    lag: Family<Labels, Gauge>,
    status: Family<Labels, Gauge>,
    degraded: Family<Labels, Gauge>,
    gaps: Family<Labels, Counter>,
    event_delay: Family<Labels, FloatGauge>,
    fold: Histograms<Labels>,
    fuel: Histograms<Labels>,
    commit: Histograms<Labels>,
    events: Family<Labels, Counter>,
    published: Family<Labels, Counter>,
    foreign: Family<Labels, Counter>,
    commands: Family<Labels, Counter>,
    refusals: Family<Labels, Counter>,
    parked: Family<Labels, Gauge>,
    rejections: Family<RejectionLabels, Counter>,
    state_bytes: Family<Labels, Gauge>,
    state_largest: Family<Labels, Gauge>,
    cache_hits: Family<Labels, Counter>,
    cache_misses: Family<Labels, Counter>,
    memory_plan: Family<PartLabels, Gauge>,
    memory_used: Family<PartLabels, Gauge>,
    http: Histograms<RequestLabels>,
}

/// The series of one open partition, found once.
struct Series {
    labels: Labels,
    lag: Gauge,
    status: Gauge,
    degraded: Gauge,
    gaps: Counter,
    event_delay: FloatGauge,
    fold: Histogram,
    fuel: Histogram,
    commit: Histogram,
    events: Counter,
    parked: Gauge,
    state_bytes: Gauge,
    state_largest: Gauge,
    cache_hits: Counter,
    cache_misses: Counter,
    rejection_codes: Mutex<BTreeSet<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        let families = Families {
            lag: Family::default(),
            status: Family::default(),
            degraded: Family::default(),
            gaps: Family::default(),
            event_delay: Family::default(),
            fold: Family::new_with_constructor(seconds),
            fuel: Family::new_with_constructor(fuel),
            commit: Family::new_with_constructor(seconds),
            events: Family::default(),
            published: Family::default(),
            foreign: Family::default(),
            commands: Family::default(),
            refusals: Family::default(),
            parked: Family::default(),
            rejections: Family::default(),
            state_bytes: Family::default(),
            state_largest: Family::default(),
            cache_hits: Family::default(),
            cache_misses: Family::default(),
            memory_plan: Family::default(),
            memory_used: Family::default(),
            http: Family::new_with_constructor(seconds),
        };
        let registry = families.registry();
        Self(Arc::new(Inner {
            registry,
            families,
            open: Mutex::new(HashMap::new()),
        }))
    }

    /// How many records a partition is behind the end of its log.
    pub fn lag(&self, of: impl Into<PartitionLabels>, records: u64) {
        self.of(of).lag.set(count(records));
    }

    /// Whether a partition's assignment is lost for now.
    pub fn degraded(&self, of: impl Into<PartitionLabels>, degraded: bool) {
        self.of(of).degraded.set(i64::from(degraded));
    }

    /// Offsets of a partition were removed before they were folded, in all up to now.
    pub fn gaps(&self, of: impl Into<PartitionLabels>, total: u64) {
        let gaps = &self.of(of).gaps;
        gaps.inc_by(total.saturating_sub(gaps.get()));
    }

    /// Where a partition is in its life: 0 blocked, 1 opening, 2 replaying, 3 live, 4 paused.
    pub fn phase(&self, of: impl Into<PartitionLabels>, phase: u8) {
        self.of(of).status.set(i64::from(phase));
    }

    /// A batch was folded: how many events, how long it took, the fuel of all of them, and how old
    /// the last one was.
    pub fn folded(
        &self,
        of: impl Into<PartitionLabels>,
        events: u64,
        took: Duration,
        fuel: u64,
        delay_ms: i64,
    ) {
        let series = self.of(of);
        series.events.inc_by(events);
        series.fold.observe(took.as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        if events > 0 {
            series.fuel.observe(fuel as f64 / events as f64);
            series.event_delay.set(delay_ms as f64 / 1_000.0);
        }
    }

    /// A commit of states took this long.
    pub fn committed(&self, of: impl Into<PartitionLabels>, took: Duration) {
        self.of(of).commit.observe(took.as_secs_f64());
    }

    /// A transaction published this many records.
    pub fn published(&self, of: impl Into<PartitionLabels>, records: u64) {
        let series = self.of(of);
        let published = self.0.families.published.get_or_create(&series.labels);
        published.inc_by(records);
    }

    /// So many records of somebody else were found in the owned topic.
    pub fn foreign(&self, of: impl Into<PartitionLabels>, records: u64) {
        let series = self.of(of);
        let foreign = self.0.families.foreign.get_or_create(&series.labels);
        foreign.inc_by(records);
    }

    /// So many commands were decided, and of these so many refused.
    pub fn decided(&self, of: impl Into<PartitionLabels>, commands: u64, refusals: u64) {
        let series = self.of(of);
        let families = &self.0.families;
        let counters = [
            (&families.commands, commands),
            (&families.refusals, refusals),
        ];
        for (family, count) in counters {
            family.get_or_create(&series.labels).inc_by(count);
        }
    }

    /// How many records are parked.
    pub fn parked(&self, of: impl Into<PartitionLabels>, records: u64) {
        self.of(of).parked.set(count(records));
    }

    /// An event could not be applied.
    pub fn rejected(&self, of: impl Into<PartitionLabels>, code: &str) {
        let series = self.of(of);
        let code = series.rejection_code(code);
        self.0
            .families
            .rejections
            .get_or_create(&series.labels.with_code(code))
            .inc();
    }

    /// Bytes of states in memory, and of the largest one seen.
    pub fn state_bytes(&self, of: impl Into<PartitionLabels>, bytes: usize, largest: usize) {
        let series = self.of(of);
        series.state_bytes.set(count(bytes as u64));
        series.state_largest.set(count(largest as u64));
    }

    /// States that a batch needed and found in memory, and those it had to read.
    pub fn state_cache(&self, of: impl Into<PartitionLabels>, hits: u64, misses: u64) {
        let series = self.of(of);
        series.cache_hits.inc_by(hits);
        series.cache_misses.inc_by(misses);
    }

    /// What a part of the host may hold in memory.
    pub fn memory_plan(&self, part: &'static str, bytes: usize) {
        let gauge = self
            .0
            .families
            .memory_plan
            .get_or_create_owned(&PartLabels { part });
        gauge.set(count(bytes as u64));
    }

    /// The figure for what a part of the host holds in memory.
    #[must_use]
    pub fn memory_used(&self, part: &'static str) -> Level {
        Level(
            self.0
                .families
                .memory_used
                .get_or_create_owned(&PartLabels { part }),
        )
    }

    /// A request was answered. `route` is the pattern, as in `/v1/plugins/{name}`, never the path.
    pub fn http_request(&self, route: &str, code: u16, took: Duration) {
        let labels = RequestLabels {
            route: route.to_owned(),
            code,
        };
        self.0
            .families
            .http
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Forgets a partition that is not open here any more.
    pub fn closed(&self, of: impl Into<PartitionLabels>) {
        let closed = self.0.open.lock().remove(&of.into());
        if let Some(series) = closed {
            self.0.families.remove(&series);
        }
    }

    /// All figures in the OpenMetrics text format; see [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0.registry).expect("a string takes every text");
        text
    }

    fn of(&self, of: impl Into<PartitionLabels>) -> Arc<Series> {
        let mut open = self.0.open.lock();
        let series = open.entry(of.into());
        let key = series.key().clone();
        Arc::clone(series.or_insert_with(|| Arc::new(self.0.families.series(&key))))
    }
}

impl Families {
    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("foldhost");
        let all = &mut registry;
        register(all, &names::LAG, &self.lag);
        register(all, &names::STATUS, &self.status);
        register(all, &names::DEGRADED, &self.degraded);
        register(all, &names::GAPS, &self.gaps);
        register(all, &names::EVENT_DELAY, &self.event_delay);
        register(all, &names::FOLD, &self.fold);
        register(all, &names::FUEL, &self.fuel);
        register(all, &names::COMMIT, &self.commit);
        register(all, &names::EVENTS, &self.events);
        register(all, &names::PUBLISHED, &self.published);
        register(all, &names::FOREIGN, &self.foreign);
        register(all, &names::COMMANDS, &self.commands);
        register(all, &names::REFUSALS, &self.refusals);
        register(all, &names::PARKED, &self.parked);
        register(all, &names::REJECTIONS, &self.rejections);
        register(all, &names::STATE_BYTES, &self.state_bytes);
        register(all, &names::STATE_LARGEST, &self.state_largest);
        register(all, &names::CACHE_HITS, &self.cache_hits);
        register(all, &names::CACHE_MISSES, &self.cache_misses);
        register(all, &names::MEMORY_PLAN, &self.memory_plan);
        register(all, &names::MEMORY_USED, &self.memory_used);
        register(all, &names::HTTP, &self.http);
        registry
    }

    fn series(&self, of: &PartitionLabels) -> Series {
        let labels = Labels {
            plugin: of.plugin.to_string(),
            generation: of.generation.0,
            partition: of.partition.0,
        };
        Series {
            lag: self.lag.get_or_create_owned(&labels),
            status: self.status.get_or_create_owned(&labels),
            degraded: self.degraded.get_or_create_owned(&labels),
            gaps: self.gaps.get_or_create_owned(&labels),
            event_delay: self.event_delay.get_or_create_owned(&labels),
            fold: self.fold.get_or_create_owned(&labels),
            fuel: self.fuel.get_or_create_owned(&labels),
            commit: self.commit.get_or_create_owned(&labels),
            events: self.events.get_or_create_owned(&labels),
            parked: self.parked.get_or_create_owned(&labels),
            state_bytes: self.state_bytes.get_or_create_owned(&labels),
            state_largest: self.state_largest.get_or_create_owned(&labels),
            cache_hits: self.cache_hits.get_or_create_owned(&labels),
            cache_misses: self.cache_misses.get_or_create_owned(&labels),
            rejection_codes: Mutex::new(BTreeSet::new()),
            labels,
        }
    }

    fn remove(&self, series: &Series) {
        let labels = &series.labels;
        self.lag.remove(labels);
        self.status.remove(labels);
        self.degraded.remove(labels);
        self.gaps.remove(labels);
        self.event_delay.remove(labels);
        self.fold.remove(labels);
        self.fuel.remove(labels);
        self.commit.remove(labels);
        self.events.remove(labels);
        self.parked.remove(labels);
        self.state_bytes.remove(labels);
        self.state_largest.remove(labels);
        self.cache_hits.remove(labels);
        self.cache_misses.remove(labels);
        self.published.remove(labels);
        self.foreign.remove(labels);
        self.commands.remove(labels);
        self.refusals.remove(labels);
        for code in series.rejection_codes.lock().iter() {
            self.rejections.remove(&labels.with_code(code.clone()));
        }
    }
}

impl Series {
    /// The code to count under. A plugin chooses its codes, so their number is bounded here.
    fn rejection_code(&self, code: &str) -> String {
        const OTHER: &str = "other";
        let mut codes = self.rejection_codes.lock();
        let known = codes.contains(code) || codes.len() < limits::METRIC_REJECTION_CODES_MAX;
        let code = if known { code } else { OTHER };
        codes.insert(code.to_owned());
        code.to_owned()
    }
}

impl Labels {
    fn with_code(&self, code: String) -> RejectionLabels {
        let Self {
            plugin,
            generation,
            partition,
        } = self.clone();
        RejectionLabels {
            plugin,
            generation,
            partition,
            code,
        }
    }
}

fn register<M: Metric + Clone>(registry: &mut Registry, name: &names::Name, metric: &M) {
    registry.register(name.0, name.1, metric.clone());
}

/// 0.1 ms to 26 s in powers of two.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 19))
}

/// A thousand to a billion in powers of four.
fn fuel() -> Histogram {
    Histogram::new(exponential_buckets(1_000.0, 4.0, 11))
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: u32) -> PartitionLabels {
        PartitionLabels {
            plugin: PluginName::new("plane-tracker").unwrap(),
            generation: GenerationId(2),
            partition: Partition(number),
        }
    }

    fn fill(metrics: &Metrics, of: &PartitionLabels) {
        metrics.lag(of.clone(), 7);
        metrics.phase(of.clone(), 3);
        metrics.folded(of.clone(), 2, Duration::from_millis(1), 5_000, 1_500);
        metrics.committed(of.clone(), Duration::from_millis(3));
        metrics.parked(of.clone(), 4);
        metrics.rejected(of.clone(), "bad-event");
        metrics.state_bytes(of.clone(), 100, 60);
        metrics.state_cache(of.clone(), 9, 1);
    }

    #[test]
    fn every_name_of_the_contract_is_there() {
        let metrics = Metrics::new();
        fill(&metrics, &partition(0));
        metrics.http_request("/v1/plugins/{name}", 200, Duration::from_millis(2));
        metrics.memory_plan("states", 64);
        metrics.memory_used("states").change(2, 9);
        let text = metrics.encode();
        let of = r#"{plugin="plane-tracker",generation="2",partition="0"}"#;
        for line in [
            format!("foldhost_partition_lag_records{of} 7"),
            format!("foldhost_partition_status{of} 3"),
            format!("foldhost_event_delay_seconds{of} 1.5"),
            format!("foldhost_events_folded_total{of} 2"),
            format!("foldhost_parked_records{of} 4"),
            format!("foldhost_fold_seconds_count{of} 1"),
            format!("foldhost_fuel_per_event_sum{of} 2500.0"),
            format!("foldhost_commit_seconds_count{of} 1"),
            format!(
                "foldhost_rejections_total{},code=\"bad-event\"}} 1",
                of.trim_end_matches('}')
            ),
            format!("foldhost_state_bytes{of} 100"),
            format!("foldhost_state_largest_bytes{of} 60"),
            format!("foldhost_state_cache_hits_total{of} 9"),
            format!("foldhost_state_cache_misses_total{of} 1"),
            r#"foldhost_memory_plan_bytes{part="states"} 64"#.into(),
            r#"foldhost_memory_used_bytes{part="states"} 7"#.into(),
            r#"foldhost_http_request_seconds_count{route="/v1/plugins/{name}",code="200"} 1"#
                .into(),
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_closed_partition_leaves_nothing() {
        let metrics = Metrics::new();
        fill(&metrics, &partition(0));
        fill(&metrics, &partition(1));
        metrics.closed(partition(0));
        let text = metrics.encode();
        assert!(!text.contains(r#"partition="0""#), "{text}");
        assert!(text.contains(r#"partition="1""#), "{text}");
        fill(&metrics, &partition(0));
        let again = metrics.encode();
        assert!(again.contains(r#"foldhost_state_cache_hits_total{plugin="plane-tracker",generation="2",partition="0"} 9"#));
    }

    #[test]
    fn a_plugin_cannot_make_series_without_end() {
        let metrics = Metrics::new();
        for code in 0..10 * limits::METRIC_REJECTION_CODES_MAX {
            metrics.rejected(partition(0), &format!("code-{code}"));
        }
        let text = metrics.encode();
        let series = text.matches("foldhost_rejections_total{").count();
        assert_eq!(series, limits::METRIC_REJECTION_CODES_MAX + 1);
        metrics.closed(partition(0));
        assert!(!metrics.encode().contains("foldhost_rejections_total{"));
    }
}
