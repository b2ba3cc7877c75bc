//! A copy of the repository as a fresh clone would be, for scenarios that write into one. Called by
//! those about building plugins. Invariant: the clone that is tested is never written to.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths::repository;

/// Copies every file that git knows, or would take, into `to`.
///
/// # Errors
/// If git cannot list them, or one cannot be copied.
pub fn copy_to(to: &Path) -> Result<()> {
    let root = repository();
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(&root)
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!(
            "git lists no files: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for name in String::from_utf8(output.stdout)?
        .split('\0')
        .filter(|name| !name.is_empty())
    {
        let (from, to) = (root.join(name), to.join(name));
        if from.is_file() {
            fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
            fs::copy(&from, &to).with_context(|| format!("cannot copy {name}"))?;
        }
    }
    Ok(())
}
