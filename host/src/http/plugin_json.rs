//! Plugins as JSON: the list, one of them with its generations and partitions, and what a deployment
//! did. Used by `plugins` and `operations`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bootstrap::BootstrapDetails;
use super::context::App;
use crate::manager::{
    Decided, DeployOutcome, Deployed, Deployment, Generation, How, Origin, Plugin, Skip,
};
use crate::partition::{PartitionHandle, PartitionStatus, Phase};
use crate::plugin::manifest::OnError;
use crate::plugin::{Description, Kind, Operation};
use crate::types::{KeyFormat, Partition};

/// What runs.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct PluginList {
    /// In order of name.
    pub(super) plugins: Vec<PluginSummary>,
}

/// A plugin, in short.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct PluginSummary {
    /// Its name.
    name: String,
    /// `view`, `republisher` or `command-handler`.
    #[schema(value_type = String)]
    kind: Kind,
    /// The plugin's own version.
    version: String,
    /// Number of the build-up of its state that answers.
    generation: u64,
    /// SHA-256 of its component.
    digest: String,
    /// The worst of its partitions on this host: `blocked`, `paused`, `opening`, `replaying` or `live`.
    status: &'static str,
    /// How many records its partitions on this host are behind.
    lag: u64,
}

/// A plugin.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct PluginDetails {
    #[serde(flatten)]
    summary: PluginSummary,
    /// Number of the deployment that answers on this host: right after another was accepted, it may still be the one
    /// before (`ready?_deployment=N` waits).
    deployment: u64,
    /// How its keys are written: `utf8`, `bytes`, `i32`, `i64` or `uuid`.
    #[schema(value_type = String)]
    key: KeyFormat,
    /// What happens with an event that cannot be applied.
    #[schema(value_type = String)]
    on_error: OnError,
    /// Schema of its states.
    state_schema: String,
    /// Topics that it reads.
    inputs: Vec<InputDetails>,
    /// Topic that it alone publishes to; null = it publishes nothing.
    output: Option<String>,
    /// Records in it that somebody else wrote, as far as this host has seen since it started.
    foreign_records: u64,
    /// The last of them, as topic/partition@offset.
    last_foreign_record: Option<String>,
    /// Its queries; the default one has an empty name.
    queries: Vec<QueryDetails>,
    /// Every decision to run a component under this name, the newest last.
    deployments: Vec<DeploymentDetails>,
    /// Since when folding stands still; null = it does not.
    paused: Option<PausedDetails>,
    /// The generation that is being built, and answers once it is ready; null = none.
    building: Option<GenerationDetails>,
    /// The generation that answered before, until every partition is answered from the new one: so long, no other change
    /// of generations is accepted; null = none.
    retiring: Option<GenerationDetails>,
    /// The generation that answered before and is folded on for a rollback; null = none.
    kept: Option<GenerationDetails>,
    /// Records that are not folded.
    skips: Vec<SkipDetails>,
    /// Decisions about parked records, the newest last.
    parked: Vec<ParkedDecision>,
    /// The last decision to tell its states in events, and how far that is; null = none.
    bootstrap: Option<BootstrapDetails>,
    /// Whether the log reached back to its first record when the state was built here.
    history: History,
    /// Its partitions.
    partitions: Vec<PartitionDetails>,
    /// What keeps it from running here, while it is tried again.
    last_error: Option<String>,
}

/// Folding stands still.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PausedDetails {
    /// Name of the token that asked for it; empty = none was needed.
    principal: String,
    /// When, in milliseconds since the Unix epoch.
    at_ms: i64,
}

/// A record that is not folded.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct SkipDetails {
    /// Number of the decision.
    skip: u64,
    /// The record, as topic/partition@offset.
    at: String,
    /// Why.
    reason: String,
    /// Name of the token that asked for it; empty = none was needed.
    principal: String,
    /// When, in milliseconds since the Unix epoch.
    at_ms: i64,
}

/// A decision about parked records.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ParkedDecision {
    /// Number of the decision.
    decision: u64,
    /// `replay`, or `discard`: they are not folded any more.
    what: &'static str,
    /// Of which key; null = of all, or of a key that cannot be written as text.
    key: Option<String>,
    /// The discarded records, as topic/partition@offset of the first, and the offset of the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    /// Why.
    reason: String,
    /// Name of the token that asked for it; empty = none was needed.
    principal: String,
    /// When, in milliseconds since the Unix epoch.
    at_ms: i64,
}

