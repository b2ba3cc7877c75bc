//! The benchmark's driver, started by `tests/bench/run`: a real broker, the inputs, then every contestant in turn on the
//! same topics, round after round; each checked, measured from outside, and put into a report. Or, with `--growth`,
//! foldhost alone, as what it has to do grows; with `--republish`, what a published record costs; with `--commands`, how
//! many commands it decides; with `--against`, two builds of the host at the same time.
//!
//! Invariant: nothing is reported of a contestant whose final state was not found to be right.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program for the terminal that measures time"
)]

mod args;
mod child;
mod commands;
mod foldhost;
mod growth;
mod input;
mod jvm;
mod limit;
mod measure;
mod paired;
mod queries;
mod report;
mod republish;
mod rounds;
mod topic;

use std::process::ExitCode;

use anyhow::{Result, ensure};

use args::{Args, Command, Mode};

fn main() -> ExitCode {
    let done = match Args::of_process() {
        Ok(Command::Limit(child)) => match &child.output {
            Some(output) => republish::limit(&child, output),
            None => limit::run(&child),
        },
        Ok(Command::LimitHttp) => limit::http::run(),
        Ok(Command::Bench(args)) => bench(&args),
        Err(error) => {
            eprintln!("bench: {error:#}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    let mut missing = Vec::new();
    let (text, medians) = match &args.mode {
        Mode::Growth => growth::run(args)?,
        Mode::Fold => {
            let measured = rounds::run(args)?;
            let report = (report::table(args, &measured), report::medians(&measured));
            missing = measured.missing;
            report
        }
        Mode::Commands => {
            let measured = commands::run(args)?;
            let text = commands::report(args, &measured);
            (text, report::medians(&measured))
        }
        Mode::Against(other) => paired::run(args, other)?,
        Mode::Republish => {
            let measured = republish::run(args)?;
            let text = republish::report(args, &measured);
            (text, report::medians(&measured))
        }
    };
    println!("{text}");
    if !args.results.as_os_str().is_empty() {
        std::fs::write(&args.results, &text)?;
    }
    if let Some(file) = &args.json {
        std::fs::write(file, medians.to_string())?;
    }
    ensure!(
        missing.is_empty(),
        "not everything was measured: {}",
        missing.join("; ")
    );
    eprintln!("bench: everything was measured and found correct");
    Ok(())
}
