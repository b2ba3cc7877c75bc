//! `foldhost plugin new NAME`: a plugin to start from, of the kind that is asked for, which builds and passes
//! its tests as it is.
//! Called by the command line.
//!
//! Invariant: it needs nothing but a Rust toolchain. Inside a clone it uses the clone's SDK; anywhere
//! else it gets a copy of the SDK that this binary was built with, so that both speak the same ABI.
//! What is written is whole: when something fails, nothing is left behind.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::types::PluginName;

/// Sources of the SDK and its WIT package: path in the repository, contents.
const SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk_sources.rs"));
/// Where they go in a plugin outside of a clone, side by side as in the repository.
const VENDORED: [(&str, &str); 2] = [
    ("guest-sdk/", "vendor/foldhost-sdk/"),
    ("wit/", "vendor/wit/"),
];
/// The versions that the example plugins are built and tested with.
const LOCK: &str = include_str!("../../../plugins/Cargo.lock");
/// What every plugin is made of: path, contents with `{{…}}` to fill in.
const COMMON: [(&str, &str); 2] = [
    ("Cargo.toml", include_str!("templates/Cargo.toml.tmpl")),
    (".gitignore", include_str!("templates/gitignore.tmpl")),
];
/// What a view is made of, beside.
const VIEW: [(&str, &str); 3] = [
    (
        "plugin.toml",
        include_str!("templates/view/plugin.toml.tmpl"),
    ),
    ("src/lib.rs", include_str!("templates/view/lib.rs.tmpl")),
    ("README.md", include_str!("templates/view/README.md.tmpl")),
];
/// What a republisher is made of, beside.
const REPUBLISHER: [(&str, &str); 3] = [
    (
        "plugin.toml",
        include_str!("templates/republisher/plugin.toml.tmpl"),
    ),
    (
        "src/lib.rs",
        include_str!("templates/republisher/lib.rs.tmpl"),
    ),
    (
        "README.md",
        include_str!("templates/republisher/README.md.tmpl"),
    ),
];
/// What a command handler is made of, beside.
const HANDLER: [(&str, &str); 3] = [
    (
        "plugin.toml",
        include_str!("templates/handler/plugin.toml.tmpl"),
    ),
    ("src/lib.rs", include_str!("templates/handler/lib.rs.tmpl")),
    (
        "README.md",
        include_str!("templates/handler/README.md.tmpl"),
    ),
];
/// Crates that a plugin's own crate may not share its name with.
const CRATES: [&str; 11] = [
    "alloc",
    "core",
    "std",
    "test",
    "proc-macro",
    "prost",
    "serde",
    "serde-json",
    "foldhost-sdk",
    "wit-bindgen",
    "build",
];
/// Words that cannot name a Rust crate.
const KEYWORDS: [&str; 43] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "type", "unsafe",
];

/// What a plugin to start from does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ScaffoldKind {
    /// Events to a state per key, which answers questions.
    #[default]
    View,
    /// Events to a state per key, and to events of its own.
    Republisher,
    /// Commands to events of its own, or to refusals.
    Handler,
}

impl ScaffoldKind {
    /// Its files: path, contents with `{{…}}` to fill in.
    fn templates(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let own = match self {
            Self::View => VIEW,
            Self::Republisher => REPUBLISHER,
            Self::Handler => HANDLER,
        };
        COMMON.into_iter().chain(own)
    }
}

/// Makes the folder `parent/name` with a plugin of that name, and returns its path.
///
/// # Errors
/// A name that no plugin may have; a folder that is there already or cannot be written.
pub fn new(name: &str, kind: ScaffoldKind, parent: &Path) -> anyhow::Result<PathBuf> {
    let name = PluginName::new(name)?;
    fs::create_dir_all(parent)
        .with_context(|| format!("the folder {} cannot be made", parent.display()))?;
    let folder = parent.join(name.as_str());
    if folder.exists() {
        bail!(
            "{} is there already: choose another name, or delete it",
            folder.display()
        );
    }
    let clone = clone_around(&parent.canonicalize()?);
    write(&folder, &name, kind, clone.as_deref())
        .inspect_err(|_| drop(fs::remove_dir_all(&folder)))
        .with_context(|| format!("{} cannot be written", folder.display()))?;
    Ok(folder)
}

fn write(
    folder: &Path,
    name: &PluginName,
    kind: ScaffoldKind,
    sdk: Option<&Path>,
) -> io::Result<()> {
    let vendored = sdk.is_none();
    let sdk = sdk.map_or_else(|| "vendor/foldhost-sdk".to_owned(), slashed);
    let exclude = if vendored {
        "exclude = [\"vendor\"]\n"
    } else {
        ""
    };
    for (path, template) in kind.templates() {
        let text = template
            .replace("{{name}}", name.as_str())
            .replace("{{package}}", &package_name(name))
            .replace("{{sdk}}", &sdk)
            .replace("{{exclude}}", exclude);
        write_file(folder, path, &text)?;
    }
    write_file(folder, "Cargo.lock", LOCK)?;
    if vendored {
        for (path, text) in SDK {
            let to = VENDORED
                .iter()
                .find_map(|(from, to)| path.strip_prefix(from).map(|rest| format!("{to}{rest}")));
            if let Some(to) = to {
                write_file(folder, &to, text)?;
            }
        }
    }
    Ok(())
}

