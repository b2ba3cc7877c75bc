//! The contestant `foldhost`: a host on Kafka with its defaults, `count-and-last` deployed on the input.
//! Measured from outside like the others; how far it is, it says over HTTP.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use foldhost_tests::host::{Host, Start};
use foldhost_tests::http::{Client, number};
use foldhost_tests::kafka::Broker;
use foldhost_tests::wait::{free_port, wait_until_ok};
use foldhost_tests::{memory, operate};

use crate::args::Args;
use crate::child::{Pass, WITHIN, pass};
use crate::input::{Check, Input};
use crate::measure;

/// Name under which the plugin runs.
pub(crate) const PLUGIN: &str = "count-and-last";
/// A topic without records, and the plugin that reads it, so that a host has compiled the component before anything is
/// measured.
pub(crate) const EMPTY_TOPIC: &str = "bench-empty";
const WARM_UP: &str = "warm-up";
/// Between two questions how far it is: the error of every time here.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running host.
#[derive(Debug)]
pub(crate) struct Foldhost {
    host: Host,
    client: Client,
    folder: PathBuf,
    start: Start,
}

impl Foldhost {
    /// Starts a host with nothing on it, its data and its object store below `folder`.
    ///
    /// # Errors
    /// If it does not get ready.
    pub(crate) fn start(broker: &Broker, cluster: &str, folder: &Path) -> Result<Self> {
        Self::start_program(broker, cluster, folder, None)
    }

