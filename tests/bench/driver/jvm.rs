//! How the Java contestants are started: what `run` had Maven build, with the options beside their sources.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use foldhost_tests::kafka::Broker;
use foldhost_tests::paths::repository;

use crate::args::Args;
use crate::input::Input;

/// Kafka Streams or Flink, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Jvm {
    /// Kafka Streams on so many threads.
    KafkaStreams { threads: usize },
    /// Flink with two slots on this state backend.
    Flink { backend: &'static str },
}

const FLINK_SLOTS: usize = 2;

impl Jvm {
    /// Its folder in `tests/bench` and in what Maven built, and its main class.
    fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::KafkaStreams { .. } => ("kafka-streams", "foldhost.bench.streams.Main"),
            Self::Flink { .. } => ("flink", "foldhost.bench.flink.Main"),
        }
    }

    /// The command that folds an input, with its state in `state`.
    ///
    /// # Errors
    /// If it was not built.
    pub(crate) fn fold(
        self,
        args: &Args,
        broker: &Broker,
        input: &Input,
        group: &str,
        state: &Path,
    ) -> Result<Command> {
        let mut command = self.java(args)?;
        command.args(["--bootstrap", &broker.bootstrap(), "--topic", &input.topic]);
        command.args(["--group", group, "--expect", &input.events.to_string()]);
        command.arg("--state-dir").arg(state);
        match self {
            Self::KafkaStreams { threads } => {
                command.args(["--threads", &threads.to_string(), "--instance", "bench"])
            }
            Self::Flink { backend } => {
                command.args(["--threads", &FLINK_SLOTS.to_string(), "--backend", backend])
            }
        };
        Ok(command)
    }

    /// The command that says what Flink's newest checkpoint or a savepoint holds.
    ///
    /// # Errors
    /// If it was not built.
    pub(crate) fn verify(
        self,
        args: &Args,
        checkpoint: &str,
        backend: &str,
        state: &Path,
    ) -> Result<Command> {
        let mut command = self.java(args)?;
        command.args(["--verify", checkpoint, "--backend", backend]);
        command.args(["--threads", &FLINK_SLOTS.to_string()]);
        command.arg("--state-dir").arg(state);
        Ok(command)
    }

    fn java(self, args: &Args) -> Result<Command> {
        let (folder, main) = self.program();
        let built = args.jvm.join(folder);
        let mut command = Command::new("java");
        // Java reads a file of options by itself: the heap, too, is set there.
        let options = repository()
            .join("tests/bench")
            .join(folder)
            .join("jvm.options");
        command.arg(format!("@{}", options.display()));
        let path = format!(
            "{}:{}/*",
            built.join("classes").display(),
            built.join("libs").display()
        );
        ensure!(
            built.join("classes").is_dir(),
            "{} was not built: start tests/bench/run",
            built.display()
        );
        command.arg("-cp").arg(path).arg(main);
        Ok(command)
    }
}
