//! Host processes: `foldhost serve` and `foldhost demo` as an operator starts them, and the command
//! line as a user types it. Called by nearly every scenario. Invariant: a host listens on a port of its
//! own choosing, is found by what it prints, and never outlives the test.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::Client;
use crate::kafka::Broker;
use crate::paths::{Scratch, foldhost, foldhost_with_fail_points, prebuilt_plugin};
use crate::process::Supervised;
use crate::wait::{wait_until, wait_until_ok};

/// For things that take a second on an idle machine.
pub const GENEROUS: Duration = Duration::from_secs(60);

/// How to start a host.
#[derive(Debug, Clone)]
pub struct Start {
    command: &'static str,
    data: PathBuf,
    log: PathBuf,
    listen: String,
    config: Option<PathBuf>,
    /// Another host than the one that is tested.
    program: Option<PathBuf>,
    wrapper: Vec<OsString>,
    /// Whether it is the host that can be killed at a point of its own.
    has_fail_points: bool,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
}

impl Start {
    /// `foldhost serve` on `<folder>/data`, with its log at `<folder>/host.log`.
    pub fn serve(folder: &Path) -> Self {
        Self {
            command: "serve",
            data: folder.join("data"),
            log: folder.join("host.log"),
            listen: "127.0.0.1:0".to_owned(),
            config: None,
            program: None,
            wrapper: Vec::new(),
            has_fail_points: false,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// `foldhost demo` on `<folder>/data`.
    pub fn demo(folder: &Path) -> Self {
        Self {
            command: "demo",
            ..Self::serve(folder)
        }
    }

    /// Another address to listen on.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.to_owned();
        self
    }

    /// Another data folder.
    #[must_use]
    pub fn data(mut self, path: &Path) -> Self {
        self.data = path.to_path_buf();
        self
    }

    /// The URL that it will listen on, if [`Self::listen`] gave it a port.
    pub fn url(&self) -> Option<String> {
        (!self.listen.ends_with(":0")).then(|| format!("http://{}", self.listen))
    }

    /// A configuration file.
    #[must_use]
    pub fn config(mut self, path: &Path) -> Self {
        self.config = Some(path.to_path_buf());
        self
    }

    /// Another host than the one that is tested.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_path_buf());
        self
    }

    /// A program with arguments that runs the host in its place (and must `exec` it, so that signals
    /// reach it).
    #[must_use]
    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    /// A host that is killed at the n-th time that it comes by a point (`host/src/fail.rs`).
    #[must_use]
    pub fn killed_at(mut self, point: &str, times: u32) -> Self {
        self.has_fail_points = true;
        self.environment("FOLDHOST_FAIL_AT", &format!("{point}:{times}"))
    }

    /// One more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self) -> Result<Command> {
        let mut words = self.wrapper.clone();
        let program = match &self.program {
            Some(path) => path.clone(),
            None if self.has_fail_points => foldhost_with_fail_points()?,
            None => foldhost()?,
        };
        words.push(program.into_os_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
            .arg(self.command)
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &self.listen]);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.args(&self.arguments);
        clean_environment(&mut command);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Starts the process without waiting for anything.
    ///
    /// # Errors
    /// If there is no binary to start.
    pub fn spawn(&self) -> Result<Host> {
        // The log of an earlier start would name an earlier port.
        let before = std::fs::metadata(&self.log)
            .map(|file| file.len())
            .unwrap_or(0);
        let log_from = usize::try_from(before)?;
        let process = Supervised::spawn(&mut self.command()?, &self.log)?;
        Ok(Host {
            start: self.clone(),
            process,
            log_from,
            url: None,
        })
    }

    /// Starts the process and waits until it listens.
    ///
    /// # Errors
    /// If it ends first, or does not listen in time; the end of its log is in the message.
    pub fn listening(&self) -> Result<Host> {
        let mut host = self.spawn()?;
        host.wait_listening()?;
        Ok(host)
    }

    /// Starts the process and waits until `/readyz` is 200.
    ///
    /// # Errors
    /// As [`Self::listening`].
    pub fn ready(&self) -> Result<Host> {
        let host = self.listening()?;
        host.wait_ready()?;
        Ok(host)
    }

    /// Starts a process that must refuse to run, and gives its exit code and what it printed.
    ///
    /// # Errors
    /// If it still runs after a generous time.
    pub fn refused(&self) -> Result<(i32, String)> {
        let mut host = self.spawn()?;
        let status = host.process.wait_for_end(GENEROUS)?;
        Ok((status.code().context("ended by a signal")?, host.log()))
    }
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    start: Start,
    process: Supervised,
    log_from: usize,
    url: Option<String>,
}

