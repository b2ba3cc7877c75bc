//! Reading records of one partition of a topic.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::context::App;
use super::params::{self, Params, Segments};
use super::record_json::RecordOut;
use crate::error::{Code, Problem};
use crate::limits;
use crate::log::{LogError, OffsetRange, Read, ReadLimits, RecordBatch};
use crate::types::{Offset, Partition, TopicName, TopicPartition};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read_records))
}

/// Some records of a partition.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct RecordPage {
    /// Name of the topic.
    topic: String,
    /// Number of the partition.
    partition: u32,
    /// Offset of the first record that the partition still has.
    start: u64,
    /// One past the offset of its last record.
    end: u64,
    /// In order. Each has the fields of an append.
    #[schema(value_type = Vec<RecordOut>)]
    records: Vec<Box<RawValue>>,
    /// `offset` of the next page.
    next: u64,
}

/// Read records of a partition
///
/// The answer ends at the end of the partition, or earlier: after `limit` records or some megabytes.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/records", tag = "records",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("partition" = Option<u32>, Query, description = "Number of the partition; may be left out if there is one only"),
        ("offset" = Option<String>, Query, description = "First record: an offset, `earliest` (unless said), or `latest`"),
        ("limit" = Option<u32>, Query, description = "Most records; 100 unless said, at most 1000"),
        ("_wait" = Option<u64>, Query, description = "How many seconds to wait for a record if there is none, at most 60"),
    ),
    responses((status = 200, description = "Records", body = RecordPage))
)]
async fn read_records(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<Json<RecordPage>, Problem> {
    let topic = segments.topic()?;
    let params = Params::of_host(&uri, &["partition", "offset", "limit", "_wait"])?;
    let limit = params.number("limit", 1..=limits::PAGE_ITEMS_MAX)?;
    let wait = params.seconds("_wait")?.unwrap_or_default();
    let partition = params.number("partition", 0..=u32::MAX)?.map(Partition);
    let from = Start::of(params.one("offset")?)?;

    let of = TopicPartition {
        partition: choose(&app, &topic, partition).await?,
        topic,
    };
    let range = app.services.log.range(&of).await?;
    let from = from.within(&range)?;
    let limit = limit.unwrap_or(limits::PAGE_ITEMS_DEFAULT);
    let (batch, next) = app
        .unless_stopped(read(&app, &of, from, limit, wait, &range))
        .await??;
    let range = if next > range.end {
        app.services.log.range(&of).await?
    } else {
        range
    };
    Ok(Json(RecordPage {
        topic: of.topic.to_string(),
        partition: of.partition.0,
        start: range.start.0,
        end: range.end.0,
        records: batch
            .iter()
            .map(|record| RecordOut::of(of.partition, record).to_raw())
            .collect(),
        next: next.0,
    }))
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Earliest,
    Latest,
    At(Offset),
}

impl Start {
    fn of(text: Option<&str>) -> Result<Self, Problem> {
        match text {
            None | Some("earliest") => Ok(Self::Earliest),
            Some("latest") => Ok(Self::Latest),
            Some(text) => text
                .parse()
                .map(|offset| Self::At(Offset(offset)))
                .map_err(|_| {
                    params::bad(
                        "offset",
                        format!(
                            "'{text}' is no value of 'offset': give an offset, earliest or latest"
                        ),
                    )
                }),
        }
    }

    fn within(self, range: &OffsetRange) -> Result<Offset, Problem> {
        match self {
            Self::Earliest => Ok(range.start),
            Self::Latest => Ok(range.end),
            Self::At(offset) if (range.start..=range.end).contains(&offset) => Ok(offset),
            Self::At(offset) => Err(params::bad(
                "offset",
                format!(
                    "there is no offset {offset}: the partition has {} to {}, and {} is where the next \
                     record goes",
                    range.start,
                    range.end.0.saturating_sub(1),
                    range.end
                ),
            )
            .with("start", range.start.0)
            .with("end", range.end.0)),
        }
    }
}

/// The partition that was asked for, or the only one.
async fn choose(
    app: &App,
    topic: &TopicName,
    asked: Option<Partition>,
) -> Result<Partition, Problem> {
    let described = app.services.log.topic(topic).await?;
    let count = described
        .ok_or_else(|| LogError::UnknownTopic(topic.clone()))?
        .partitions;
    match asked {
        Some(partition) if partition.0 < count => Ok(partition),
        Some(partition) => Err(Problem::new(
            Code::UnknownPartition,
            format!(
                "topic {topic} has no partition {partition}: it has 0 to {}",
                count - 1
            ),
        )),
        None if count == 1 => Ok(Partition(0)),
        None => Err(params::bad(
            "partition",
            format!("say which partition: topic {topic} has 0 to {}", count - 1),
        )),
    }
}

/// Reads until the end of the partition, or until there is enough, and says where to go on. Waits for
/// a first record only.
async fn read(
    app: &App,
    of: &TopicPartition,
    from: Offset,
    records_max: usize,
    wait: Duration,
    range: &OffsetRange,
) -> Result<(RecordBatch, Offset), Problem> {
    let mut batch = RecordBatch::new();
    let mut at_end = from >= range.end;
    if at_end && wait.is_zero() {
        return Ok((batch, from));
    }
    let _slot = app
        .topic_reads
        .acquire()
        .await
        .expect("the slots are never closed");
    let set = app.services.log.reader_set("http")?;
    let mut reader = set.open(of, from).await?;
    let clock = &app.services.clock;
    let began = clock.elapsed();
    while batch.len() < records_max && batch.bytes() < limits::PAGE_BYTES_MAX {
        let patience = if at_end {
            wait
        } else {
            wait.max(limits::WAIT_DEFAULT)
        };
        let left = (began + patience).saturating_sub(clock.elapsed());
        let want = ReadLimits {
            records_max: records_max - batch.len(),
            bytes_max: limits::PAGE_BYTES_MAX - batch.bytes(),
        };
        match tokio::time::timeout(left, reader.read(&mut batch, want)).await {
            // What is there is an answer; the client asks again for the rest.
            Err(_) if at_end || !batch.is_empty() => break,
            Err(_) => return Err(LogError::Unavailable("no record came in time".to_owned()).into()),
            Ok(read) => match read? {
                Read::Records if at_end => break,
                Read::Records => {}
                Read::EndOfPartition => {
                    at_end = true;
                    if !batch.is_empty() || wait.is_zero() {
                        break;
                    }
                }
            },
        }
    }
    let behind_last = batch
        .len()
        .checked_sub(1)
        .map(|last| batch.get(last).offset.next());
    // Behind the last record there may be none, up to the end: compaction and markers leave gaps.
    let passed = if at_end { range.end } else { from };
    let next = behind_last.map_or(passed, |next| next.max(passed));
    Ok((batch, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_lies_in_the_partition() {
        let range = Offset(3)..Offset(9);
        for (text, offset) in [
            (None, 3),
            (Some("earliest"), 3),
            (Some("latest"), 9),
            (Some("3"), 3),
            (Some("9"), 9),
        ] {
            let from = Start::of(text)
                .and_then(|from| from.within(&range))
                .unwrap();
            assert_eq!(from, Offset(offset), "{text:?}");
        }
        for text in ["2", "10", "-1", "first"] {
            let problem = Start::of(Some(text))
                .and_then(|from| from.within(&range))
                .unwrap_err();
            assert_eq!(problem.code, Code::BadParameter, "{text}");
        }
    }
}
