//! Loops for ever in the query `always`, about any key. Folds, and answers its default query, as `counter` does.

use counting::Count;
use foldhost_sdk::{Event, NoArguments, Queries, Query, QueryError, Question, Raw, Reject, View};

pub struct Loops;

impl View for Loops {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, _event: &Event<Raw>) -> Result<(), Reject> {
        counting::count(state)
    }
}

impl Query for Loops {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
        on.query("always", "Never answered").answer(always);
    }
}

fn always(question: Question<Count>, _: NoArguments) -> Result<u64, QueryError> {
    loop {
        std::hint::black_box(question.key());
    }
}

foldhost_sdk::export!(Loops: View + Query);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::Loops;

    #[test]
    fn it_counts() {
        let mut driver = Driver::<Loops>::new();
        driver.send(Record::raw("a", "poison")).unwrap();
        assert_eq!(driver.query("a", "", &[]).unwrap()["count"], 1);
        driver.assert_deterministic();
    }
}
