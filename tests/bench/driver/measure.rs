//! What the kernel says of a process: CPU time and resident memory. And medians.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The kernel's unit in `/proc/*/stat`, on every Linux that people run.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time that a process and its threads have had, in user and kernel mode.
///
/// # Errors
/// If there is no such process, or it has ended.
pub(crate) fn cpu(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The second field is the program's name in parentheses, and may hold anything.
    let behind = stat.rsplit_once(')').context("no name in the stat line")?.1;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    // One that nobody has waited for is still there.
    ensure!(fields.first() != Some(&"Z"), "process {process} has ended");
    let ticks = |index: usize| -> Result<f64> {
        let field = fields
            .get(index)
            .context("a stat line with too few fields")?;
        Ok(field.parse()?)
    };
    Ok(Duration::from_secs_f64(
        (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
    ))
}

/// The middle one; the lower of two.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// The value below which `part` (0 to 1) of them lie.
pub(crate) fn quantile(sorted: &[Duration], part: f64) -> Duration {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = (sorted.len() as f64 * part) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
