//! The history of a key of a command handler: its events, as far as the log still has them, page by page.
//!
//! Invariants: an event is told as it lies in the log, and none is left out between two that are told; where the
//! history does not reach back to the key's first event, the answer says so.

use std::collections::HashMap;
use std::ops::Range;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::{self, Progress};
use super::conditions::Conditions;
use super::context::App;
use super::encoding;
use super::params::{self, Params, Segments};
use super::record_json::RecordOut;
use super::views::{KeyForm, key};
use crate::error::{Code, Problem};
use crate::limits;
use crate::log::LogError;
use crate::manager::Plugin;
use crate::partition::PartitionHandle;
use crate::state::IndexedEvent;
use crate::types::{Offset, Partition, TopicPartition};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(of_key))
        .routes(routes!(of_key_base64))
}

/// Some events of a key.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct HistoryPage {
    /// Version of the key's state; null = it has none.
    version: Option<u64>,
    /// In the order that was asked for. Each is a record as a read of the topic gives it, without its key, and with
    /// the `version` that it has made.
    #[schema(value_type = Vec<EventOut>)]
    events: Vec<Box<RawValue>>,
    /// `_cursor` of the next page; null = there are no more.
    next: Option<String>,
    /// Where the history does not reach back to the key's first event; null = it is not seen on this page that it
    /// does not.
    cut: Option<Cut>,
}

/// Where a history begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
struct Cut {
    /// The events that have made versions before this one cannot be told.
    before_version: u64,
    /// Why.
    reason: CutReason,
}

/// Why events cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
enum CutReason {
    /// The log does not have them any more.
    Removed,
    /// They came before the handler's history was kept, or were gone by then; building its states anew
    /// (`--state rebuild`) finds those that the log has.
    NotIndexed,
}

/// An event of a history.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = HistoryEvent)]
struct EventOut<'a> {
    /// The version that it has made.
    version: u64,
    /// It.
    #[serde(flatten)]
    record: RecordOut<'a>,
}

/// Read the events of a key
///
/// Of a command handler with `history = true`: which event has made which version, when, and what it says, as far as
/// the log still has them; `cut` says where they begin. What a command was answered for is included.
#[utoipa::path(
    get, path = "/v1/views/{plugin}/history/{key}", tag = "views",
    params(
        ("plugin" = String, Path, description = "Name of the command handler"),
        ("key" = String, Path, description = "The key, as the plugin writes its keys; percent-encoded"),
        ("_order" = Option<String>, Query, description = "`newest` first (unless said), or `oldest` first"),
        ("_limit" = Option<u32>, Query, description = "Most events on a page; 100 unless said, at most 1000"),
        ("_cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("Foldhost-Min-Position" = Option<String>, Header, description = "As for a question about a key"),
        ("Foldhost-Max-Lag" = Option<u64>, Header, description = "As for a question about a key"),
    ),
    responses((status = 200, description = "Events", body = HistoryPage))
)]
async fn of_key(
    State(app): State<App>,
    segments: Segments,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    page(&app, &segments, KeyForm::Text, &headers, &uri).await
}

/// Read the events of a key of any bytes
///
/// As `/history/{key}`, with the key's bytes in base64url; `=` alone is the empty key.
#[utoipa::path(
    get, path = "/v1/views/{plugin}/history-b64/{key}", tag = "views",
    params(
        ("plugin" = String, Path, description = "Name of the command handler"),
        ("key" = String, Path, description = "The key's bytes in base64url"),
        ("_order" = Option<String>, Query, description = "`newest` first (unless said), or `oldest` first"),
        ("_limit" = Option<u32>, Query, description = "Most events on a page; 100 unless said, at most 1000"),
        ("_cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "Events", body = HistoryPage))
)]
async fn of_key_base64(
    State(app): State<App>,
    segments: Segments,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    page(&app, &segments, KeyForm::Base64, &headers, &uri).await
}

