//! How much memory a process holds, as the kernel counts it. Called by scenarios that bound it.

use std::fs;

use anyhow::{Context, Result};

/// Resident memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    /// Bytes it holds now.
    pub now_bytes: u64,
    /// Bytes it held at most, since it was started.
    pub peak_bytes: u64,
}

/// Resident memory of the process with this number.
///
/// # Errors
/// If there is none, or the kernel does not tell.
pub fn resident(process: u32) -> Result<Resident> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let bytes = |field| line(&status, field).with_context(|| format!("{path} has no {field}"));
    Ok(Resident {
        now_bytes: bytes("VmRSS:")?,
        peak_bytes: bytes("VmHWM:")?,
    })
}

/// A line such as `VmRSS:      5 kB`, in bytes.
fn line(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_what_it_wrote_to() {
        let before = resident(std::process::id()).unwrap();
        let taken = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident(std::process::id()).unwrap();
        assert!(after.peak_bytes >= taken.len() as u64, "{after:?}");
        assert!(after.peak_bytes >= before.peak_bytes);
        assert!(after.now_bytes > 0);
        assert!(resident(u32::MAX).is_err());
    }
}
