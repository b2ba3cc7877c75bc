//! Where things are: the repository, the test cache, the host's binary and scratch folders. Called
//! by the rest of the harness. Invariant: nothing here depends on where the clone lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

/// The root of the clone that is tested.
///
/// Taken from cargo's environment when the test runs, not when it was built: clones may share one
/// target folder.
pub fn repository() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest
        .parent()
        .expect("the tests lie in a folder of the repository")
        .to_path_buf()
}

/// The cache that `tests/setup` fills: Kafka's jars, the year of flights.
pub fn cache() -> PathBuf {
    if let Some(path) = std::env::var_os("FOLDHOST_TEST_CACHE") {
        return PathBuf::from(path);
    }
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_else(std::env::temp_dir);
    home.join(".cache/foldhost")
}

/// The host's binary with the feature `fail-points`: `FOLDHOST_FAIL_POINTS_BIN` (set by `tests/run`).
///
/// # Errors
/// If there is none; the message says how to build it.
pub fn foldhost_with_fail_points() -> Result<PathBuf> {
    let path = std::env::var_os("FOLDHOST_FAIL_POINTS_BIN").map(PathBuf::from);
    path.filter(|path| path.is_file()).context(
        "FOLDHOST_FAIL_POINTS_BIN names no host: build one with `cargo build --release -p foldhost \
         --features fail-points` and copy it aside, or use `tests/run`, which does it",
    )
}

/// The host's binary: `FOLDHOST_BIN` (set by `tests/run` to what it has just built), else the
/// release build of this target folder.
///
/// # Errors
/// If there is none; the message says how to build it.
pub fn foldhost() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FOLDHOST_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("FOLDHOST_BIN names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| repository().join("target"));
    let path = target.join("release/foldhost");
    if !path.is_file() {
        bail!(
            "no host at {}: run `cargo build --release -p foldhost` first, or `tests/run`, \
             which does it",
            path.display()
        );
    }
    Ok(path)
}

/// One of the plugins that ship in the host, as built: `plugins/prebuilt/<name>.wasm`.
///
/// # Errors
/// If it cannot be read.
pub fn prebuilt_plugin(name: &str) -> Result<Vec<u8>> {
    let path = prebuilt_plugin_path(name);
    fs::read(&path).with_context(|| format!("no prebuilt plugin at {}", path.display()))
}

/// The file that [`prebuilt_plugin`] reads.
pub fn prebuilt_plugin_path(name: &str) -> PathBuf {
    repository()
        .join("plugins/prebuilt")
        .join(format!("{name}.wasm"))
}

/// A folder of one test, removed when dropped; kept, and named on standard error, when the test
/// panics or `FOLDHOST_TEST_KEEP` is set.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new, empty folder whose name starts with `name`.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::var_os("FOLDHOST_TEST_SCRATCH")
            .map(PathBuf::from)
            .unwrap_or_else(|| std::env::temp_dir().join("foldhost-tests"));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot create the scratch folder {}", path.display()))?;
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below the folder.
    pub fn join(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path.join(relative)
    }

    /// Writes a file below the folder and gives its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path.join(relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        // A test that returns an error does not panic: whoever looks for it sets this.
        let is_wanted = std::env::var_os("FOLDHOST_TEST_KEEP").is_some();
        if is_wanted || std::thread::panicking() {
            eprintln!("kept for a look: {}", self.path.display());
        } else {
            // What cannot be removed (a mount, for one) is no reason to fail a test that passed.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_the_one_of_this_package() {
        assert!(repository().join("tests/src/paths.rs").is_file());
    }

    #[test]
    fn a_scratch_folder_goes_with_its_value() {
        let scratch = Scratch::new("paths").unwrap();
        let file = scratch.write("a/b.txt", "x").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
        let path = scratch.path().to_path_buf();
        drop(scratch);
        assert!(!path.exists());
    }
}