async fn page(
    app: &App,
    segments: &Segments,
    form: KeyForm,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<Response, Problem> {
    let plugin = app.services.manager.plugin(segments.get("plugin"))?;
    let params = Params::of_host(uri, &["_order", "_limit", "_cursor"])?;
    let limit = params.number("_limit", 1..=limits::PAGE_ITEMS_MAX)?;
    let place = Place::of(&params)?;
    let key = key(&plugin, segments.get("key"), form)?;
    let conditions = Conditions::of(headers)?;
    let partition = plugin.deployment().partition_of(&key);
    let (mut handle, status) = access::ready(app, &plugin, partition, &conditions).await?;
    if !handle.code().manifest().history {
        return Err(no_history(&plugin));
    }
    let lookup = access::state(app, &plugin, partition, &mut handle, &key).await?;
    let publishing = handle.spec().publishing.as_ref();
    let is_adopted = publishing.is_some_and(|it| it.folds_unstamped);
    let is_whole = status.history_complete && handle.indexed_from() == Some(status.start);
    let reading = Reading {
        app,
        handle: &handle,
        key,
        may_begin_later: is_adopted && is_whole,
        limit: limit.unwrap_or(limits::PAGE_ITEMS_DEFAULT),
    };
    let version = lookup.state.as_ref().map(crate::state::KeyState::version);
    let (events, next, cut) = app
        .unless_stopped(reading.page(place, lookup.counted))
        .await??;
    let page = HistoryPage {
        version,
        events,
        next: next.map(|place| place.encode()),
        cut,
    };
    let mut response = Json(page).into_response();
    let headers = response.headers_mut();
    let progress = Progress {
        partition,
        start: status.start,
        next: lookup.next,
        lag_events: lookup.lag_events,
    };
    let topic = access::topic(&handle).clone();
    access::stamp(headers, &topic, &[progress], &conditions);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn no_history(plugin: &Plugin) -> Problem {
    let name = plugin.name();
    Problem::new(
        Code::NoHistory,
        format!(
            "'{name}' keeps no history: write history = true into the plugin.toml of a command handler, and deploy it \
             with --state rebuild (with --state keep, its history begins then)"
        ),
    )
}

/// Where a page begins, and which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    newest_first: bool,
    /// The version that was told last.
    after: Option<u64>,
}

/// First byte of a cursor; behind it the order, and the version as 64 bits big-endian.
const CURSOR_VERSION: u8 = 1;

impl Place {
    fn of(params: &Params) -> Result<Self, Problem> {
        let order = match params.one("_order")? {
            None => None,
            Some("newest") => Some(true),
            Some("oldest") => Some(false),
            Some(text) => {
                let detail = format!("'{text}' is no value of '_order': give newest or oldest");
                return Err(params::bad("_order", detail));
            }
        };
        let Some(cursor) = params.one("_cursor")? else {
            return Ok(Self {
                newest_first: order.unwrap_or(true),
                after: None,
            });
        };
        let place = Self::decode(cursor).filter(|it| order.is_none_or(|o| o == it.newest_first));
        place.ok_or_else(|| {
            params::bad(
                "_cursor",
                "the cursor is not one of this history in this order: take `next` of the page before as it is, or \
                 leave _cursor out to begin anew",
            )
        })
    }

    fn encode(self) -> String {
        let mut bytes = vec![CURSOR_VERSION, u8::from(self.newest_first)];
        bytes.extend_from_slice(&self.after.unwrap_or_default().to_be_bytes());
        encoding::to_base64(&bytes)
    }

    fn decode(text: &str) -> Option<Self> {
        let bytes = encoding::from_base64(text).ok()?;
        let [CURSOR_VERSION, order @ (0 | 1), after @ ..] = bytes.as_slice() else {
            return None;
        };
        Some(Self {
            newest_first: *order == 1,
            after: Some(u64::from_be_bytes(after.try_into().ok()?)),
        })
    }

    /// The versions that are left.
    fn versions(self) -> Range<u64> {
        match (self.after, self.newest_first) {
            (None, _) => 0..u64::MAX,
            (Some(after), true) => 0..after,
            (Some(after), false) => after.saturating_add(1)..u64::MAX,
        }
    }
}

/// Events as they are told, where to go on, and where the history is cut.
type Page = (Vec<Box<RawValue>>, Option<Place>, Option<Cut>);

struct Reading<'a> {
    app: &'a App,
    handle: &'a PartitionHandle,
    key: Bytes,
    /// Whether the first event of a key may have made another version than 1: those from before the topic was
    /// adopted have the numbers of their places in it.
    may_begin_later: bool,
    limit: usize,
}

