//! [`Outputs`]: where a republisher puts its records.
//!
//! Made by the glue for each event. Invariant: everything is written straight into the columns that go
//! to the host; nothing is allocated for a record of its own.

use std::fmt;
use std::marker::PhantomData;

use super::Records;
use crate::{COMMAND_HEADER, Codec, Key, Timestamp};

/// Headers with such names are written by the host.
const RESERVED: &str = "foldhost-";

/// A wrong name is a mistake of the code, not of the event, so it is not a rejection: it shall be seen in the
/// first test that comes here.
///
/// # Panics
/// The host writes such headers.
pub(crate) fn assert_header_name(name: &str) {
    assert!(
        !name.starts_with(RESERVED),
        "the header `{name}` cannot be emitted: names that begin with `{RESERVED}` belong to the host"
    );
}

/// The records that one event causes, for the topic that the plugin owns.
///
/// In `fn react(…, out: &mut Outputs<Alarm>)` the lifetime can be left out.
///
/// ```
/// use foldhost_sdk::{Event, Json, Outputs, Raw, Reject, Republisher};
///
/// /// Copies records to the key that a header names, without what is secret; a tombstone travels on.
/// struct Copy;
///
/// impl Republisher for Copy {
///     type State = Json<()>;
///     type Event = Raw;
///     type Output = Raw;
///     fn react(_: &mut Option<Json<()>>, event: &Event<Raw>, out: &mut Outputs<Raw>) -> Result<(), Reject> {
///         let key = event.header("to").unwrap_or(event.key());
///         match event.value() {
///             Some(value) => out.emit(key, value).header("copied-from", event.key()),
///             None => out.tombstone(key),
///         };
///         Ok(())
///     }
/// }
/// # use foldhost_sdk::testing::{Driver, Record};
/// # let mut driver = Driver::<Copy>::new();
/// # assert_eq!(
/// #     driver.react(Record::raw("a", "1").header("to", "b")).unwrap(),
/// #     [Record::raw("b", "1").header("copied-from", "a")],
/// # );
/// # assert_eq!(driver.react(Record::tombstone("a")).unwrap(), [Record::tombstone("a")]);
/// ```
pub struct Outputs<'a, O> {
    records: &'a mut Records,
    output: PhantomData<fn(&O)>,
}

impl<O> fmt::Debug for Outputs<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outputs").finish_non_exhaustive()
    }
}

impl<'a, O: Codec> Outputs<'a, O> {
    pub(crate) fn new(records: &'a mut Records) -> Self {
        Self {
            records,
            output: PhantomData,
        }
    }

    /// Emits a record with this key and value, and the time of the event that caused it. What comes
    /// back adds headers to it, or another time.
    ///
    /// How many records one event may cause, and how large they may be, is bounded by the host: what
    /// goes beyond is a trap.
    pub fn emit(&mut self, key: impl Key, value: &O) -> Emitted<'_> {
        self.records.push(&key, Some(value));
        Emitted(self.records)
    }

    /// Emits a record without a value: by custom "forget this key", and what compaction removes.
    pub fn tombstone(&mut self, key: impl Key) -> Emitted<'_> {
        self.records.push(&key, None::<&O>);
        Emitted(self.records)
    }
}

/// The record that was emitted just now; it may be dropped as it is.
///
/// ```
/// use foldhost_sdk::{Json, Outputs, Timestamp};
///
/// fn remind(out: &mut Outputs<Json<String>>, due: Timestamp) {
///     out.emit(7_i64, &Json("tea".to_owned())).header("kind", "reminder").at(due);
/// }
/// ```
pub struct Emitted<'a>(&'a mut Records);

impl fmt::Debug for Emitted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitted").finish_non_exhaustive()
    }
}

impl Emitted<'_> {
    /// Adds a header, behind those that the record has.
    ///
    /// The host adds headers of its own: `foldhost-plugin`, `foldhost-generation`, `foldhost-version`
    /// and `foldhost-cause`, and hands on `traceparent` and `correlation-id` of the cause.
    ///
    /// # Panics
    /// The name begins with `foldhost-`: such headers belong to the host. Leave them out where
    /// headers of an event are copied, since an event that another plugin has published has them.
    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.with(name, Some(value.as_ref()))
    }

    /// Adds a header whose value is null.
    ///
    /// # Panics
    /// As [`header`](Self::header).
    pub fn null_header(self, name: &str) -> Self {
        self.with(name, None)
    }

    /// Sets the record's time, in place of that of the event that caused it.
    pub fn at(self, when: Timestamp) -> Self {
        self.0.set_timestamp(when);
        self
    }

    /// Makes the record a command of this name, for a command handler that has the topic among its inputs:
    /// the header [`foldhost-command`](COMMAND_HEADER), the one of the host's names that a plugin sets. The
    /// record's key is the entity's, its value the command's body; say in a header what it is.
    ///
    /// ```
    /// use foldhost_sdk::{Json, Outputs};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Deposit { cents: u64 }
    ///
    /// fn deposit(out: &mut Outputs<Json<Deposit>>, account: &str, cents: u64) {
    ///     out.emit(account, &Json(Deposit { cents }))
    ///         .command("deposit")
    ///         .header("content-type", "application/json");
    /// }
    /// ```
    pub fn command(self, name: &str) -> Self {
        self.0.push_header(COMMAND_HEADER, Some(name.as_bytes()));
        self
    }

    fn with(self, name: &str, value: Option<&[u8]>) -> Self {
        assert_header_name(name);
        self.0.push_header(name, value);
        self
    }
}
