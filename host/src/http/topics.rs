//! Topics: create, list, describe, delete.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::append;
use super::body;
use super::context::App;
use super::params::{Params, Segments};
use crate::error::{Code, Problem};
use crate::limits;
use crate::log::{Cleanup, LogError, NewTopic, OffsetRange, Topic};
use crate::types::{Partition, TopicName, TopicPartition};

/// Partitions whose range is fetched at the same time.
const RANGES_CONCURRENT: usize = 16;
/// Owner of the host's own topics.
const HOST: &str = "foldhost";

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_topics))
        .routes(routes!(describe_topic, create_topic, delete_topic))
}

/// All topics of the log.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct TopicList {
    /// In order of name.
    topics: Vec<TopicSummary>,
}

/// A topic, in short.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct TopicSummary {
    /// Its name.
    name: String,
    /// How many partitions it has.
    partitions: u32,
    /// Whether it is the host's own.
    owned: bool,
    /// The plugin that alone publishes to it; `foldhost` where it is the host's own; null = anybody may.
    owner: Option<String>,
}

/// A topic.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct TopicDetails {
    /// Its name.
    name: String,
    /// Changes when the topic is deleted and made again; null where the log cannot tell.
    id: Option<String>,
    /// Whether it is the host's own.
    owned: bool,
    /// The plugin that alone publishes to it; `foldhost` where it is the host's own; null = anybody may.
    owner: Option<String>,
    /// Plugins that read it.
    readers: Vec<String>,
    /// Its partitions.
    partitions: Vec<PartitionRange>,
}

/// What a partition of a topic holds.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct PartitionRange {
    /// Number of the partition.
    partition: u32,
    /// Offset of the first record that it still has.
    start: u64,
    /// One past the offset of its last record.
    end: u64,
}

/// A topic that is to be created.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct TopicSettings {
    /// How many partitions; left out = as the host is configured.
    partitions: Option<u32>,
}

/// List topics
#[utoipa::path(
    get, path = "/v1/topics", tag = "topics",
    responses((status = 200, description = "All topics of the log", body = TopicList))
)]
async fn list_topics(State(app): State<App>, uri: Uri) -> Result<Json<TopicList>, Problem> {
    Params::of_host(&uri, &[])?;
    let topics = app.services.log.topics().await?;
    Ok(Json(TopicList {
        topics: topics.iter().map(|topic| summary(&app, topic)).collect(),
    }))
}

/// Describe a topic
#[utoipa::path(
    get, path = "/v1/topics/{topic}", tag = "topics",
    params(("topic" = String, Path, description = "Name of the topic")),
    responses((status = 200, description = "The topic", body = TopicDetails))
)]
async fn describe_topic(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<Json<TopicDetails>, Problem> {
    Params::of_host(&uri, &[])?;
    let name = segments.topic()?;
    let topic = app.services.log.topic(&name).await?;
    let topic = topic.ok_or_else(|| LogError::UnknownTopic(name.clone()))?;
    let readers = app.services.manager.readers_of(&name);
    Ok(Json(TopicDetails {
        name: name.to_string(),
        id: topic
            .id
            .map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
        owned: app.services.cluster_name.owns_topic(&name),
        owner: owner(&app, &name),
        readers: readers.iter().map(ToString::to_string).collect(),
        partitions: ranges(&app, &topic).await?,
    }))
}

async fn ranges(app: &App, topic: &Topic) -> Result<Vec<PartitionRange>, Problem> {
    let fetched: Vec<_> = (0..topic.partitions)
        .map(|number| range(app, &topic.name, number))
        .collect();
    let ranges: Vec<(u32, OffsetRange)> = stream::iter(fetched)
        .buffered(RANGES_CONCURRENT)
        .try_collect()
        .await?;
    let ranges = ranges.into_iter();
    Ok(ranges
        .map(|(partition, range)| PartitionRange {
            partition,
            start: range.start.0,
            end: range.end.0,
        })
        .collect())
}

async fn range(app: &App, topic: &TopicName, number: u32) -> Result<(u32, OffsetRange), LogError> {
    let of = TopicPartition {
        topic: topic.clone(),
        partition: Partition(number),
    };
    Ok((number, app.services.log.range(&of).await?))
}

/// Create a topic
///
/// The same again changes nothing. A topic's number of partitions cannot be changed here.
#[utoipa::path(
    put, path = "/v1/topics/{topic}", tag = "topics",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body = Option<TopicSettings>,
    responses(
        (status = 201, description = "It was created", body = TopicSummary),
        (status = 200, description = "It was there already", body = TopicSummary),
    )
)]
async fn create_topic(
    State(app): State<App>,
    segments: Segments,
    request: Request,
) -> Result<Response, Problem> {
    let name = segments.topic()?;
    let asked = settings(&app, request).await?;
    let found = app.services.log.topic(&name).await?;
    let fits = |topic: &Topic| {
        asked
            .partitions
            .is_none_or(|count| count == topic.partitions)
    };
    // Whoever makes sure that a plugin's output is there changes nothing.
    if app.services.cluster_name.owns_topic(&name) || !found.as_ref().is_some_and(fits) {
        append::check_unowned(&app, &name)?;
    }
    if let Some(topic) = found {
        return same(&app, &topic, asked.partitions);
    }
    let topic = NewTopic {
        name,
        partitions: asked.partitions.unwrap_or(app.services.topics.partitions),
        replication_factor: app.services.topics.replication_factor,
        cleanup: Cleanup::Default,
    };
    match app.services.log.create_topic(&topic).await {
        Ok(topic) => Ok((StatusCode::CREATED, Json(summary(&app, &topic))).into_response()),
        // Somebody else was faster.
        Err(LogError::TopicExists(_)) => {
            let found = app.services.log.topic(&topic.name).await?;
            let found = found.ok_or_else(|| LogError::UnknownTopic(topic.name.clone()))?;
            same(&app, &found, asked.partitions)
        }
        Err(error) => Err(error.into()),
    }
}

