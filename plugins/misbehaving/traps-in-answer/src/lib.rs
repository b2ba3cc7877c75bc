//! Panics in the query `always`, about any key. Folds, and answers its default query, as `counter` does.

use counting::Count;
use foldhost_sdk::{Event, NoArguments, Queries, Query, QueryError, Question, Raw, Reject, View};

pub struct Traps;

impl View for Traps {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, _event: &Event<Raw>) -> Result<(), Reject> {
        counting::count(state)
    }
}

impl Query for Traps {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
        on.query("always", "Never answered").answer(always);
    }
}

fn always(question: Question<Count>, _: NoArguments) -> Result<u64, QueryError> {
    panic!("no answer about {}", question.key().escape_ascii());
}

foldhost_sdk::export!(Traps: View + Query);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::Traps;

    #[test]
    fn it_counts() {
        let mut driver = Driver::<Traps>::new();
        driver.send(Record::raw("a", "poison")).unwrap();
        assert_eq!(driver.query("a", "", &[]).unwrap()["count"], 1);
        driver.assert_deterministic();
    }

    #[test]
    #[should_panic(expected = "no answer about a")]
    fn it_panics_when_asked() {
        let _ = Driver::<Traps>::new().query("a", "always", &[]);
    }
}
