//! Whether a manifest and the exports of its component fit each other, and this host. Called by
//! `component::examine`, so on deploy and by `plugin build` alike.
//!
//! Invariant: what passes means something. A field that would have no effect, or an effect that this
//! version of the host does not have, is refused instead of being ignored at run time.

use super::Manifest;
use crate::plugin::{Capabilities, Fault, Kind};

impl Manifest {
    /// Whether records of its inputs go through a merge topic before a component with these
    /// `capabilities` folds them: partitions of several topics need not meet on one host, and a record
    /// whose key comes from the plugin need not lie in the partition of that key.
    #[must_use]
    pub fn merges(&self, capabilities: Capabilities) -> bool {
        capabilities.route || self.inputs.len() > 1
    }

    /// What this manifest, and a component with these `capabilities`, ask for that this version of
    /// the host does not do.
    #[must_use]
    pub fn unsupported(&self, capabilities: Capabilities) -> Vec<Fault> {
        let mut asked = Vec::new();
        if capabilities.kind() == Some(Kind::CommandHandler) {
            asked.push("a command handler (the component exports decide)");
        }
        asked
            .into_iter()
            .map(|what| Fault {
                code: "unsupported",
                detail: format!(
                    "{what} is not supported by this version of foldhost ({})",
                    env!("CARGO_PKG_VERSION")
                ),
            })
            .collect()
    }

    /// What of this manifest contradicts itself, or the component with these `capabilities`.
    #[must_use]
    pub fn contradictions(&self, capabilities: Capabilities) -> Vec<Fault> {
        let mut faults = Vec::new();
        faults.extend(self.output_fault(capabilities.kind()));
        faults.extend(self.output_is_input());
        if !self.merges(capabilities) {
            faults.extend(self.nothing_to_merge());
        }
        faults
    }

    fn output_fault(&self, kind: Option<Kind>) -> Option<Fault> {
        match (kind, &self.output) {
            (Some(Kind::Republisher), None) => Some(Fault {
                code: "no-output",
                detail: "the component exports react, but its manifest names no topic for what it \
                         emits: write output = \"TOPIC\" into plugin.toml"
                    .to_owned(),
            }),
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

    fn nothing_to_merge(&self) -> impl Iterator<Item = Fault> {
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
            .map(|(_, field, because)| Fault {
                code: "nothing-to-merge",
                detail: format!(
                    "{field} means nothing here: the plugin has one input and exports no route, so \
                     {because}; leave {field} out of plugin.toml"
                ),
            })
    }
}
