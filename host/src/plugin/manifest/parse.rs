//! From the text of a `plugin.toml` to a [`Manifest`], collecting every fault on the way.
//!
//! Tables are walked by hand, not by serde: serde stops at the first fault, and its messages know
//! neither the path of a field nor the bounds it must keep.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::value::{Error as VariantError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::{Table, Value};

use crate::limits;
use crate::log::Partitioner;
use crate::types::{KeyFormat, PluginName, TopicName};

use super::{
    ChangesFeed, Framing, Input, Limits, Manifest, ManifestFault, OnGap, Output, Start, units,
    writes_to_log,
};

const FIELDS: &[&str] = &[
    "name",
    "version",
    "inputs",
    "output",
    "merge-partitions",
    "state-schema",
    "route-schema",
    "key",
    "commit-interval",
    "on-error",
    "expected-version",
    "on-refusal",
    "changes",
    "changes-keep-deletions",
    "keep-outcomes",
    "history",
    "headers",
    "record-keys",
    "origins",
    "bootstrap",
    "keep-generations",
    "limits",
];
const INPUT_FIELDS: &[&str] = &["name", "topic", "start", "on-gap", "partitioner", "framing"];
const FRAMINGS: &[&str] = &["none", "confluent", "confluent-avro", "confluent-json"];
const OUTPUT_FIELDS: &[&str] = &["topic", "partitions", "cleanup"];
const LIMITS_FIELDS: &[&str] = &["memory", "fuel-per-call", "state-size", "answer-size"];
/// Edits between an unknown name and a known one, up to which the latter is suggested.
const HINT_DISTANCE_MAX: usize = 3;

type Faults = Vec<ManifestFault>;

/// Parses a whole manifest.
pub(super) fn manifest(text: &str) -> Result<Manifest, Faults> {
    if text.len() > limits::MANIFEST_BYTES_MAX {
        return Err(vec![fault(
            "",
            format!("the manifest has {} bytes", text.len()),
            format!("it may have {}", limits::MANIFEST_BYTES_MAX),
        )]);
    }
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        vec![fault(
            "",
            format!("not TOML: {}", error.to_string().trim()),
            "fix the syntax",
        )]
    })?;
    let mut faults = Vec::new();
    let mut fields = Fields::new(&table, "", FIELDS, &mut faults);
    let name = fields.required("name", "name = \"my-view\"", parse_with(PluginName::new));
    let version = fields.required("version", "version = \"1.0.0\"", version);
    let inputs = fields.inputs();
    let output = fields.output();
    let merge_partitions = fields.optional("merge-partitions", partitions);
    let route_schema = fields.optional("route-schema", schema_id);
    let state_schema = fields.optional("state-schema", schema_id);
    let key = fields.choice("key", &["utf8", "bytes", "i32", "i64", "uuid"]);
    let commit_interval = fields.optional(
        "commit-interval",
        duration(
            limits::COMMIT_INTERVAL_MIN..=limits::COMMIT_INTERVAL_MAX,
            "\"2s\" or \"500ms\"",
        ),
    );
    let on_error = fields
        .choice("on-error", &["stop", "dead-letter", "park-key"])
        .unwrap_or_default();
    let on_refusal = fields.choice("on-refusal", &["ignore", "dead-letter"]);
    let expected_version = fields.choice("expected-version", &["optional", "required"]);
    let changes = fields.changes();
    let keep_outcomes = fields.optional(
        "keep-outcomes",
        duration(
            limits::OUTCOMES_KEPT_MIN..=limits::OUTCOMES_KEPT_MAX,
            "\"24h\" or \"30m\"",
        ),
    );
    let history = fields.optional("history", boolean).unwrap_or(false);
    let headers = fields.optional("headers", boolean).unwrap_or(false);
    let record_keys = fields.optional("record-keys", boolean).unwrap_or(false);
    let origins = fields.optional("origins", boolean).unwrap_or(false);
    let bootstrap = fields.optional("bootstrap", boolean).unwrap_or(false);
    let keep_generations = fields.optional("keep-generations", keep_generations);
    let limits = fields.limits();
    let commit_interval_default = if writes_to_log(output.as_ref(), on_error) {
        limits::COMMIT_INTERVAL_WRITER_DEFAULT
    } else {
        limits::COMMIT_INTERVAL_DEFAULT
    };
    match (name, version, faults.is_empty()) {
        (Some(name), Some(version), true) => Ok(Manifest {
            state_schema: state_schema.unwrap_or_else(|| format!("{name}/1")),
            route_schema: route_schema.unwrap_or_else(|| format!("{name}/1")),
            name,
            version,
            inputs,
            output,
            merge_partitions,
            key: key.unwrap_or(KeyFormat::Utf8),
            commit_interval: commit_interval.unwrap_or(commit_interval_default),
            on_error,
            expected_version: expected_version.unwrap_or_default(),
            on_refusal: on_refusal.unwrap_or_default(),
            changes,
            keep_outcomes: keep_outcomes.unwrap_or(limits::OUTCOMES_KEPT_DEFAULT),
            history,
            headers,
            record_keys,
            origins,
            bootstrap,
            keep_generations: keep_generations.unwrap_or(0),
            limits,
        }),
        _ => Err(faults),
    }
}