/// One build-up of a plugin's state.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct GenerationDetails {
    /// Its number.
    generation: u64,
    /// Number of the deployment whose code folds it.
    deployment: u64,
    /// The plugin's own version.
    version: String,
    /// SHA-256 of the component.
    digest: String,
    /// `serving`, `building`, `kept` or `retiring`.
    role: &'static str,
    /// `log`, or `migrated` from the states of an earlier generation.
    origin: &'static str,
    /// The worst of its partitions on this host, as for the plugin; `blocked` also if another host's is.
    status: &'static str,
    /// How many records its partitions on this host are behind.
    lag: u64,
    /// How many records they fold in a second, lately.
    rate_per_second: u64,
    /// How long that will take; null = not known, 0 = it is there.
    seconds_left: Option<u64>,
    /// Its partitions.
    partitions: Vec<PartitionDetails>,
}

/// A topic that a plugin reads.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct InputDetails {
    /// Its name inside the plugin.
    name: String,
    /// Name of the topic.
    topic: String,
}

/// A query of a plugin.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct QueryDetails {
    /// Its name; empty = the default one.
    name: String,
    /// One sentence.
    summary: String,
    /// Whether its answers depend on the clock or the caller.
    uses_context: bool,
    /// JSON Schema of its arguments, as the plugin says.
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments_schema: Option<serde_json::Value>,
    /// JSON Schema of its answer, as the plugin says.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_schema: Option<serde_json::Value>,
}

/// A decision to run a component.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct DeploymentDetails {
    /// Its number.
    deployment: u64,
    /// Number of the build-up of state that it serves.
    generation: u64,
    /// The plugin's own version.
    version: String,
    /// SHA-256 of the component.
    digest: String,
    /// What it did with the states: `first`, `rebuild`, `keep`, `migrate` or `rollback`.
    how: &'static str,
    /// The deployment that it runs again; null = it was no rollback.
    rolls_back_to: Option<u64>,
    /// Whether it answered at some time.
    served: bool,
    /// When it was asked for, in milliseconds since the Unix epoch.
    at_ms: i64,
    /// Name of the token that asked for it; empty = none was needed.
    principal: String,
    /// Its parameters.
    parameters: BTreeMap<String, String>,
    /// Topic that it publishes to; null = none.
    output: Option<String>,
    /// Whether whoever asked knew that the output was there already and belonged to no plugin.
    adopts_topic: bool,
    /// Whether its generation publishes what it makes of the whole log, instead of going on where the
    /// one before stops.
    emits_from_earliest: bool,
}

/// Whether a state was built from all records that there ever were.
#[derive(Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
struct History {
    /// It was, in every partition of this host.
    complete: bool,
    /// Otherwise: the first record of each partition that was not complete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    from: Vec<String>,
}

/// A partition of a plugin.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PartitionDetails {
    /// Its number.
    partition: u32,
    /// URL of the host that owns it; null = nobody does right now.
    owner: Option<String>,
    /// `opening`, `replaying`, `live`, `paused` or `blocked`; null = ask its owner.
    #[schema(value_type = Option<String>)]
    status: Option<Phase>,
    /// Offset of the last folded record; null = none yet.
    position: Option<u64>,
    /// First offset that is not committed to the store.
    committed: Option<u64>,
    /// One past the offset of the log's last record.
    end: Option<u64>,
    /// How many records it is behind.
    lag: Option<u64>,
    /// Number of the deployment whose code folds it.
    deployment: Option<u64>,
    /// First offset that this code folded, in place of earlier code.
    folds_from: Option<u64>,
    /// Records that were removed from the log before they were folded, where `on-gap` allows it.
    gaps: Option<u64>,
    /// Records of it that are left out by decision.
    skipped: usize,
    /// Keys whose records are set aside; null = ask its owner.
    parked_keys: Option<usize>,
    /// Records that are set aside.
    parked_records: Option<usize>,
    /// Why it cannot go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked: Option<BlockedDetails>,
    /// Whether it answers, but does not fold, because its assignment is lost for now.
    degraded: bool,
    /// The last fault of the log or the store; it keeps trying.
    last_error: Option<String>,
}

/// Why a partition cannot go on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct BlockedDetails {
    /// Stable.
    code: String,
    /// What happened, and what to do.
    detail: String,
    /// The record before which it stopped, as topic/partition@offset.
    at: Option<String>,
}

