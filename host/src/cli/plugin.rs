//! `foldhost plugin …`: make, build, deploy, look at and delete plugins.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::args::{DeployArgs, EmitFrom, PluginCommand};
use super::client::Client;
use super::confirm::confirm;
use super::exit::UsageError;
use super::output::{self, field, table};
use super::scaffold::ScaffoldKind;
use super::{bootstrap, follow, operate, parked, plugin_build, requirements, scaffold};
use crate::limits;
use crate::plugin::component;
use crate::plugin::manifest::Manifest;
use crate::types::PluginName;

/// Runs one of the commands.
pub(super) fn run(command: PluginCommand) -> anyhow::Result<()> {
    match command {
        PluginCommand::New { name, kind, parent } => new(&name, kind, &parent),
        PluginCommand::Build { dir } => {
            let path = plugin_build::build(&dir, &mut output::note)?;
            Ok(output::line(&path.display().to_string())?)
        }
        PluginCommand::Deploy(args) => deploy(&args),
        PluginCommand::List { client } => list(&Client::new(&client)?, client.json),
        PluginCommand::Show { name, client } => show(&Client::new(&client)?, &name, client.json),
        PluginCommand::Pause { name, client } => operate::pause(&name, &client, true),
        PluginCommand::Resume { name, client } => operate::pause(&name, &client, false),
        PluginCommand::Rollback(args) => operate::rollback(&args),
        PluginCommand::Skip {
            name,
            at,
            reason,
            client,
        } => operate::skip(&name, &at, &reason, &client),
        PluginCommand::Parked(command) => parked::run(&command),
        PluginCommand::EmitState(args) => bootstrap::run(&args),
        PluginCommand::Requirements(args) => requirements::run(&args),
        PluginCommand::Delete { name, yes, client } => {
            let client = Client::new(&client)?;
            confirm(&format!("delete plugin {name} with its states"), yes)?;
            let url = client.url(&["v1", "plugins", name.as_str()], &[]);
            client.send(client.request(Method::DELETE, url))?;
            output::note(&format!("deleted {name}"));
            Ok(())
        }
    }
}

/// A plugin's file, found and read.
#[derive(Debug)]
pub(super) struct Component {
    /// Where it lies.
    pub(super) path: PathBuf,
    /// What it is.
    pub(super) bytes: Vec<u8>,
}

impl Component {
    /// Reads `file`, or `file/<name>.wasm` if it is a plugin's folder.
    ///
    /// # Errors
    /// No such file; a folder without a built plugin; a file that is too large to be one.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let path = if file.is_dir() {
            in_folder(file)?
        } else {
            file.to_path_buf()
        };
        let shown = path.display();
        let size = fs::metadata(&path)
            .with_context(|| format!("cannot read {shown}"))?
            .len();
        let bytes_max = limits::COMPONENT_BYTES_MAX;
        if size > bytes_max as u64 {
            let message = format!("{shown} has {size} bytes: a plugin has at most {bytes_max}");
            return Err(UsageError(message).into());
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {shown}"))?;
        Ok(Self { path, bytes })
    }

    /// The manifest inside, if there is one and it is valid.
    pub(super) fn manifest(&self) -> Option<Manifest> {
        Manifest::from_toml(&component::manifest_text(&self.bytes)?).ok()
    }

    /// Name to deploy it under. One that has no valid manifest goes by its file's name: the host
    /// lists what is wrong with it.
    fn name(&self) -> PluginName {
        let stem = || {
            self.path
                .file_stem()?
                .to_str()
                .and_then(|stem| PluginName::new(stem).ok())
        };
        self.manifest()
            .map(|manifest| manifest.name)
            .or_else(stem)
            .unwrap_or_else(|| PluginName::new("unnamed").expect("it keeps the rules"))
    }
}

/// The built plugin in its own folder.
fn in_folder(dir: &Path) -> anyhow::Result<PathBuf> {
    let toml = dir.join("plugin.toml");
    let text = fs::read_to_string(&toml).with_context(|| {
        format!(
            "{} is a folder without a plugin.toml: name a plugin's .wasm or its folder",
            dir.display()
        )
    })?;
    let manifest = Manifest::from_toml(&text).map_err(|faults| {
        let faults: Vec<_> = faults
            .iter()
            .map(|fault| format!("\n  - {fault}"))
            .collect();
        anyhow::anyhow!("{} has faults:{}", toml.display(), faults.concat())
    })?;
    let path = dir.join(format!("{}.wasm", manifest.name));
    if !path.is_file() {
        let dir = dir.display();
        anyhow::bail!(
            "{} is not there yet: run `foldhost plugin build {dir}` first",
            path.display()
        );
    }
    Ok(path)
}

