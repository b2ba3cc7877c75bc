//! The command line, as clap reads it. Doc comments are the help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::exit;
use super::scaffold::ScaffoldKind;
use crate::telemetry::LogFormat;
use crate::types::{ClusterName, PluginName, RecordPosition, TopicName};

/// Run event-sourcing logic on Kafka, or on a log of its own, as sandboxed pure functions.
#[derive(Debug, Parser)]
#[command(name = "foldhost", version, after_help = exit::HELP, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a host until SIGTERM or SIGINT.
    #[command(after_help = exit::HELP)]
    Serve(HostArgs),
    /// Run a host with example plugins and real flights, and print queries to try.
    #[command(after_help = exit::HELP)]
    Demo(DemoArgs),
    /// Make, build, deploy and look at plugins.
    #[command(subcommand, after_help = exit::HELP)]
    Plugin(PluginCommand),
    /// Create and look at topics, write and read records.
    #[command(subcommand, after_help = exit::HELP)]
    Topic(TopicCommand),
    /// Ask a plugin about a key.
    #[command(after_help = exit::HELP)]
    Query(QueryArgs),
    /// Print the changes of a plugin's states, one JSON object a line: all keys first, or what came after a token.
    #[command(after_help = exit::HELP)]
    Changes(ChangesArgs),
    /// Command an entity of a command handler.
    #[command(name = "command", after_help = exit::HELP)]
    Order(CommandArgs),
}

/// How a host runs.
#[derive(Debug, Clone, Args)]
pub(super) struct HostArgs {
    /// Configuration file (TOML). Every field can also be set as FOLDHOST__SECTION__FIELD.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Folder of this host alone: its log, its caches, by default its states.
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// Address to listen on; port 0 = any free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Option<String>,
    /// Another address for everything that operates the host.
    #[arg(long, value_name = "ADDR")]
    pub(super) admin_listen: Option<String>,
    /// Listen beyond loopback without tokens.
    #[arg(long)]
    pub(super) insecure: bool,
    /// Print the configuration that results, and end.
    #[arg(long)]
    pub(super) dump_config: bool,
    /// Log lines for people (human) or machines (json), on standard error; FOLDHOST_LOG filters them.
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub(super) log_format: LogFormat,
}

/// How the demo runs.
#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    pub(super) host: HostArgs,
    /// Flights to load (.csv, .csv.gz or .csv.zip) instead of January 2013, which is built in.
    #[arg(long, value_name = "FILE")]
    pub(super) flights: Option<PathBuf>,
    /// Build the example plugins from the sources of this clone instead of taking the built-in ones.
    #[arg(long)]
    pub(super) build: bool,
    /// End when everything is loaded and folded, instead of staying.
    #[arg(long)]
    pub(super) exit: bool,
}

