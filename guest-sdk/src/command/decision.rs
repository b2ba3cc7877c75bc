//! [`Decision`]: what a command causes, and [`NewEvents`]: events that are to be written.
//!
//! Made by the closures of a handler; the glue encodes them. Invariant: a header belongs to the event that
//! was added last, and none has a name of the host's.

use std::fmt;

use serde::Serialize;

use crate::abi::types::EventOut;
use crate::react::assert_header_name;
use crate::{Codec, Payload};

/// What happened: any number of events about the command's key, in order, and an answer for the caller.
///
/// A decision without events is a success that changes nothing. Where there is no reply, the host tells the
/// caller what was appended.
///
/// ```
/// use foldhost_sdk::{Decision, Json};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// enum Lamp { On, Off }
///
/// let nothing = Decision::<Json<Lamp>>::new();
/// let one: Decision<_> = Json(Lamp::On).into();
/// let more = Decision::new()
///     .event(Json(Lamp::Off))
///     .header("reason", "dawn")                      // of the event before it
///     .event(Json(Lamp::On))
///     .reply(serde_json::json!({ "blinks": true }));
/// let gone = Decision::<Json<Lamp>>::new().tombstone();
/// ```
#[must_use = "a decision is what the closure returns"]
pub struct Decision<E> {
    pub(super) events: NewEvents<E>,
    pub(super) reply: Option<Payload>,
}

/// Events that are to be written, in order: what a [`Decision`] holds, and what
/// [`EmitState`](crate::EmitState) gives.
///
/// ```
/// use foldhost_sdk::{Json, NewEvents};
///
/// let one: NewEvents<_> = Json(7).into();
/// let more = NewEvents::new().event(Json(7)).header("unit", "cm").event(Json(8));
/// ```
#[must_use = "these events are not written yet"]
pub struct NewEvents<E>(Vec<NewEvent<E>>);

struct NewEvent<E> {
    /// `None` = tombstone.
    value: Option<E>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl<E> NewEvents<E> {
    /// No events.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an event.
    pub fn event(self, event: E) -> Self {
        self.with(Some(event))
    }

    /// Adds an event without a value: by custom "forget this key", and what compaction removes.
    pub fn tombstone(self) -> Self {
        self.with(None)
    }

    /// Adds a header to the event that was added last, behind those that it has. The host adds headers of
    /// its own: `foldhost-plugin`, `foldhost-version` (the number of the event among those of its key) and
    /// `foldhost-cause`, and hands on `traceparent` and `correlation-id` of the command.
    ///
    /// # Panics
    /// There is no event yet, or the name begins with `foldhost-`: such headers belong to the host.
    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.with_header(name, Some(value.as_ref().to_vec()))
    }

    /// Adds a header whose value is null.
    ///
    /// # Panics
    /// As [`header`](Self::header).
    pub fn null_header(self, name: &str) -> Self {
        self.with_header(name, None)
    }

    fn with(mut self, value: Option<E>) -> Self {
        self.0.push(NewEvent {
            value,
            headers: Vec::new(),
        });
        self
    }

    fn with_header(mut self, name: &str, value: Option<Vec<u8>>) -> Self {
        assert_header_name(name);
        let Some(event) = self.0.last_mut() else {
            panic!("the header `{name}` belongs to no event: call `event` or `tombstone` first");
        };
        event.headers.push((name.to_owned(), value));
        self
    }
}

impl<E> Decision<E> {
    /// A decision that changes nothing, which is a success.
    pub fn new() -> Self {
        Self {
            events: NewEvents::new(),
            reply: None,
        }
    }

    /// Adds an event.
    pub fn event(self, event: E) -> Self {
        self.map(|events| events.event(event))
    }

    /// Adds an event without a value: by custom "forget this key", and what compaction removes.
    pub fn tombstone(self) -> Self {
        self.map(NewEvents::tombstone)
    }

    /// Adds a header to the event that was added last; see [`NewEvents::header`].
    ///
    /// # Panics
    /// There is no event yet, or the name begins with `foldhost-`: such headers belong to the host.
    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.map(|events| events.header(name, value))
    }

    /// Adds a header whose value is null.
    ///
    /// # Panics
    /// As [`header`](Self::header).
    pub fn null_header(self, name: &str) -> Self {
        self.map(|events| events.null_header(name))
    }

    /// What the caller is answered, as JSON.
    ///
    /// # Panics
    /// The type cannot be written as JSON: a mistake of the plugin, as for [`Json`](crate::Json).
    pub fn reply(self, reply: impl Serialize) -> Self {
        match serde_json::to_vec(&reply) {
            Ok(body) => self.reply_raw(Payload::new("application/json", body)),
            Err(error) => panic!("this reply cannot be written as JSON: {error}"),
        }
    }

    /// What the caller is answered, in any format.
    pub fn reply_raw(mut self, reply: Payload) -> Self {
        self.reply = Some(reply);
        self
    }

    fn map(self, change: impl FnOnce(NewEvents<E>) -> NewEvents<E>) -> Self {
        Self {
            events: change(self.events),
            reply: self.reply,
        }
    }
}

/// The events as the host takes them.
pub(crate) fn write_events<E: Codec>(events: NewEvents<E>) -> Vec<EventOut> {
    let events = events.0.into_iter();
    events
        .map(|event| EventOut {
            value: event.value.map(|value| value.to_bytes()),
            headers: event.headers,
        })
        .collect()
}

impl<E> Default for NewEvents<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Default for Decision<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> From<E> for NewEvents<E> {
    fn from(event: E) -> Self {
        Self::new().event(event)
    }
}

impl<E> From<E> for Decision<E> {
    fn from(event: E) -> Self {
        Self::new().event(event)
    }
}

impl<E> From<NewEvents<E>> for Decision<E> {
    fn from(events: NewEvents<E>) -> Self {
        Self {
            events,
            reply: None,
        }
    }
}

/// Without the events, which need not have any debug output.
impl<E> fmt::Debug for NewEvents<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvents")
            .field("count", &self.0.len())
            .finish_non_exhaustive()
    }
}

impl<E> fmt::Debug for Decision<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("events", &self.events)
            .field("reply", &self.reply)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Json;

    #[test]
    fn headers_belong_to_the_event_before_them() {
        let decision = Decision::new()
            .event(Json(1))
            .header("a", "x")
            .null_header("b")
            .tombstone()
            .event(Json(2))
            .header("c", [0xff]);
        let events = write_events(decision.events);
        let values: Vec<_> = events.iter().map(|e| e.value.as_deref()).collect();
        assert_eq!(values, [Some(&b"1"[..]), None, Some(b"2")]);
        let a = ("a".to_owned(), Some(b"x".to_vec()));
        assert_eq!(events[0].headers, [a, ("b".to_owned(), None)]);
        assert!(events[1].headers.is_empty());
        assert_eq!(events[2].headers, [("c".to_owned(), Some(vec![0xff]))]);
    }

    #[test]
    #[should_panic(expected = "the header `a` belongs to no event")]
    fn a_header_needs_an_event() {
        let _ = Decision::<Json<u8>>::new().header("a", "x");
    }

    #[test]
    #[should_panic(expected = "belong to the host")]
    fn a_header_of_the_host_is_a_mistake() {
        let _ = Decision::from(Json(1)).header("foldhost-version", "7");
    }
}
