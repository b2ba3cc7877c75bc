//! Takes memory without end on a marked event, else counts.

use counting::Count;
use foldhost_sdk::{Event, Queries, Query, Raw, Reject, View};

pub struct Grows;

/// Taken at a time: some hundred of them are more than any plugin may have.
const BYTES: usize = 4 << 20;

impl View for Grows {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, event: &Event<Raw>) -> Result<(), Reject> {
        let mut taken = Vec::new();
        while counting::is_poison(event) {
            taken.push(std::hint::black_box(Vec::<u8>::with_capacity(BYTES)));
        }
        counting::count(state)
    }
}

impl Query for Grows {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
    }
}

foldhost_sdk::export!(Grows: View + Query);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::Grows;

    #[test]
    fn what_is_not_marked_is_counted() {
        let mut driver = Driver::<Grows>::new();
        driver.send(Record::raw("a", "poisonous")).unwrap();
        assert_eq!(driver.query("a", "", &[]).unwrap()["count"], 1);
    }
}
