//! The layers of `host/src`: a folder is a layer, and a module imports only from below. Called by
//! [`super::check`].
//!
//! The table is the contract. A new folder is given a place here and in `ARCHITECTURE.md` first.

use super::imports::{Mention, mentions, module_of};
use super::{Finding, Source};

/// Modules with their rank: a module may import from lower ranks and from itself. The tens are the
/// layer, the units order what shares a layer.
///
/// The longest name that fits decides.
const RANKS: &[(&str, u32)] = &[
    // 0: words and bounds.
    ("limits", 0),
    ("types", 1),
    ("error", 2),
    // 1: settings, time, chance, what is measured, tasks.
    ("clock", 10),
    ("fail", 10),
    ("config", 11),
    ("telemetry", 12),
    ("task", 13),
    // 2: ports. They know each other as little as their adapters do.
    ("log", 20),
    ("state", 20),
    ("plugin", 20),
    // 3: adapters.
    ("log::kafka", 30),
    ("log::embedded", 30),
    ("state::slate", 30),
    ("state::memory", 30),
    ("plugin::engine", 30),
    ("plugin::bindings", 30),
    ("plugin::component", 30),
    ("plugin::instance", 30),
    ("plugin::limits", 30),
    ("plugin::manifest", 30),
    // 4 to 9.
    ("partition", 40),
    ("manager", 50),
    ("cluster", 60),
    ("http", 70),
    ("node", 80),
    ("cli", 90),
    ("main", 91),
];

/// Ports whose adapters only the composition root (and what stands above it) may name.
const PORTS: &[&str] = &["log", "state"];
/// The first rank that may name adapters.
const COMPOSITION_ROOT: u32 = 80;

/// A module with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    unit: &'static str,
    rank: u32,
}

/// Imports that point upward, and modules that have no place.
pub fn check(source: &Source) -> Vec<Finding> {
    let Some(file) = source.in_host() else {
        return Vec::new();
    };
    let module = module_of(file);
    if module.is_empty() {
        return Vec::new();
    }
    let Some(place) = place_of_file(&module) else {
        let message = format!(
            "`{}` has no layer: give it a place in tests/src/tidy/layers.rs and ARCHITECTURE.md, or \
             move it into a folder that has one",
            module.join("::")
        );
        return vec![Finding::new(&source.path, 0, message)];
    };
    mentions(source, &module)
        .iter()
        // Tests may build what is above them from real parts.
        .filter(|mention| !mention.test)
        .filter_map(|mention| fault(&place, mention))
        .map(|(line, message)| Finding::new(&source.path, line, message))
        .collect()
}

/// In `plugin/` only `mod.rs` and `command.rs` are the port: every other file there is part of its one
/// adapter.
fn place_of_file(module: &[String]) -> Option<Place> {
    match module {
        [folder, file, ..] if folder == "plugin" && file != "command" => Some(Place {
            unit: "plugin::*",
            rank: 30,
        }),
        _ => place(module),
    }
}

fn place(module: &[String]) -> Option<Place> {
    let name = module.join("::");
    RANKS
        .iter()
        .filter(|(unit, _)| fits(&name, unit))
        .max_by_key(|(unit, _)| unit.len())
        .map(|&(unit, rank)| Place { unit, rank })
}

/// True if `name` is the unit, lies in it, or is one of its siblings by prefix: `log::kafka_reader`
/// belongs to `log::kafka`.
fn fits(name: &str, unit: &str) -> bool {
    name.strip_prefix(unit).is_some_and(|rest| {
        rest.is_empty() || rest.starts_with("::") || (unit.contains("::") && rest.starts_with('_'))
    })
}

