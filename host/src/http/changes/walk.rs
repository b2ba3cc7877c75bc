//! Reads the changes of a plugin that this host can tell, from where a token says. Used by `changes`, for pages and
//! for streams.
//!
//! Invariants: the token is never ahead of what was given out, so whatever it leaves out was told before; a
//! partition that cannot be read keeps its place; what is held at a time is bounded in items and bytes.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::token::{Place, Token};
use crate::error::{Code, Problem};
use crate::http::access::{self, Version};
use crate::http::auth::Principal;
use crate::http::context::App;
use crate::http::keys;
use crate::http::listing::{Asking, KeyItem};
use crate::limits;
use crate::manager::Plugin;
use crate::partition::PartitionHandle;
use crate::plugin::Kind;
use crate::state::{ChangeNumber, KeyChange, KeyState};
use crate::types::{Offset, Partition, PluginName};

/// A change of a key.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ChangeItem {
    /// The key has no state any more: it has no version either, but for a command handler's.
    deleted: bool,
    #[serde(flatten)]
    item: KeyItem,
}

/// A partition whose changes are not told here now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(super) struct Missing {
    /// Number of the partition.
    partition: u32,
    /// URL of the host that owns it; null = nobody does right now, or this host is not ready.
    owner: Option<String>,
    /// `not-owner`, `no-owner`, `replaying`, or `not-ready` where it is another generation that answers, or an owner
    /// before the one that gave the token.
    reason: &'static str,
}

/// What a client asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) app: App,
    pub(super) plugin: PluginName,
    pub(super) principal: Principal,
    /// Whether items have the plugin's answer, or the state.
    pub(super) with_state: bool,
    /// Arguments of the default query.
    pub(super) arguments: Vec<(String, String)>,
}

/// A change that is told, and the token behind it if it is wanted.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) item: Box<RawValue>,
    pub(super) id: Option<String>,
}

/// A reader of a feed.
#[derive(Debug)]
pub(super) struct Walk {
    asked: Asked,
    token: Token,
    plugin: Arc<Plugin>,
    here: Vec<Source>,
    elsewhere: Vec<Missing>,
}

/// A partition that is read.
#[derive(Debug)]
struct Source {
    partition: Partition,
    handle: PartitionHandle,
    commits: watch::Receiver<Offset>,
    /// Everything was told that was committed when it was last read.
    is_drained: bool,
    /// Whoever gave the token has the partition by now, and this host has not noticed.
    is_behind: bool,
}

/// What is told at once.
struct Page {
    told: Vec<Told>,
    items_max: usize,
    bytes: usize,
    with_ids: bool,
}

impl Page {
    fn is_full(&self) -> bool {
        self.told.len() >= self.items_max || self.bytes >= limits::PAGE_BYTES_MAX
    }

    fn push(&mut self, item: Box<RawValue>, behind: &Token) {
        self.bytes += item.get().len();
        let id = self.with_ids.then(|| behind.encode());
        self.told.push(Told { item, id });
    }
}

/// A change on its way to a client.
struct Found {
    key: Bytes,
    deleted: bool,
    /// As it is now, or at least its place; of a deletion, its place.
    state: KeyState,
    /// Where whoever was told it is.
    place: Place,
}

/// What was read of a partition.
struct Read {
    found: Vec<Found>,
    /// Behind all of it.
    place: Place,
    /// There is nothing behind it for now.
    is_last: bool,
}

impl Walk {
    /// Begins where a token says, or before everything.
    ///
    /// # Errors
    /// `bad-changes-token`; those of [`look`](Self::look).
    pub(super) fn begin(asked: Asked, since: Option<&str>) -> Result<(Self, bool), Problem> {
        let plugin = asked.app.services.manager.plugin(asked.plugin.as_str())?;
        let token = match since {
            Some(since) => Token::decode(since, &asked.plugin)?,
            None => Token::new(&asked.plugin, plugin.deployment().generation),
        };
        let mut walk = Self {
            asked,
            token,
            plugin,
            here: Vec::new(),
            elsewhere: Vec::new(),
        };
        let restarted = walk.look()?;
        Ok((walk, restarted))
    }