/// What a deployment did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DeploymentResult {
    /// `created`, `unchanged`, `swapped`, `building`, `cancelled` or `dry-run`.
    outcome: &'static str,
    /// Name that it runs under.
    name: String,
    /// `view`, `republisher` or `command-handler`.
    #[schema(value_type = String)]
    kind: Kind,
    /// The plugin's own version.
    version: String,
    /// SHA-256 of the component.
    digest: String,
    /// Number of the deployment; null in a dry run.
    deployment: Option<u64>,
    /// Number of the generation; null in a dry run.
    generation: Option<u64>,
    /// Topics that it reads.
    topics: Vec<String>,
    /// Topic that it alone publishes to; null = it publishes nothing.
    output: Option<String>,
    /// Its queries; the default one has an empty name.
    queries: Vec<QueryDetails>,
}

impl PluginSummary {
    pub(super) fn of(plugin: &Plugin) -> Self {
        Self::answered_by(plugin, &plugin.deployment())
    }

    /// Of the deployment that answers, as one has looked it up.
    fn answered_by(plugin: &Plugin, deployment: &Deployment) -> Self {
        Self {
            name: plugin.name().to_string(),
            kind: plugin.kind(),
            version: deployment.manifest.version.clone(),
            generation: deployment.generation.0,
            digest: deployment.digest.to_string(),
            status: plugin.status(),
            lag: plugin.lag_events(),
        }
    }
}

impl PluginDetails {
    pub(super) fn of(app: &App, plugin: &Plugin) -> Self {
        let deployment = plugin.deployment();
        let decided = plugin.decided();
        let manifest = &deployment.manifest;
        let open = plugin.open_of(deployment.generation);
        let statuses: BTreeMap<_, _> = open
            .iter()
            .map(|(partition, handle)| (*partition, handle.status()))
            .collect();
        let inputs = deployment.inputs.iter();
        let folded = deployment.folded(&app.services.cluster_name);
        let code = plugin.code();
        let generation =
            |generation: &Generation| GenerationDetails::of(app, plugin, &decided, generation);
        // Decided, and not yet what answers here: until it does, something is under way.
        let serving = Some(&decided.serving);
        let promoted = serving.filter(|it| it.number() != deployment.generation);
        let retiring = decided.retiring.as_ref().map(|it| &it.generation);
        let foreign = plugin.foreign();
        Self {
            summary: PluginSummary::answered_by(plugin, &deployment),
            deployment: deployment.id.0,
            key: manifest.key,
            on_error: manifest.on_error,
            state_schema: manifest.state_schema.clone(),
            inputs: inputs
                .map(|input| InputDetails {
                    name: input.name.clone(),
                    topic: input.topic.to_string(),
                })
                .collect(),
            output: output(&deployment),
            foreign_records: foreign.records,
            last_foreign_record: foreign.last.map(|at| at.to_string()),
            queries: code.map_or_else(Vec::new, |code| queries(&code.inspection().description)),
            deployments: decided
                .history
                .iter()
                .map(|it| DeploymentDetails::of(it, decided.served.contains(&it.id)))
                .collect(),
            paused: decided.paused.as_ref().map(|paused| PausedDetails {
                principal: paused.principal.clone(),
                at_ms: paused.at_ms,
            }),
            building: decided.building.as_ref().or(promoted).map(generation),
            retiring: retiring.map(generation),
            kept: decided.kept.as_ref().map(generation),
            skips: decided.skips.iter().map(SkipDetails::of).collect(),
            parked: ParkedDecision::all(&decided, manifest.key),
            bootstrap: BootstrapDetails::of(plugin),
            history: History::of(folded.topic.as_str(), &statuses),
            partitions: PartitionDetails::all(app, plugin, &decided, deployment.partitions, &open),
            last_error: plugin.last_error(),
        }
    }
}

impl SkipDetails {
    fn of(skip: &Skip) -> Self {
        Self {
            skip: skip.number,
            at: skip.at.to_string(),
            reason: skip.reason.clone(),
            principal: skip.principal.clone(),
            at_ms: skip.at_ms,
        }
    }
}