fn new(name: &PluginName, kind: ScaffoldKind, parent: &Path) -> anyhow::Result<()> {
    let folder = scaffold::new(name.as_str(), kind, parent)?;
    let shown = folder.display();
    output::line(&shown.to_string())?;
    output::note(&format!(
        "next:\n  foldhost plugin build {shown}\n  foldhost plugin deploy {shown}\n\
         and its test: cargo test --manifest-path {shown}/Cargo.toml"
    ));
    Ok(())
}

fn deploy(args: &DeployArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.client)?;
    let component = Component::read(&args.file)?;
    let name = args.name.clone().unwrap_or_else(|| component.name());
    let maps = |kind: &'static str, pairs: &[(String, String)]| -> Vec<(&'static str, String)> {
        pairs
            .iter()
            .map(|(name, value)| (kind, format!("{name}={value}")))
            .collect()
    };
    let mut pairs = maps("topic", &args.topics);
    pairs.extend(maps("set", &args.parameters));
    if args.dry_run {
        pairs.push(("dry_run", "true".to_owned()));
    }
    if args.adopt_topic {
        pairs.push(("adopt_topic", "true".to_owned()));
    }
    if args.emit_from == Some(EmitFrom::Earliest) {
        pairs.push(("emit_from", "earliest".to_owned()));
    }
    pairs.extend(operate::state_pairs(&args.states));
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let url = client.url(&["v1", "plugins", name.as_str()], &pairs);
    let request = client.request(Method::PUT, url);
    let request = request
        .header(CONTENT_TYPE, "application/wasm")
        .body(component.bytes);
    let answer = client.send(request)?.json()?;
    if args.client.json {
        output::json(&answer)?;
    } else {
        output::line(&deployed(&answer))?;
    }
    if args.dry_run {
        return Ok(());
    }
    follow::until_live(&client, name.as_str(), &answer, &args.wait)
}

/// What a deployment did, in a sentence.
fn deployed(answer: &Value) -> String {
    let (name, version) = (field(answer, "name"), field(answer, "version"));
    let what = format!("{name} {version} ({})", field(answer, "kind"));
    let mut does = Vec::new();
    if answer["topics"]
        .as_array()
        .is_some_and(|topics| !topics.is_empty())
    {
        let verb = match answer["kind"].as_str() {
            Some("command-handler") => "taking commands from",
            _ => "reading",
        };
        does.push(format!("{verb} {}", field(answer, "topics")));
    }
    if let Some(output) = answer["output"].as_str() {
        does.push(format!("publishing to {output}"));
    }
    let does = does.join(" and ");
    match answer["outcome"].as_str() {
        Some("created") => format!(
            "deployed {what}, {does}, as deployment {} of generation {}",
            field(answer, "deployment"),
            field(answer, "generation")
        ),
        Some("swapped") => format!(
            "deployed {what} on the states that are there, as deployment {} of generation {}: \
             `foldhost plugin show {name}` tells from which position on it folds",
            field(answer, "deployment"),
            field(answer, "generation")
        ),
        Some("building") => format!(
            "building generation {} of {what}, {does}, as deployment {}; the old one answers until \
             it is ready",
            field(answer, "generation"),
            field(answer, "deployment")
        ),
        Some("unchanged") => format!("{what} runs already, {does}: nothing changed"),
        Some("dry-run") => {
            format!("{what} can be deployed, {does}: nothing changed")
        }
        _ => answer.to_string(),
    }
}

fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let answer = client.get(&["v1", "plugins"], &[])?.json()?;
    if json {
        return Ok(output::json(&answer)?);
    }
    let plugins = answer["plugins"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if plugins.is_empty() {
        output::note("no plugins: deploy one with `foldhost plugin deploy FILE`");
        return Ok(());
    }
    let rows: Vec<_> = plugins.iter().map(summary).collect();
    let header = [
        "NAME",
        "KIND",
        "VERSION",
        "GENERATION",
        "STATUS",
        "LAG",
        "DIGEST",
    ];
    Ok(output::line(&table(header, &rows))?)
}

fn summary(plugin: &Value) -> [String; 7] {
    let digest = field(plugin, "digest").chars().take(12).collect();
    let [name, kind, version, generation, status, lag] =
        ["name", "kind", "version", "generation", "status", "lag"].map(|name| field(plugin, name));
    [name, kind, version, generation, status, lag, digest]
}

