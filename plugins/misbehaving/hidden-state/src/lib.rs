//! Counts the records of all keys in a global, and gives every key that number. The host cannot see
//! it; the SDK's assertion does.

use std::sync::atomic::{AtomicU64, Ordering};

use counting::Count;
use foldhost_sdk::{Event, Queries, Query, Raw, Reject, View};

pub struct Hidden;

static COUNTED: AtomicU64 = AtomicU64::new(0);

impl View for Hidden {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, _event: &Event<Raw>) -> Result<(), Reject> {
        let count = COUNTED.fetch_add(1, Ordering::Relaxed) + 1;
        *state = Some(Count(count));
        Ok(())
    }
}

impl Query for Hidden {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
    }
}

foldhost_sdk::export!(Hidden: View + Query);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::Hidden;

    /// The only test: another one in this process would count too.
    #[test]
    #[should_panic(expected = "must depend on its arguments only")]
    fn the_hidden_state_is_found() {
        let mut driver = Driver::<Hidden>::new();
        for key in ["a", "b", "a", "c"] {
            driver.send(Record::raw(key, "")).unwrap();
        }
        assert_eq!(driver.query("c", "", &[]).unwrap()["count"], 4);
        driver.assert_deterministic();
    }
}