impl Host {
    /// The URL that it listens on.
    ///
    /// # Panics
    /// If nobody has waited until it listens.
    pub fn url(&self) -> &str {
        self.url
            .as_deref()
            .expect("the host was started by `listening` or `ready`")
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        self.url().trim_start_matches("http://")
    }

    /// A client of this host.
    ///
    /// # Errors
    /// If the HTTP library cannot start.
    pub fn client(&self) -> Result<Client> {
        Client::new(self.url())
    }

    /// What this start of the host has printed.
    pub fn log(&self) -> String {
        let log = self.process.log();
        log.get(self.log_from..).unwrap_or(&log).to_owned()
    }

    /// The last lines that it has printed, for messages.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// The process, for signals.
    pub fn process(&mut self) -> &mut Supervised {
        &mut self.process
    }

    /// Waits until the host prints the URL that it listens on and answers there.
    ///
    /// # Errors
    /// If it ends first, or does not listen in time.
    pub fn wait_listening(&mut self) -> Result<()> {
        let mut ended = None;
        let url = wait_until(GENEROUS, "the host to listen", || {
            ended = self.process.ended().ok().flatten();
            match ended {
                Some(_) => Some(None),
                None => listening_url(&self.log()).map(Some),
            }
        });
        let Some(url) = url.with_context(|| self.process.log_tail())? else {
            bail!("the host ended ({ended:?}):\n{}", self.process.log_tail());
        };
        let client = Client::new(&url)?;
        let answers = wait_until_ok(GENEROUS, "/healthz", || {
            ended = self.process.ended()?;
            if ended.is_some() {
                return Ok(false);
            }
            client.get("/healthz")?.expect_status(200).map(|_| true)
        });
        if !answers.with_context(|| self.process.log_tail())? {
            bail!("the host ended ({ended:?}):\n{}", self.process.log_tail());
        }
        self.url = Some(url);
        Ok(())
    }

    /// Waits until `/readyz` is 200.
    ///
    /// # Errors
    /// If it does not become so in a generous time.
    pub fn wait_ready(&self) -> Result<()> {
        let client = self.client()?;
        wait_until_ok(GENEROUS, "/readyz", || {
            client.get("/readyz")?.expect_status(200)
        })
        .with_context(|| self.process.log_tail())?;
        Ok(())
    }

    /// Waits until a plugin has folded all there is, on every partition.
    ///
    /// # Errors
    /// If it does not get there within `deadline`.
    pub fn wait_caught_up(&self, plugin: &str, deadline: Duration) -> Result<()> {
        let client = self.client()?;
        let what = format!("{plugin} to be live without lag");
        wait_until_ok(deadline, &what, || {
            let reply = client
                .get(&format!("/v1/plugins/{plugin}"))?
                .expect_status(200)?;
            let plugin = reply.json()?;
            let partitions = plugin["partitions"].as_array().context("no partitions")?;
            let live = |partition: &Value| {
                partition["status"] == "live"
                    && crate::http::number(&partition["lag"]).is_some_and(|lag| lag == 0)
            };
            ensure!(
                !partitions.is_empty() && partitions.iter().all(live),
                "{}",
                reply.text()
            );
            // The lag is that of the end as the host has last seen it: look whether there is more.
            let topic = plugin["inputs"][0]["topic"].as_str().context("no input")?;
            for partition in partitions {
                let number = crate::http::number(&partition["partition"]).context("no number")?;
                let folded = crate::http::number(&partition["position"]);
                let first = crate::http::number(&partition["folds_from"]).unwrap_or(0);
                let next = folded.map_or(first, |folded| folded + 1);
                let more = crate::topic::has_record(&client, topic, number, next)?;
                ensure!(!more, "partition {number} has not folded {topic}@{next}");
            }
            Ok(())
        })
        .with_context(|| self.process.log_tail())
    }

    /// Deploys one of the shipped plugins under its own name and waits until it is live.
    ///
    /// # Errors
    /// If it is refused, or does not become live.
    pub fn deploy_prebuilt(&self, plugin: &str, parameters: &str) -> Result<()> {
        let reply = self
            .client()?
            .deploy(plugin, parameters, prebuilt_plugin(plugin)?)?;
        reply.expect_status(201)?;
        self.wait_caught_up(plugin, GENEROUS)
    }

