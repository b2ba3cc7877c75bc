//! Panics on a marked event, else counts. What is a mark is told by the parameter `marker`.

use counting::Count;
use foldhost_sdk::{Configure, Event, Queries, Query, Raw, Reject, View};

pub struct Traps;

#[derive(serde::Deserialize)]
pub struct Parameters {
    #[serde(default = "poison")]
    marker: String,
}

fn poison() -> String {
    String::from_utf8_lossy(counting::POISON).into_owned()
}

impl Configure for Traps {
    type Parameters = Parameters;
}

impl View for Traps {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, event: &Event<Raw>) -> Result<(), Reject> {
        let parameters = Self::parameters();
        if event
            .value()
            .is_some_and(|value| value.0 == parameters.marker.as_bytes())
        {
            panic!("this event is marked");
        }
        counting::count(state)
    }
}

impl Query for Traps {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
    }
}

foldhost_sdk::export!(Traps: View + Query + Configure);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::Traps;

    #[test]
    fn what_is_not_marked_is_counted() {
        let mut driver = Driver::<Traps>::configured(&[("marker", "bad")]).unwrap();
        driver.send(Record::raw("a", "poison")).unwrap();
        assert_eq!(driver.query("a", "", &[]).unwrap()["count"], 1);
    }

    #[test]
    #[should_panic(expected = "this event is marked")]
    fn what_is_marked_is_not() {
        let mut driver = Driver::<Traps>::configured(&[]).unwrap();
        let _ = driver.send(Record::raw("a", "poison"));
    }
}
