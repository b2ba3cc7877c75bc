//! Where what a plugin publishes stands, whichever generation published it: found in the journal when a
//! partition opens, and followed by a generation that is built beside the one that publishes.

use super::super::journal::{self, Position};
use super::super::{PartitionSpec, Ports, Publishing};
use crate::limits;
use crate::log::{LogError, PartitionReader, Read, ReadLimits, RecordBatch};
use crate::state::ActionPoint;
use crate::types::{Offset, TopicName, TopicPartition};

/// The positions of a partition that matter to one of its generations.
#[derive(Debug)]
pub(super) struct Frontier {
    /// The last of this generation.
    pub(super) own: Option<Position>,
    /// The last of whoever published to the owned topic, or to one that it replaces.
    pub(super) published: Option<Position>,
    rule: Rule,
}

/// Whose positions say how far what this generation makes is published.
#[derive(Debug, Clone)]
struct Rule {
    /// Deployment that brought the plugin's name.
    plugin: crate::types::DeploymentId,
    /// Publications to this topic count; `None` = to any, since nothing was published to its own yet.
    output: Option<TopicName>,
}

impl Rule {
    fn counts(&self, position: &Position) -> bool {
        position.plugin == self.plugin
            && position.output.as_ref().is_some_and(|output| {
                let wanted = self.output.as_ref();
                wanted.is_none_or(|wanted| wanted == output)
            })
    }
}

/// Looks for the positions in the journal. A generation may have published before it came to be one that
/// does not, as one that is kept.
///
/// # Errors
/// Any [`LogError`] of reading it.
pub(super) async fn find(
    ports: &Ports,
    spec: &PartitionSpec,
    publishing: &Publishing,
    has_published: bool,
) -> Result<Frontier, LogError> {
    let journal = journal_of(spec);
    let last = async |wanted: &(dyn Fn(&Position) -> bool + Sync)| {
        let read = |value: &[u8]| journal::read_position(value).filter(wanted);
        let lookups = &ports.lookups;
        lookups.last(&journal, |record| read(record.value?)).await
    };
    let own = match has_published || publishing.transactional_id.is_some() {
        true => {
            let (generation, plugin) = (spec.store.generation, publishing.plugin);
            last(&|it| it.generation == generation && it.plugin == plugin).await?
        }
        false => None,
    };
    let mut rule = Rule {
        plugin: publishing.plugin,
        output: publishing.output.clone(),
    };
    let mut published = None;
    if publishing.output.is_some() {
        published = last(&|it| rule.counts(it)).await?;
        if published.is_none() && !publishing.from_earliest {
            rule.output = None;
            published = last(&|it| rule.counts(it)).await?;
        }
    }
    Ok(Frontier {
        own,
        published,
        rule,
    })
}

/// How far the generation is that publishes, to one that follows it or takes over from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// First offset that it had not folded.
    pub(crate) until: Offset,
    /// How far it had applied the operator's actions on parked records.
    pub(crate) action: ActionPoint,
    /// For each key that it had parked, the first record whose outputs were not published; in order.
    held: Vec<Offset>,
}

impl Ahead {
    /// Nothing is published yet.
    fn nowhere() -> Self {
        Self {
            until: Offset(0),
            action: ActionPoint::done(0),
            held: Vec::new(),
        }
    }

    pub(crate) fn of(position: &Position) -> Self {
        Self {
            until: position.next,
            action: position.action,
            held: position.held.clone(),
        }
    }

    /// Whether the outputs of this record, and of all later ones of its key, were not published.
    pub(crate) fn holds(&self, offset: Offset) -> bool {
        self.held.binary_search(&offset).is_ok()
    }
}

fn journal_of(spec: &PartitionSpec) -> TopicPartition {
    TopicPartition {
        topic: spec.journal.clone(),
        partition: spec.store.partition,
    }
}

/// How far a generation may fold that is built beside the one that publishes: no further than that has
/// published, so that it can take over exactly there.
#[derive(Debug)]
pub(crate) struct Limit {
    reader: Box<dyn PartitionReader>,
    batch: RecordBatch,
    rule: Rule,
    ahead: Ahead,
}

impl Limit {
    /// Follows what is published from now on.
    pub(super) async fn follow(
        ports: &Ports,
        spec: &PartitionSpec,
        publishing: &Publishing,
        has_published: bool,
    ) -> Result<(Self, Frontier), LogError> {
        let journal = journal_of(spec);
        // Read on from before what is looked for, so that nothing falls between the two.
        let from = ports.log.range(&journal).await?.end;
        let frontier = find(ports, spec, publishing, has_published).await?;
        let limit = Self {
            reader: ports.readers.open(&journal, from).await?,
            batch: RecordBatch::new(),
            rule: frontier.rule.clone(),
            ahead: frontier
                .published
                .as_ref()
                .map_or_else(Ahead::nowhere, Ahead::of),
        };
        Ok((limit, frontier))
    }

    /// How far the generation is that it follows.
    pub(crate) fn ahead(&self) -> &Ahead {
        &self.ahead
    }

    /// Waits until that has gone on. Cancel-safe.
    ///
    /// # Errors
    /// Any [`LogError`] of reading the journal.
    pub(crate) async fn moved(&mut self) -> Result<(), LogError> {
        const LIMITS: ReadLimits = ReadLimits {
            records_max: limits::BATCH_EVENTS_MAX,
            bytes_max: limits::BATCH_BYTES_MAX,
        };
        loop {
            self.batch.clear();
            if self.reader.read(&mut self.batch, LIMITS).await? == Read::EndOfPartition {
                continue;
            }
            let positions = self
                .batch
                .iter()
                .filter_map(|record| journal::read_position(record.value?));
            let last = positions.filter(|it| self.rule.counts(it)).last();
            let now = last.as_ref().map(Ahead::of);
            if let Some(ahead) = now.filter(|it| it.until >= self.ahead.until) {
                self.ahead = ahead;
                return Ok(());
            }
        }
    }
}
