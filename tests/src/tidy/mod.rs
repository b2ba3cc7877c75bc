//! The rules of the house that a compiler does not hold: which layer of `host/src` may import which,
//! who may name a library, where time and chance come from, what a file looks like. Called by
//! `tests/tests/tidy.rs` on the whole repository, and by its own tests on bad examples, so that every
//! rule is known to fail.
//!
//! Invariant: rules are pure functions of a file's path and text, and every finding says the fix.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

pub mod files;
pub mod imports;
pub mod layers;
pub mod lexer;
pub mod names;

use lexer::Code;

/// A Rust file of the repository.
#[derive(Debug)]
pub struct Source {
    /// Path from the repository's root, with `/`.
    pub path: String,
    /// The text as it is.
    pub text: String,
    /// The text with comments and literals blanked, and what of it is test code.
    pub code: Code,
}

impl Source {
    /// A file from its path and text.
    pub fn new(path: &str, text: &str) -> Self {
        let code = Code::of(text, is_test_file(path));
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
        }
    }

    /// The path inside `host/src`, if the file is there.
    pub fn in_host(&self) -> Option<&str> {
        self.path.strip_prefix("host/src/")
    }
}

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the repository's root.
    pub path: String,
    /// Line, counted from 1; 0 where the whole file is meant.
    pub line: usize,
    /// What is wrong, and the fix.
    pub message: String,
}

impl Finding {
    /// A finding in a file.
    pub fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Everything that is wrong with one Rust file.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = files::check(source);
    findings.extend(names::check(source));
    findings.extend(layers::check(source));
    findings
}

/// Reads every Rust file of the repository that is the project's own.
///
/// # Errors
/// If a folder or file cannot be read.
pub fn sources(repository: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for folder in ["host", "guest-sdk", "plugins", "tests"] {
        collect(repository, &repository.join(folder), &mut found)?;
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn collect(repository: &Path, folder: &Path, found: &mut Vec<Source>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(repository, &path, found)?;
            }
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("{path:?}"))?;
            let relative = path
                .strip_prefix(repository)?
                .to_string_lossy()
                .replace('\\', "/");
            found.push(Source::new(&relative, &text));
        }
    }
    Ok(())
}

fn is_test_file(path: &str) -> bool {
    let in_tests = path
        .split('/')
        .rev()
        .skip(1)
        .any(|folder| folder == "tests" || folder == "benches");
    let name = path.rsplit('/').next().unwrap_or_default();
    in_tests || name == "tests.rs" || name.ends_with("_tests.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_files_are_known_by_their_place() {
        for path in [
            "host/src/log/tests.rs",
            "host/src/log/tests/a.rs",
            "tests/tests/tidy.rs",
        ] {
            assert!(is_test_file(path), "{path}");
        }
        assert!(!is_test_file("host/src/log/mod.rs"));
    }
}
