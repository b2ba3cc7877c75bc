//! Which Rust builds guests on this machine. Used by `plugin build`.
//!
//! Three ways, in this order: a Rust whose `wasm32-unknown-unknown` is installed; a rustup that can
//! add it; a distribution's `/usr/bin/rustc` with the sources of the standard library, which builds
//! that library too. Each says what it does; when none works, the error says what to install.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::clock::Clock;

/// The target of every plugin.
pub(super) const TARGET: &str = "wasm32-unknown-unknown";
/// Which way to go: `auto` (the default), `rustup` or `distribution`.
const CHOICE: &str = "FOLDHOST_GUEST_TOOLCHAIN";
/// How long rustup may take to add the target.
const ADD_TARGET_MAX: Duration = Duration::from_secs(90);
/// How long a failure to add the target is remembered before it is tried again.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(3600);
/// What a distribution's toolchain is made of, on Debian and Ubuntu.
const PACKAGES: &str = "rustc-web cargo-web rust-web-src lld";

/// A Rust that builds guests.
#[derive(Debug)]
pub(super) struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// Where the compiler lies, so that its path can be kept out of what it builds.
    pub(super) sysroot: PathBuf,
    /// The linker, where the compiler brings none and builds the standard library itself.
    build_std: Option<PathBuf>,
}

impl Toolchain {
    /// Finds one for a plugin in `dir`, adding rustup's target if that is possible.
    pub(super) fn find(
        dir: &Path,
        cache_dir: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Self> {
        let choice = std::env::var(CHOICE).unwrap_or_else(|_| "auto".to_owned());
        let (rustup, distribution) = match choice.as_str() {
            "auto" => (true, true),
            "rustup" => (true, false),
            "distribution" => (false, true),
            other => bail!("{CHOICE}={other} is not known: use auto, rustup or distribution"),
        };
        let mut tried = Vec::new();
        if rustup {
            match Self::of_path(dir, cache_dir, progress) {
                Ok(found) => return Ok(found),
                Err(error) => tried.push(format!("{error:#}")),
            }
        }
        if distribution {
            match Self::of_distribution(dir, progress) {
                Ok(found) => return Ok(found),
                Err(error) => tried.push(format!("{error:#}")),
            }
        }
        bail!(
            "no Rust on this machine builds for {TARGET}:\n  - {}\n\
             Install one of: rustup (https://rustup.rs) and `rustup target add {TARGET}`; or, on \
             Debian and Ubuntu, `apt-get install {PACKAGES}`",
            tried.join("\n  - ")
        )
    }

    /// The `cargo` of the search path, with the target installed or added.
    fn of_path(
        dir: &Path,
        cache_dir: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Self> {
        let sysroot = sysroot(Path::new("rustc"), dir)?;
        let found = |sysroot| Self {
            cargo: "cargo".into(),
            rustc: "rustc".into(),
            sysroot,
            build_std: None,
        };
        if has_target(&sysroot) {
            progress(&format!("building with the installed {TARGET}"));
            return Ok(found(sysroot));
        }
        add_target(dir, cache_dir, progress)?;
        if has_target(&sysroot) {
            return Ok(found(sysroot));
        }
        bail!("rustup added {TARGET} to another toolchain than the one that `rustc` here is");
    }

    /// `/usr/bin/cargo` of a distribution, which may have to build the standard library.
    fn of_distribution(dir: &Path, progress: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        let (cargo, rustc) = (
            PathBuf::from("/usr/bin/cargo"),
            PathBuf::from("/usr/bin/rustc"),
        );
        for program in [&cargo, &rustc] {
            if !program.exists() {
                bail!("the distribution's Rust has no {}", program.display());
            }
        }
        let sysroot = sysroot(&rustc, dir)?;
        if has_target(&sysroot) {
            progress(&format!("building with the distribution's {TARGET}"));
            return Ok(Self {
                cargo,
                rustc,
                sysroot,
                build_std: None,
            });
        }
        let sources = sysroot.join("lib/rustlib/src/rust/library/std/Cargo.toml");
        if !sources.exists() {
            bail!(
                "the distribution's Rust has no sources of std (no {})",
                sources.display()
            );
        }
        let linker =
            wasm_linker(&sysroot).context("there is no wasm-ld for the distribution's Rust")?;
        progress(&format!(
            "building with the distribution's {}, and its standard library from source (the first \
             time takes a minute or two)",
            rustc.display()
        ));
        Ok(Self {
            cargo,
            rustc,
            sysroot,
            build_std: Some(linker),
        })
    }

    /// A cargo command in `dir` that nothing of an outer cargo leaks into.
    pub(super) fn cargo(&self, dir: &Path, target_dir: &Path) -> Command {
        let mut command = clean(&self.cargo, dir);
        command
            .env("CARGO_TARGET_DIR", target_dir)
            .env("RUSTC", &self.rustc);
        command
    }

    /// Arguments and variables with which `cargo build` builds for the target.
    pub(super) fn for_target(&self, command: &mut Command) {
        command.args(["--target", TARGET]);
        if let Some(linker) = &self.build_std {
            command
                .args(["-Z", "build-std=std,panic_abort"])
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
    }
}

/// A command without what an outer cargo, or a build for another target, left in the environment.
fn clean(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| leaks(name)) {
        command.env_remove(name);
    }
    command
}

/// Whether a variable would change what is built. Where crates come from stays.
fn leaks(name: &OsString) -> bool {
    const DROPPED: [&str; 11] = [
        "RUSTFLAGS",
        "RUSTC",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_BOOTSTRAP",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
        "MAKEFLAGS",
        "LD_LIBRARY_PATH",
    ];
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTRY_",
        "CARGO_REGISTRIES_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let name = name.to_string_lossy();
    DROPPED.contains(&&*name)
        || (name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept)))
}

