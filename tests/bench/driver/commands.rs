//! Commands to a command handler, over HTTP on kept-alive connections: how many are accepted a second, and how long
//! each waits for its answer, by how many clients command at the same time; on the embedded log and on Kafka. The mode
//! `--commands` of the driver.
//!
//! Invariant: a command counts once it is answered with 200, and so durable; afterwards the topic holds as many events.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use foldhost_tests::host::{Host, Start};
use foldhost_tests::kafka::Broker;
use foldhost_tests::paths::{Scratch, prebuilt_plugin};
use foldhost_tests::wait::wait_until_ok;
use foldhost_tests::{operate, topic};

use crate::args::Args;
use crate::child::WITHIN;
use crate::measure::{self, quantile};
use crate::queries::Connection;
use crate::report::{self, machine};
use crate::rounds::Measured;

/// The handler: each command offers a dish that was not there, and is one event.
const PLUGIN: &str = "orders";
const BODY: &str = "{\"portions\":1}";
/// How many command at the same time.
const CLIENTS: [u64; 3] = [1, 16, 256];
const LASTS: Duration = Duration::from_secs(10);
const LASTS_QUICK: Duration = Duration::from_secs(3);
const LOGS: [&str; 2] = ["embedded", "kafka"];

/// Everything.
///
/// # Errors
/// If a command is not accepted, or the topic holds another number of events.
pub(crate) fn run(args: &Args) -> Result<Measured> {
    let broker = Broker::start()?;
    let scratch = Scratch::new("bench-commands")?;
    let mut measured = Measured::default();
    for round in 1..=args.rounds {
        for log in LOGS.into_iter().filter(|log| args.takes(log)) {
            eprintln!("bench: round {round}: {log}");
            let folder = scratch.join(format!("{log}-{round}"));
            let kafka = (log == "kafka").then_some(&broker);
            let mut host = start(&folder, kafka, &format!("commands-{round}"))?;
            let mut accepted = 0;
            for clients in CLIENTS {
                let lasts = if args.quick { LASTS_QUICK } else { LASTS };
                accepted += pass(&mut host, log, clients, accepted, lasts, &mut measured)?;
            }
            let events = topic::read_all(&host.client()?, PLUGIN)?.len() as u64;
            ensure!(
                events == accepted,
                "{accepted} were accepted, and {events} events are there"
            );
            if let Some(broker) = kafka {
                broker.delete_topic(PLUGIN)?;
            }
        }
    }
    Ok(measured)
}

fn start(folder: &Path, kafka: Option<&Broker>, cluster: &str) -> Result<Host> {
    fs::create_dir_all(folder)?;
    let mut start = Start::serve(folder);
    if let Some(broker) = kafka {
        let config = folder.join("foldhost.toml");
        let text = format!(
            "cluster = \"{cluster}\"\n[kafka]\n\"bootstrap.servers\" = \"{}\"\n",
            broker.bootstrap()
        );
        fs::write(&config, text)?;
        start = start.config(&config);
    }
    let host = start.ready()?;
    let client = host.client()?;
    client
        .deploy(PLUGIN, "", prebuilt_plugin(PLUGIN)?)?
        .success()?;
    wait_until_ok(WITHIN, "all partitions to decide", || {
        let plugin = operate::plugin(&client, PLUGIN)?;
        let partitions = operate::partitions(&plugin)?;
        let live = partitions.iter().filter(|it| it["status"] == "live");
        ensure!(live.count() == 4, "{plugin}");
        Ok(())
    })?;
    Ok(host)
}

/// So many clients, each with one command at a time; how many were accepted.
fn pass(
    host: &mut Host,
    log: &'static str,
    clients: u64,
    before: u64,
    lasts: Duration,
    measured: &mut Measured,
) -> Result<u64> {
    let (process, address) = (host.process().id(), host.address().to_owned());
    let cpu = measure::cpu(process)?;
    let began = Instant::now();
    let commanding: Vec<_> = (0..clients)
        .map(|client| {
            let address = address.clone();
            std::thread::spawn(move || -> Result<Vec<Duration>> {
                let mut connection = Connection::open(&address)?;
                let mut took = Vec::new();
                while began.elapsed() < lasts {
                    let number = took.len();
                    let path = format!("/v1/commands/{PLUGIN}/d{before}-{client}-{number}/offer");
                    let request = format!(
                        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
                         if-none-match: *\r\ncontent-length: {}\r\n\r\n{BODY}",
                        BODY.len()
                    );
                    let asked = Instant::now();
                    connection.exchange(request.as_bytes(), &path)?;
                    took.push(asked.elapsed());
                }
                Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for client in commanding {
        took.extend(client.join().ok().context("a client panicked")??);
    }
    let (seconds, cpu) = (
        began.elapsed().as_secs_f64(),
        measure::cpu(process)?.saturating_sub(cpu).as_secs_f64(),
    );
    took.sort_unstable();
    let millis = |part| quantile(&took, part).as_secs_f64() * 1e3;
    #[allow(clippy::cast_precision_loss, reason = "figures")]
    let count = took.len() as f64;
    measured.add(&format!("accepted_per_s_{clients}"), log, count / seconds);
    measured.add(&format!("p50_ms_{clients}"), log, millis(0.5));
    measured.add(&format!("p99_ms_{clients}"), log, millis(0.99));
    measured.add(
        &format!("cpu_us_per_command_{clients}"),
        log,
        cpu * 1e6 / count,
    );
    Ok(took.len() as u64)
}

/// The report.
pub(crate) fn report(args: &Args, measured: &Measured) -> String {
    let mut text = String::from("# Commands\n\n");
    let _ = writeln!(
        text,
        "Written by `tests/bench/run --commands`: {} round(s); `{PLUGIN}` on 4 partitions, each command an event of a key of \
         its own, with a condition on its version; 1, 16 and 256 clients with one command at a time each; broker, host and \
         clients on one machine ({}). A command counts once its answer is there, and so its transaction durable. Medians; \
         absolute figures on a shared machine mean little.\n",
        args.rounds,
        machine()
    );
    report::figures(&mut text, measured);
    text
}
