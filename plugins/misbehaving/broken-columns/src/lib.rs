//! Answers a batch that holds a marked event with columns that break the ABI, in the way that the
//! parameter `fault` names; else counts.

use counting::Count;
use foldhost_sdk::{Configure, Event, Queries, Query, Raw, Reject, View};

pub struct Broken;

#[derive(serde::Deserialize)]
pub struct Parameters {
    #[serde(default)]
    #[cfg_attr(
        not(target_arch = "wasm32"),
        expect(dead_code, reason = "read by an export, which is for wasm only")
    )]
    fault: Fault,
}

/// What is wrong with the columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The first end lies behind all data, and so behind those that follow.
    #[default]
    EndsDecrease,
    /// There is an end too few.
    WrongLengths,
    /// An event is rejected that is not in the batch.
    IndexOutOfRange,
    /// A state is marked with a number that means nothing.
    UnknownMark,
}

impl Configure for Broken {
    type Parameters = Parameters;
}

impl View for Broken {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, _event: &Event<Raw>) -> Result<(), Reject> {
        counting::count(state)
    }
}

impl Query for Broken {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
    }
}

/// The SDK writes no broken columns: what it exports as `fold` is wrapped by hand.
#[cfg(target_arch = "wasm32")]
mod exports {
    use foldhost_sdk::__private::abi;
    use foldhost_sdk::__private::abi::describe::Description;
    use foldhost_sdk::__private::abi::types::{Events, Folded, Rejection, States};
    use foldhost_sdk::Configure;

    use super::{Broken, Fault};

    struct Guest;

    foldhost_sdk::__export_capability!(Query Broken, Guest);
    foldhost_sdk::__export_capability!(Configure Broken, Guest);

    impl abi::describe::Guest for Guest {
        fn describe() -> Description {
            Description {
                queries: foldhost_sdk::__private::describe::<Broken>(),
                commands: Vec::new(),
                schemas: Vec::new(),
            }
        }
    }
    abi::describe::export!(Guest with_types_in abi::describe);

    impl abi::fold::Guest for Guest {
        fn fold(before: States, batch: Events) -> Folded {
            foldhost_sdk::__private::enter();
            let mut folded = foldhost_sdk::__private::fold_batch::<Broken>(&before, &batch);
            if holds_poison(&batch) {
                spoil(&mut folded, Broken::parameters().fault);
            }
            folded
        }
    }
    abi::fold::export!(Guest with_types_in abi::fold);

    fn holds_poison(batch: &Events) -> bool {
        let mut start = 0;
        batch.values.ends.iter().any(|&end| {
            let value = &batch.values.data[start..end as usize];
            start = end as usize;
            value == counting::POISON
        })
    }

    fn spoil(folded: &mut Folded, fault: Fault) {
        let values = &mut folded.values;
        match fault {
            Fault::EndsDecrease => values.ends[0] = values.data.len() as u32 + 1,
            Fault::WrongLengths => drop(values.ends.pop()),
            Fault::UnknownMark => values.marks[0] = 9,
            Fault::IndexOutOfRange => folded.rejected.push(Rejection {
                index: u32::MAX,
                code: "no-such-event".to_owned(),
                reason: "an event that nobody sent".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::{Broken, Fault};

    #[test]
    fn what_is_not_marked_is_counted() {
        let mut driver = Driver::<Broken>::configured(&[("fault", "unknown-mark")]).unwrap();
        driver.send(Record::raw("a", "")).unwrap();
        assert_eq!(driver.query("a", "", &[]).unwrap()["count"], 1);
    }

    #[test]
    fn an_unknown_fault_is_refused() {
        let error = Driver::<Broken>::configured(&[("fault", "none")]).unwrap_err();
        assert!(error.contains("ends-decrease"), "{error}");
        assert_eq!(Fault::default(), Fault::EndsDecrease);
    }
}
