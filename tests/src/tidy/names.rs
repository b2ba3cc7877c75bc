//! Who may name what: libraries behind ports, the clock, words that say work is missing, printing.
//! Called by [`super::check`].

use super::{Finding, Source};

/// A library that only some places of `host/src` may name.
struct Library {
    name: &'static str,
    /// Paths in `host/src` by their beginning.
    allowed: &'static [&'static str],
    fix: &'static str,
}

const LIBRARIES: &[Library] = &[
    Library {
        name: "rdkafka",
        allowed: &["log/kafka"],
        fix: "go through the traits of `log`",
    },
    Library {
        name: "rdkafka_sys",
        allowed: &["log/kafka"],
        fix: "go through the traits of `log`",
    },
    Library {
        name: "fjall",
        allowed: &["log/embedded"],
        fix: "go through the traits of `log`",
    },
    Library {
        name: "wasmtime",
        allowed: &["plugin/"],
        fix: "go through the traits of `plugin`",
    },
    Library {
        name: "wasmparser",
        allowed: &["plugin/"],
        fix: "go through `plugin`",
    },
    Library {
        name: "wasm_encoder",
        allowed: &["plugin/"],
        fix: "go through `plugin`",
    },
    Library {
        name: "wit_component",
        allowed: &["plugin/"],
        fix: "go through `plugin`",
    },
    Library {
        name: "slatedb",
        allowed: &["state/"],
        fix: "go through the traits of `state`",
    },
    Library {
        name: "object_store",
        allowed: &["state/"],
        fix: "go through the traits of `state`",
    },
    Library {
        name: "axum",
        allowed: &["http/"],
        fix: "answer requests in `http`",
    },
    Library {
        name: "utoipa",
        allowed: &["http/"],
        fix: "describe the API where it is, in `http`",
    },
    Library {
        name: "clap",
        allowed: &["cli/", "main.rs"],
        fix: "read arguments in `cli`",
    },
    // `config` reads URLs with it; nothing is called from there.
    Library {
        name: "reqwest",
        allowed: &["cli/", "cluster/", "config/"],
        fix: "call other hosts from `cluster`",
    },
    Library {
        name: "indicatif",
        allowed: &["cli/"],
        fix: "show progress in `cli`",
    },
];

/// A call that only `clock` makes.
const CLOCK_CALLS: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "Utc::now",
    "thread_rng",
    "rand::rng",
    "rand::random",
    "OsRng",
    "getrandom",
    "Uuid::new_v4",
    "Uuid::now_v7",
];

/// Words that say that something is missing, in every Rust file.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// Everything about names that is wrong in one file.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = unfinished(source);
    if let Some(file) = source.in_host() {
        libraries(source, file, &mut findings);
        clock(source, file, &mut findings);
        printing(source, file, &mut findings);
    }
    findings
}

fn libraries(source: &Source, file: &str, findings: &mut Vec<Finding>) {
    for library in LIBRARIES {
        if library
            .allowed
            .iter()
            .any(|allowed| file.starts_with(allowed))
        {
            continue;
        }
        for at in named_as_crate(source, library.name) {
            // An object store in memory is what tests of everything above it run on.
            if library.name == "object_store" && source.code.is_test(at) {
                continue;
            }
            let message = format!(
                "`{}` is named outside {}: {}",
                library.name,
                library.allowed.join(", "),
                library.fix
            );
            findings.push(Finding::new(&source.path, source.code.line(at), message));
        }
    }
}

/// Where a name is a crate's: followed by `::`, or imported whole; not a module or a variable of ours.
fn named_as_crate(source: &Source, name: &str) -> Vec<usize> {
    let masked = &source.code.masked;
    let is_crate = |at: &usize| {
        let before = masked[..*at].trim_end();
        let after = masked[at + name.len()..].trim_start();
        let absolute = !before.ends_with("::") || before.ends_with(" ::");
        let imported =
            before.ends_with("use") && (after.starts_with(';') || after.starts_with("as "));
        absolute && !before.ends_with("mod") && (after.starts_with("::") || imported)
    };
    source
        .code
        .mentions(name)
        .into_iter()
        .filter(is_crate)
        .collect()
}

