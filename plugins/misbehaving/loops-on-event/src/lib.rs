//! Loops for ever on a marked event, else counts.

use counting::Count;
use foldhost_sdk::{Event, Queries, Query, Raw, Reject, View};

pub struct Loops;

impl View for Loops {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, event: &Event<Raw>) -> Result<(), Reject> {
        while counting::is_poison(event) {
            std::hint::black_box(event);
        }
        counting::count(state)
    }
}

impl Query for Loops {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
    }
}

foldhost_sdk::export!(Loops: View + Query);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::Loops;

    #[test]
    fn what_is_not_marked_is_counted() {
        let mut driver = Driver::<Loops>::new();
        driver.send(Record::raw("a", "poisonous")).unwrap();
        assert_eq!(driver.query("a", "", &[]).unwrap()["count"], 1);
    }
}
