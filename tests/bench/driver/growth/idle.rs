//! What a partition costs that has a state and gets no events: a host with one of them, another with many, and the
//! difference for each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use foldhost_tests::http::number;
use foldhost_tests::wait::{let_pass, wait_until_ok};
use foldhost_tests::{memory, operate};

use super::{Bed, Figures};
use crate::child::WITHIN;
use crate::foldhost::{Foldhost, PLUGIN};
use crate::input::Input;
use crate::measure;
use crate::topic;

/// Resident bytes of one idle partition.
pub(super) const BYTES: &str = "idle_partition_bytes";
/// CPU time of one idle partition, in microseconds for each second.
pub(super) const CPU: &str = "idle_partition_cpu_us_per_s";

/// Partitions of the host with few, and of that with many.
pub(super) const PARTITIONS: [i32; 2] = [1, 129];
/// Keys of each, and events.
const KEYS: u64 = 100;
/// For how long nothing happens: long, since CPU time is counted in steps of 10 ms.
const LASTS: Duration = Duration::from_secs(60);
const LASTS_QUICK: Duration = Duration::from_secs(30);
/// Between two looks at whether a host has come to rest. What the opening of its partitions has left is given
/// back to the system by the allocator, by and by, for ten seconds and for ten more: work of the opening.
const REST: Duration = Duration::from_secs(21);
/// Share of its memory that a host at rest may still give back, or take, between two looks.
const REST_SHARE: f64 = 0.01;

/// What an idle host holds, and what it spends.
struct Idle {
    resident_bytes: f64,
    cpu_us_per_s: f64,
}

/// Measures both, once: each takes minutes.
///
/// # Errors
/// If a host does not get to rest.
pub(super) fn measure(bed: &Bed<'_>, figures: &mut Figures) -> Result<()> {
    let inputs = PARTITIONS.map(|partitions| {
        let name = partitions.to_string();
        let keys = KEYS * u64::from(partitions.unsigned_abs());
        Input {
            topic: format!("growth-idle-{partitions}"),
            partitions,
            ..Input::new(&name, keys, keys)
        }
    });
    for input in &inputs {
        topic::fill(&bed.broker, input)?;
    }
    let mut measured = Vec::new();
    for input in &inputs {
        eprintln!("bench: idle: {} partition(s)", input.partitions);
        let cluster = format!("idle-{}", input.partitions);
        let idle = bed.with_host(&cluster, |host| of_host(bed, host, input))?;
        let of_host = |what: &str| format!("idle_{}_{what}", input.name);
        figures.add(of_host("rss_bytes"), idle.resident_bytes);
        figures.add(of_host("cpu_us_per_s"), idle.cpu_us_per_s);
        measured.push(idle);
    }
    let each = |few: f64, many: f64| (many - few) / f64::from(PARTITIONS[1] - PARTITIONS[0]);
    let (few, many) = (&measured[0], &measured[1]);
    figures.add(BYTES, each(few.resident_bytes, many.resident_bytes));
    figures.add(CPU, each(few.cpu_us_per_s, many.cpu_us_per_s));
    Ok(())
}

fn of_host(bed: &Bed<'_>, host: &mut Foldhost, input: &Input) -> Result<Idle> {
    host.deploy(bed.args, input)?;
    host.wait_folded(PLUGIN, input.events)?;
    wait_until_ok(WITHIN, "everything to be committed", || all_committed(host))?;
    let process = host.process();
    let mut held = memory::resident(process)?.now_bytes;
    wait_until_ok(WITHIN, "the host to come to rest", || {
        let_pass(REST);
        let before = std::mem::replace(&mut held, memory::resident(process)?.now_bytes);
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        let moved = before.abs_diff(held) as f64 / held as f64;
        ensure!(moved <= REST_SHARE, "it held {before} bytes, then {held}");
        Ok(())
    })?;
    let lasts = if bed.args.quick { LASTS_QUICK } else { LASTS };
    let before = measure::cpu(process)?;
    let_pass(lasts);
    let spent = measure::cpu(process)?.saturating_sub(before);
    #[allow(clippy::cast_precision_loss, reason = "a figure")]
    let resident_bytes = memory::resident(process)?.now_bytes as f64;
    Ok(Idle {
        resident_bytes,
        cpu_us_per_s: spent.as_secs_f64() * 1e6 / lasts.as_secs_f64(),
    })
}

/// Whether every partition is live, and what it has folded is in its store.
fn all_committed(host: &Foldhost) -> Result<()> {
    let plugin = operate::plugin(host.client(), PLUGIN)?;
    for partition in operate::partitions(&plugin)? {
        let is = |field: &str| number(&partition[field]).context("not yet");
        ensure!(
            partition["status"] == "live" && is("committed")? == is("end")?,
            "{partition}"
        );
    }
    Ok(())
}
