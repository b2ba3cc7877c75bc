//! Which modules of its own crate a file mentions: `use crate::a::{b, c::d}`, `crate::a::b` in the
//! middle of code, `super::…`, and in `main.rs` the crate by its name. Called by the layer rule.

use super::Source;
use super::lexer::is_identifier;

/// A path inside the crate that a file mentions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// From the crate's root, as far as it is written.
    pub path: Vec<String>,
    /// Line, counted from 1.
    pub line: usize,
    /// True inside test code.
    pub test: bool,
}

/// The module of a file of `host/src`, from its path there: `log/kafka/mod.rs` is `log::kafka`.
pub fn module_of(in_host: &str) -> Vec<String> {
    let path = in_host.trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if parts
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        parts.pop();
    }
    parts
}

/// Every path inside the crate that the file mentions.
pub fn mentions(source: &Source, module: &[String]) -> Vec<Mention> {
    let mut found = Vec::new();
    for root in ["crate", "foldhost", "super", "self"] {
        for at in source.code.mentions(root) {
            if preceded_by_path(&source.code.masked, at) {
                continue;
            }
            let Some((base, rest)) = resolve(&source.code.masked, at, root, module) else {
                continue;
            };
            let mut paths = Vec::new();
            tree(&source.code.masked, rest, &base, &mut paths);
            let (line, test) = (source.code.line(at), source.code.is_test(at));
            found.extend(paths.into_iter().map(|path| Mention { path, line, test }));
        }
    }
    found
}

/// `a::super` does not occur; `$crate::` does, and is not ours to read.
fn preceded_by_path(masked: &str, at: usize) -> bool {
    let before = masked[..at].trim_end();
    before.ends_with("::") || masked[..at].ends_with('$')
}

/// The module that a root word stands for, and where the path goes on after its `::`.
fn resolve(masked: &str, at: usize, root: &str, module: &[String]) -> Option<(Vec<String>, usize)> {
    let mut rest = after_colons(masked, at + root.len())?;
    let base: Vec<String> = match root {
        "crate" | "foldhost" => Vec::new(),
        "self" => module.to_vec(),
        _ => {
            // An inline module's `super` is this file's module, or one below it: reading it as the
            // file's parent would be wrong, reading it as the file is never too strict.
            let depth = inline_depth(masked, at);
            let mut levels = 1;
            while masked[rest..].starts_with("super") {
                match after_colons(masked, rest + "super".len()) {
                    Some(next) => rest = next,
                    None => break,
                }
                levels += 1;
            }
            let up = usize::saturating_sub(levels, depth);
            module[..module.len().saturating_sub(up)].to_vec()
        }
    };
    Some((base, rest))
}

/// How many inline modules (`mod x { … }`) are open at a byte.
fn inline_depth(masked: &str, at: usize) -> usize {
    let bytes = masked.as_bytes();
    let mut open: Vec<bool> = Vec::new();
    let mut statement = 0;
    for n in 0..at {
        match bytes[n] {
            b'{' => {
                open.push(
                    masked[statement..n]
                        .split_whitespace()
                        .any(|word| word == "mod"),
                );
                statement = n + 1;
            }
            b'}' => {
                open.pop();
                statement = n + 1;
            }
            b';' => statement = n + 1,
            _ => {}
        }
    }
    open.into_iter().filter(|is_module| *is_module).count()
}

fn skip_space(masked: &str, at: usize) -> usize {
    let rest = &masked[at..];
    at + (rest.len() - rest.trim_start().len())
}

fn after_colons(masked: &str, at: usize) -> Option<usize> {
    let at = skip_space(masked, at);
    masked[at..]
        .starts_with("::")
        .then(|| skip_space(masked, at + 2))
}

/// Reads a path or a use tree that begins at `at` below `base`; gives where it ends.
fn tree(masked: &str, at: usize, base: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let bytes = masked.as_bytes();
    let mut path = base.to_vec();
    let mut at = at;
    loop {
        match bytes.get(at) {
            Some(b'{') => {
                at = skip_space(masked, at + 1);
                while bytes.get(at).is_some_and(|&byte| byte != b'}') {
                    let end = tree(masked, at, &path, paths);
                    at = skip_space(masked, end);
                    // An alias, then the comma.
                    while bytes
                        .get(at)
                        .is_some_and(|&byte| byte != b',' && byte != b'}')
                    {
                        at += 1;
                    }
                    if bytes.get(at) == Some(&b',') {
                        at = skip_space(masked, at + 1);
                    }
                }
                return (at + 1).min(bytes.len());
            }
            Some(&byte) if is_identifier(byte) => {
                let end = masked[at..]
                    .bytes()
                    .position(|byte| !is_identifier(byte))
                    .map_or(masked.len(), |n| at + n);
                let name = &masked[at..end];
                if name != "self" {
                    path.push(name.to_owned());
                }
                match after_colons(masked, end) {
                    Some(next) => at = next,
                    None => {
                        paths.push(path);
                        return end;
                    }
                }
            }
            // `*`, or a turbofish.
            _ => {
                paths.push(path);
                return (at + 1).min(bytes.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(file: &str, text: &str) -> Vec<String> {
        let source = Source::new(&format!("host/src/{file}"), text);
        let mut found: Vec<String> = mentions(&source, &module_of(file))
            .into_iter()
            .map(|mention| mention.path.join("::"))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn use_trees_are_read() {
        let text = "use crate::types::{Offset, key::{self, Key as K}};\nuse crate::log::*;";
        assert_eq!(
            paths("a.rs", text),
            ["log", "types::Offset", "types::key", "types::key::Key"]
        );
    }

    #[test]
    fn paths_in_code_are_read_and_comments_are_not() {
        let text = "// crate::http\nfn f(x: crate::log::Record) { crate::state::open::<u8>() }";
        assert_eq!(paths("a.rs", text), ["log::Record", "state::open"]);
        assert_eq!(
            paths("main.rs", "fn main() { foldhost::cli::run() }"),
            ["cli::run"]
        );
        assert!(paths("a.rs", "macro_rules! m { () => { $crate::http::x() } }").is_empty());
    }

    #[test]
    fn super_is_resolved() {
        assert_eq!(
            paths("log/kafka/read.rs", "use super::super::Port;"),
            ["log::Port"]
        );
        assert_eq!(paths("log/kafka/mod.rs", "use super::Port;"), ["log::Port"]);
        assert_eq!(paths("node.rs", "use super::http::App;"), ["http::App"]);
        assert_eq!(paths("a/b.rs", "mod tests { use super::X; }"), ["a::b::X"]);
        assert_eq!(
            paths("log/mod.rs", "pub use self::kafka::KafkaLog;"),
            ["log::kafka::KafkaLog"]
        );
    }

    #[test]
    fn test_code_is_marked() {
        let source = Source::new(
            "host/src/a.rs",
            "#[cfg(test)]\nmod tests { use crate::http::X; }",
        );
        assert!(mentions(&source, &module_of("a.rs"))[0].test);
    }
}
