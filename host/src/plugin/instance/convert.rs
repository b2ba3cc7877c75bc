//! Between the port's types and the ABI's. Called by `instance` around every call.
//!
//! Nothing is copied on the way in: the ABI's parameters borrow the port's columns. On the way out
//! the vectors that wasmtime filled are moved.

use crate::plugin::bindings as abi;
use crate::plugin::{
    BytesColumn, CallContext, Command, Decision, Description, Emitted, EventOut, FoldInput,
    HeadersColumn, Operation, OptionalColumn, OriginsColumn, Payload, QueryError, Question,
    Refusal, Rejection, RouteInput, Routes,
};

/// Parameters of `fold` and `react`.
pub(super) fn fold_input<'a>(input: &FoldInput<'a>) -> (abi::States<'a>, abi::Events<'a>) {
    let states = key_states(input.keys, input.states);
    let events = abi::Events {
        partition: input.partition,
        entities: input.entities,
        values: optional(input.values),
        inputs: input.inputs,
        timestamps: input.timestamps_ms,
        offsets: (!input.offsets.is_empty()).then_some(input.offsets),
        record_keys: input.record_keys.map(optional),
        origins: input.origins.map(origins),
        headers: input.headers.map(headers),
    };
    (states, events)
}

/// Parameter of `route`.
pub(super) fn route_input(input: &RouteInput) -> abi::Records<'_> {
    abi::Records {
        inputs: &input.inputs,
        keys: optional(&input.keys),
        values: optional(&input.values),
        timestamps: &input.timestamps_ms,
        headers: input.headers.as_ref().map(headers),
    }
}

/// Keys with their states.
pub(super) fn key_states<'a>(keys: &'a BytesColumn, states: &'a OptionalColumn) -> abi::States<'a> {
    abi::States {
        keys: bytes(keys),
        values: optional(states),
    }
}

fn bytes(column: &BytesColumn) -> abi::BytesColumn<'_> {
    abi::BytesColumn {
        data: &column.data,
        ends: &column.ends,
    }
}

fn optional(column: &OptionalColumn) -> abi::OptionalColumn<'_> {
    let OptionalColumn { items, marks } = column;
    abi::OptionalColumn {
        data: &items.data,
        ends: &items.ends,
        marks,
    }
}

fn headers(column: &HeadersColumn) -> abi::Headers<'_> {
    abi::Headers {
        counts: &column.counts,
        names: bytes(&column.names),
        values: optional(&column.values),
    }
}

fn origins(column: &OriginsColumn) -> abi::Origins<'_> {
    abi::Origins {
        partitions: &column.partitions,
        offsets: &column.offsets,
    }
}

/// Result of `fold`, unchecked.
pub(super) fn folded(folded: abi::Folded) -> (OptionalColumn, Vec<Rejection>) {
    (column(folded.values), rejections(folded.rejected))
}

/// What `react` emitted, unchecked.
pub(super) fn emitted(emitted: abi::Emitted) -> Emitted {
    Emitted {
        causes: emitted.causes,
        keys: returned_bytes(emitted.keys),
        values: column(emitted.values),
        timestamps_ms: emitted.timestamps,
        headers: emitted.headers.map(|headers| HeadersColumn {
            counts: headers.counts,
            names: returned_bytes(headers.names),
            values: column(headers.values),
        }),
    }
}

/// Result of `route`, unchecked.
pub(super) fn routes(routes: abi::Routes) -> Routes {
    Routes {
        causes: routes.causes,
        keys: returned_bytes(routes.keys),
        rejected: rejections(routes.rejected),
    }
}

fn rejections(rejected: Vec<abi::Rejection>) -> Vec<Rejection> {
    rejected
        .into_iter()
        .map(
            |abi::Rejection {
                 index,
                 code,
                 reason,
             }| Rejection {
                index,
                code,
                reason,
            },
        )
        .collect()
}

fn returned_bytes(column: abi::ReturnedBytes) -> BytesColumn {
    let abi::ReturnedBytes { data, ends } = column;
    BytesColumn { data, ends }
}

