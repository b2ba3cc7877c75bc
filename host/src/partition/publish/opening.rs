//! What a generation may publish when its partition opens: the journal's positions against the state's.
//!
//! Invariant: the state never lies behind what the journal lacks (S ≤ T); where it does, what was
//! published is unknown, and the partition stops instead of guessing.

use super::super::journal::Position;
use super::super::parking::Action;
use super::super::{Blocked, PartitionSpec, Ports, Publishing, Role};
use super::frontier::{self, Ahead, Frontier, Limit};
use crate::log::LogError;
use crate::state::{ActionPoint, Checkpoint};
use crate::types::{DeploymentId, Offset};

/// Where publishing goes on.
#[derive(Debug)]
pub(in crate::partition) struct Published {
    /// Outputs of events before this are published, or withheld.
    pub(super) outputs_from: Offset,
    /// Dead letters of events before this are published.
    pub(super) letters_from: Offset,
    /// What actions on parked records have made up to here is published, or withheld.
    pub(super) acted: ActionPoint,
    /// States up to here may be committed without another transaction.
    pub(super) covered: Offset,
    /// Events that this generation has published the outputs of, and not committed the states.
    pub(in crate::partition) refold: Option<Refold>,
    /// How far it may fold, beside a generation that publishes.
    pub(in crate::partition) limit: Option<Limit>,
    /// The generation that has published before and stopped: this one goes on exactly there.
    pub(in crate::partition) predecessor: Option<Ahead>,
}

/// Events that are to be folded again, by the code that folded them first.
#[derive(Debug, Clone)]
pub(in crate::partition) struct Refold {
    /// Up to this offset.
    pub(in crate::partition) until: Offset,
    /// Deployment of that code.
    pub(in crate::partition) deployment: DeploymentId,
    /// An action on parked records that is to be applied again, and how far.
    pub(in crate::partition) action: Option<(Action, ActionPoint)>,
}

/// Reads in the journal how far what the plugin makes is published. Whoever could still write that is
/// fenced before.
///
/// # Errors
/// Any [`LogError`] of reading it.
pub(in crate::partition) async fn resolve(
    ports: &Ports,
    spec: &PartitionSpec,
    publishing: &Publishing,
    checkpoint: &Checkpoint,
) -> Result<Result<Published, Blocked>, LogError> {
    let follows = publishing.role == Role::Beside && publishing.output.is_some();
    let has_published = checkpoint.published;
    let (limit, frontier) = if follows {
        let (limit, frontier) = Limit::follow(ports, spec, publishing, has_published).await?;
        (Some(limit), frontier)
    } else {
        let frontier = frontier::find(ports, spec, publishing, has_published).await?;
        (None, frontier)
    };
    Ok(compare(spec, publishing, checkpoint, frontier)
        .map(|published| Published { limit, ..published }))
}

fn compare(
    spec: &PartitionSpec,
    publishing: &Publishing,
    checkpoint: &Checkpoint,
    frontier: Frontier,
) -> Result<Published, Blocked> {
    let Frontier { own, published, .. } = frontier;
    let folded = checkpoint.next;
    let is_there = |it: &Option<Position>| it.as_ref().is_some_and(|it| it.next >= folded);
    // One that was kept has followed what another has published since.
    if checkpoint.published && !is_there(&own) && !is_there(&published) {
        return Err(lost(spec, folded, own.as_ref()));
    }
    let acts_again = own.as_ref().filter(|own| own.action > checkpoint.action);
    if acts_again.is_some_and(|own| own.applied.is_none()) {
        return Err(lost(spec, folded, own.as_ref()));
    }
    let foreign = |it: &&Position| {
        let ids = it.topic_id.zip(checkpoint.topic_id);
        it.topic != spec.input.topic || ids.is_some_and(|(then, now)| then != now)
    };
    if let Some(position) = published.as_ref().filter(foreign) {
        return Err(other_input(spec, position));
    }
    let own_number = spec.store.generation;
    let predecessor = match (publishing.role, &publishing.output) {
        (Role::Serving, Some(_)) => published.as_ref().filter(|it| it.generation != own_number),
        _ => None,
    };
    let predecessor = predecessor.map(Ahead::of);
    let is_new = folded <= checkpoint.start;
    let outputs_from = match (publishing.role, &publishing.output) {
        (_, None) => Offset(0),
        (Role::Beside, _) => Offset(u64::MAX),
        (Role::BesideFromEarliest, _) => {
            let own = own.as_ref().filter(|own| own.output.is_some());
            own.map_or(Offset(0), |own| own.next)
        }
        (Role::Serving, _) if is_there(&published) => {
            published.as_ref().map_or(Offset(0), |it| it.next)
        }
        (Role::Serving, _) if is_new && published.is_none() => Offset(0),
        (Role::Serving, _) => return Err(lost(spec, folded, published.as_ref())),
    };
    let own_next = own.as_ref().map(|own| own.next);
    let own_action = own.as_ref().map(|own| own.action);
    let acted = match publishing.role {
        Role::Serving => own_action.max(published.as_ref().map(|it| it.action)),
        Role::Beside => Some(ActionPoint::done(u64::MAX)),
        Role::BesideFromEarliest => own_action,
    };
    let is_ahead = |own: &Position| own.next > folded || own.action > checkpoint.action;
    let refold = own.filter(is_ahead).map(|own| Refold {
        until: own.next,
        deployment: own.deployment,
        action: own
            .applied
            .filter(|_| own.action > checkpoint.action)
            .map(|it| (it, own.action)),
    });
    let covered = match publishing.role {
        Role::Serving => published.map(|it| it.next),
        Role::Beside | Role::BesideFromEarliest => None,
    };
    Ok(Published {
        outputs_from,
        letters_from: own_next.unwrap_or_default(),
        acted: acted.unwrap_or(ActionPoint::done(0)),
        covered: own_next.max(covered).unwrap_or(folded),
        refold,
        limit: None,
        predecessor,
    })
}

/// The journal does not say what the state needs.
fn lost(spec: &PartitionSpec, folded: Offset, found: Option<&Position>) -> Blocked {
    let plugin = &spec.store.plugin;
    let found = found.map_or_else(
        || "the journal has no position at all".to_owned(),
        |it| format!("the journal's last position is {}", it.next),
    );
    Blocked {
        code: "position-lost".to_owned(),
        detail: format!(
            "the state of {} has folded {} up to {folded}, but {found} (topic '{}'): whether the outputs of \
             the events in between were published is unknown, so nothing is published. Was the journal \
             deleted or cut? The state goes on answering. To go on, delete '{plugin}' and deploy it again: \
             it then publishes from its first event on (into a new topic, or with `--adopt-topic` once \
             more into the old one)",
            spec.store,
            spec.source(),
            spec.journal,
        ),
        at: None,
    }
}

/// What was published was made from another topic.
fn other_input(spec: &PartitionSpec, position: &Position) -> Blocked {
    Blocked {
        code: "inputs-changed".to_owned(),
        detail: format!(
            "what generation {} of '{}' has published was made from topic '{}', and this one folds '{}': \
             which of its events were published is unknown. Deploy it with `--emit-from earliest` and \
             another output, or under another name",
            position.generation, spec.store.plugin, position.topic, spec.input.topic,
        ),
        at: None,
    }
}