    /// Sends SIGTERM and gives the exit code.
    ///
    /// # Errors
    /// If the host does not end in a generous time.
    pub fn stop(mut self) -> Result<i32> {
        self.process.terminate()?;
        let status = self
            .process
            .wait_for_end(GENEROUS)
            .with_context(|| self.process.log_tail())?;
        status
            .code()
            .with_context(|| format!("ended by a signal: {status:?}"))
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    /// If it still runs after `deadline`.
    pub fn wait_for_end(mut self, deadline: Duration) -> Result<()> {
        self.process.wait_for_end(deadline).map(drop)
    }

    /// Sends SIGKILL and gives what is needed to start it again.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(mut self) -> Result<Start> {
        self.process.kill()?;
        Ok(self.start)
    }
}

/// The first loopback URL that the host prints as what it listens on.
fn listening_url(log: &str) -> Option<String> {
    log.lines()
        .filter(|line| line.contains("listening"))
        .find_map(|line| {
            let (_, rest) = line.split_once("http://127.0.0.1:")?;
            // A digit after the port may still be on its way: wait for what ends it.
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            let whole = log.contains(&format!("{line}\n")) && digits > 0;
            whole.then(|| format!("http://127.0.0.1:{}", &rest[..digits]))
        })
}

/// Settings of this machine must not reach the host under test.
fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("FOLDHOST_") {
            command.env_remove(&name);
        }
    }
    if let Some(level) = std::env::var_os("FOLDHOST_LOG") {
        command.env("FOLDHOST_LOG", level);
    }
    command.env("NO_COLOR", "1");
}

/// Runs `foldhost` with arguments in a folder and gives what it printed and its exit code.
///
/// # Errors
/// If there is no binary to run.
pub fn run_in(folder: &Path, url: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = command_in(folder, url, arguments)?;
    command.stdin(Stdio::null());
    command
        .output()
        .with_context(|| format!("cannot run foldhost {arguments:?}"))
}

/// As [`run_in`], with text on standard input.
///
/// # Errors
/// As [`run_in`].
pub fn run_with_input(folder: &Path, url: &str, arguments: &[&str], input: &str) -> Result<Output> {
    let mut child = command_in(folder, url, arguments)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run foldhost {arguments:?}"))?;
    let mut pipe = child.stdin.take().context("the child has an input")?;
    // A command that refuses its arguments reads nothing: that shows in what it prints.
    let _ = pipe.write_all(input.as_bytes());
    drop(pipe);
    Ok(child.wait_with_output()?)
}

fn command_in(folder: &Path, url: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(foldhost()?);
    command.args(arguments).current_dir(folder);
    clean_environment(&mut command);
    command.env("FOLDHOST_URL", url);
    Ok(command)
}

/// As [`run_in`], and the command must succeed; gives its standard output.
///
/// # Errors
/// If it fails, with all it printed.
pub fn run_well(folder: &Path, url: &str, arguments: &[&str]) -> Result<String> {
    let output = run_in(folder, url, arguments)?;
    if !output.status.success() {
        bail!("foldhost {arguments:?} failed: {}", shown(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Both outputs and the exit code, for messages and for looking for words.
pub fn shown(output: &Output) -> String {
    format!(
        "exit {:?}\n{}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The configuration of a host on Kafka, with an object store that hosts of this machine share.
///
/// # Errors
/// If it cannot be written.
pub fn kafka_config(
    scratch: &Scratch,
    broker: &Broker,
    cluster: &str,
    objects: &Path,
) -> Result<PathBuf> {
    let text = format!(
        "cluster = \"{cluster}\"\n\n[kafka]\n\"bootstrap.servers\" = \"{}\"\n\n[objects]\nurl = \"file://{}\"\n",
        broker.bootstrap(),
        objects.display()
    );
    scratch.write(&format!("{cluster}.toml"), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_taken_once_the_line_is_whole() {
        assert_eq!(listening_url("INFO listening on http://127.0.0.1:80"), None);
        assert_eq!(listening_url("loading http://127.0.0.1:1\n"), None);
        let log = "start\nINFO listening on http://127.0.0.1:4321\nmore";
        assert_eq!(listening_url(log).as_deref(), Some("http://127.0.0.1:4321"));
        let field = "{\"message\":\"listening\",\"url\":\"http://127.0.0.1:17/\"}\n";
        assert_eq!(listening_url(field).as_deref(), Some("http://127.0.0.1:17"));
    }
}
