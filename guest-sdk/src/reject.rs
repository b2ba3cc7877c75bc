//! [`Reject`]: how a plugin says that one record cannot be applied.
//!
//! Made by plugins and by the SDK itself (a record that cannot be decoded); carried to the host by
//! [`fold`](crate::View::fold), [`react`](crate::Republisher::react) and
//! [`route`](crate::Route::route). A rejection never changes a state and publishes nothing.

use std::fmt;

/// The plugin's word that one record cannot be applied: a stable code and a sentence.
///
/// The state of the record's key stays as if the record were not there, even if `fold` had changed
/// it before it gave up, and what `react` has emitted for it is taken back. What becomes of the record is the manifest's `on-error`: by default the
/// partition stops before it, and says code and reason; `park-key` sets its key aside, `dead-letter` the record.
///
/// ```
/// use foldhost_sdk::Reject;
///
/// let reject = Reject::new("unknown-airport", format!("no airport is called {}", "XYZ"));
/// assert_eq!(reject.to_string(), "unknown-airport: no airport is called XYZ");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    code: String,
    reason: String,
}

impl Reject {
    /// The code of a record whose value cannot be decoded as the view's
    /// [`Event`](crate::View::Event).
    pub const BAD_EVENT: &'static str = "bad-event";
    /// The code of a tombstone where [`Event::required`](crate::Event::required) asked for a value.
    pub const NO_VALUE: &'static str = "no-value";
    /// The code of a key that is not of the type that [`Event::key_as`](crate::Event::key_as) was asked
    /// for.
    pub const BAD_KEY: &'static str = "bad-key";
    /// The code of a record without a key where one is needed, as by
    /// [`Incoming::required_key`](crate::Incoming::required_key).
    pub const NO_KEY: &'static str = "no-key";
    /// The code of a record that [`Event::cloud_event`](crate::Event::cloud_event) cannot read as one.
    pub const NO_CLOUD_EVENT: &'static str = "no-cloud-event";

    /// A rejection with a code for programs (lower case, digits and `-`; it labels a metric, so keep
    /// the number of different codes small) and a sentence for people.
    pub fn new(code: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            reason: reason.into(),
        }
    }

    /// The stable code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The sentence for people.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub(crate) fn into_parts(self) -> (String, String) {
        (self.code, self.reason)
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.reason)
    }
}

impl std::error::Error for Reject {}
