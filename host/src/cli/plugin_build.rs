//! `foldhost plugin build DIR`: from a plugin's sources to the one `.wasm` that is deployed.
//! Called by the command line and by `demo --build`.
//!
//! Invariants: what builds also deploys (the component passes the same checks as on a host); the
//! same sources in the same place give the same bytes, with no path of this machine in them; nothing
//! but `DIR/<name>.wasm` is written inside `DIR`, and that file is whole or not there.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::thread;

use anyhow::{Context as _, anyhow, ensure};
use serde::Deserialize;

use crate::limits;
use crate::plugin::component;
use crate::plugin::manifest::Manifest;

mod toolchain;

use toolchain::Toolchain;

/// Folder for what cargo makes on the way, instead of the user's cache.
const TARGET_DIR: &str = "FOLDHOST_GUEST_TARGET_DIR";

/// Builds the plugin in `dir` and returns the path of its component, `dir/<name>.wasm`. `progress`
/// gets a line for each thing that takes a while.
///
/// # Errors
/// No or a bad `plugin.toml`; no toolchain (the message says what to install); what cargo said when
/// it failed; a library that exports no plugin; a folder that cannot be written.
pub fn build(dir: &Path, progress: &mut dyn FnMut(&str)) -> anyhow::Result<PathBuf> {
    let dir = dir
        .canonicalize()
        .with_context(|| format!("there is no folder {}", dir.display()))?;
    let (text, manifest) = manifest(&dir)?;
    ensure!(
        dir.join("Cargo.toml").exists(),
        "{} has no Cargo.toml: `foldhost plugin new` makes a plugin to start from",
        dir.display()
    );
    let cache = cache_dir()?;
    let target_dir =
        std::env::var_os(TARGET_DIR).map_or_else(|| cache.join("guest"), PathBuf::from);
    let toolchain = Toolchain::find(&dir, &cache, progress)?;
    let package = Package::of(&dir, &toolchain, &target_dir)?;
    let module = package.compile(&dir, &toolchain, &target_dir, progress)?;
    let module = fs::read(&module).with_context(|| format!("reading {}", module.display()))?;
    let (component, _) = component::encode(&module, &text)
        .with_context(|| format!("{} is no plugin yet", package.name))?;
    let path = dir.join(format!("{}.wasm", manifest.name));
    write_whole(&path, &component)?;
    progress(&format!(
        "wrote {} ({} KB)",
        path.display(),
        component.len().div_ceil(1000)
    ));
    Ok(path)
}

fn manifest(dir: &Path) -> anyhow::Result<(String, Manifest)> {
    let path = dir.join("plugin.toml");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "{} cannot be read: a plugin's folder has a plugin.toml with at least name, version and \
             inputs",
            path.display()
        )
    })?;
    let manifest = Manifest::from_toml(&text).map_err(|faults| {
        let faults: Vec<_> = faults
            .iter()
            .map(|fault| format!("\n  - {fault}"))
            .collect();
        anyhow!("{} has faults:{}", path.display(), faults.concat())
    })?;
    Ok((text, manifest))
}

/// `$XDG_CACHE_HOME/foldhost`, else `~/.cache/foldhost`.
fn cache_dir() -> anyhow::Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("foldhost"))
        .with_context(|| format!("no HOME is set: set {TARGET_DIR} and XDG_CACHE_HOME"))
}

/// What `cargo metadata` says, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    workspace_root: PathBuf,
}

#[derive(Debug, Deserialize)]
struct MetadataPackage {
    id: String,
    name: String,
    manifest_path: PathBuf,
    /// Where it was downloaded from; none for a folder of this machine.
    source: Option<String>,
    targets: Vec<MetadataTarget>,
}

#[derive(Debug, Deserialize)]
struct MetadataTarget {
    kind: Vec<String>,
}

/// The cargo package that is the plugin.
struct Package {
    id: String,
    name: String,
    /// Folders of this machine, and what stands for them in the component.
    remapped: Vec<(PathBuf, String)>,
}

impl Package {
    fn of(dir: &Path, toolchain: &Toolchain, target_dir: &Path) -> anyhow::Result<Self> {
        let output = toolchain
            .cargo(dir, target_dir)
            .args(["metadata", "--format-version", "1"])
            .output()
            .context("cargo cannot be run")?;
        ensure!(
            output.status.success(),
            "cargo cannot read {}:\n{}",
            dir.join("Cargo.toml").display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).context("cargo metadata has another format")?;
        let manifest = dir.join("Cargo.toml");
        let own = (metadata.packages.iter())
            .find(|package| package.manifest_path == manifest)
            .with_context(|| {
                format!(
                    "{} is a workspace, not a package: name the folder of one plugin",
                    manifest.display()
                )
            })?;
        let kinds = || own.targets.iter().flat_map(|target| &target.kind);
        ensure!(
            kinds().any(|kind| kind == "cdylib"),
            "{} makes no cdylib: add [lib] crate-type = [\"cdylib\"] to its Cargo.toml",
            own.name
        );
        Ok(Self {
            id: own.id.clone(),
            name: own.name.clone(),
            remapped: remapped(&metadata, toolchain, target_dir),
        })
    }

