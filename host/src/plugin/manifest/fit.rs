//! Whether a manifest and the exports of its component fit each other, and this host. Called by
//! `component::examine`, so on deploy and by `plugin build` alike.
//!
//! Invariant: what passes means something. A field that would have no effect, or an effect that this
//! version of the host does not have, is refused instead of being ignored at run time.

use super::{ExpectedVersion, Manifest, OnError, OnRefusal};
use crate::limits;
use crate::plugin::{Capabilities, Fault, Kind};

impl Manifest {
    /// Whether records of its inputs go through a merge topic before a component with these
    /// `capabilities` folds them: partitions of several topics need not meet on one host, and a record
    /// whose key comes from the plugin need not lie in the partition of that key.
    #[must_use]
    pub fn merges(&self, capabilities: Capabilities) -> bool {
        capabilities.route || self.inputs.len() > 1
    }

    /// What of this manifest contradicts itself, or the component with these `capabilities`.
    #[must_use]
    pub fn contradictions(&self, capabilities: Capabilities) -> Vec<Fault> {
        let kind = capabilities.kind();
        let mut faults = Vec::new();
        faults.extend(self.no_inputs(kind));
        faults.extend(self.output_fault(kind));
        faults.extend(self.output_is_input());
        if kind == Some(Kind::CommandHandler) {
            faults.extend(self.nothing_to_merge("a command handler folds its own topic"));
            faults.extend(self.handler_faults(capabilities));
        } else {
            if self.inputs.len() == 1 && !self.merges(capabilities) {
                faults
                    .extend(self.nothing_to_merge("the plugin has one input and exports no route"));
            }
            faults.extend(self.no_commands());
        }
        if self.bootstrap && kind != Some(Kind::Republisher) {
            let because = "it says whether a republisher emits what it makes of events that tell a state again, and \
                           the component exports no react";
            faults.push(meaningless("no-outputs", "bootstrap", because));
        }
        faults
    }

    fn no_inputs(&self, kind: Option<Kind>) -> Option<Fault> {
        let export = match kind {
            Some(Kind::View) => "fold",
            Some(Kind::Republisher) => "react",
            Some(Kind::CommandHandler) | None => return None,
        };
        self.inputs.is_empty().then(|| Fault {
            code: "no-inputs",
            detail: format!(
                "the component exports {export}, but its manifest names no topic whose events it \
                 folds: write inputs = [\"TOPIC\"] into plugin.toml"
            ),
        })
    }

    fn output_fault(&self, kind: Option<Kind>) -> Option<Fault> {
        let no_output = |export: &str, what: &str| Fault {
            code: "no-output",
            detail: format!(
                "the component exports {export}, but its manifest names no topic for {what}: write \
                 output = \"TOPIC\" into plugin.toml"
            ),
        };
        match (kind, &self.output) {
            (Some(Kind::Republisher), None) => Some(no_output("react", "what it emits")),
            (Some(Kind::CommandHandler), None) => {
                Some(no_output("decide", "the events that its commands cause"))
            }
            (Some(Kind::View), Some(output)) => Some(Fault {
                code: "output-of-a-view",
                detail: format!(
                    "the manifest names the output {}, but the component is a view, which emits \
                     nothing: implement Republisher and export it as one, or leave output out of \
                     plugin.toml",
                    output.topic
                ),
            }),
            _ => None,
        }
    }

    fn output_is_input(&self) -> Option<Fault> {
        let topic = &self.output.as_ref()?.topic;
        self.inputs
            .iter()
            .any(|input| input.topic == *topic)
            .then(|| Fault {
                code: "output-is-input",
                detail: format!(
                    "{topic} is an input and the output: what the plugin emits would come back to \
                     it, again and again; name another output in plugin.toml"
                ),
            })
    }