fn show(client: &Client, name: &PluginName, json: bool) -> anyhow::Result<()> {
    let answer = client.get(&["v1", "plugins", name.as_str()], &[])?.json()?;
    if json {
        return Ok(output::json(&answer)?);
    }
    output::line(&described(&answer))?;
    Ok(())
}

/// A plugin for people.
fn described(plugin: &Value) -> String {
    let mut lines: Vec<String> = [
        "name",
        "kind",
        "version",
        "generation",
        "deployment",
        "digest",
        "key",
        "status",
        "lag",
    ]
    .iter()
    .map(|name| format!("{name:<12}{}", field(plugin, name)))
    .collect();
    let items = |name: &str| plugin[name].as_array().cloned().unwrap_or_default();
    for input in items("inputs") {
        lines.push(format!(
            "{:<12}{} = {}",
            "input",
            field(&input, "name"),
            field(&input, "topic")
        ));
    }
    if let Some(output) = plugin["output"].as_str() {
        lines.push(format!("{:<12}{output}", "output"));
        if let Some(last) = plugin["last_foreign_record"].as_str() {
            let records = field(plugin, "foreign_records");
            lines.push(format!(
                "{:<12}{records} records in {output} are of somebody else, the last at {last}",
                "foreign"
            ));
        }
    }
    for query in items("queries") {
        let name = query["name"]
            .as_str()
            .filter(|name| !name.is_empty())
            .unwrap_or("(default)");
        lines.push(format!(
            "{:<12}{name}: {}",
            "query",
            field(&query, "summary")
        ));
    }
    for from in plugin["history"]["from"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{:<12}incomplete, from {}",
            "history",
            output::text_of(from)
        ));
    }
    if let Some(error) = plugin["last_error"].as_str() {
        lines.push(format!("{:<12}{error}", "error"));
    }
    for skip in items("skips") {
        let [at, reason, number] = ["at", "reason", "skip"].map(|name| field(&skip, name));
        lines.push(format!(
            "{:<12}{at}: {reason} (decision {number})",
            "skipped"
        ));
    }
    if plugin["bootstrap"].is_object() {
        let run = &plugin["bootstrap"];
        let [number, state] = ["bootstrap", "state"].map(|name| field(run, name));
        lines.push(format!(
            "{:<12}{state}: {} (decision {number})",
            "emit-state",
            bootstrap::progress(run)
        ));
    }
    for partition in items("partitions") {
        let [number, keys, records] =
            ["partition", "parked_keys", "parked_records"].map(|name| field(&partition, name));
        if partition["parked_keys"]
            .as_u64()
            .is_some_and(|keys| keys > 0)
        {
            lines.push(format!(
                "{:<12}{records} records of {keys} keys in partition {number}: `foldhost plugin parked \
                 list {}`",
                "parked",
                field(plugin, "name")
            ));
        }
    }
    if !plugin["paused"].is_null() {
        lines.push(format!(
            "{:<12}until `foldhost plugin resume {}`",
            "paused",
            field(plugin, "name")
        ));
    }
    let partitions = items("partitions");
    lines.push(format!("\n{}", partition_table(&partitions)));
    blocked(&partitions, &mut lines);
    for role in ["building", "retiring", "kept"] {
        let generation = &plugin[role];
        if generation.is_null() {
            continue;
        }
        let [number, version, status, lag, rate] =
            ["generation", "version", "status", "lag", "rate_per_second"]
                .map(|name| field(generation, name));
        let left = match generation["seconds_left"].as_u64() {
            Some(left) => format!(", about {left} s left"),
            None => String::new(),
        };
        lines.push(format!(
            "\n{role}: generation {number} ({version}), {status}, {lag} records behind, {rate} a \
             second{left}"
        ));
        let partitions = generation["partitions"].as_array();
        let partitions = partitions.map(Vec::as_slice).unwrap_or_default();
        lines.push(partition_table(partitions));
        blocked(partitions, &mut lines);
    }
    let deployments = items("deployments");
    let rows: Vec<_> = deployments
        .iter()
        .map(|deployment| {
            let [number, generation, version, by] =
                ["deployment", "generation", "version", "principal"]
                    .map(|name| field(deployment, name));
            [number, generation, version, how(deployment), by]
        })
        .collect();
    let header = ["DEPLOYMENT", "GENERATION", "VERSION", "HOW", "BY"];
    lines.push(format!("\n{}", table(header, &rows)));
    lines.join("\n")
}