    /// Runs cargo and returns the path of the module.
    fn compile(
        &self,
        dir: &Path,
        toolchain: &Toolchain,
        target_dir: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> anyhow::Result<PathBuf> {
        let mut cargo = toolchain.cargo(dir, target_dir);
        cargo.args([
            "build",
            "--release",
            "--lib",
            "--message-format=json-render-diagnostics",
        ]);
        toolchain.for_target(&mut cargo);
        let flags: Vec<_> = (self.remapped.iter())
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
            .collect();
        // Encoded, so that a path may have spaces.
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        progress(&format!("compiling {}", self.name));
        let messages = run(cargo, progress)?;
        self.module(&messages).with_context(|| {
            format!(
                "cargo made no .wasm of {}: is its library a cdylib?",
                self.name
            )
        })
    }

    fn module(&self, messages: &str) -> Option<PathBuf> {
        #[derive(Deserialize)]
        struct Artifact {
            package_id: String,
            filenames: Vec<PathBuf>,
        }
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
            .filter(|artifact| artifact.package_id == self.id)
            .flat_map(|artifact| artifact.filenames)
            .find(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "wasm")
            })
    }
}

/// Panic messages name source files. Where these lie on this machine is nobody's business, and would
/// make the bytes depend on it. Of several that fit, rustc takes the last one.
fn remapped(
    metadata: &Metadata,
    toolchain: &Toolchain,
    target_dir: &Path,
) -> Vec<(PathBuf, String)> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| home.as_ref().map(|home| home.join(".cargo")));
    let mut remapped = Vec::new();
    remapped.extend(home.map(|home| (home, "/home".to_owned())));
    remapped.push((
        toolchain.sysroot.join("lib/rustlib/src/rust"),
        "/rust".to_owned(),
    ));
    if let Some(cargo_home) = cargo_home {
        // The folder of a registry is named after its address.
        let registries = fs::read_dir(cargo_home.join("registry/src"))
            .into_iter()
            .flatten();
        let mut registries: Vec<_> = registries.flatten().map(|entry| entry.path()).collect();
        registries.sort();
        remapped.push((cargo_home, "/cargo".to_owned()));
        remapped.extend(
            registries
                .into_iter()
                .map(|folder| (folder, "/crates".to_owned())),
        );
    }
    remapped.push((target_dir.to_owned(), "/target".to_owned()));
    remapped.push((metadata.workspace_root.clone(), "/plugin".to_owned()));
    for package in metadata
        .packages
        .iter()
        .filter(|package| package.source.is_none())
    {
        if let Some(folder) = package.manifest_path.parent() {
            remapped.push((folder.to_owned(), format!("/{}", package.name)));
        }
    }
    remapped
}

/// Runs cargo to its end and returns its messages; what it says to people goes to `progress` as it
/// comes, and into the error.
fn run(mut cargo: Command, progress: &mut dyn FnMut(&str)) -> anyhow::Result<String> {
    let mut child = cargo
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cargo cannot be run")?;
    let mut stdout = child.stdout.take().expect("it was asked for");
    let stderr = child.stderr.take().expect("it was asked for");
    let messages = thread::spawn(move || {
        let mut messages = String::new();
        stdout.read_to_string(&mut messages).map(|_| messages)
    });
    let said = follow(stderr, progress);
    let status = child.wait()?;
    let messages = messages
        .join()
        .map_err(|_| anyhow!("reading what cargo wrote failed"))??;
    ensure!(
        status.success(),
        "the plugin does not compile (cargo: {status}); cargo said:\n{}",
        said.trim_end()
    );
    Ok(messages)
}

/// Passes on what cargo compiles, and keeps the end of all that it says.
fn follow(stderr: ChildStderr, progress: &mut dyn FnMut(&str)) -> String {
    let mut said = String::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if line.trim_start().starts_with("Compiling") {
            progress(line.trim());
            continue;
        }
        said.push_str(&line);
        said.push('\n');
        if said.len() > 2 * limits::BUILD_OUTPUT_BYTES_MAX {
            let cut = said.floor_char_boundary(said.len() - limits::BUILD_OUTPUT_BYTES_MAX);
            said.drain(..cut);
        }
    }
    said
}

/// Writes a file that is whole or not there.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let unfinished = path.with_extension(format!("wasm.{}.tmp", std::process::id()));
    fs::write(&unfinished, bytes)
        .and_then(|()| fs::rename(&unfinished, path))
        .inspect_err(|_| drop(fs::remove_file(&unfinished)))
        .with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(dir: &Path) -> String {
        format!("{:#}", build(dir, &mut |_| {}).unwrap_err())
    }

    #[test]
    fn a_folder_that_is_no_plugin_is_told_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        assert!(fails(&dir.path().join("none")).contains("there is no folder"));
        assert!(fails(dir.path()).contains("plugin.toml"));
        fs::write(dir.path().join("plugin.toml"), "name = \"a\"\ncolour = 1").unwrap();
        let faults = fails(dir.path());
        assert!(faults.contains("colour: unknown field"), "{faults}");
        assert!(faults.contains("version: the field is missing"), "{faults}");
        assert!(faults.contains("inputs: the field is missing"), "{faults}");
        let good = "name = \"a\"\nversion = \"1\"\ninputs = [\"x\"]";
        fs::write(dir.path().join("plugin.toml"), good).unwrap();
        assert!(fails(dir.path()).contains("has no Cargo.toml"));
    }

    #[test]
    fn the_module_is_found_among_cargos_messages() {
        let package = Package {
            id: "p#1".to_owned(),
            name: "p".to_owned(),
            remapped: Vec::new(),
        };
        let messages = concat!(
            r#"{"reason":"compiler-artifact","package_id":"q#1","filenames":["/t/q.wasm"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"p#1","filenames":["/t/p.d","/t/p.wasm"]}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(package.module(messages), Some(PathBuf::from("/t/p.wasm")));
        assert_eq!(package.module("not json"), None);
    }

    #[test]
    fn a_file_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wasm");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_whole(&dir.path().join("no/folder.wasm"), b"").is_err());
    }
}