async fn settings(app: &App, request: Request) -> Result<TopicSettings, Problem> {
    let (parts, request_body) = request.into_parts();
    Params::of_host(&parts.uri, &[])?;
    let what = "the body";
    let held = body::read(app, request_body, limits::SETTINGS_BODY_BYTES_MAX, what).await?;
    if held.bytes.is_empty() {
        return Ok(TopicSettings::default());
    }
    match body::media_type(&parts.headers).as_deref() {
        Some("application/json") => parse(&held.bytes),
        other => Err(body::unsupported(other, "application/json")),
    }
}

fn parse(body: &[u8]) -> Result<TopicSettings, Problem> {
    let settings: TopicSettings = serde_json::from_slice(body).map_err(|error| {
        Problem::new(
            Code::BadRequest,
            format!("the body is not as in {{\"partitions\": 4}}: {error}"),
        )
    })?;
    match settings.partitions {
        Some(count) if !(1..=limits::PARTITIONS_MAX).contains(&count) => Err(Problem::new(
            Code::BadRequest,
            format!(
                "a topic has 1 to {} partitions, not {count}",
                limits::PARTITIONS_MAX
            ),
        )),
        _ => Ok(settings),
    }
}

/// The answer for a topic that is there already.
fn same(app: &App, topic: &Topic, asked: Option<u32>) -> Result<Response, Problem> {
    match asked {
        Some(asked) if asked != topic.partitions => Err(Problem::new(
            Code::PartitionsDiffer,
            format!(
                "topic {} exists with {} partitions, not {asked}: delete it first, or use another name",
                topic.name, topic.partitions
            ),
        )
        .with("partitions", topic.partitions)),
        _ => Ok(Json(summary(app, topic)).into_response()),
    }
}

/// Delete a topic with its records
#[utoipa::path(
    delete, path = "/v1/topics/{topic}", tag = "topics",
    params(("topic" = String, Path, description = "Name of the topic")),
    responses((status = 204, description = "It is gone"))
)]
async fn delete_topic(
    State(app): State<App>,
    segments: Segments,
    uri: Uri,
) -> Result<StatusCode, Problem> {
    Params::of_host(&uri, &[])?;
    let name = segments.topic()?;
    append::check_unowned(&app, &name)?;
    let readers = app.services.manager.readers_of(&name);
    if !readers.is_empty() {
        let readers: Vec<_> = readers.iter().map(ToString::to_string).collect();
        return Err(Problem::new(
            Code::TopicInUse,
            format!(
                "topic {name} is read by {}: delete the plugin first",
                readers.join(", ")
            ),
        )
        .with("readers", readers));
    }
    app.services.log.delete_topic(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn summary(app: &App, topic: &Topic) -> TopicSummary {
    TopicSummary {
        name: topic.name.to_string(),
        partitions: topic.partitions,
        owned: app.services.cluster_name.owns_topic(&topic.name),
        owner: owner(app, &topic.name),
    }
}

/// Who owns a topic, as it is shown.
fn owner(app: &App, topic: &TopicName) -> Option<String> {
    if app.services.cluster_name.owns_topic(topic) {
        return Some(HOST.to_owned());
    }
    let owner = app.services.manager.owner_of(topic);
    owner.map(|plugin| plugin.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_topic_are_checked() {
        assert_eq!(parse(b"{\"partitions\":4}").unwrap().partitions, Some(4));
        assert_eq!(parse(b"{}").unwrap().partitions, None);
        for (body, words) in [
            ("{\"partitions\":0}", "1 to 1024"),
            ("{\"partitions\":5000}", "not 5000"),
            ("{\"partition\":4}", "unknown field `partition`"),
            ("4", "partitions"),
        ] {
            let problem = parse(body.as_bytes()).unwrap_err();
            assert!(problem.detail.contains(words), "{}", problem.detail);
        }
    }
}
