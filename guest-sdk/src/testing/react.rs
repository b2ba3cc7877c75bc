//! Republishers in a test: what they emit, and what their duplicates may not.

use super::{Driver, Record, check, scope};
use crate::{Reject, Republisher};

impl<R: Republisher> Driver<R> {
    /// Folds one record, and gives what it causes: records of the owned topic, in order, each with its
    /// time and headers as a reader sees them (without those that the host adds).
    ///
    /// ```
    /// use foldhost_sdk::testing::{Driver, Record};
    /// use foldhost_sdk::{Event, Json, Outputs, Raw, Reject, Republisher};
    ///
    /// /// Numbers the records of a key.
    /// struct Numbers;
    /// impl Republisher for Numbers {
    ///     type State = Json<u64>;
    ///     type Event = Raw;
    ///     type Output = Json<u64>;
    ///     fn react(
    ///         state: &mut Option<Json<u64>>,
    ///         event: &Event<Raw>,
    ///         out: &mut Outputs<Json<u64>>,
    ///     ) -> Result<(), Reject> {
    ///         let number = state.get_or_insert_default();
    ///         number.0 += 1;
    ///         out.emit(event.key(), number);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let mut driver = Driver::<Numbers>::new();
    /// assert_eq!(driver.react(Record::raw("k", "a")).unwrap(), [Record::new("k", &Json(1))]);
    /// assert_eq!(driver.react(Record::raw("k", "b")).unwrap(), [Record::new("k", &Json(2))]);
    /// assert_eq!(driver.outputs().len(), 2);
    /// ```
    ///
    /// # Errors
    /// The plugin rejects it, or it cannot be decoded; as [`send`](Self::send).
    pub fn react(&mut self, record: Record) -> Result<Vec<Record>, Reject> {
        let before = self.outputs.len();
        self.send(record)?;
        Ok(self.outputs[before..].to_vec())
    }

    /// All that was emitted so far, in the order of the topic. Another plugin's driver can be fed with
    /// it: `inbox.send_all(republisher.outputs().to_vec())`.
    pub fn outputs(&self) -> &[Record] {
        &self.outputs
    }

    /// Checks that records which come more than once cause nothing more: everything sent so far, with
    /// every record twice in a row, and then as a whole twice, must emit what once emits.
    ///
    /// Not to be confused with [`assert_idempotent`](Self::assert_idempotent), which looks at the states
    /// only. A republisher may pass that and fail here: one that emits for every event "the newest
    /// value is x" tells it twice, from the same state. Its readers must then be idempotent themselves.
    /// Neither is needed for exactly once: the host folds every record of the log once and publishes
    /// what it causes once; both are about producers that write a record twice.
    ///
    /// # Panics
    /// An output differs; the message says which, and how.
    pub fn assert_idempotent_outputs(&mut self) {
        let log = check::Log::new(&self.base, &self.sent, &self.partition);
        scope(&mut self.logs, &self.parameters, || {
            check::idempotent_outputs::<R>(log);
        });
    }
}