/// What is wrong with a value, and what would be right.
struct Wrong(String, String);

/// One table, its path, and where faults go.
struct Fields<'a> {
    table: &'a Table,
    path: String,
    faults: &'a mut Faults,
}

impl<'a> Fields<'a> {
    fn new(table: &'a Table, path: &str, known: &[&str], faults: &'a mut Faults) -> Self {
        for name in table.keys().filter(|name| !known.contains(&name.as_str())) {
            faults.push(fault(
                join(path, name),
                format!("unknown field '{name}'"),
                hint(name, known),
            ));
        }
        Self {
            table,
            path: path.to_owned(),
            faults,
        }
    }

    fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        match parse(self.table.get(name)?) {
            Ok(value) => Some(value),
            Err(Wrong(problem, remedy)) => {
                self.faults
                    .push(fault(join(&self.path, name), problem, remedy));
                None
            }
        }
    }

    fn required<T>(
        &mut self,
        name: &str,
        example: &str,
        parse: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        if !self.table.contains_key(name) {
            let remedy = format!("add it, as in {example}");
            self.faults.push(fault(
                join(&self.path, name),
                "the field is missing",
                remedy,
            ));
        }
        self.optional(name, parse)
    }

    fn choice<T: DeserializeOwned>(&mut self, name: &str, names: &[&str]) -> Option<T> {
        self.optional(name, |value| {
            let chosen = text(value)?;
            let variant: StrDeserializer<'_, VariantError> = chosen.into_deserializer();
            T::deserialize(variant)
                .map_err(|_| Wrong(format!("'{chosen}' is not known"), hint(chosen, names)))
        })
    }

    fn changes(&mut self) -> Option<ChangesFeed> {
        let has_feed = self.optional("changes", boolean).unwrap_or(false);
        let keep = self.optional("changes-keep-deletions", keep_deletions);
        if keep.is_some() && !has_feed {
            let path = join(&self.path, "changes-keep-deletions");
            let remedy = "write changes = true, or leave the field out";
            self.faults
                .push(fault(path, "no changes can be followed", remedy));
        }
        has_feed.then(|| ChangesFeed {
            keep_deletions: keep.unwrap_or(limits::FEED_DELETIONS_KEPT_DEFAULT),
        })
    }

    fn inputs(&mut self) -> Vec<Input> {
        let path = join(&self.path, "inputs");
        let items = match self.table.get("inputs") {
            Some(Value::Array(items)) if !items.is_empty() => items,
            // A command handler reads what it writes; whether this is one, its exports say.
            None if self.table.contains_key("output") => return Vec::new(),
            other => {
                let problem = match other {
                    None => "the field is missing".to_owned(),
                    Some(Value::Array(_)) => "there is no topic in it".to_owned(),
                    Some(value) => format!("it is {}", kind_of(value)),
                };
                let remedy = "list the topics, as in inputs = [\"flights\"], or write [[inputs]] \
                              tables; a command handler leaves them out and names its output";
                self.faults.push(fault(path, problem, remedy));
                return Vec::new();
            }
        };
        if items.len() > limits::PLUGIN_INPUTS_MAX {
            let problem = format!("there are {} topics", items.len());
            let remedy = format!("a plugin may read {}", limits::PLUGIN_INPUTS_MAX);
            self.faults.push(fault(path, problem, remedy));
            return Vec::new();
        }
        let mut inputs: Vec<Input> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(input) = input(item, &path, self.faults) else {
                continue;
            };
            if inputs.iter().any(|other| other.name == input.name) {
                let problem = format!("'{}' occurs twice", input.name);
                let remedy = "give every input a name of its own";
                self.faults.push(fault(path, problem, remedy));
            } else if inputs.iter().any(|other| other.topic == input.topic) {
                let problem = format!("the topic '{}' occurs twice", input.topic);
                self.faults
                    .push(fault(path, problem, "name every topic once"));
            }
            inputs.push(input);
        }
        inputs
    }

    fn output(&mut self) -> Option<Output> {
        let table = match self.table.get("output")? {
            Value::Table(table) => table,
            value if value.is_str() => {
                let topic = self.optional("output", parse_with(TopicName::new))?;
                return Some(Output {
                    topic,
                    partitions: None,
                    compact: false,
                });
            }
            value => {
                let problem = format!("it is {}", kind_of(value));
                let remedy = "name a topic in quotes, or write an [output] table";
                self.faults
                    .push(fault(join(&self.path, "output"), problem, remedy));
                return None;
            }
        };
        let path = join(&self.path, "output");
        let mut fields = Fields::new(table, &path, OUTPUT_FIELDS, self.faults);
        let topic = fields.required(
            "topic",
            "topic = \"notifications\"",
            parse_with(TopicName::new),
        );
        let partitions = fields.optional("partitions", partitions);
        let compact = fields.optional("cleanup", compact).unwrap_or(false);
        Some(Output {
            topic: topic?,
            partitions,
            compact,
        })
    }

    fn limits(&mut self) -> Limits {
        let defaults = Limits::default();
        let table = match self.table.get("limits") {
            None => return defaults,
            Some(Value::Table(table)) => table,
            Some(value) => {
                let problem = format!("it is {}", kind_of(value));
                let remedy = "write a [limits] table";
                self.faults
                    .push(fault(join(&self.path, "limits"), problem, remedy));
                return defaults;
            }
        };
        let mut fields = Fields::new(
            table,
            &join(&self.path, "limits"),
            LIMITS_FIELDS,
            self.faults,
        );
        let memory = size(
            limits::PLUGIN_MEMORY_BYTES_MIN,
            limits::PLUGIN_MEMORY_BYTES_MAX,
        );
        Limits {
            memory_bytes: fields
                .optional("memory", memory)
                .unwrap_or(defaults.memory_bytes),
            fuel_per_call: fields
                .optional("fuel-per-call", fuel)
                .unwrap_or(defaults.fuel_per_call),
            state_bytes: fields
                .optional("state-size", size(1, limits::STATE_BYTES_MAX))
                .unwrap_or(defaults.state_bytes),
            answer_bytes: fields
                .optional("answer-size", size(1, limits::ANSWER_BYTES_MAX))
                .unwrap_or(defaults.answer_bytes),
        }
    }
}

