//! Makes a state of 2 MiB of a marked event, twice what its manifest allows, and answers the query
//! `much` with 8 MiB, twice what it may. Else it keeps the values of each key, one after the other.

use foldhost_sdk::{Event, NoArguments, Payload, Queries, Query, Raw, Reject, View};

pub struct TooMuch;

const STATE_BYTES: usize = 2 << 20;
const ANSWER_BYTES: usize = 8 << 20;

impl View for TooMuch {
    type State = Raw;
    type Event = Raw;

    fn fold(state: &mut Option<Raw>, event: &Event<Raw>) -> Result<(), Reject> {
        let text = &mut state.get_or_insert_default().0;
        match event.value() {
            Some(_) if counting::is_poison(event) => text.resize(text.len() + STATE_BYTES, b'x'),
            Some(value) => text.extend_from_slice(&value.0),
            None => {}
        }
        Ok(())
    }
}

impl Query for TooMuch {
    fn queries(on: &mut Queries<Self>) {
        on.default("The values so far")
            .answer_raw(|question, NoArguments {}| {
                Ok(Payload::new("text/plain", question.state()?.0.clone()))
            });
        on.query("much", "More than an answer may have")
            .answer_raw(|_, NoArguments {}| {
                Ok(Payload::new("text/plain", vec![b'x'; ANSWER_BYTES]))
            });
    }
}

foldhost_sdk::export!(TooMuch: View + Query);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::{ANSWER_BYTES, STATE_BYTES, TooMuch};

    #[test]
    fn it_returns_what_it_says() {
        let mut driver = Driver::<TooMuch>::new();
        driver.send(Record::raw("a", "little")).unwrap();
        assert_eq!(driver.ask("a", "", &[], None).unwrap().body, b"little");
        assert_eq!(
            driver.ask("a", "much", &[], None).unwrap().body.len(),
            ANSWER_BYTES
        );
        driver.send(Record::raw("a", "poison")).unwrap();
        let bytes = driver.state_bytes("a").map(<[u8]>::len);
        assert_eq!(bytes, Some("little".len() + STATE_BYTES));
    }
}
