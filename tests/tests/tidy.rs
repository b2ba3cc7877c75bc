//! Holds the rules of the house over the whole repository: layers, names, files (see
//! `foldhost_tests::tidy`, which tests each rule on bad examples), and what must be at the root.

use std::path::Path;
use std::process::Command;

use foldhost_tests::paths::repository;
use foldhost_tests::tidy::{self, Finding, files};

const ROOT_FILES: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "Cargo.toml",
    "Cargo.lock",
    "clippy.toml",
    "deny.toml",
    "rustfmt.toml",
    ".ci/run",
    "tests/run",
    "tests/setup",
    "wit/plugin.wit",
    "plugins/Cargo.toml",
    "plugins/Cargo.lock",
];

const EXECUTABLES: &[&str] = &[".ci/run", "tests/run", "tests/setup"];

/// Nothing else lies at the top: a stranger sees the whole project in one screen.
const TOP_LEVEL: &[&str] = &[
    "host",
    "guest-sdk",
    "plugins",
    "wit",
    "tests",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "Cargo.toml",
    "Cargo.lock",
    "clippy.toml",
    "deny.toml",
    "rustfmt.toml",
    ".ci",
    ".gitignore",
    ".gitattributes",
];

fn assert_none(findings: Vec<Finding>) {
    let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(
        text.is_empty(),
        "{} to put right:\n{}",
        text.len(),
        text.join("\n")
    );
}

/// The files that git knows or would take (not the ignored ones).
fn tracked(repository: &Path) -> Vec<String> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(repository)
        .output()
        .expect("git lists the files of the repository");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let mut names: Vec<String> = names
        .split('\0')
        .filter(|name| repository.join(name).is_file())
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

#[test]
fn every_rust_file_keeps_the_rules() {
    let sources = tidy::sources(&repository()).expect("the repository can be read");
    assert!(
        sources
            .iter()
            .any(|source| source.path == "host/src/lib.rs")
    );
    assert_none(sources.iter().flat_map(tidy::check).collect());
}

#[test]
fn what_must_be_at_the_root_is_there() {
    let root = repository();
    let missing: Vec<&&str> = ROOT_FILES
        .iter()
        .filter(|file| !root.join(file).is_file())
        .collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    for file in EXECUTABLES {
        use std::os::unix::fs::PermissionsExt;
        let mode = root
            .join(file)
            .metadata()
            .expect("it is there")
            .permissions()
            .mode();
        assert!(
            mode & 0o111 != 0,
            "{file} must be executable: `chmod +x {file}`"
        );
    }
}

#[test]
fn nothing_else_is_at_the_root() {
    let extra: Vec<String> = tracked(&repository())
        .into_iter()
        .filter(|file| !TOP_LEVEL.contains(&file.split('/').next().unwrap_or_default()))
        .collect();
    assert!(
        extra.is_empty(),
        "move these into the folder they belong to: {extra:?}"
    );
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let root = repository();
    let mut findings = Vec::new();
    for file in tracked(&root) {
        // What is not text names no path that a person reads.
        if let Ok(text) = std::fs::read_to_string(root.join(&file)) {
            findings.extend(files::machine_paths(&file, &text));
        }
    }
    assert_none(findings);
}

#[test]
fn nothing_that_is_shipped_is_too_large_for_a_clone() {
    let root = repository();
    let large: Vec<String> = tracked(&root)
        .into_iter()
        .filter(|file| {
            root.join(file)
                .metadata()
                .is_ok_and(|data| data.len() > 2 << 20)
        })
        .collect();
    assert!(large.is_empty(), "over 2 MiB, fetch it instead: {large:?}");
}