/// Which host a command talks to.
#[derive(Debug, Clone, Args)]
pub(super) struct ClientArgs {
    /// URL of the host.
    #[arg(long, env = "FOLDHOST_URL", default_value = "http://127.0.0.1:8080")]
    pub(super) url: String,
    /// Token, where the host asks for one.
    #[arg(long, env = "FOLDHOST_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// Print the host's answer as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Make a plugin to start from, with a test that passes.
    New {
        /// Its name: a-z, 0-9 and '-'.
        name: PluginName,
        /// What it does.
        #[arg(long, value_name = "KIND", value_enum, default_value_t)]
        kind: ScaffoldKind,
        /// Folder to make its folder in.
        #[arg(long = "in", value_name = "DIR", default_value = ".")]
        parent: PathBuf,
    },
    /// Build a plugin's sources to DIR/<name>.wasm, which is all that is deployed.
    Build {
        /// The plugin's folder.
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Run a plugin on the host, at once.
    Deploy(DeployArgs),
    /// List what runs.
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show a plugin and its partitions.
    Show {
        /// Its name.
        name: PluginName,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Stop folding, on every host; queries are answered from the states that there are.
    Pause {
        /// Its name.
        name: PluginName,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Go on folding.
    Resume {
        /// Its name.
        name: PluginName,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Drop what is being built; or, if nothing is, run what ran before.
    Rollback(RollbackArgs),
    /// Leave out one record at which a partition is blocked; it goes on behind it.
    Skip {
        /// Its name.
        name: PluginName,
        /// The record, as `plugin show` prints it: topic/partition@offset.
        at: RecordPosition,
        /// Why; kept with the decision.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Look at records that are set aside because their key is parked, and decide what becomes of them.
    #[command(subcommand)]
    Parked(ParkedCommand),
    /// Have a command handler write every state once more, as events that carry all of it: a view that is deployed
    /// later needs no older ones.
    EmitState(EmitStateArgs),
    /// Print the topics, groups and rights that a plugin needs on Kafka. Asks no host.
    Requirements(RequirementsArgs),
    /// Stop a plugin and free its states. Its input stays as it is.
    Delete {
        /// Its name.
        name: PluginName,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Parked records.
#[derive(Debug, Subcommand)]
pub(super) enum ParkedCommand {
    /// List parked keys, or the parked records of one key.
    List {
        /// Name of the plugin.
        name: PluginName,
        /// Only this key, with its records.
        key: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Fold parked records again with the code that runs now; what fails again stays parked.
    Replay(ParkedArgs),
    /// Do without what is parked, now and in every later build of the states.
    Discard(ParkedArgs),
}

/// Which parked records, and why.
#[derive(Debug, Clone, Args)]
pub(super) struct ParkedArgs {
    /// Name of the plugin.
    pub(super) name: PluginName,
    /// Only this key; all that are parked, if left out.
    pub(super) key: Option<String>,
    /// Why; kept with the decision.
    #[arg(long)]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// Which states are told, and how fast.
#[derive(Debug, Clone, Args)]
pub(super) struct EmitStateArgs {
    /// Name of the command handler.
    pub(super) name: PluginName,
    /// Only this key; every key that has a state, if left out.
    #[arg(long)]
    pub(super) key: Option<String>,
    /// Keys of each partition in a second, at most [default: 1000]
    #[arg(long, value_name = "KEYS")]
    pub(super) rate: Option<u32>,
    /// Why; kept with the decision.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) reason: String,
    /// Do not wait until it is done. It goes on either way.
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Stop what was begun; what is written stays.
    #[arg(long, conflicts_with_all = ["key", "rate", "reason", "no_wait"])]
    pub(super) stop: bool,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// What to deploy, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct DeployArgs {
    /// The .wasm that `plugin build` wrote, or the folder it lies in.
    pub(super) file: PathBuf,
    /// Name to run it under, instead of its own.
    #[arg(long)]
    pub(super) name: Option<PluginName>,
    /// Topic that an input reads here, or that the output (by its name in the manifest) is here; as
    /// often as needed.
    #[arg(long = "topic", value_name = "NAME=TOPIC", value_parser = pair)]
    pub(super) topics: Vec<(String, String)>,
    /// A parameter of the plugin; as often as needed.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) parameters: Vec<(String, String)>,
    /// Check everything, change nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Take over an output that exists already and belongs to no plugin: from now on nobody else may
    /// write to it.
    #[arg(long)]
    pub(super) adopt_topic: bool,
    /// Have a republisher that is built anew publish what it makes of the whole log, into a topic that
    /// is new to it; without this, it publishes from where the present generation stops.
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(super) emit_from: Option<EmitFrom>,
    #[command(flatten)]
    pub(super) states: StateArgs,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// From where on a new generation publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum EmitFrom {
    /// From the first record of its inputs.
    Earliest,
}

/// What is to run again, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct RollbackArgs {
    /// Name of the plugin.
    pub(super) name: PluginName,
    #[command(flatten)]
    pub(super) states: StateArgs,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// What becomes of the states that other code left.
#[derive(Debug, Clone, Args)]
pub(super) struct StateArgs {
    /// Build them anew from the log, while the old ones answer (what happens to other code without
    /// this), or keep them and go on.
    #[arg(long, value_enum)]
    pub(super) state: Option<StateChoice>,
    /// Build them from what the log still has, although it has lost its beginning.
    #[arg(long)]
    pub(super) from_retained: bool,
}

/// See [`StateArgs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum StateChoice {
    /// Build them from the log.
    Rebuild,
    /// Go on from them.
    Keep,
}

/// Whether to wait.
#[derive(Debug, Clone, Args)]
pub(super) struct WaitArgs {
    /// Wait until it has read its backlog and answers.
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait for that, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "wait")]
    pub(super) timeout: u64,
}

/// What the requirements are about.
#[derive(Debug, Clone, Args)]
pub(super) struct RequirementsArgs {
    /// The .wasm that `plugin build` wrote, or the folder it lies in.
    pub(super) file: PathBuf,
    /// Name that it will run under, instead of its own.
    #[arg(long)]
    pub(super) name: Option<PluginName>,
    /// Topic that an input will read, or that the output (by its name in the manifest) will be; as often
    /// as needed.
    #[arg(long = "topic", value_name = "NAME=TOPIC", value_parser = pair)]
    pub(super) topics: Vec<(String, String)>,
    /// Name of the cluster of hosts.
    #[arg(long, env = "FOLDHOST__CLUSTER", default_value = "foldhost")]
    pub(super) cluster: ClusterName,
    /// Kafka's name of the user that the hosts log in as.
    #[arg(long, default_value = "User:foldhost")]
    pub(super) principal: String,
    /// Print them as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Topics.
#[derive(Debug, Subcommand)]
pub(super) enum TopicCommand {
    /// Create a topic.
    Create {
        /// Its name.
        topic: TopicName,
        /// How many partitions; the host's default if left out.
        #[arg(long, short)]
        partitions: Option<u32>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List all topics.
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show a topic and its partitions.
    Describe {
        /// Its name.
        topic: TopicName,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete a topic with its records.
    Delete {
        /// Its name.
        topic: TopicName,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Write records: one with --value, or one JSON object a line from standard input
    /// (key or key_base64; value, value_text or value_base64; headers; timestamp; partition).
    Produce(ProduceArgs),
    /// Print records as one JSON object a line, in the form that `produce` takes.
    Consume(ConsumeArgs),
}

/// What to write.
#[derive(Debug, Clone, Args)]
pub(super) struct ProduceArgs {
    /// Topic to write to.
    pub(super) topic: TopicName,
    /// Key of the one record.
    #[arg(long, short)]
    pub(super) key: Option<String>,
    /// Value of the one record, as it is to be stored.
    #[arg(long, short)]
    pub(super) value: Option<String>,
    /// Write a tombstone: a record without a value.
    #[arg(long, conflicts_with = "value", requires = "key")]
    pub(super) tombstone: bool,
    /// Partition of the one record, instead of by its key.
    #[arg(long, short)]
    pub(super) partition: Option<u32>,
    /// A header of the one record; as often as needed.
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) headers: Vec<(String, String)>,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// What to read.
#[derive(Debug, Clone, Args)]
pub(super) struct ConsumeArgs {
    /// Topic to read.
    pub(super) topic: TopicName,
    /// Only this partition; all of them if left out.
    #[arg(long, short)]
    pub(super) partition: Option<u32>,
    /// Where to begin: an offset, earliest or latest.
    #[arg(long, short, default_value = "earliest")]
    pub(super) offset: String,
    /// Most records to print.
    #[arg(long, short = 'n')]
    pub(super) limit: Option<u64>,
    /// Wait for more at the end.
    #[arg(long, short)]
    pub(super) follow: bool,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// What to ask.
#[derive(Debug, Clone, Args)]
pub(super) struct QueryArgs {
    /// Plugin to ask.
    pub(super) plugin: PluginName,
    /// Key to ask about; without one, all keys of this host are printed.
    pub(super) key: Option<String>,
    /// Name of the query (the default one if left out), then its arguments as name=value.
    #[arg(value_name = "QUERY or NAME=VALUE")]
    pub(super) question: Vec<String>,
    /// Wait until these records are in the answer: topic/partition@offset, as appends print them.
    #[arg(long, value_name = "POSITION")]
    pub(super) min_position: Option<String>,
    /// Take an answer that is at most this many records behind, while the plugin is still reading.
    #[arg(long, value_name = "RECORDS")]
    pub(super) max_lag: Option<u64>,
    /// How long to wait for --min-position, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(super) wait: Option<u64>,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// What to follow.
#[derive(Debug, Clone, Args)]
pub(super) struct ChangesArgs {
    /// Plugin whose states change; one with `changes = true`.
    pub(super) plugin: PluginName,
    /// Only what changed after this token, as it was printed at the end.
    #[arg(long, value_name = "TOKEN")]
    pub(super) since: Option<String>,
    /// Wait for more at the end.
    #[arg(long, short)]
    pub(super) follow: bool,
    /// With the default query's answer for each key, or the state of a plugin without queries.
    #[arg(long)]
    pub(super) state: bool,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// What is commanded.
#[derive(Debug, Clone, Args)]
pub(super) struct CommandArgs {
    /// Command handler.
    pub(super) plugin: PluginName,
    /// Key of the entity.
    #[arg(required_unless_present = "file")]
    pub(super) key: Option<String>,
    /// Name of the command.
    #[arg(required_unless_present = "file")]
    pub(super) command: Option<String>,
    /// Its body, as JSON; an empty object if left out.
    #[arg(value_name = "JSON")]
    pub(super) body: Option<String>,
    /// Only if the key's state has this version.
    #[arg(long, value_name = "VERSION", conflicts_with = "if_absent")]
    pub(super) if_version: Option<u64>,
    /// Only if the key has no state.
    #[arg(long)]
    pub(super) if_absent: bool,
    /// Names the command: the same one again gets the same answer.
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// Sends many commands: a file ('-' = standard input) with a JSON object in each line: key (or key_base64),
    /// command, body (or body_base64, content_type), id, if_version, if_absent. Prints what came of each, a JSON
    /// object in each line.
    #[arg(
        long, short, value_name = "FILE",
        conflicts_with_all = ["key", "command", "body", "if_version", "if_absent", "idempotency_key"]
    )]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// Reads `name=value`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write name=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        of.iter().map(owned).collect()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn deploy_takes_maps_and_parameters() {
        let line = "foldhost plugin deploy a.wasm --name b --topic flights=prod.flights --set k=v=w \
                    --set x= --wait --url http://h:1";
        let Ok(Command::Plugin(PluginCommand::Deploy(args))) = parse(line) else {
            panic!()
        };
        assert_eq!(args.topics, pairs(&[("flights", "prod.flights")]));
        assert_eq!(args.parameters, pairs(&[("k", "v=w"), ("x", "")]));
        assert_eq!(
            (args.name.unwrap().as_str(), args.client.url.as_str()),
            ("b", "http://h:1")
        );
        assert!(args.wait.wait && !args.dry_run);
        assert!(!args.adopt_topic && args.emit_from.is_none());
        let line = "foldhost plugin deploy a.wasm --adopt-topic --emit-from earliest";
        let Ok(Command::Plugin(PluginCommand::Deploy(args))) = parse(line) else {
            panic!()
        };
        assert!(args.adopt_topic && args.emit_from == Some(EmitFrom::Earliest));
        assert!(parse("foldhost plugin deploy a.wasm --emit-from latest").is_err());
        assert!(parse("foldhost plugin deploy a.wasm --set novalue").is_err());
        assert!(parse("foldhost plugin deploy a.wasm --name Not_A_Name").is_err());
    }

    #[test]
    fn a_query_takes_its_name_and_arguments_in_order() {
        let Ok(Command::Query(args)) =
            parse("foldhost query plane-utilisation N1 in-motion from=a to=b --max-lag 5")
        else {
            panic!()
        };
        assert_eq!(args.key.as_deref(), Some("N1"));
        assert_eq!(args.question, ["in-motion", "from=a", "to=b"]);
        assert_eq!(args.max_lag, Some(5));
    }

    #[test]
    fn a_tombstone_has_a_key_and_no_value() {
        assert!(parse("foldhost topic produce t --key k --tombstone").is_ok());
        assert!(parse("foldhost topic produce t --tombstone").is_err());
        assert!(parse("foldhost topic produce t --key k --value v --tombstone").is_err());
    }

    #[test]
    fn serve_and_demo_share_the_hosts_flags() {
        let flags = "--config c.toml --data d --listen 127.0.0.1:0 --log-format json";
        assert!(matches!(
            parse(&format!("foldhost serve {flags}")),
            Ok(Command::Serve(_))
        ));
        let Ok(Command::Demo(args)) =
            parse(&format!("foldhost demo {flags} --flights f.csv --exit"))
        else {
            panic!()
        };
        assert!(args.exit && !args.build && args.host.data.is_some());
        assert!(parse("foldhost serve --flights f.csv").is_err());
    }
}