    /// Finds out who has which partition by now. True = the plugin was built anew since the token, so everything is
    /// told from the beginning.
    ///
    /// # Errors
    /// `unknown-plugin`, `no-changes`.
    pub(super) fn look(&mut self) -> Result<bool, Problem> {
        let Asked { app, plugin, .. } = &self.asked;
        self.plugin = app.services.manager.plugin(plugin.as_str())?;
        let deployment = self.plugin.deployment();
        if deployment.manifest.changes.is_none() {
            return Err(Problem::new(
                Code::NoChanges,
                format!(
                    "{plugin} does not remember its changes: write changes = true into its plugin.toml and deploy \
                     it again"
                ),
            ));
        }
        let restarted = self.token.generation != deployment.generation;
        if restarted {
            self.token = Token::new(plugin, deployment.generation);
        }
        let mut before = std::mem::take(&mut self.here).into_iter().peekable();
        self.elsewhere.clear();
        for partition in (0..deployment.partitions).map(Partition) {
            while before.next_if(|it| it.partition < partition).is_some() {}
            let known = before.next_if(|it| it.partition == partition);
            match self.source(partition) {
                Ok(source) => {
                    let same = known.filter(|it| it.handle.is_same(&source.handle));
                    self.here.push(same.unwrap_or(source));
                }
                Err(missing) => self.elsewhere.push(missing),
            }
        }
        Ok(restarted)
    }

    /// The partition, if it can be read here.
    fn source(&self, partition: Partition) -> Result<Source, Missing> {
        let app = &self.asked.app;
        let missing = |owner, reason: Code| Missing {
            partition: partition.0,
            owner,
            reason: reason.as_str(),
        };
        let handle = access::local(app, &self.plugin, partition).map_err(|problem| {
            let owner = app.services.cluster.owner_url(&self.plugin, partition);
            missing(owner, problem.code)
        })?;
        if handle.spec().store.generation != self.token.generation {
            return Err(missing(None, Code::NotReady));
        }
        if !handle.status().answers {
            return Err(missing(None, Code::Replaying));
        }
        // Until the code takes over that remembers changes, they are not remembered.
        if handle.code().manifest().changes.is_none() {
            return Err(missing(None, Code::NotReady));
        }
        Ok(Source {
            partition,
            commits: handle.commits(),
            handle,
            is_drained: false,
            is_behind: false,
        })
    }

    /// Partitions that are read.
    pub(super) fn partitions(&self) -> Vec<u32> {
        let here = self.here.iter().filter(|source| !source.is_behind);
        here.map(|source| source.partition.0).collect()
    }

    /// Partitions that are not.
    pub(super) fn missing(&self) -> Vec<Missing> {
        let behind = self.here.iter().filter(|source| source.is_behind);
        let behind = behind.map(|source| Missing {
            partition: source.partition.0,
            owner: None,
            reason: Code::NotReady.as_str(),
        });
        let mut missing = self.elsewhere.clone();
        missing.extend(behind);
        missing.sort_by_key(|missing| missing.partition);
        missing
    }

    /// Refuses a reader that could be told nothing at all.
    ///
    /// # Errors
    /// `not-owner`, `no-owner`, `replaying`, `not-ready`.
    pub(super) fn require_some(&self) -> Result<(), Problem> {
        let Some(missing) = self.elsewhere.first().filter(|_| self.here.is_empty()) else {
            return Ok(());
        };
        let partition = Partition(missing.partition);
        access::local(&self.asked.app, &self.plugin, partition)?;
        let name = self.plugin.name();
        let (code, what) = match missing.reason == Code::Replaying.as_str() {
            true => (Code::Replaying, "is still reading its backlog"),
            false => (Code::NotReady, "is being taken over by other code"),
        };
        Err(Problem::new(
            code,
            format!("partition {partition} of {name} {what}: ask again in a moment"),
        )
        .with("partition", partition.0))
    }

    /// Where the reader is.
    pub(super) fn token(&self) -> String {
        self.token.encode()
    }

    /// Number of the generation that is read.
    pub(super) fn generation(&self) -> u64 {
        self.token.generation.0
    }

    /// Waits until one of the partitions has committed something since it was read.
    pub(super) async fn committed(&mut self) {
        if self.here.is_empty() {
            return std::future::pending().await;
        }
        let commits = self
            .here
            .iter_mut()
            .map(|it| Box::pin(it.commits.changed()));
        let (_, at, _) = futures_util::future::select_all(commits).await;
        // Waiting has seen the change; it is still to be read.
        self.here[at].is_drained = false;
    }