    /// What is about merging, where nothing is merged, which is so `since`.
    fn nothing_to_merge(&self, since: &str) -> impl Iterator<Item = Fault> {
        let asked = [
            (
                self.merge_partitions.is_some(),
                "merge-partitions",
                "there is no merge topic that would have partitions",
            ),
            (
                self.record_keys,
                "record-keys",
                "every record is folded under its own key",
            ),
            (
                self.origins,
                "origins",
                "an event's partition and offset are those of its record",
            ),
        ];
        asked
            .into_iter()
            .filter(|(asked, ..)| *asked)
            .map(move |(_, field, because)| {
                meaningless("nothing-to-merge", field, &format!("{since}, so {because}"))
            })
    }

    /// What is about commands, where the component takes none.
    fn no_commands(&self) -> impl Iterator<Item = Fault> {
        let asked = [
            (
                self.expected_version != ExpectedVersion::Optional,
                "expected-version",
            ),
            (self.on_refusal != OnRefusal::Ignore, "on-refusal"),
            (
                self.keep_outcomes != limits::OUTCOMES_KEPT_DEFAULT,
                "keep-outcomes",
            ),
            (self.history, "history"),
        ];
        let because = "the component exports no decide, so it takes no commands";
        let asked = asked.into_iter().filter(|(asked, _)| *asked);
        asked.map(move |(_, field)| meaningless("no-commands", field, because))
    }

    /// What a command handler with these `capabilities` cannot have.
    fn handler_faults(&self, capabilities: Capabilities) -> Vec<Fault> {
        let mut faults = Vec::new();
        if capabilities.route {
            faults.push(Fault {
                code: "route-of-a-handler",
                detail: "the component exports route, but it is a command handler: its events are \
                         folded under the key of the command that caused them; do not export route"
                    .to_owned(),
            });
        }
        if self.on_error != OnError::Stop {
            let because = "a command that cannot be decided is refused, and an event of its own topic \
                           that it cannot fold stops the partition";
            faults.push(meaningless("on-error-of-a-handler", "on-error", because));
        }
        if self.on_refusal != OnRefusal::Ignore && self.inputs.is_empty() {
            let because = "there are no inputs that commands would come from, and whoever commands over HTTP is told";
            faults.push(meaningless("no-command-topics", "on-refusal", because));
        }
        if self.expected_version == ExpectedVersion::Required && !self.inputs.is_empty() {
            faults.push(Fault {
                code: "no-conditions",
                detail: "expected-version is \"required\", and commands come from topics, where a command cannot say \
                         which version it is meant for: leave inputs or expected-version out of plugin.toml"
                    .to_owned(),
            });
        }
        if !capabilities.fold {
            faults.extend(self.no_state(capabilities));
        }
        faults
    }

    /// What is about states, of which a command handler without `fold` has none.
    fn no_state(&self, capabilities: Capabilities) -> impl Iterator<Item = Fault> {
        let exports = [
            (capabilities.query, "query", "read"),
            (capabilities.migrate, "migrate", "migrated"),
            (capabilities.emit_state, "emit-state", "emitted"),
        ];
        let exports = exports.into_iter().filter(|(exported, ..)| *exported);
        let exports = exports.map(|(_, export, done)| Fault {
            code: "no-state",
            detail: format!(
                "the component exports decide and {export}, but no fold: there are no states that \
                 could be {done}; export fold, or do not export {export}"
            ),
        });
        let fields = [
            (
                self.expected_version != ExpectedVersion::Optional,
                "expected-version",
                "the component exports no fold, so its keys have no versions",
            ),
            (
                self.changes.is_some(),
                "changes",
                "the component exports no fold, so it has no states that change",
            ),
            (
                self.history,
                "history",
                "the component exports no fold, so its keys have no versions",
            ),
            (
                self.headers,
                "headers",
                "the component exports no fold, so no event comes into it",
            ),
        ];
        let fields = fields.into_iter().filter(|(asked, ..)| *asked);
        exports.chain(fields.map(|(_, field, because)| meaningless("no-state", field, because)))
    }
}

/// A field that is set and has no effect.
fn meaningless(code: &'static str, field: &str, because: &str) -> Fault {
    Fault {
        code,
        detail: format!("{field} means nothing here: {because}; leave {field} out of plugin.toml"),
    }
}
