//! Walks the keys of the partitions that a host has of a view, in order of partition and key, and has
//! the plugin answer for each. Used by `keys`, for pages and for streams, and by `changes`, for its items.
//!
//! Invariant: what is held at a time is bounded in keys and bytes, whatever the view holds.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use serde_json::value::RawValue;

use super::access::Version;
use super::cursor::Cursor;
use super::encoding;
use crate::error::{Code, Problem};
use crate::limits;
use crate::manager::Plugin;
use crate::partition::{CodeInUse, PartitionHandle};
use crate::plugin::{CallContext, Payload, QueryError, Question};
use crate::state::KeyState;
use crate::types::Partition;

/// One key of a view.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub(super) struct KeyItem {
    /// The key, as the plugin writes its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The key's bytes in base64url, where they are no key of the plugin's format.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// Its partition.
    partition: u32,
    /// As in the `ETag` of a question about the key; none where answers depend on the clock or the
    /// caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Timestamp of the event that changed the key last, in milliseconds since the Unix epoch.
    changed_at_ms: i64,
    /// The default query's answer; null = the plugin has nothing to say about the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    answer: Option<Box<RawValue>>,
    /// Type of an answer that is no JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// An answer that is no JSON, in base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_base64: Option<String>,
    /// State of a plugin without queries, in base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_base64: Option<String>,
    /// Why there is no answer for this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ItemError>,
}

/// Why a key has no answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ItemError {
    /// The plugin's code, or `plugin-trapped`.
    code: String,
    /// A sentence.
    detail: String,
}

/// What is listed.
#[derive(Debug)]
pub(super) struct Listing {
    /// The view.
    pub(super) plugin: Arc<Plugin>,
    /// The partitions that are covered, in order.
    pub(super) partitions: Vec<(Partition, PartitionHandle)>,
    /// First bytes of the keys.
    pub(super) prefix: Vec<u8>,
    /// How the plugin is asked about each key.
    pub(super) asking: Asking,
}

/// How the plugin is asked about each key.
#[derive(Debug)]
pub(super) enum Asking {
    /// It has queries, but no default one.
    Nothing,
    /// It has no queries.
    State,
    /// By its default query.
    Question {
        /// Arguments of the question.
        arguments: Vec<(String, String)>,
        /// What the host knows about the call, where the query uses it.
        context: Option<CallContext>,
    },
}

/// How far a listing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Walk {
    partition: usize,
    after: Option<Bytes>,
}

/// Items of a listing, each one JSON document in a line.
pub(super) type Items = Vec<Box<RawValue>>;

impl Listing {
    /// Begins behind a cursor, or at the first key.
    ///
    /// # Errors
    /// `no-owner` when the cursor's partition is not covered: it has moved to another host.
    pub(super) fn begin(&self, cursor: Option<Cursor>) -> Result<Walk, Problem> {
        let Some(cursor) = cursor else {
            return Ok(Walk {
                partition: 0,
                after: None,
            });
        };
        let covered = self.partitions.iter().map(|(partition, _)| *partition);
        match covered.enumerate().find(|(_, partition)| *partition == cursor.partition) {
            Some((partition, _)) => Ok(Walk { partition, after: Some(cursor.after) }),
            None => Err(Problem::new(
                Code::NoOwner,
                format!(
                    "partition {} of the cursor is not listed here any more: begin again without _cursor",
                    cursor.partition
                ),
            )
            .with("partition", cursor.partition.0)),
        }
    }

    /// The next items: at most `items_max`, and no more once they have [`limits::PAGE_BYTES_MAX`].
    /// None = there are no more.
    ///
    /// # Errors
    /// `state-unavailable`; `bad-argument`, which concerns every key.
    pub(super) async fn next(&self, walk: &mut Walk, items_max: usize) -> Result<Items, Problem> {
        let mut items = Items::new();
        let mut bytes = 0;
        while items.len() < items_max && bytes < limits::PAGE_BYTES_MAX {
            let Some((_, handle)) = self.partitions.get(walk.partition) else {
                break;
            };
            let wanted = (items_max - items.len()).min(limits::PAGE_SCAN_KEYS);
            let found = handle
                .scan(&self.prefix, walk.after.as_deref(), wanted)
                .await?
                .states;
            if found.is_empty() {
                *walk = Walk {
                    partition: walk.partition + 1,
                    after: None,
                };
                continue;
            }
            let asked: Vec<_> = found
                .into_iter()
                .map(|(key, state)| self.item(handle, key, state))
                .collect();
            let mut answered = stream::iter(asked).buffered(limits::PAGE_ANSWERS_CONCURRENT);
            while let Some(item) = answered.next().await {
                let (key, item) = item?;
                bytes += item.get().len();
                items.push(item);
                walk.after = Some(key);
                if bytes >= limits::PAGE_BYTES_MAX {
                    break;
                }
            }
        }
        Ok(items)
    }