fn write_file(folder: &Path, path: &str, text: &str) -> io::Result<()> {
    let path = folder.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

/// The SDK of the clone that `parent` lies in, as seen from a folder in `parent`.
fn clone_around(parent: &Path) -> Option<PathBuf> {
    let mut up = PathBuf::from("..");
    for ancestor in parent.ancestors() {
        let manifest = fs::read_to_string(ancestor.join("guest-sdk/Cargo.toml"));
        if manifest.is_ok_and(|text| text.contains("name = \"foldhost-sdk\""))
            && ancestor.join("wit/plugin.wit").exists()
        {
            return Some(up.join("guest-sdk"));
        }
        up.push("..");
    }
    None
}

/// A path as Cargo.toml writes it on every system.
fn slashed(path: &Path) -> String {
    let parts = path.components().map(Component::as_os_str);
    parts
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

/// The crate's name: the plugin's, where a crate may have it.
fn package_name(name: &PluginName) -> String {
    let name = name.as_str();
    let taken = CRATES.contains(&name)
        || KEYWORDS.contains(&name)
        || name.starts_with(|first: char| first.is_ascii_digit());
    if taken {
        format!("plugin-{name}")
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::plugin::Manifest;

    #[test]
    fn outside_of_a_clone_the_sdk_comes_along() {
        for &kind in ScaffoldKind::value_variants() {
            let parent = tempfile::tempdir().unwrap();
            let folder = new("mine", kind, parent.path()).unwrap();
            assert_eq!(folder, parent.path().join("mine"));
            let read = |path: &str| fs::read_to_string(folder.join(path)).unwrap();
            let manifest = Manifest::from_toml(&read("plugin.toml")).unwrap();
            assert_eq!(manifest.name.as_str(), "mine");
            let cargo: toml::Table = read("Cargo.toml").parse().unwrap();
            assert_eq!(
                cargo["dependencies"]["foldhost-sdk"]["path"].as_str(),
                Some("vendor/foldhost-sdk")
            );
            assert!(read("vendor/foldhost-sdk/Cargo.toml").contains("name = \"foldhost-sdk\""));
            assert!(read("vendor/foldhost-sdk/src/lib.rs").contains("pub use"));
            assert!(read("vendor/wit/plugin.wit").contains("package foldhost:plugin@"));
            for (path, _) in kind.templates() {
                for mark in ["{{name}}", "{{package}}", "{{sdk}}", "{{exclude}}"] {
                    assert!(!read(path).contains(mark), "{mark} is left in {path}");
                }
            }
        }
    }

    #[test]
    fn a_republisher_and_a_handler_own_a_topic_and_a_view_does_not() {
        let parent = tempfile::tempdir().unwrap();
        let output = |name, kind| {
            let folder = new(name, kind, parent.path()).unwrap();
            let text = fs::read_to_string(folder.join("plugin.toml")).unwrap();
            let readme = fs::read_to_string(folder.join("README.md")).unwrap();
            let output = Manifest::from_toml(&text).unwrap().output;
            output.map(|output| {
                // Whoever follows the README reads the topic that is written.
                assert!(readme.contains(&format!("topic consume {}\n", output.topic)));
                output.topic.to_string()
            })
        };
        assert_eq!(output("one", ScaffoldKind::View), None);
        assert_eq!(
            output("two", ScaffoldKind::Republisher).as_deref(),
            Some("two-changes")
        );
        assert_eq!(
            output("three", ScaffoldKind::Handler).as_deref(),
            Some("three-events")
        );
    }

    #[test]
    fn inside_a_clone_the_clones_sdk_is_used() {
        let clone = tempfile::tempdir().unwrap();
        write_file(
            clone.path(),
            "guest-sdk/Cargo.toml",
            "name = \"foldhost-sdk\"",
        )
        .unwrap();
        write_file(clone.path(), "wit/plugin.wit", "").unwrap();
        let folder = new(
            "deep",
            ScaffoldKind::View,
            &clone.path().join("plugins/mine"),
        )
        .unwrap();
        let cargo: toml::Table = fs::read_to_string(folder.join("Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
        let path = cargo["dependencies"]["foldhost-sdk"]["path"]
            .as_str()
            .unwrap();
        assert_eq!(path, "../../../guest-sdk");
        assert!(folder.join(path).join("Cargo.toml").exists());
        assert!(!folder.join("vendor").exists());
    }

    #[test]
    fn nothing_is_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("mine")).unwrap();
        let error = new("mine", ScaffoldKind::View, parent.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("is there already"), "{error}");
        assert!(new("Not A Name", ScaffoldKind::View, parent.path()).is_err());
        assert!(!parent.path().join("Not A Name").exists());
    }

    #[test]
    fn every_plugin_name_makes_a_crate() {
        for (name, package) in [
            ("planes", "planes"),
            ("7up", "plugin-7up"),
            ("serde", "plugin-serde"),
            ("loop", "plugin-loop"),
        ] {
            assert_eq!(package_name(&PluginName::new(name).unwrap()), package);
        }
    }
}