fn clock(source: &Source, file: &str, findings: &mut Vec<Finding>) {
    if file == "clock.rs" || file.starts_with("clock/") {
        return;
    }
    for call in CLOCK_CALLS {
        for at in source.code.mentions(call) {
            if !source.code.is_test(at) {
                let message = format!(
                    "`{call}` outside `clock`: take a clock as a parameter, so that tests can decide \
                     what time it is and what chance brings"
                );
                findings.push(Finding::new(&source.path, source.code.line(at), message));
            }
        }
    }
}

fn printing(source: &Source, file: &str, findings: &mut Vec<Finding>) {
    if file.starts_with("cli/") || file == "main.rs" {
        return;
    }
    for call in ["println!", "eprintln!", "print!", "eprint!"] {
        for at in mentions_of_macro(source, call) {
            if !source.code.is_test(at) {
                let message = format!(
                    "`{call}` outside `cli`: use `tracing`, or give the text to the caller"
                );
                findings.push(Finding::new(&source.path, source.code.line(at), message));
            }
        }
    }
}

fn unfinished(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for word in UNFINISHED {
        for at in mentions_of_macro(source, word) {
            let message = format!("`{word}` says that work is missing: do it, or take it out");
            findings.push(Finding::new(&source.path, source.code.line(at), message));
        }
    }
    findings
}

fn mentions_of_macro(source: &Source, call: &str) -> Vec<usize> {
    let name = call.trim_end_matches('!');
    let ends_in_mark = |at: &usize| source.code.masked[at + name.len()..].starts_with('!');
    source
        .code
        .mentions(name)
        .into_iter()
        .filter(ends_in_mark)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn a_library_stays_behind_its_port() {
        for (path, text) in [
            ("host/src/partition/worker.rs", "use rdkafka::Message;"),
            ("host/src/log/embedded/mod.rs", "use rdkafka::Message;"),
            ("host/src/log/kafka/mod.rs", "fn f(k: fjall::Keyspace) {}"),
            ("host/src/http/mod.rs", "use slatedb::Db;"),
            ("host/src/manager/mod.rs", "use axum::Router;"),
            ("host/src/node.rs", "use wasmtime as w;"),
            (
                "host/src/node.rs",
                "#[cfg(test)] mod tests { use slatedb::Db; }",
            ),
        ] {
            assert_eq!(count(path, text), 1, "{path}: {text}");
        }
        for (path, text) in [
            ("host/src/log/kafka/mod.rs", "use rdkafka::Message;"),
            ("host/src/log/kafka_reader.rs", "use rdkafka::Message;"),
            ("host/src/plugin/engine.rs", "use wasmtime::Engine;"),
            (
                "host/src/node.rs",
                "// rdkafka::Message\nlet slatedb = \"slatedb::Db\";",
            ),
            (
                "host/src/node.rs",
                "use crate::state::slatedb::X; mod slatedb; // ours",
            ),
            ("tests/src/kafka.rs", "use rdkafka::Message;"),
            (
                "host/src/partition/tests.rs",
                "use object_store::memory::InMemory;",
            ),
        ] {
            assert_eq!(count(path, text), 0, "{path}: {text}");
        }
    }

    #[test]
    fn time_and_chance_come_from_the_clock() {
        for call in CLOCK_CALLS {
            let text = format!("fn f() {{ {call}(); }}");
            assert_eq!(count("host/src/manager/mod.rs", &text), 1, "{call}");
            assert_eq!(count("host/src/clock.rs", &text), 0, "{call}");
            let test = format!("#[cfg(test)] mod tests {{ fn f() {{ {call}(); }} }}");
            assert_eq!(count("host/src/manager/mod.rs", &test), 0, "{call}");
        }
    }

    #[test]
    fn printing_is_for_the_command_line() {
        assert_eq!(
            count(
                "host/src/node.rs",
                "fn f() { println!(\"x\"); eprint!(\"y\") }"
            ),
            2
        );
        assert_eq!(
            count("host/src/cli/mod.rs", "fn f() { println!(\"x\"); }"),
            0
        );
    }

    #[test]
    fn unfinished_work_is_found_anywhere() {
        for word in UNFINISHED {
            assert_eq!(
                count("guest-sdk/src/lib.rs", &format!("fn f() {{ {word}() }}")),
                1
            );
            assert_eq!(count("guest-sdk/src/lib.rs", &format!("// {word}")), 0);
        }
    }
}