impl ParkedDecision {
    fn all(decided: &Decided, format: KeyFormat) -> Vec<Self> {
        let replays = decided.replays.iter().map(|replay| Self {
            decision: replay.number,
            what: "replay",
            key: replay.key.as_ref().and_then(|key| format.format(key)),
            from: None,
            to: None,
            reason: replay.reason.clone(),
            principal: replay.principal.clone(),
            at_ms: replay.at_ms,
        });
        let discards = decided.discards.iter().map(|discard| {
            let (topic, partition) = (&discard.topic, discard.partition);
            Self {
                decision: discard.number,
                what: "discard",
                key: format.format(&discard.key),
                from: Some(format!("{topic}/{partition}@{}", discard.first)),
                to: Some(discard.last.0),
                reason: discard.reason.clone(),
                principal: discard.principal.clone(),
                at_ms: discard.at_ms,
            }
        });
        let mut all: Vec<_> = replays.chain(discards).collect();
        all.sort_by_key(|decision| decision.decision);
        all
    }
}

impl DeploymentDetails {
    fn of(deployment: &Deployment, served: bool) -> Self {
        let how = match deployment.how {
            _ if deployment.rolls_back_to.is_some() => "rollback",
            How::First => "first",
            How::Rebuild => "rebuild",
            How::Keep | How::Kept => "keep",
            How::Migrate => "migrate",
        };
        Self {
            deployment: deployment.id.0,
            generation: deployment.generation.0,
            version: deployment.manifest.version.clone(),
            digest: deployment.digest.to_string(),
            how,
            rolls_back_to: deployment.rolls_back_to.map(|id| id.0),
            served,
            at_ms: deployment.at_ms,
            principal: deployment.principal.clone(),
            parameters: deployment.parameters.clone(),
            output: output(deployment),
            adopts_topic: deployment.adopts_topic,
            emits_from_earliest: deployment.emits_from_earliest,
        }
    }
}

fn output(deployment: &Deployment) -> Option<String> {
    let output = deployment.output.as_ref();
    output.map(|output| output.topic.to_string())
}

impl GenerationDetails {
    pub(super) fn of(
        app: &App,
        plugin: &Plugin,
        decided: &Decided,
        generation: &Generation,
    ) -> Self {
        let deployment = &generation.deployment;
        let number = generation.number();
        let is = |other: Option<&Generation>| other.is_some_and(|it| it.number() == number);
        let role = if is(Some(&decided.serving)) {
            "serving"
        } else if is(decided.building.as_ref()) {
            "building"
        } else if is(decided.kept.as_ref()) {
            "kept"
        } else {
            "retiring"
        };
        let open = plugin.open_of(number);
        let statuses: Vec<_> = open.values().map(PartitionHandle::status).collect();
        let lag = statuses.iter().map(|status| status.lag_events).sum();
        let is_behind = statuses.iter().filter(|status| status.lag_events > 0);
        let rate: f64 = is_behind.map(|status| status.rate_per_second).sum();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is for people, and never negative"
        )]
        let rate = rate.round() as u64;
        let status = match plugin.status_of(number) {
            _ if generation.is_blocked() => "blocked",
            status => status,
        };
        Self {
            generation: number.0,
            deployment: deployment.id.0,
            version: deployment.manifest.version.clone(),
            digest: deployment.digest.to_string(),
            role,
            origin: match generation.origin {
                Origin::Log => "log",
                Origin::Migrated { .. } => "migrated",
            },
            status,
            lag,
            rate_per_second: rate,
            seconds_left: seconds_left(status, lag, rate),
            partitions: PartitionDetails::all(app, plugin, decided, deployment.partitions, &open),
        }
    }
}

/// How long it takes to fold what is left, rounded up.
fn seconds_left(status: &str, lag: u64, rate: u64) -> Option<u64> {
    match (status, lag) {
        ("live", 0) => Some(0),
        ("replaying" | "live", _) if rate > 0 => Some(lag.div_ceil(rate)),
        _ => None,
    }
}

impl History {
    fn of(topic: &str, locals: &BTreeMap<Partition, PartitionStatus>) -> Self {
        let cut = locals.iter().filter(|(_, status)| !status.history_complete);
        let from: Vec<_> = cut
            .map(|(partition, status)| format!("{topic}/{partition}@{}", status.start))
            .collect();
        Self {
            complete: from.is_empty(),
            from,
        }
    }
}

