//! What a file looks like: how it opens, how long it is, and that it names no path of one machine.
//! Called by [`super::check`] for Rust files, and by the tidy test for every file that git tracks.

use super::{Finding, Source};

/// The longest file, in lines.
const LINES_MAX: usize = 700;
/// The longest block of inline tests, in lines.
const INLINE_TEST_LINES_MAX: usize = 150;
/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[&[&str]] = &[
    &["/wor", "k/"],
    &["/roo", "t/"],
    &["/hom", "e/"],
    &["/User", "s/"],
];

/// Everything about a Rust file's shape that is wrong.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.text.starts_with("//!") {
        let message = "a file opens with `//!`: what it is, who calls it, the invariant it keeps";
        findings.push(Finding::new(&source.path, 1, message));
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        let message = format!("{lines} lines: split it at a seam before {LINES_MAX}");
        findings.push(Finding::new(&source.path, 0, message));
    }
    if source.in_host().is_some() {
        findings.extend(inline_tests(source));
    }
    findings
}

fn inline_tests(source: &Source) -> Option<Finding> {
    let at = source.text.find("#[cfg(test)]\nmod tests {")?;
    let lines = source.text[at..].lines().count();
    (lines > INLINE_TEST_LINES_MAX).then(|| {
        let message = format!(
            "{lines} lines of inline tests: move them to a `tests.rs` beside (at most \
             {INLINE_TEST_LINES_MAX} stay)"
        );
        Finding::new(&source.path, source.code.line(at), message)
    })
}

/// Lines of any file that name a path of one machine.
pub fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for parts in MACHINE_PATHS {
            let needle = parts.concat();
            if absolute(line, &needle) {
                let message = format!(
                    "`{needle}` is a path of one machine: use a path from the repository's root, \
                     $HOME, or a temporary folder"
                );
                findings.push(Finding::new(path, number + 1, message));
            }
        }
    }
    findings
}

/// True if the needle begins a path in the line, rather than going on in one (`a/home/b`, a URL).
fn absolute(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "._-/}$)*".contains(c)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_opens_with_its_purpose_and_has_an_end() {
        assert!(check(&Source::new("host/src/a.rs", "//! What it is.\n")).is_empty());
        assert_eq!(check(&Source::new("host/src/a.rs", "use b;\n")).len(), 1);
        let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
        assert_eq!(check(&Source::new("guest-sdk/src/a.rs", &long)).len(), 1);
    }

    #[test]
    fn many_inline_tests_move_out() {
        let lines = "    // a line\n".repeat(INLINE_TEST_LINES_MAX);
        let text = format!("//! A.\n#[cfg(test)]\nmod tests {{\n{lines}}}\n");
        assert_eq!(check(&Source::new("host/src/a.rs", &text)).len(), 1);
        assert!(check(&Source::new("tests/src/a.rs", &text)).is_empty());
    }

    #[test]
    fn machine_paths_are_found() {
        for parts in MACHINE_PATHS {
            let needle = parts.concat();
            assert_eq!(machine_paths("a.md", &format!("see {needle}me/x")).len(), 1);
            assert_eq!(machine_paths("a.sh", &format!("\"{needle}me\"")).len(), 1);
            assert!(machine_paths("a.md", &format!("https://x.org{needle}y")).is_empty());
            assert!(machine_paths("a.sh", &format!("\"${{ROOT}}{needle}y\"")).is_empty());
        }
    }
}