/// States that came back, unchecked.
pub(super) fn column(column: abi::ReturnedColumn) -> OptionalColumn {
    let abi::ReturnedColumn { data, ends, marks } = column;
    OptionalColumn {
        items: BytesColumn { data, ends },
        marks,
    }
}

/// Calls `call` with the parameter of `answer` that stands for `question`.
pub(super) fn with_request<T>(question: &Question, call: impl FnOnce(abi::Request<'_>) -> T) -> T {
    let arguments: Vec<(&str, &str)> = question
        .arguments
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    with_context(&question.context, |context| {
        call(abi::Request {
            name: &question.name,
            arguments: &arguments,
            content: question.content.as_ref().map(content),
            accept: &question.accept,
            context,
        })
    })
}

/// Calls `call` with the parameter of `decide` that stands for `command`.
pub(super) fn with_command<T>(command: &Command, call: impl FnOnce(abi::Command<'_>) -> T) -> T {
    with_context(&command.context, |context| {
        call(abi::Command {
            name: &command.name,
            id: &command.id,
            content: content(&command.content),
            context,
        })
    })
}

fn with_context<T>(context: &CallContext, call: impl FnOnce(abi::CallContext<'_>) -> T) -> T {
    let headers: Vec<(&str, &[u8])> = context
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    call(abi::CallContext {
        now: context.now_ms,
        version: context.version,
        changed_at: context.changed_at_ms,
        principal: context.principal.as_deref(),
        headers: &headers,
    })
}

fn content(payload: &Payload) -> abi::Content<'_> {
    abi::Content {
        content_type: &payload.content_type,
        body: &payload.body,
    }
}

/// Result of `answer`, unchecked.
pub(super) fn answer(answer: Result<abi::Payload, abi::QueryError>) -> Result<Payload, QueryError> {
    match answer {
        Ok(answer) => Ok(payload(answer)),
        Err(error) => Err(match error {
            abi::QueryError::UnknownQuery => QueryError::UnknownQuery,
            abi::QueryError::BadArgument((name, expected)) => {
                QueryError::BadArgument(name, expected)
            }
            abi::QueryError::NotFound => QueryError::NotFound,
            abi::QueryError::Other((code, reason)) => QueryError::Other(code, reason),
        }),
    }
}

/// Result of `decide`, unchecked.
pub(super) fn decided(decided: Result<abi::Decision, abi::Refusal>) -> Result<Decision, Refusal> {
    match decided {
        Ok(decision) => Ok(Decision {
            events: events(decision.events),
            reply: decision.reply.map(payload),
        }),
        Err(refusal) => Err(match refusal {
            abi::Refusal::UnknownCommand => Refusal::UnknownCommand,
            abi::Refusal::BadBody((field, problem)) => Refusal::BadBody { field, problem },
            abi::Refusal::Refused((code, reason, details)) => Refusal::Refused {
                code,
                reason,
                details,
            },
        }),
    }
}

/// Result of `emit-state`, unchecked.
pub(super) fn events(events: Vec<abi::EventOut>) -> Vec<EventOut> {
    events.into_iter().map(event).collect()
}

fn event(event: abi::EventOut) -> EventOut {
    let abi::EventOut { value, headers } = event;
    EventOut { value, headers }
}

fn payload(payload: abi::Payload) -> Payload {
    let abi::Payload { content_type, body } = payload;
    Payload { content_type, body }
}

/// Result of `describe`, unchecked. Schemas of events and states are for tools that read the
/// component itself.
pub(super) fn description(description: abi::Description) -> Description {
    let operations = |list: Vec<abi::Operation>| list.into_iter().map(operation).collect();
    Description {
        queries: operations(description.queries),
        commands: operations(description.commands),
    }
}

fn operation(operation: abi::Operation) -> Operation {
    Operation {
        name: operation.name,
        summary: operation.summary,
        arguments_schema: operation.arguments_schema,
        body_schema: operation.body_schema,
        answer_schema: operation.answer_schema,
        uses_context: operation.uses_context,
    }
}
