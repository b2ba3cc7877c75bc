//! The glue between the host's `answer` and `describe` and a view's [`Query`].
//!
//! Called by what [`export!`](crate::export) generates, and by the test driver.

use super::Query;
use super::operation::{Asked, Mode, Queries};
use super::question::{Context, Payload, QueryError, Question};
use crate::View;
use crate::abi::describe::Operation as Described;
use crate::abi::query::{QueryError as AbiError, Request};
use crate::abi::types::Payload as AbiPayload;
use crate::fold::read_state;

/// Answers a question: the export `answer`.
///
/// # Errors
/// What the view says.
///
/// # Panics
/// The state cannot be decoded, or the view itself panics.
pub fn answer<V: Query>(
    key: &[u8],
    state: Option<&[u8]>,
    request: Request,
) -> Result<AbiPayload, AbiError> {
    match ask::<V>(key, state, request) {
        Ok(payload) => Ok(AbiPayload {
            content_type: payload.content_type,
            body: payload.body,
        }),
        Err(QueryError::UnknownQuery) => Err(AbiError::UnknownQuery),
        Err(QueryError::BadArgument { name, expected }) => {
            Err(AbiError::BadArgument((name, expected)))
        }
        Err(QueryError::NotFound) => Err(AbiError::NotFound),
        Err(QueryError::Other { code, message }) => Err(AbiError::Other((code, message))),
    }
}

/// As [`answer`], in the SDK's own types.
pub(crate) fn ask<V: Query>(
    key: &[u8],
    state: Option<&[u8]>,
    request: Request,
) -> Result<Payload, QueryError> {
    let state: Option<<V as View>::State> = state.map(|bytes| read_state::<V>(key, bytes));
    let content = request.content.map(|content| Payload {
        content_type: content.content_type,
        body: content.body,
    });
    let mut queries = Queries::<V>::new(Mode::Ask(Asked {
        name: &request.name,
        arguments: &request.arguments,
        question: Question {
            key,
            state: state.as_ref(),
            content: content.as_ref(),
            accept: &request.accept,
        },
        context: Context(&request.context),
        answer: None,
    }));
    V::queries(&mut queries);
    match queries.mode {
        Mode::Ask(asked) => asked.answer.unwrap_or(Err(QueryError::UnknownQuery)),
        Mode::Describe(_) => unreachable!("a handler cannot change why the list is walked"),
    }
}

/// Lists the queries of a view, for the export `describe`.
///
/// # Panics
/// Two queries have one name.
pub fn describe<V: Query>() -> Vec<Described> {
    let mut queries = Queries::<V>::new(Mode::Describe(Vec::new()));
    V::queries(&mut queries);
    match queries.mode {
        Mode::Describe(list) => list,
        Mode::Ask(_) => unreachable!("a handler cannot change why the list is walked"),
    }
}