/// An item of `inputs`: the name of a topic, or a table.
fn input(item: &Value, path: &str, faults: &mut Faults) -> Option<Input> {
    let table = match item {
        Value::String(topic) => {
            let topic = TopicName::new(topic)
                .map_err(|error| faults.push(refused(path, &error)))
                .ok()?;
            return Some(Input {
                name: topic.as_str().to_owned(),
                topic,
                start: Start::default(),
                on_gap: OnGap::default(),
                partitioner: Partitioner::default(),
                framing: Framing::default(),
            });
        }
        Value::Table(table) => table,
        other => {
            let problem = format!("it is {}", kind_of(other));
            faults.push(fault(
                path,
                problem,
                "name a topic, or write an [[inputs]] table",
            ));
            return None;
        }
    };
    let mut fields = Fields::new(table, path, INPUT_FIELDS, faults);
    let topic = fields.required("topic", "topic = \"flights\"", parse_with(TopicName::new));
    let name = fields.optional("name", input_name);
    let start = fields.optional("start", start).unwrap_or_default();
    let on_gap = fields
        .choice("on-gap", &["stop", "continue"])
        .unwrap_or_default();
    let partitioner = fields
        .choice("partitioner", &["murmur2", "crc32"])
        .unwrap_or_default();
    let framing = fields.choice("framing", FRAMINGS).unwrap_or_default();
    let topic = topic?;
    Some(Input {
        name: name.unwrap_or_else(|| topic.as_str().to_owned()),
        topic,
        start,
        on_gap,
        partitioner,
        framing,
    })
}