fn sysroot(rustc: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let output = clean(rustc, dir)
        .args(["--print", "sysroot"])
        .output()
        .with_context(|| format!("{} cannot be run", rustc.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} does not work: {}", rustc.display(), said.trim());
    }
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

fn has_target(sysroot: &Path) -> bool {
    // An empty folder is left behind when the target is removed.
    fs::read_dir(sysroot.join("lib/rustlib").join(TARGET).join("lib"))
        .is_ok_and(|mut entries| entries.next().is_some())
}

/// The newest `wasm-ld`, which Debian names by its version.
fn wasm_linker(sysroot: &Path) -> Option<PathBuf> {
    let versioned = fs::read_dir("/usr/bin").ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let version = path
            .file_name()?
            .to_str()?
            .strip_prefix("wasm-ld-")?
            .parse::<u32>()
            .ok()?;
        Some((version, path))
    });
    let plain = PathBuf::from("/usr/bin/wasm-ld");
    let own = sysroot
        .join("lib/rustlib")
        .join(env_triple())
        .join("bin/rust-lld");
    [plain, own]
        .into_iter()
        .find(|path| path.exists())
        .or_else(|| versioned.max().map(|(_, path)| path))
}

fn env_triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Asks rustup for the target, within a bound, and not again soon after it could not.
fn add_target(dir: &Path, cache_dir: &Path, progress: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let marker = cache_dir.join("rustup-cannot-add-target");
    let now_ms = Clock::system().now_ms();
    if let Some(age_ms) = fs::read_to_string(&marker)
        .ok()
        .and_then(|text| text.trim().parse::<i64>().ok())
        .map(|failed_ms| now_ms - failed_ms)
        && (0..FAILURE_AGE_MAX.as_millis() as i64).contains(&age_ms)
    {
        bail!(
            "rustup could not add {TARGET} {} min ago (delete {} to try again now)",
            age_ms / 60_000,
            marker.display()
        );
    }
    progress(&format!("adding {TARGET} to rustup"));
    let added = run_within(
        clean(Path::new("rustup"), dir).args(["target", "add", TARGET]),
        ADD_TARGET_MAX,
    );
    match added {
        Ok(()) => {
            drop(fs::remove_file(&marker));
            Ok(())
        }
        Err(error) => {
            drop(
                fs::create_dir_all(cache_dir).and_then(|()| fs::write(&marker, now_ms.to_string())),
            );
            Err(error.context(format!("rustup cannot add {TARGET}")))
        }
    }
}

/// Runs a command to its end, or kills it at the deadline.
fn run_within(command: &mut Command, deadline: Duration) -> anyhow::Result<()> {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("it cannot be run; is it installed?")?;
    let mut stderr = child.stderr.take().expect("it was asked for");
    let (send, receive) = mpsc::channel();
    // Its stderr closes when it ends.
    thread::spawn(move || {
        let mut said = String::new();
        drop(stderr.read_to_string(&mut said));
        drop(send.send(said));
    });
    let Ok(said) = receive.recv_timeout(deadline) else {
        child.kill()?;
        child.wait()?;
        bail!("it took longer than {} s", deadline.as_secs());
    };
    if child.wait()?.success() {
        return Ok(());
    }
    let last = said
        .lines()
        .rfind(|line| line.starts_with("error"))
        .unwrap_or("it failed");
    bail!("{}", last.trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_cargo_does_not_leak() {
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO",
            "CARGO_TARGET_DIR",
            "RUSTC",
            "CARGO_PKG_NAME",
        ] {
            assert!(leaks(&name.into()), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
        ] {
            assert!(!leaks(&name.into()), "{name}");
        }
    }

    #[test]
    fn a_command_is_killed_at_its_deadline() {
        let error = run_within(Command::new("sleep").arg("60"), Duration::from_millis(20));
        assert!(error.unwrap_err().to_string().contains("longer than"));
        let error = run_within(
            Command::new("sh").args(["-c", "echo 'error: no network' >&2; exit 1"]),
            Duration::from_secs(30),
        );
        assert_eq!(error.unwrap_err().to_string(), "no network");
        assert!(run_within(&mut Command::new("true"), Duration::from_secs(30)).is_ok());
    }

    #[test]
    fn a_failure_is_remembered_for_a_while() {
        let cache = tempfile::tempdir().unwrap();
        let marker = cache.path().join("rustup-cannot-add-target");
        fs::write(&marker, (Clock::system().now_ms() - 120_000).to_string()).unwrap();
        let error = add_target(cache.path(), cache.path(), &mut |line| {
            panic!("it tried: {line}")
        });
        assert!(error.unwrap_err().to_string().contains("2 min ago"));
    }
}