/// What a deployment did with the states, and with its output where that was asked for.
fn how(deployment: &Value) -> String {
    let mut how = field(deployment, "how");
    if deployment["emits_from_earliest"] == true {
        how.push_str(", from earliest");
    }
    if deployment["adopts_topic"] == true {
        let _ = write!(how, ", adopts {}", field(deployment, "output"));
    }
    how
}

fn partition_table(partitions: &[Value]) -> String {
    let rows: Vec<_> = partitions
        .iter()
        .map(|partition| {
            [
                "partition",
                "status",
                "position",
                "end",
                "lag",
                "folds_from",
                "owner",
            ]
            .map(|name| field(partition, name))
        })
        .collect();
    let header = [
        "PARTITION",
        "STATUS",
        "POSITION",
        "END",
        "LAG",
        "CODE SINCE",
        "OWNER",
    ];
    table(header, &rows)
}

/// Why partitions do not go on.
fn blocked(partitions: &[Value], lines: &mut Vec<String>) {
    for partition in partitions {
        let number = field(partition, "partition");
        let blocked = &partition["blocked"];
        if !blocked.is_null() {
            let (code, detail) = (field(blocked, "code"), field(blocked, "detail"));
            lines.push(format!(
                "\npartition {number} is blocked: {detail} [{code}]"
            ));
        }
        if let Some(error) = partition["last_error"].as_str() {
            lines.push(format!("\npartition {number}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_folder_stands_for_its_built_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let error = Component::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("plugin.toml"), "{error}");
        let toml = "name = \"a-view\"\nversion = \"1.0.0\"\ninputs = [\"events\"]\n\
                    state-schema = \"a/1\"\n";
        fs::write(dir.path().join("plugin.toml"), toml).unwrap();
        let error = Component::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("foldhost plugin build"), "{error}");
        fs::write(dir.path().join("a-view.wasm"), b"bytes").unwrap();
        let component = Component::read(dir.path()).unwrap();
        assert_eq!(
            (component.bytes.as_slice(), component.name().as_str()),
            (&b"bytes"[..], "a-view")
        );
    }

    #[test]
    fn outcomes_are_said_in_words() {
        let answer = |outcome: &str| {
            json!({"outcome": outcome, "name": "latest", "version": "1.0.0", "kind": "view",
                   "deployment": 3, "generation": 3, "topics": ["events"]})
        };
        assert!(deployed(&answer("created")).starts_with("deployed latest 1.0.0 (view)"));
        assert!(deployed(&answer("unchanged")).contains("nothing changed"));
        assert!(deployed(&answer("dry-run")).contains("reading events: nothing changed"));
        let mut publishing = answer("created");
        publishing["output"] = json!("told");
        assert!(deployed(&publishing).contains("reading events and publishing to told, as"));
        publishing["kind"] = json!("command-handler");
        let said = deployed(&publishing);
        assert!(
            said.contains("taking commands from events and publishing to told, as"),
            "{said}"
        );
        publishing["topics"] = json!([]);
        let said = deployed(&publishing);
        assert!(
            said.contains("(command-handler), publishing to told, as"),
            "{said}"
        );
    }

    #[test]
    fn what_was_asked_for_the_output_stands_in_the_history() {
        let plugin = json!({"name": "a", "output": "told", "deployments": [
            {"deployment": 1, "generation": 1, "version": "1", "how": "first", "principal": "me",
             "output": "told", "adopts_topic": true, "emits_from_earliest": false},
            {"deployment": 2, "generation": 2, "version": "2", "how": "rebuild", "principal": "me",
             "output": "told-2", "adopts_topic": false, "emits_from_earliest": true}]});
        let text = described(&plugin);
        assert!(text.contains("output      told\n"), "{text}");
        assert!(text.contains("first, adopts told"), "{text}");
        assert!(text.contains("rebuild, from earliest"), "{text}");
    }

    #[test]
    fn a_blocked_partition_says_why() {
        let plugin = json!({"name": "a", "partitions": [
            {"partition": 0, "status": "blocked", "position": 7, "end": 9, "lag": 1, "owner": null,
             "blocked": {"code": "event-rejected", "detail": "no good", "at": "t/0@8"}}]});
        let text = described(&plugin);
        assert!(
            text.contains("partition 0 is blocked: no good [event-rejected]"),
            "{text}"
        );
    }
}