fn text(value: &Value) -> Result<&str, Wrong> {
    value.as_str().ok_or_else(|| {
        Wrong(
            format!("it is {}", kind_of(value)),
            "write a text in quotes".to_owned(),
        )
    })
}

fn boolean(value: &Value) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| {
        Wrong(
            format!("it is {}", kind_of(value)),
            "write true or false".to_owned(),
        )
    })
}

/// A text that the type of a name takes or refuses.
fn parse_with<T, E: Display>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl FnOnce(&Value) -> Result<T, Wrong> {
    move |value| {
        parse(text(value)?).map_err(|error| {
            let message = error.to_string();
            let (problem, remedy) = message.split_once(": ").unwrap_or((&message, "change it"));
            Wrong(problem.to_owned(), remedy.to_owned())
        })
    }
}

fn version(value: &Value) -> Result<String, Wrong> {
    identifier(value, "1.0.0")
}

fn schema_id(value: &Value) -> Result<String, Wrong> {
    identifier(value, "position/1")
}

fn input_name(value: &Value) -> Result<String, Wrong> {
    identifier(value, "flights")
}

/// A short printable text without spaces: it goes into status pages, headers and records.
fn identifier(value: &Value, example: &str) -> Result<String, Wrong> {
    let text = text(value)?;
    let fits = (1..=limits::NAME_LENGTH_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        return Ok(text.to_owned());
    }
    Err(Wrong(
        format!("'{}' cannot be used", text.escape_debug()),
        format!(
            "write 1 to {} printable ASCII characters without spaces, as in \"{example}\"",
            limits::NAME_LENGTH_MAX
        ),
    ))
}

fn start(value: &Value) -> Result<Start, Wrong> {
    let text = text(value)?;
    match (text, text.strip_prefix('@').map(str::parse)) {
        ("earliest", _) => Ok(Start::Earliest),
        ("latest", _) => Ok(Start::Latest),
        (_, Some(Ok(timestamp_ms))) => Ok(Start::At(timestamp_ms)),
        _ => Err(Wrong(
            format!("'{text}' is no place to start"),
            "write \"earliest\", \"latest\" or \"@<milliseconds since 1970>\"".to_owned(),
        )),
    }
}

fn keep_deletions(value: &Value) -> Result<Duration, Wrong> {
    let range = limits::FEED_DELETIONS_KEPT_MIN..=limits::FEED_DELETIONS_KEPT_MAX;
    duration(range, "\"7d\" or \"12h\"")(value)
}

