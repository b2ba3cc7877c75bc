//! The command line: reads arguments, runs one command, turns its error into a message and an exit
//! code. Called by `main` only.
//!
//! Invariant: results go to standard output and nothing else does; every failure prints one message
//! that says what to do, and ends with a documented code.

use std::process::ExitCode;

use clap::Parser as _;

mod args;
mod bootstrap;
mod changes;
mod client;
mod command;
mod confirm;
mod demo;
mod exit;
mod follow;
mod host;
mod lines;
mod operate;
mod output;
mod parked;
mod plugin;
pub mod plugin_build;
mod progress;
mod query;
mod requirements;
pub mod scaffold;
mod topic;

use args::{Cli, Command};
use exit::Exit;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for; nobody has to read them.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Done.into()
            };
        }
    };
    match run(cli.command) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            let exit = Exit::of(&error);
            if exit != Exit::Done {
                output::note(&format!("error: {error:#}"));
            }
            exit.into()
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => host::serve(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Plugin(command) => plugin::run(command),
        Command::Topic(command) => topic::run(command),
        Command::Query(args) => query::run(&args),
        Command::Changes(args) => changes::run(&args),
        Command::Order(args) => command::run(&args),
    }
}