    /// As [`Self::start`], with another host than the one that is measured.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_program(
        broker: &Broker,
        cluster: &str,
        folder: &Path,
        program: Option<&Path>,
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let config = folder.join("foldhost.toml");
        let text = format!(
            "cluster = \"{cluster}\"\ninstance = \"bench\"\n\n[kafka]\n\"bootstrap.servers\" = \"{}\"\n\n\
             [objects]\nurl = \"file://{}\"\n",
            broker.bootstrap(),
            folder.join("objects").display()
        );
        fs::write(&config, text)?;
        let mut start = Start::serve(folder)
            .config(&config)
            .listen(&format!("127.0.0.1:{}", free_port()?));
        if let Some(program) = program {
            start = start.program(program);
        }
        let host = start.ready()?;
        let client = host.client()?;
        Ok(Self {
            host,
            client,
            folder: folder.to_owned(),
            start,
        })
    }

    /// Number of its process.
    pub(crate) fn process(&mut self) -> u32 {
        self.host.process().id()
    }

    /// `127.0.0.1:<port>`.
    pub(crate) fn address(&self) -> &str {
        self.host.address()
    }

    /// Path of the question about a key: what Kafka Streams is asked as well, the count alone.
    pub(crate) fn path_of(key: &str) -> String {
        format!("/v1/views/{PLUGIN}/keys/{key}/count")
    }

    /// A client of it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Has it compile the component, on [`EMPTY_TOPIC`].
    ///
    /// # Errors
    /// If it does not get that done.
    pub(crate) fn warm_up(&self, args: &Args) -> Result<()> {
        self.deploy_as(WARM_UP, args, EMPTY_TOPIC)?;
        self.wait_caught_up(WARM_UP)
    }

    /// Deploys the fold on an input.
    ///
    /// # Errors
    /// If it is refused.
    pub(crate) fn deploy(&self, args: &Args, input: &Input) -> Result<()> {
        self.deploy_as(PLUGIN, args, &input.topic)
    }

    /// Deploys the fold under another name.
    ///
    /// # Errors
    /// If it is refused.
    pub(crate) fn deploy_as(&self, name: &str, args: &Args, topic: &str) -> Result<()> {
        self.deploy_with(name, args, &format!("topic=events={topic}"))
    }

    /// Deploys the component with these parameters of the request.
    ///
    /// # Errors
    /// If it is refused.
    pub(crate) fn deploy_with(&self, name: &str, args: &Args, parameters: &str) -> Result<()> {
        let component = fs::read(&args.component)
            .with_context(|| format!("no component at {}", args.component.display()))?;
        self.client.deploy(name, parameters, component)?.success()?;
        Ok(())
    }

    /// Waits until a plugin is live and has folded all there is.
    ///
    /// # Errors
    /// If it does not get there.
    pub(crate) fn wait_caught_up(&self, name: &str) -> Result<()> {
        self.host.wait_caught_up(name, WITHIN)
    }

    /// Waits until a plugin has folded so many events; how many it has then.
    ///
    /// # Errors
    /// If it does not get there.
    pub(crate) fn wait_folded(&self, name: &str, events: u64) -> Result<u64> {
        let what = format!("{name} to fold {events} events");
        wait_until_ok(WITHIN, &what, || {
            let folded = folded(&operate::plugin(&self.client, name)?)?;
            ensure!(folded >= events, "it has {folded}");
            Ok(folded)
        })
    }

    /// Waits until all that a plugin has folded is committed.
    ///
    /// # Errors
    /// If it does not get there.
    pub(crate) fn wait_committed(&self, name: &str) -> Result<()> {
        operate::wait_committed(&self.client, name, WITHIN)
    }

    /// Deploys the fold and waits until it has everything; CPU time and memory are those until it is committed.
    ///
    /// # Errors
    /// If it does not get there.
    pub(crate) fn fold(&mut self, args: &Args, input: &Input) -> Result<Pass> {
        self.deploy(args, input)?;
        let process = self.process();
        let mut first = None;
        let deadline = Instant::now() + WITHIN;
        while Instant::now() < deadline {
            let folded = folded(&self.state()?)?;
            if folded > 0 {
                let first = *first.get_or_insert_with(Instant::now);
                if folded >= input.events {
                    let seconds = first.elapsed().as_secs_f64();
                    self.wait_committed(PLUGIN)?;
                    let resident = memory::resident(process)?;
                    return Ok(pass(
                        input.events,
                        seconds,
                        measure::cpu(process)?,
                        resident.peak_bytes,
                    ));
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
        bail!("foldhost has not folded {} within {WITHIN:?}", input.topic)
    }

    fn state(&self) -> Result<Value> {
        self.client
            .get(&format!("/v1/plugins/{PLUGIN}"))?
            .success()?
            .json()
    }

    /// What its state says, asked key by key as a stream.
    ///
    /// # Errors
    /// If an answer has another shape.
    pub(crate) fn check(&self) -> Result<Check> {
        self.check_of(PLUGIN)
    }

    /// As [`Self::check`], of the fold under another name.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(crate) fn check_of(&self, name: &str) -> Result<Check> {
        let url = format!("{}/v1/views/{name}/keys", self.client.base());
        let client = reqwest::blocking::Client::builder()
            .timeout(WITHIN)
            .build()?;
        let reply = client
            .get(url)
            .header("accept", "application/x-ndjson")
            .send()?;
        ensure!(reply.status().is_success(), "{}", reply.status());
        let mut check = Check {
            keys: 0,
            events: 0,
            digest: 0,
        };
        for line in BufReader::new(reply).lines() {
            let line = line?;
            let item: Value = serde_json::from_str(&line)?;
            let (key, answer) = (&item["key"], &item["answer"]);
            let (Some(key), Some(count), Some(last)) = (
                key.as_str(),
                answer["count"].as_u64(),
                answer["last"].as_str(),
            ) else {
                bail!("no item: {line}");
            };
            check.add(key.as_bytes(), count, last.as_bytes());
        }
        Ok(check)
    }

    /// `kill -9`, then a start on the same folders: seconds from that until it is live.
    ///
    /// # Errors
    /// If it does not become so.
    pub(crate) fn restart_killed(self, input: &Input) -> Result<(Self, f64)> {
        let start = self.host.kill()?;
        Self::again(start, self.folder, input)
    }

    /// A clean stop, then a start with an empty data folder and the states in the object store: seconds from
    /// that until it is live.
    ///
    /// # Errors
    /// If it does not become so.
    pub(crate) fn restart_empty(self, input: &Input) -> Result<(Self, f64)> {
        let code = self.host.stop()?;
        ensure!(code == 0, "foldhost ended with {code}");
        fs::remove_dir_all(self.folder.join("data"))?;
        Self::again(self.start, self.folder, input)
    }

    fn again(start: Start, folder: PathBuf, input: &Input) -> Result<(Self, f64)> {
        let began = Instant::now();
        let mut host = start.spawn()?;
        let url = start.url().context("it listens on a port of its own")?;
        let client = Client::new(&url)?;
        let path = format!("/v1/plugins/{PLUGIN}");
        while !is_live(&client, &path, input) {
            ensure!(
                began.elapsed() < WITHIN,
                "foldhost is not live again within {WITHIN:?}"
            );
            std::thread::sleep(LOOK_EVERY);
        }
        let seconds = began.elapsed().as_secs_f64();
        host.wait_listening()?;
        Ok((
            Self {
                host,
                client,
                folder,
                start,
            },
            seconds,
        ))
    }
}

/// Events that are folded; its topics have no transactions, so an offset is a count.
fn folded(plugin: &Value) -> Result<u64> {
    let partitions = plugin["partitions"].as_array().context("no partitions")?;
    let positions = partitions
        .iter()
        .filter_map(|partition| number(&partition["position"]));
    Ok(positions.map(|position| position + 1).sum())
}

/// Whether every partition is live and has all of an input.
fn is_live(client: &Client, path: &str, input: &Input) -> bool {
    let Ok(reply) = client.get(path) else {
        return false;
    };
    let Ok(plugin) = reply.json() else {
        return false;
    };
    let partitions = plugin["partitions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let live = partitions
        .iter()
        .filter(|partition| partition["status"] == "live");
    i32::try_from(live.count()) == Ok(input.partitions)
        && folded(&plugin).is_ok_and(|folded| folded >= input.events)
}
