//! A contestant as a child process that says on its standard output, one JSON object a line, how far it is
//! (the contestant protocol: README.md beside the Java programs). Started by `rounds`.
//!
//! Invariant: a child never outlives the driver's run of it, and its times are its own clock's, on the same
//! machine.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use foldhost_tests::memory;

use crate::input::Check;
use crate::measure;

/// What a contestant may take for anything at all.
pub(crate) const WITHIN: Duration = Duration::from_secs(600);

/// A running contestant.
#[derive(Debug)]
pub(crate) struct Contestant {
    name: String,
    child: Child,
    commands: ChildStdin,
    lines: Receiver<Value>,
    started: SystemTime,
    first_ms: Option<f64>,
    log: std::path::PathBuf,
    /// What it says of its settings.
    pub(crate) settings: Option<Value>,
}

/// What one pass over an input took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    /// Events in a second, from the first to the last.
    pub(crate) events_per_s: f64,
    /// CPU seconds of the process for a million events, its start included.
    pub(crate) cpu_s_per_million: f64,
    /// Most memory that it held.
    pub(crate) peak_rss_bytes: f64,
}

impl Contestant {
    /// Starts a program; what it logs goes to the file `log`.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let errors = File::options().create(true).append(true).open(log)?;
        let started = SystemTime::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let commands = child.stdin.take().expect("it is piped");
        let output = child.stdout.take().expect("it is piped");
        let (told, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else {
                    continue;
                };
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            commands,
            lines,
            started,
            first_ms: None,
            log: log.to_owned(),
            settings: None,
        })
    }

    /// Number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the line with this event.
    ///
    /// # Errors
    /// If it ends before, or takes too long.
    pub(crate) fn wait(&mut self, event: &str) -> Result<Value> {
        let deadline = Instant::now() + WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{}: no '{event}' within {WITHIN:?}", self.name)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(
                        "{} ended before '{event}'; its log: {}",
                        self.name,
                        self.log.display()
                    )
                }
            };
            match line["event"].as_str() {
                Some("first") => self.first_ms = line["at_ms"].as_f64(),
                Some("settings") => self.settings = Some(line.clone()),
                _ => {}
            }
            if line["event"] == event {
                return Ok(line);
            }
        }
    }

    /// Waits until all is folded, and says what that took.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(crate) fn wait_done(&mut self, events: u64) -> Result<Pass> {
        let done = self.wait("done")?;
        let cpu = measure::cpu(self.process())?;
        let resident = memory::resident(self.process())?;
        let last_ms = done["at_ms"].as_f64().context("'done' says no time")?;
        let first_ms = self.first_ms.context("'done' came before 'first'")?;
        Ok(pass(
            events,
            (last_ms - first_ms) / 1_000.0,
            cpu,
            resident.peak_bytes,
        ))
    }

    /// Seconds from its start to the line with this event.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(crate) fn seconds_to(&mut self, event: &str) -> Result<f64> {
        let at_ms = self.wait(event)?["at_ms"]
            .as_f64()
            .context("it says no time")?;
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(at_ms / 1_000.0 - started.as_secs_f64())
    }

    /// Sends a line.
    ///
    /// # Errors
    /// If it does not read any more.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.commands, "{line}")?;
        Ok(self.commands.flush()?)
    }

    /// What its state says.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(crate) fn check(&mut self) -> Result<Check> {
        let line = self.wait("check")?;
        let number = |field: &str| line[field].as_u64().context("a check without numbers");
        let digest = line["digest"]
            .as_str()
            .context("a check without a digest")?;
        Ok(Check {
            keys: number("keys")?,
            events: number("events")?,
            digest: u64::from_str_radix(digest, 16)?,
        })
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it is gone already.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn stop(mut self) -> Result<()> {
        // One that is gone has stopped.
        let _ = self.tell("stop");
        foldhost_tests::wait::wait_until(
            Duration::from_secs(60),
            "the contestant to stop",
            || self.child.try_wait().ok().flatten(),
        )?;
        Ok(())
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        // One that has ended is reaped all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pass of `events` in `seconds`.
pub(crate) fn pass(events: u64, seconds: f64, cpu: Duration, peak_bytes: u64) -> Pass {
    #[allow(clippy::cast_precision_loss, reason = "figures")]
    let (events, peak_rss_bytes) = (events as f64, peak_bytes as f64);
    Pass {
        events_per_s: events / seconds,
        cpu_s_per_million: cpu.as_secs_f64() / (events / 1e6),
        peak_rss_bytes,
    }
}
