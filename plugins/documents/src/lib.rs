//! A versioned document store: put, merge-patch, delete.
//!
//! The key is the document's id. Every change is an event that carries the whole document (a tombstone, once
//! it is deleted), so the topic can be compacted, and the newest record of a key is its state. Invariant: a
//! document is a JSON object that fulfils every schema of the deployment's parameters, and what is not
//! changed in it stays as it came: no number is rounded, no member moves.

mod constraints;
mod json;
mod merge;
mod schema;

use foldhost_sdk::{
    Command, CommandHandler, Commands, Configure, Decision, EmitState, Event, Json, NewEvents,
    NoArguments, Payload, Queries, Query, Refusal, Reject, View,
};
use serde_json::value::RawValue;

use constraints::Constraints;
use json::{Fault, Node};

/// A document, as it is written.
pub type Document = Json<Box<RawValue>>;

pub struct Documents;

impl View for Documents {
    type State = Document;
    type Event = Document;

    fn fold(state: &mut Option<Document>, event: &Event<Document>) -> Result<(), Reject> {
        *state = event.value().cloned();
        Ok(())
    }
}

impl Configure for Documents {
    type Parameters = Constraints;
}

impl CommandHandler for Documents {
    fn commands(on: &mut Commands<Self>) {
        on.command("put", "Writes the whole document, new or not")
            .decide_raw(put);
        on.command(
            "merge-patch",
            "Changes some members of the document (RFC 7396)",
        )
        .decide_raw(merge_patch);
        on.command("delete", "Deletes the document").decide(delete);
    }
}

type Decided = Result<Decision<Document>, Refusal>;

fn put(command: Command<Document>) -> Decided {
    let document = json::read(&command.body().body).map_err(bad_body)?;
    changed(command, "put", &document)
}

fn merge_patch(command: Command<Document>) -> Decided {
    let before = command.state()?.get();
    let before = json::read(before.as_bytes()).map_err(|fault| {
        // Only what `changed` lets through is written; another program must have done it.
        Refusal::new(
            "bad-document",
            format!("this document cannot be patched: {fault}"),
        )
    })?;
    let patch = json::read(&command.body().body).map_err(bad_body)?;
    changed(command, "merge-patch", &merge::merge(Some(before), patch))
}

fn delete(command: Command<Document>, _: NoArguments) -> Decided {
    command.state()?;
    Ok(Decision::new().tombstone().header("change", "delete"))
}

/// Every accepted command is an event, also one that writes what is there already: it has a version.
fn changed(command: Command<Document>, how: &str, document: &Node) -> Decided {
    if !matches!(document, Node::Object(_)) {
        return Err(Refusal::bad_body(
            "",
            "expected an object: a document is one",
        ));
    }
    let parameters = Documents::parameters();
    parameters.check(command.key(), document)?;
    let text = RawValue::from_string(document.to_text());
    let text = text.expect("what was read as JSON is written as JSON");
    Ok(Decision::from(Json(text)).header("change", how))
}

fn bad_body(fault: Fault) -> Refusal {
    Refusal::bad_body(fault.path, fault.problem)
}

impl EmitState for Documents {
    fn emit_state(_id: &[u8], document: &Document) -> NewEvents<Document> {
        document.clone().into()
    }
}

impl Query for Documents {
    fn queries(on: &mut Queries<Self>) {
        on.default("The document itself")
            .answer_raw(|question, NoArguments {}| {
                let document = question.state()?.get();
                Ok(Payload::new("application/json", document.as_bytes()))
            });
    }
}

foldhost_sdk::export!(Documents: CommandHandler + Query + Configure + EmitState);

#[cfg(test)]
mod tests;