/// A duration with its unit.
fn duration(
    range: RangeInclusive<Duration>,
    example: &str,
) -> impl FnOnce(&Value) -> Result<Duration, Wrong> {
    move |value| {
        let remedy = || {
            format!(
                "write a duration from {} to {} with its unit, as in {example}",
                units::display_duration(*range.start()),
                units::display_duration(*range.end())
            )
        };
        let given = value
            .as_str()
            .and_then(units::duration)
            .ok_or_else(|| Wrong(format!("{value} is not a duration"), remedy()))?;
        if range.contains(&given) {
            Ok(given)
        } else {
            Err(Wrong(format!("{value} is out of range"), remedy()))
        }
    }
}

/// A size in bytes, with its unit or as a plain number.
fn size(min: usize, max: usize) -> impl FnOnce(&Value) -> Result<usize, Wrong> {
    move |value| {
        let remedy = || {
            format!(
                "write a size from {} to {}, as in \"1MiB\"",
                units::display_bytes(min as u64),
                units::display_bytes(max as u64)
            )
        };
        let bytes = match value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            Value::String(text) => units::bytes(text),
            _ => None,
        }
        .ok_or_else(|| Wrong(format!("{value} is not a size"), remedy()))?;
        usize::try_from(bytes)
            .ok()
            .filter(|bytes| (min..=max).contains(bytes))
            .ok_or_else(|| Wrong(format!("{value} is out of range"), remedy()))
    }
}

fn fuel(value: &Value) -> Result<u64, Wrong> {
    let (min, max) = (limits::PLUGIN_FUEL_MIN, limits::PLUGIN_FUEL_MAX);
    value
        .as_integer()
        .and_then(|fuel| u64::try_from(fuel).ok())
        .filter(|fuel| (min..=max).contains(fuel))
        .ok_or_else(|| {
            Wrong(
                format!("{value} is not an amount of fuel"),
                format!("write a whole number from {min} to {max}; 200_000_000 is about 0.1 s"),
            )
        })
}

/// How many partitions a topic has.
fn partitions(value: &Value) -> Result<u32, Wrong> {
    let max = limits::PARTITIONS_MAX;
    value
        .as_integer()
        .and_then(|count| u32::try_from(count).ok())
        .filter(|count| (1..=max).contains(count))
        .ok_or_else(|| {
            Wrong(
                format!("{value} is no number of partitions"),
                format!("write a whole number from 1 to {max}"),
            )
        })
}

/// Whether a topic keeps only the newest record of each key.
fn compact(value: &Value) -> Result<bool, Wrong> {
    match text(value)? {
        "compact" => Ok(true),
        "delete" => Ok(false),
        other => Err(Wrong(
            format!("'{other}' is not known"),
            hint(other, &["delete", "compact"]),
        )),
    }
}

fn keep_generations(value: &Value) -> Result<u8, Wrong> {
    let max = limits::GENERATIONS_KEPT_MAX;
    value
        .as_integer()
        .and_then(|count| u8::try_from(count).ok())
        .filter(|count| *count <= max)
        .ok_or_else(|| {
            Wrong(
                format!("{value} generations cannot be kept"),
                format!("write a whole number from 0 (a rollback rebuilds) to {max}"),
            )
        })
}

fn fault(
    field: impl Into<String>,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> ManifestFault {
    ManifestFault {
        field: field.into(),
        problem: problem.into(),
        remedy: remedy.into(),
    }
}

fn refused(path: &str, error: &impl Display) -> ManifestFault {
    let message = error.to_string();
    let (problem, remedy) = message.split_once(": ").unwrap_or((&message, "change it"));
    fault(path, problem, remedy)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The nearest known name, else all of them.
fn hint(unknown: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(&unknown.replace('_', "-"), name),
                name,
            )
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, name)| *distance <= HINT_DISTANCE_MAX && *distance < name.len());
    match nearest {
        Some((_, name)) => format!("did you mean '{name}'?"),
        None => format!("known are {}", known.join(", ")),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
