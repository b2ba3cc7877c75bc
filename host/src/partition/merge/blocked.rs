//! Why a partition of an input is not copied any further, in words that say what to do.

use super::super::Blocked;
use super::super::status::TOPIC_REPLACED;
use super::MergeSpec;
use crate::types::{Offset, RecordPosition};

pub(super) fn blocked(code: &str, detail: String) -> Blocked {
    Blocked {
        code: code.to_owned(),
        detail,
        at: None,
    }
}

pub(super) fn missing(spec: &MergeSpec) -> Blocked {
    let topic = &spec.input.topic;
    blocked(
        "topic-missing",
        format!(
            "topic '{topic}' is gone; what was merged of it stays. Create it again and deploy '{}' with \
             `--state rebuild`",
            spec.plugin
        ),
    )
}

pub(super) fn replaced(spec: &MergeSpec) -> Blocked {
    blocked(
        TOPIC_REPLACED,
        format!(
            "topic '{}' was deleted and created again, so what was merged of it are records that are gone; \
             deploy '{}' with `--state rebuild`",
            spec.input.topic, spec.plugin
        ),
    )
}

pub(super) fn merge_replaced(spec: &MergeSpec) -> Blocked {
    blocked(
        "merge-topic-replaced",
        format!(
            "topic '{}' was deleted and created again, so what was merged before is gone; delete '{}' and \
             deploy it again, which merges its inputs anew",
            spec.merge_topic, spec.plugin
        ),
    )
}

pub(super) fn past_end(spec: &MergeSpec, next: Offset, end: Offset) -> Blocked {
    let of = spec.of();
    blocked(
        "position-past-end",
        format!(
            "{of} was merged up to {next}, but the log ends at {end}: records were lost or the topic was \
             replaced; deploy '{}' with `--state rebuild`",
            spec.plugin
        ),
    )
}

pub(super) fn gap(spec: &MergeSpec, next: Offset, start: Offset) -> Blocked {
    let of = spec.of();
    blocked(
        "history-gap",
        format!(
            "records {next} to {start} of {of} were removed before they were merged; deploy '{}' with \
             `on-gap = \"continue\"` on the input to go on without them",
            spec.plugin
        ),
    )
}

pub(super) fn stopped_before(
    spec: &MergeSpec,
    offset: Offset,
    code: String,
    reason: &str,
) -> Blocked {
    let of = spec.of();
    let at = RecordPosition {
        topic: of.topic,
        partition: of.partition,
        offset,
    };
    Blocked {
        detail: format!(
            "stopped before {at}, which cannot be merged: {reason}. Nothing behind it is; queries are \
             answered from the state before it. Deploy a corrected plugin, or leave the record out: \
             `foldhost plugin skip {} {at} --reason …`",
            spec.plugin
        ),
        code,
        at: Some(at),
    }
}
