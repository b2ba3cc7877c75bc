//! [`Command`]: one command about one key, as the closure that decides it sees it.
//!
//! Made by the glue from the host's call; everything borrows from it.

use serde::de::DeserializeOwned;

use super::body;
use crate::{Codec, Context, Payload, Refusal};

/// One command about one key. In `fn reserve(command: Command<Seats>, …)` the lifetime can be left out.
///
/// The body has been read already where the command is registered with
/// [`decide`](super::NamedCommand::decide).
#[derive(Debug)]
pub struct Command<'a, S> {
    pub(super) key: &'a [u8],
    pub(super) state: Option<&'a S>,
    pub(super) name: &'a str,
    pub(super) id: &'a str,
    pub(super) content: &'a Payload,
    pub(super) context: Context<'a>,
}

impl<S> Copy for Command<'_, S> {}

impl<S> Clone for Command<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, S> Command<'a, S> {
    /// The state of the key: the fold of all its events so far.
    ///
    /// # Errors
    /// The key has none: the refusal `not-found`. Where that is not the right answer, use
    /// [`state_if_any`](Self::state_if_any).
    pub fn state(&self) -> Result<&'a S, Refusal> {
        self.state
            .ok_or_else(|| Refusal::new(Refusal::NOT_FOUND, "there is nothing under this key"))
    }

    /// The state of the key, if it has one.
    pub fn state_if_any(&self) -> Option<&'a S> {
        self.state
    }

    /// The key, as it is in the log.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The command's name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The same for every repeat of one command: the caller's `Idempotency-Key`, or what the host has made.
    /// The host itself answers a repeat with the first answer, for as long as it remembers it.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// Who commands, and when: the host's clock, the key's version, the caller, headers. Part of the input,
    /// so a decision may depend on it.
    pub fn context(&self) -> Context<'a> {
        self.context
    }

    /// The body, as it came.
    pub fn body(&self) -> &'a Payload {
        self.content
    }

    /// The body, read as JSON; an empty one is `{}`. For commands that are registered with
    /// [`decide_raw`](super::NamedCommand::decide_raw).
    ///
    /// # Errors
    /// It is not such JSON: [`Refusal::BadBody`], which names the field.
    pub fn json<B: DeserializeOwned>(&self) -> Result<B, Refusal> {
        body::read(&self.content.body)
    }

    /// The body, read by a codec, such as a protobuf message.
    ///
    /// # Errors
    /// It cannot be read so: [`Refusal::BadBody`].
    pub fn decode<C: Codec>(&self) -> Result<C, Refusal> {
        C::decode(&self.content.body)
            .map_err(|error| Refusal::bad_body("", format!("it cannot be decoded: {error}")))
    }
}