    /// The next changes, each with the token behind it if `with_ids`: at most `items_max`, and no more once they
    /// have [`limits::PAGE_BYTES_MAX`]. True = there may be more.
    ///
    /// The partitions take turns, so that one that changes all the time does not keep the others waiting.
    ///
    /// # Errors
    /// `changes-token-too-old`, `state-unavailable`; `bad-argument` of the default query.
    pub(super) async fn next(
        &mut self,
        items_max: usize,
        with_ids: bool,
    ) -> Result<(Vec<Told>, bool), Problem> {
        let turn = self.token.turn;
        let first = self.here.partition_point(|it| it.partition < turn);
        let count = self.here.len();
        let mut page = Page {
            told: Vec::new(),
            items_max,
            bytes: 0,
            with_ids,
        };
        for at in (first..count).chain(0..first) {
            match self.next_of(at, &mut page).await {
                Ok(()) if page.is_full() => {
                    self.token.turn = Partition(self.here[at].partition.0 + 1);
                    return Ok((page.told, true));
                }
                Ok(()) => {}
                // What was read goes out; the error comes again.
                Err(_) if !page.told.is_empty() => return Ok((page.told, true)),
                Err(problem) => return Err(problem),
            }
        }
        self.token.turn = Partition(0);
        Ok((page.told, false))
    }

