//! What a handler gets ([`Question`], [`Context`]) and what it may give back instead of an answer
//! ([`QueryError`]).
//!
//! Made by the glue from the host's request; everything borrows from it.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::Timestamp;
use crate::abi::types::CallContext;

/// One question about one key. What its methods give lives as long as the question is answered, so an
/// answer may borrow from the state.
#[derive(Debug)]
pub struct Question<'a, S> {
    pub(super) key: &'a [u8],
    pub(super) state: Option<&'a S>,
    pub(super) content: Option<&'a Payload>,
    pub(super) accept: &'a str,
}

impl<S> Copy for Question<'_, S> {}

impl<S> Clone for Question<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, S> Question<'a, S> {
    /// The state of the key.
    ///
    /// # Errors
    /// The key has none: [`QueryError::NotFound`], a 404. Where that is not the right answer, use
    /// [`state_if_any`](Self::state_if_any).
    pub fn state(&self) -> Result<&'a S, QueryError> {
        self.state.ok_or(QueryError::NotFound)
    }

    /// The state of the key, if it has one.
    pub fn state_if_any(&self) -> Option<&'a S> {
        self.state
    }

    /// The key, as it is in the log.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The body that came with the question, if one did.
    pub fn body(&self) -> Option<&'a Payload> {
        self.content
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// There is none, or it is not such JSON: the code `bad-body` with the place and the reason.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, QueryError> {
        let body = self.content.map(|payload| payload.body.as_slice());
        let body = body.ok_or_else(|| {
            QueryError::other("bad-body", "this query takes a JSON body: POST it with one")
        })?;
        serde_json::from_slice(body)
            .map_err(|error| QueryError::other("bad-body", error.to_string()))
    }

    /// The media types that the caller accepts, as HTTP's `Accept`; empty = anything.
    pub fn accept(&self) -> &'a str {
        self.accept
    }
}

/// A body with its media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Such as `application/json`.
    pub content_type: String,
    /// The bytes.
    pub body: Vec<u8>,
}

impl Payload {
    /// A body of the given media type.
    pub fn new(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            content_type: content_type.into(),
            body: body.into(),
        }
    }
}

/// Who asks or commands, and when. For every [`Command`](crate::Command); for queries only where they declare
/// [`uses_context`](super::Operation::uses_context), since their answers cannot be cached.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a>(pub(crate) &'a CallContext);

impl<'a> Context<'a> {
    /// The host's clock.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.now)
    }

    /// The version of the key; `None` = it has no state. Of a command handler, how many events the key has
    /// had; so the first event of a decision will be the one after it.
    pub fn version(&self) -> Option<u64> {
        self.0.version
    }

    /// When the key's state last changed; `None` = it has none.
    pub fn changed_at(&self) -> Option<Timestamp> {
        self.0.changed_at.map(Timestamp::from_millis)
    }

    /// The name of the caller's token, if the host knows the caller.
    pub fn principal(&self) -> Option<&'a str> {
        self.0.principal.as_deref()
    }

    /// A header of the request (the name in lower case), if the host passes it on.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let mut headers = self.headers();
        headers
            .find(|(header, _)| *header == name)
            .map(|(_, value)| value)
    }

    /// All headers of the request that the host passes on; names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let headers = self.0.headers.iter();
        headers.map(|(name, value)| (name.as_str(), value.as_slice()))
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueryError {
    /// The view has no query of that name. A 404 that lists the ones there are.
    UnknownQuery,
    /// An argument is missing or wrong: a 400 that names it.
    BadArgument {
        /// The argument.
        name: String,
        /// What would be right.
        expected: String,
    },
    /// There is nothing to say about that key: a 404.
    NotFound,
    /// Anything else.
    Other {
        /// Stable, for programs: lower case, digits and `-`.
        code: String,
        /// A sentence for people.
        message: String,
    },
}

impl QueryError {
    /// An argument whose value does not do, and what would be right. For checks that go beyond the
    /// type of the argument.
    pub fn bad_argument(name: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::BadArgument {
            name: name.into(),
            expected: expected.into(),
        }
    }

    /// A stable code and a sentence.
    pub fn other(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Other {
            code: code.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryError::UnknownQuery => f.write_str("there is no such query"),
            QueryError::BadArgument { name, expected } => {
                write!(f, "argument `{name}`: {expected}")
            }
            QueryError::NotFound => f.write_str("there is nothing to say about this key"),
            QueryError::Other { code, message } => write!(f, "{code}: {message}"),
        }
    }
}

impl std::error::Error for QueryError {}