impl Reading<'_> {
    /// A page of a key that has had so many events.
    async fn page(&self, mut place: Place, counted: u64) -> Result<Page, Problem> {
        let began = self.app.services.clock.elapsed();
        let (mut events, mut bytes, mut cut) = (Vec::new(), 0, None);
        let newest_first = place.newest_first;
        loop {
            let room = (self.limit - events.len()).min(limits::HISTORY_READ_EVENTS);
            let mut found = self
                .handle
                .history(&self.key, place.versions(), newest_first, room + 1)
                .await?;
            let is_last = found.len() <= room;
            found.truncate(room);
            let first = first_indexed(place, &found, is_last, counted);
            if let Some(before_version) = first.filter(|first| !self.may_begin_later && *first > 1)
            {
                cut = Some(Cut {
                    before_version,
                    reason: CutReason::NotIndexed,
                });
            }
            let mut records = self.records(&found).await?;
            // What is gone is the beginning of the history: the log loses the oldest first.
            let gone = found.iter().filter(|it| !records.contains_key(&it.offset));
            let gone = gone.map(|it| it.version).max();
            if let Some(gone) = gone {
                cut = Some(Cut {
                    before_version: gone + 1,
                    reason: CutReason::Removed,
                });
            }
            place.after = found.last().map(|it| it.version).or(place.after);
            for event in found {
                if gone.is_none_or(|gone| event.version > gone)
                    && let Some(record) = records.remove(&event.offset)
                {
                    bytes += record.get().len();
                    events.push(record);
                }
            }
            let ends = is_last || newest_first && gone.is_some();
            let took = self.app.services.clock.elapsed().saturating_sub(began);
            let is_enough = events.len() >= self.limit || bytes >= limits::PAGE_BYTES_MAX;
            if ends || is_enough || took >= limits::HISTORY_PAGE_MAX {
                return Ok((events, (!ends).then_some(place), cut));
            }
        }
    }

    /// Reads events that lie at these places, as far as the log has them.
    async fn records(
        &self,
        places: &[IndexedEvent],
    ) -> Result<HashMap<Offset, Box<RawValue>>, Problem> {
        let of: TopicPartition = self.handle.spec().source();
        let versions: HashMap<Offset, u64> =
            places.iter().map(|it| (it.offset, it.version)).collect();
        let mut offsets: Vec<Offset> = versions.keys().copied().collect();
        offsets.sort_unstable();
        let mut found = HashMap::new();
        let reading = self.app.lookups.pick(&of, &offsets, |record| {
            // A topic that was created anew has other records there.
            if record.key.unwrap_or_default() == &*self.key {
                let version = versions[&record.offset];
                let told = EventOut::of(version, of.partition, *record);
                found.insert(record.offset, told);
            }
        });
        match tokio::time::timeout(limits::HISTORY_PAGE_MAX, reading).await {
            Ok(read) => read?,
            Err(_) => {
                let late = "the events did not come in time".to_owned();
                return Err(LogError::Unavailable(late).into());
            }
        }
        Ok(found)
    }
}

/// The oldest version of a key that is indexed, where that is seen.
fn first_indexed(place: Place, found: &[IndexedEvent], is_last: bool, counted: u64) -> Option<u64> {
    let (oldest, is_seen) = match place.newest_first {
        true => (found.last(), is_last),
        false => (found.first(), place.after.is_none()),
    };
    let oldest = oldest.map(|it| it.version).or(place.after);
    is_seen.then(|| oldest.unwrap_or(counted + 1))
}

impl EventOut<'_> {
    fn of(version: u64, partition: Partition, record: crate::log::RecordRef<'_>) -> Box<RawValue> {
        let event = EventOut {
            version,
            record: RecordOut::of(partition, record).without_key(),
        };
        serde_json::value::to_raw_value(&event).expect("texts, numbers and JSON serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::RecordBatch;

    #[test]
    fn a_cursor_reads_back_and_says_what_is_left() {
        for (newest_first, left) in [(true, 0..7), (false, 8..u64::MAX)] {
            let place = Place {
                newest_first,
                after: Some(7),
            };
            assert_eq!(Place::decode(&place.encode()), Some(place));
            assert_eq!(place.versions(), left);
        }
        for bad in [
            "",
            "x",
            "AQE",
            "AQIAAAAAAAAABw",
            "AgEAAAAAAAAABw",
            "AQEAAAAAAAAABwA",
        ] {
            assert_eq!(Place::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_order_and_a_cursor_of_the_other_contradict_each_other() {
        let of = |query: &str| {
            let uri: Uri = format!("/x?{query}").parse().unwrap();
            let params = Params::of_host(&uri, &["_order", "_cursor"]).unwrap();
            Place::of(&params)
        };
        let oldest = Place {
            newest_first: false,
            after: Some(3),
        };
        let cursor = oldest.encode();
        assert_eq!(of(&format!("_cursor={cursor}")).unwrap(), oldest);
        assert_eq!(
            of(&format!("_cursor={cursor}&_order=oldest")).unwrap(),
            oldest
        );
        assert!(of("").unwrap().newest_first && !of("_order=oldest").unwrap().newest_first);
        for bad in [&*format!("_cursor={cursor}&_order=newest"), "_order=first"] {
            assert_eq!(of(bad).unwrap_err().code, Code::BadParameter, "{bad}");
        }
    }

    #[test]
    fn an_event_is_a_record_with_a_version() {
        let mut batch = RecordBatch::new();
        let headers = [("foldhost-cause", Some(&b"command 1"[..]))];
        let value = Some(&br#"{"cents":1.50}"#[..]);
        batch.push(Offset(7), 5, Some(b"ann"), value, headers);
        let told = EventOut::of(3, Partition(1), batch.get(0));
        assert_eq!(
            told.get(),
            r#"{"version":3,"partition":1,"offset":7,"timestamp":5,"value":{"cents":1.50},"headers":{"foldhost-cause":"command 1"}}"#
        );
    }
}