    /// The next changes of one partition, until there are no more or the page is full.
    async fn next_of(&mut self, at: usize, page: &mut Page) -> Result<(), Problem> {
        let source = &mut self.here[at];
        if source.is_drained && !source.commits.has_changed().unwrap_or(false) {
            return Ok(());
        }
        // What is committed from here on is news.
        source.commits.mark_unchanged();
        source.is_drained = false;
        let (partition, handle) = (source.partition, source.handle.clone());
        self.token.turn = partition;
        while !page.is_full() {
            let wanted = (page.items_max - page.told.len()).min(limits::PAGE_SCAN_KEYS);
            let Some(read) = self.read(at, &handle, wanted).await? else {
                self.here[at].is_drained = true;
                return Ok(());
            };
            let asking = self.asking(&handle)?;
            let plugin = self.plugin.clone();
            let items = read.found.into_iter().map(|found| {
                let place = found.place.clone();
                let item = item(&plugin, &asking, &handle, found);
                async move { item.await.map(|item| (item, place)) }
            });
            let mut items = stream::iter(items).buffered(limits::PAGE_ANSWERS_CONCURRENT);
            while let Some(item) = items.next().await {
                let (item, place) = item?;
                self.token.places.insert(partition, place);
                page.push(item, &self.token);
                if page.bytes >= limits::PAGE_BYTES_MAX {
                    return Ok(());
                }
            }
            self.token.places.insert(partition, read.place);
            if read.is_last {
                self.here[at].is_drained = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next of a partition; `None` = nothing can be told of it now.
    async fn read(
        &mut self,
        at: usize,
        handle: &PartitionHandle,
        wanted: usize,
    ) -> Result<Option<Read>, Problem> {
        let source = &mut self.here[at];
        source.is_behind = false;
        let partition = source.partition;
        match self.token.places.get(&partition) {
            None => {
                // What is committed while the keys are told comes again behind them.
                let Some(feed) = handle.feed(None, 0).await? else {
                    return Ok(None);
                };
                keys_after(handle, None, feed.next, wanted).await.map(Some)
            }
            Some(Place::Keys { then, after }) => {
                let (then, after) = (*then, after.clone());
                let read = keys_after(handle, Some(&after), then, wanted).await?;
                Ok(Some(read))
            }
            Some(Place::Changes(from)) => {
                let from = *from;
                let Some(feed) = handle.feed(Some(from), wanted).await? else {
                    return Ok(None);
                };
                if from < feed.kept_from {
                    return Err(too_old(partition));
                }
                if from > feed.next {
                    source.is_behind = true;
                    return Ok(None);
                }
                let mut read = Read {
                    is_last: feed.changes.len() < wanted,
                    place: Place::Changes(after(&feed.changes).unwrap_or(from)),
                    found: Vec::new(),
                };
                match self.asked.with_state {
                    true => with_states(handle, feed.changes, &mut read).await?,
                    false => read.found = feed.changes.into_iter().map(Found::of).collect(),
                }
                Ok(Some(read))
            }
        }
    }

    /// How the plugin is asked about each key.
    fn asking(&self, handle: &PartitionHandle) -> Result<Asking, Problem> {
        let Asked {
            app,
            principal,
            with_state,
            arguments,
            ..
        } = &self.asked;
        match with_state {
            true => keys::asking(app, &handle.code(), principal, arguments.clone()),
            false => Ok(Asking::Nothing),
        }
    }
}

/// The next keys that there are; behind them come the changes.
async fn keys_after(
    handle: &PartitionHandle,
    after: Option<&Bytes>,
    then: ChangeNumber,
    wanted: usize,
) -> Result<Read, Problem> {
    let after = after.map(Bytes::as_ref);
    let page = handle.scan_committed(after, wanted).await?;
    let place = match page.states.last() {
        Some((key, _)) if !page.is_last => Place::Keys {
            then,
            after: Bytes::copy_from_slice(key),
        },
        _ => Place::Changes(then),
    };
    let present = page
        .states
        .into_iter()
        .filter(|(_, state)| !state.is_gone());
    let found = present.map(|(key, state)| Found {
        place: Place::Keys {
            then,
            after: Bytes::copy_from_slice(&key),
        },
        key,
        deleted: false,
        state,
    });
    Ok(Read {
        found: found.collect(),
        place,
        is_last: false,
    })
}

/// Changes with the states that their keys have by now, as many as are read at once. One whose key was deleted
/// meanwhile comes as a deletion later.
async fn with_states(
    handle: &PartitionHandle,
    mut changes: Vec<KeyChange>,
    into: &mut Read,
) -> Result<(), Problem> {
    let keys: Vec<_> = changes.iter().map(|change| change.key.clone()).collect();
    let states = handle.committed(&keys, limits::PAGE_BYTES_MAX).await?;
    if states.len() < changes.len() {
        changes.truncate(states.len());
        into.is_last = false;
    }
    if let Some(after) = after(&changes) {
        into.place = Place::Changes(after);
    }
    for (change, state) in changes.into_iter().zip(states) {
        let state = state.filter(|state| !state.is_gone());
        match (change.deleted, state) {
            (true, _) => into.found.push(Found::of(change)),
            (false, Some(state)) => into.found.push(Found {
                state,
                ..Found::of(change)
            }),
            (false, None) => {}
        }
    }
    Ok(())
}

/// The number behind the last of them.
fn after(changes: &[KeyChange]) -> Option<ChangeNumber> {
    changes.last().map(|change| change.number.next())
}

impl Found {
    fn of(change: KeyChange) -> Self {
        Self {
            place: Place::Changes(change.number.next()),
            key: change.key,
            deleted: change.deleted,
            state: KeyState {
                state: Bytes::new(),
                changed_at: change.changed_at,
                changed_at_ms: change.changed_at_ms,
            },
        }
    }
}

async fn item(
    plugin: &Plugin,
    asking: &Asking,
    handle: &PartitionHandle,
    found: Found,
) -> Result<Box<RawValue>, Problem> {
    let Found {
        key,
        deleted,
        state,
        ..
    } = found;
    let item = if deleted {
        let code = handle.code();
        let item = KeyItem::bare(handle, &key, state.changed_at_ms);
        match code.code.inspection().kind {
            Kind::CommandHandler => item.versioned(Version::of(handle, &code, &state).to_string()),
            Kind::View | Kind::Republisher => item,
        }
    } else {
        KeyItem::answered_for(plugin, asking, handle, key, state).await?
    };
    let item = ChangeItem { deleted, item };
    Ok(serde_json::value::to_raw_value(&item).expect("texts, numbers and JSON serialise"))
}

fn too_old(partition: Partition) -> Problem {
    Problem::new(
        Code::ChangesTokenTooOld,
        format!(
            "deletions in partition {partition} since the token are not remembered any more \
             (changes-keep-deletions in plugin.toml): forget what you have, and begin again without a token"
        ),
    )
    .with("partition", partition.0)
}