    /// Where the next page begins; none if no key is left.
    pub(super) async fn cursor(&self, walk: &Walk) -> Result<Option<Cursor>, Problem> {
        let current = self.partitions.get(walk.partition).zip(walk.after.as_ref());
        let Some(((partition, _), after)) = current else {
            return Ok(None);
        };
        let mut behind = Some(after.as_ref());
        for (_, handle) in self.partitions.iter().skip(walk.partition) {
            if !handle
                .scan(&self.prefix, behind.take(), 1)
                .await?
                .states
                .is_empty()
            {
                return Ok(Some(Cursor {
                    partition: *partition,
                    after: after.clone(),
                }));
            }
        }
        Ok(None)
    }

    async fn item(
        &self,
        handle: &PartitionHandle,
        key: Bytes,
        state: KeyState,
    ) -> Result<(Bytes, Box<RawValue>), Problem> {
        let item = KeyItem::answered_for(&self.plugin, &self.asking, handle, key.clone(), state);
        let item = serde_json::value::to_raw_value(&item.await?)
            .expect("texts, numbers and JSON serialise");
        Ok((key, item))
    }
}

impl KeyItem {
    /// A key without a version or an answer.
    pub(super) fn bare(handle: &PartitionHandle, key: &[u8], changed_at_ms: i64) -> Self {
        let text = handle.code().manifest().key.format(key);
        Self {
            key_base64: text.is_none().then(|| encoding::to_base64(key)),
            key: text,
            partition: handle.spec().store.partition.0,
            changed_at_ms,
            ..Self::default()
        }
    }

    /// The same, with its version.
    pub(super) fn versioned(mut self, version: String) -> Self {
        self.version = Some(version);
        self
    }

    /// A key with the plugin's answer.
    ///
    /// # Errors
    /// `bad-argument`, which concerns every key.
    pub(super) async fn answered_for(
        plugin: &Plugin,
        asking: &Asking,
        handle: &PartitionHandle,
        key: Bytes,
        state: KeyState,
    ) -> Result<Self, Problem> {
        let code = handle.code();
        let mut item = Self::bare(handle, &key, state.changed_at_ms);
        let context = match asking {
            Asking::Question { context, .. } => context.as_ref(),
            Asking::Nothing | Asking::State => None,
        };
        if context.is_none() {
            item.version = Some(Version::of(handle, &code, &state).to_string());
        }
        match asking {
            Asking::Nothing => {}
            Asking::State => item.state_base64 = Some(encoding::to_base64(&state.state)),
            Asking::Question { arguments, .. } => {
                let question = question(arguments, context, &state);
                item.ask(plugin, &code, key, state, question).await?;
            }
        }
        Ok(item)
    }

    async fn ask(
        &mut self,
        plugin: &Plugin,
        code: &CodeInUse,
        key: Bytes,
        state: KeyState,
        question: Question,
    ) -> Result<(), Problem> {
        let error = match plugin.answer(code, key, Some(state.state), question).await {
            Ok(Ok(payload)) => {
                self.answered(payload);
                return Ok(());
            }
            Ok(Err(QueryError::UnknownQuery)) => return Ok(()),
            Ok(Err(QueryError::NotFound)) => {
                self.answer = Some(RawValue::NULL.to_owned());
                return Ok(());
            }
            Ok(Err(error @ QueryError::BadArgument(..))) => {
                return Err(super::problem::of_query(error, "", &[]));
            }
            Ok(Err(QueryError::Other(code, detail))) => ItemError { code, detail },
            Err(fault) => {
                let problem = Problem::from(fault);
                ItemError {
                    code: problem.code.to_string(),
                    detail: problem.detail,
                }
            }
        };
        self.error = Some(error);
        Ok(())
    }

    fn answered(&mut self, payload: Payload) {
        let text = std::str::from_utf8(&payload.body)
            .ok()
            .map(encoding::compact);
        let json = text.and_then(|text| RawValue::from_string(text.into_owned()).ok());
        match json.filter(|_| is_json(&payload.content_type)) {
            Some(json) => self.answer = Some(json),
            None => {
                self.answer_base64 = Some(encoding::to_base64(&payload.body));
                self.content_type = Some(payload.content_type);
            }
        }
    }
}

fn question(
    arguments: &[(String, String)],
    context: Option<&CallContext>,
    state: &KeyState,
) -> Question {
    let context = context.map_or_else(CallContext::default, |context| CallContext {
        version: Some(state.changed_at.0),
        changed_at_ms: Some(state.changed_at_ms),
        ..context.clone()
    });
    Question {
        name: String::new(),
        arguments: arguments.to_vec(),
        content: None,
        accept: "application/json".to_owned(),
        context,
    }
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(content_type: &str, body: &str) -> serde_json::Value {
        let mut item = KeyItem::default();
        item.answered(Payload {
            content_type: content_type.into(),
            body: body.into(),
        });
        serde_json::to_value(&item).unwrap()
    }

    #[test]
    fn an_answer_stands_in_a_line() {
        let item = answered("application/json; charset=utf-8", "{\n \"a\": 1.50\n}");
        assert_eq!(item["answer"]["a"], 1.5);
        assert_eq!(
            answered("application/problem+json", "[]")["answer"],
            serde_json::json!([])
        );
        for (kind, body) in [("text/csv", "[1]"), ("application/json", "{")] {
            let item = answered(kind, body);
            assert_eq!(item["content_type"], kind);
            assert_eq!(item["answer_base64"], encoding::to_base64(body.as_bytes()));
        }
    }
}