impl PartitionDetails {
    /// All partitions of a generation, of which some are open here.
    fn all(
        app: &App,
        plugin: &Plugin,
        decided: &Decided,
        partitions: u32,
        open: &BTreeMap<Partition, PartitionHandle>,
    ) -> Vec<Self> {
        let partitions = (0..partitions).map(Partition);
        let details = partitions.map(|partition| {
            let handle = open.get(&partition);
            let status = handle.map(PartitionHandle::status);
            // What is open here is ours, also before our own announcement has come back to us.
            let owner = match (handle, &status) {
                (Some(handle), Some(status)) if !status.degraded => {
                    Some(handle.spec().advertised_url.clone())
                }
                _ => app.services.cluster.owner_url(plugin, partition),
            };
            let skips = decided.skips.iter();
            let skipped = skips.filter(|skip| skip.at.partition == partition).count();
            Self {
                skipped,
                ..Self::of(partition, owner, status.as_ref())
            }
        });
        details.collect()
    }

    fn of(partition: Partition, owner: Option<String>, status: Option<&PartitionStatus>) -> Self {
        let blocked = status.and_then(|status| status.blocked.as_ref());
        Self {
            partition: partition.0,
            owner,
            status: status.map(|status| status.phase),
            position: status
                .and_then(PartitionStatus::position)
                .map(|offset| offset.0),
            committed: status.map(|status| status.committed.0),
            end: status.map(|status| status.end.0),
            lag: status.map(|status| status.lag_events),
            deployment: status
                .and_then(|status| status.deployment)
                .map(|deployment| deployment.0),
            folds_from: status.map(|status| status.folds_from.0),
            gaps: status.map(|status| status.gaps),
            skipped: 0,
            parked_keys: status.map(|status| status.parked_keys),
            parked_records: status.map(|status| status.parked_records),
            blocked: blocked.map(|blocked| BlockedDetails {
                code: blocked.code.clone(),
                detail: blocked.detail.clone(),
                at: blocked.at.as_ref().map(ToString::to_string),
            }),
            degraded: status.is_some_and(|status| status.degraded),
            last_error: status.and_then(PartitionStatus::fault).map(str::to_owned),
        }
    }
}

/// Word for what a deployment did.
pub(super) fn outcome(outcome: DeployOutcome) -> &'static str {
    match outcome {
        DeployOutcome::Created => "created",
        DeployOutcome::Unchanged => "unchanged",
        DeployOutcome::Swapped => "swapped",
        DeployOutcome::Building => "building",
        DeployOutcome::Cancelled => "cancelled",
        DeployOutcome::DryRun => "dry-run",
    }
}

impl DeploymentResult {
    pub(super) fn of(deployed: &Deployed) -> Self {
        let inspection = &deployed.inspection;
        Self {
            outcome: outcome(deployed.outcome),
            name: deployed.name.to_string(),
            kind: inspection.kind,
            version: inspection.manifest.version.clone(),
            digest: inspection.digest.to_string(),
            deployment: deployed.deployment.map(|id| id.0),
            generation: deployed.generation.map(|id| id.0),
            topics: deployed.topics.iter().map(ToString::to_string).collect(),
            output: deployed.output.as_ref().map(ToString::to_string),
            queries: queries(&inspection.description),
        }
    }
}

fn queries(description: &Description) -> Vec<QueryDetails> {
    let schema = |text: &str| serde_json::from_str(text).ok();
    let query = |query: &Operation| QueryDetails {
        name: query.name.clone(),
        summary: query.summary.clone(),
        uses_context: query.uses_context,
        arguments_schema: schema(&query.arguments_schema),
        answer_schema: schema(&query.answer_schema),
    };
    description.queries.iter().map(query).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    #[test]
    fn a_cut_history_says_from_where() {
        let mut cut = PartitionStatus::opening();
        cut.history_complete = false;
        cut.start = Offset(7);
        let locals = BTreeMap::from([
            (Partition(0), PartitionStatus::opening()),
            (Partition(1), cut),
        ]);
        assert_eq!(
            History::of("flights", &locals),
            History {
                complete: false,
                from: vec!["flights/1@7".into()]
            }
        );
        assert!(History::of("flights", &BTreeMap::new()).complete);
    }

    #[test]
    fn time_left_is_told_where_something_is_folded() {
        assert_eq!(seconds_left("replaying", 10, 4), Some(3));
        assert_eq!(seconds_left("live", 0, 0), Some(0));
        assert_eq!(seconds_left("replaying", 10, 0), None);
        assert_eq!(seconds_left("blocked", 10, 4), None);
    }

    #[test]
    fn a_partition_elsewhere_has_an_owner_only() {
        let details = PartitionDetails::of(Partition(2), Some("http://b".into()), None);
        let json = serde_json::to_value(&details).unwrap();
        assert_eq!(json["owner"], "http://b");
        assert!(json["status"].is_null() && json["lag"].is_null());
    }
}
