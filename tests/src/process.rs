//! Child processes that never outlive the test. Called by `kafka` and `host`.
//!
//! Each child gets a reaper: a small shell that waits on a pipe which only this program holds. When
//! the pipe closes without a word, this program is gone (also by `kill -9`, or because a static is
//! never dropped), and the reaper kills the child.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::wait_until_ok;

/// A running child with its log, killed when dropped.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    reaper: Option<Child>,
    log: PathBuf,
}

impl Supervised {
    /// Starts `command` with both outputs appended to the file `log`.
    ///
    /// # Errors
    /// If the program or the log's file cannot be opened.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        let errors = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let script = format!("read word || kill -9 {} 2>/dev/null", child.id());
        let reaper = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start a shell to watch over the child")?;
        Ok(Self {
            child,
            reaper: Some(reaper),
            log: log.to_path_buf(),
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the child has printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log, for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The exit status if the child has ended.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// If the child has ended already.
    pub fn terminate(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// Sends a signal by its name without `SIG`.
    ///
    /// # Errors
    /// If the child has ended already.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .stderr(Stdio::null())
            .status()?;
        if !status.success() {
            bail!(
                "process {} took no SIG{name}: it has ended",
                self.child.id()
            );
        }
        Ok(())
    }

    /// Waits until the child ends by itself.
    ///
    /// # Errors
    /// If it still runs after `deadline`.
    pub fn wait_for_end(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("process {} to end", self.child.id());
        let child = &mut self.child;
        let status = wait_until_ok(deadline, &what, || {
            child.try_wait()?.ok_or_else(|| anyhow::anyhow!("it runs"))
        })?;
        self.dismiss_reaper();
        Ok(status)
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.dismiss_reaper();
        Ok(())
    }

    /// Ends the reaper without a kill: the child's number may belong to another process by now.
    fn dismiss_reaper(&mut self) {
        if let Some(mut reaper) = self.reaper.take() {
            if let Some(mut pipe) = reaper.stdin.take() {
                // A reaper that is gone already needs no word.
                let _ = pipe.write_all(b"done\n");
            }
            let _ = reaper.wait();
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Ended children are reaped by the wait; an error means there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.dismiss_reaper();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Scratch;

    const GENEROUS: Duration = Duration::from_secs(20);

    #[test]
    fn collects_the_log_and_the_exit_code() {
        let scratch = Scratch::new("process").unwrap();
        let mut child = Supervised::spawn(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            &scratch.join("log"),
        )
        .unwrap();
        assert_eq!(child.wait_for_end(GENEROUS).unwrap().code(), Some(3));
        assert_eq!(child.log(), "out\nerr\n");
        assert!(child.terminate().is_err());
    }

    #[test]
    fn the_reaper_kills_when_the_pipe_closes() {
        let scratch = Scratch::new("process").unwrap();
        let mut child =
            Supervised::spawn(Command::new("sleep").arg("600"), &scratch.join("log")).unwrap();
        // As if this program had died: the pipe closes and nobody says a word.
        let mut reaper = child.reaper.take().unwrap();
        drop(reaper.stdin.take());
        let status = child.wait_for_end(GENEROUS).unwrap();
        assert_eq!(status.code(), None, "ended by a signal");
        reaper.wait().unwrap();
    }
}
