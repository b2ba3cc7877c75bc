//! A small file system of its own for a host, which a scenario fills and empties again. Called by the
//! scenarios about full disks. It lives in a namespace that a sleeping process holds, so that it needs no
//! root, outlives a host that is killed, and is gone with the test.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::host::{GENEROUS, Start, shown};
use crate::paths::Scratch;
use crate::process::Supervised;
use crate::wait::wait_until_ok;

/// What takes the space.
const BALLAST: &str = "ballast";
/// Bytes that are written at once.
const BLOCK: usize = 64 << 10;

/// The file system.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Supervised,
    path: PathBuf,
}

impl SmallDisk {
    /// Whether this machine allows mounts in a namespace of one's own.
    pub fn is_possible() -> bool {
        let script = "mount -t tmpfs tmpfs /mnt";
        let mounts = Command::new("unshare")
            .args(["-r", "-m", "sh", "-c", script])
            .output()
            .is_ok_and(|output| output.status.success());
        let enters = Command::new("nsenter").arg("--version").output();
        mounts && enters.is_ok_and(|output| output.status.success())
    }

    /// An empty one of `megabytes`, at a folder of the scratch folder.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn new(scratch: &Scratch, folder: &str, megabytes: usize) -> Result<Self> {
        let path = scratch.join(folder);
        fs::create_dir_all(&path)?;
        let script = format!(
            "mount -t tmpfs -o size={megabytes}m tmpfs '{}' && echo mounted && exec sleep 100000",
            path.display()
        );
        let log = scratch.join(format!("{folder}.log"));
        let mut command = Command::new("unshare");
        command.args(["-r", "-m", "sh", "-c", &script]);
        let holder = Supervised::spawn(&mut command, &log)?;
        wait_until_ok(GENEROUS, "the small disk to be mounted", || {
            ensure!(holder.log().contains("mounted"), "{}", holder.log());
            Ok(())
        })?;
        Ok(Self { holder, path })
    }

    /// Where a host finds it that was started by [`Self::around`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a host see the file system.
    #[must_use]
    pub fn around(&self, start: Start) -> Start {
        let words = self.entering();
        start.wrapper(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The command before a command that is to see the file system.
    fn entering(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        let words = [
            "nsenter",
            "-t",
            &holder,
            "-U",
            "-m",
            "--preserve-credentials",
            "--",
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Makes every write fail from now on, or succeed again.
    ///
    /// # Errors
    /// If somebody keeps a file open for writing.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        let words = self.entering();
        let options = if read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        wait_until_ok(GENEROUS, "the small disk to be mounted anew", || {
            let output = Command::new(&words[0])
                .args(&words[1..])
                .args(["mount", "-o", options])
                .arg(&self.path)
                .output()?;
            ensure!(output.status.success(), "{}", shown(&output));
            Ok(())
        })
    }

    /// Where this program finds it.
    fn seen_from_outside(&self) -> PathBuf {
        let below = self.path.strip_prefix("/").unwrap_or(&self.path);
        Path::new("/proc")
            .join(self.holder.id().to_string())
            .join("root")
            .join(below)
    }

    /// Takes so many megabytes away.
    ///
    /// # Errors
    /// If there are not as many.
    pub fn take(&self, megabytes: usize) -> Result<()> {
        let written = self.write_ballast(megabytes << 20)?;
        ensure!(written == megabytes << 20, "only {written} bytes were free");
        Ok(())
    }

    /// Takes all that is free, and goes on until nothing is.
    ///
    /// # Errors
    /// If writing fails otherwise than for want of space.
    pub fn take_all(&self) -> Result<()> {
        self.write_ballast(usize::MAX)?;
        Ok(())
    }

    /// Gives back what was taken.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn give_back(&self) -> Result<()> {
        let ballast = self.seen_from_outside().join(BALLAST);
        fs::remove_file(&ballast).with_context(|| format!("cannot remove {}", ballast.display()))
    }

    fn write_ballast(&self, bytes_max: usize) -> Result<usize> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.seen_from_outside().join(BALLAST))?;
        let block = [7_u8; BLOCK];
        let mut written = 0;
        while written < bytes_max {
            match file.write(&block[..BLOCK.min(bytes_max - written)]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => bail!("cannot take space: {error}"),
            }
        }
        Ok(written)
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout)]
mod tests {
    use super::*;

    #[test]
    fn space_is_taken_and_given_back() {
        if !SmallDisk::is_possible() {
            println!("not tried: this machine allows no mounts in a namespace of one's own");
            return;
        }
        let scratch = Scratch::new("small-disk").unwrap();
        let disk = SmallDisk::new(&scratch, "disk", 4).unwrap();
        disk.take(1).unwrap();
        disk.take_all().unwrap();
        assert!(disk.take(1).is_err());
        disk.give_back().unwrap();
        disk.take(3).unwrap();
        disk.set_read_only(true).unwrap();
        assert!(disk.take(1).is_err());
        disk.set_read_only(false).unwrap();
        // Nobody else sees it.
        assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
    }
}