fn fault(from: &Place, mention: &Mention) -> Option<(usize, String)> {
    let written = mention.path.join("::");
    let to = place(&mention.path)?;
    if to.unit == from.unit {
        return None;
    }
    // The adapters of the plugin port are one piece: engine, bindings and instance belong together.
    let sibling = |place: &Place| place.rank == 30 && place.unit.starts_with("plugin::");
    if sibling(from) && sibling(&to) {
        return None;
    }
    if to.rank >= from.rank {
        return Some((
            mention.line,
            format!(
                "`{}` (layer {}) names `{written}` (layer {}): a module imports only from layers \
                 below; move what is shared down, or pass it in from above as a trait or a value",
                from.unit,
                from.rank / 10,
                to.rank / 10
            ),
        ));
    }
    let port = PORTS
        .iter()
        .find(|port| to.rank == 30 && to.unit.starts_with(**port));
    if let Some(port) = port
        && from.rank < COMPOSITION_ROOT
    {
        return Some((
            mention.line,
            format!(
                "`{}` names the adapter `{written}`: use the traits of `{port}`; `node` decides which \
                 adapter is behind them",
                from.unit
            ),
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<String> {
        check(&Source::new(&format!("host/src/{file}"), text))
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn imports_from_below_are_fine() {
        for (file, text) in [
            (
                "partition/worker.rs",
                "use crate::log::Record; use crate::types::Offset;",
            ),
            (
                "partition/worker.rs",
                "use super::step; use crate::partition::open;",
            ),
            (
                "log/kafka/read.rs",
                "use crate::log::LogPort; use crate::limits;",
            ),
            (
                "plugin/engine.rs",
                "use crate::plugin::bindings; use super::instance::X;",
            ),
            ("plugin/command.rs", "use super::{CallContext, Payload};"),
            (
                "node.rs",
                "use crate::log::kafka::KafkaLog; use crate::http::app;",
            ),
            ("types/key.rs", "use crate::limits::KEY_BYTES_MAX;"),
            ("error.rs", "use crate::types::Offset;"),
            ("main.rs", "fn main() { foldhost::cli::run() }"),
            ("lib.rs", "pub mod http; pub use crate::http::App;"),
        ] {
            assert_eq!(found(file, text), Vec::<String>::new(), "{file}: {text}");
        }
    }

    #[test]
    fn upward_imports_are_found() {
        for (file, text) in [
            ("partition/worker.rs", "use crate::manager::Manager;"),
            ("types/mod.rs", "use crate::log::Record;"),
            ("limits.rs", "use crate::types::Offset;"),
            ("log/mod.rs", "use crate::state::Store;"),
            ("log/mod.rs", "pub use self::kafka::KafkaLog;"),
            ("plugin/mod.rs", "use self::engine::Engine;"),
            ("plugin/command.rs", "use super::engine::Engine;"),
            ("plugin/anything.rs", "use crate::partition::Step;"),
            ("log/kafka/mod.rs", "use crate::log::embedded::Embedded;"),
            ("log/kafka_reader.rs", "use crate::partition::Worker;"),
            ("state/slate/mod.rs", "fn f() { crate::partition::open() }"),
            ("http/mod.rs", "use crate::{node::Node, types};"),
            ("cli/mod.rs", "use foldhost::main::x;"),
            ("clock.rs", "use super::telemetry::Metrics;"),
        ] {
            assert_eq!(found(file, text).len(), 1, "{file}: {text}");
        }
    }

    #[test]
    fn adapters_are_named_by_the_composition_root_only() {
        let message = &found("partition/open.rs", "use crate::state::slate::SlateState;")[0];
        assert!(message.contains("`node` decides"), "{message}");
        assert_eq!(
            found("http/mod.rs", "use crate::log::embedded::E;").len(),
            1
        );
        assert!(
            found(
                "partition/a.rs",
                "#[cfg(test)] mod tests { use crate::state::memory::M; }"
            )
            .is_empty()
        );
    }

    #[test]
    fn a_module_without_a_place_is_found() {
        assert!(found("helpers/mod.rs", "")[0].contains("has no layer"));
        assert!(found("logger.rs", "")[0].contains("has no layer"));
    }
}
