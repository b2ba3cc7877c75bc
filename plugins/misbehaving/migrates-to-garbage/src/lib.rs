//! Takes the states of `counter/1` over, but for the state of the key `poison`, which it migrates in
//! the way that the parameter `fault` names. Counts what it folds.

use counting::Count;
use foldhost_sdk::{Configure, Event, Queries, Query, Raw, Reject, View};

pub struct Garbage;

#[derive(serde::Deserialize)]
pub struct Parameters {
    #[serde(default)]
    #[cfg_attr(
        not(target_arch = "wasm32"),
        expect(dead_code, reason = "read by an export, which is for wasm only")
    )]
    fault: Fault,
}

/// What `migrate` does once it sees the marked key.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Gives bytes that this plugin cannot read itself. No host can see that.
    #[default]
    Unreadable,
    /// Says that it cannot.
    Error,
    /// Panics.
    Traps,
    /// Loops for ever.
    Loops,
    /// Gives a state too few.
    TooFew,
    /// Says that the state is unchanged, which `migrate` may not.
    Unchanged,
    /// Gives a state of 2 MiB, twice what the manifest allows.
    TooLarge,
    /// Knows no schema at all, whatever the key.
    Refuses,
}

impl Configure for Garbage {
    type Parameters = Parameters;
}

impl View for Garbage {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, _event: &Event<Raw>) -> Result<(), Reject> {
        counting::count(state)
    }
}

impl Query for Garbage {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
    }
}

/// The SDK writes no broken columns: `migrate` is exported by hand.
#[cfg(target_arch = "wasm32")]
mod exports {
    use foldhost_sdk::__private::abi;
    use foldhost_sdk::__private::abi::describe::Description;
    use foldhost_sdk::__private::abi::types::{OptionalColumn, States};
    use foldhost_sdk::Configure;

    use super::{Fault, Garbage};

    const LARGE_BYTES: usize = 2 << 20;

    struct Guest;

    foldhost_sdk::__export_capability!(View Garbage, Guest);
    foldhost_sdk::__export_capability!(Query Garbage, Guest);
    foldhost_sdk::__export_capability!(Configure Garbage, Guest);

    impl abi::describe::Guest for Guest {
        fn describe() -> Description {
            Description {
                queries: foldhost_sdk::__private::describe::<Garbage>(),
                commands: Vec::new(),
                schemas: Vec::new(),
            }
        }
    }
    abi::describe::export!(Guest with_types_in abi::describe);

    impl abi::migrate::Guest for Guest {
        fn migrate(from_schema: String, before: States) -> Result<OptionalColumn, String> {
            foldhost_sdk::__private::enter();
            let fault = Garbage::parameters().fault;
            if fault == Fault::Refuses {
                return Err(format!("no schema is known, and {from_schema} neither"));
            }
            match marked(&before) {
                Some(index) => garbage(before.values, index, fault),
                None => Ok(before.values),
            }
        }
    }
    abi::migrate::export!(Guest with_types_in abi::migrate);

    /// The marked key, if it is there.
    fn marked(states: &States) -> Option<usize> {
        let mut start = 0;
        states.keys.ends.iter().position(|&end| {
            let key = &states.keys.data[start..end as usize];
            start = end as usize;
            key == counting::POISON
        })
    }

    fn garbage(
        mut states: OptionalColumn,
        index: usize,
        fault: Fault,
    ) -> Result<OptionalColumn, String> {
        match fault {
            Fault::Unreadable => replace(&mut states, index, b"garbage"),
            Fault::TooLarge => replace(&mut states, index, &vec![b'x'; LARGE_BYTES]),
            Fault::Error => return Err("this state is not to my liking".to_owned()),
            Fault::Traps => panic!("this state is marked"),
            Fault::Loops => loop {
                std::hint::black_box(&states);
            },
            Fault::TooFew => {
                states.ends.pop();
                states.marks.pop();
            }
            Fault::Unchanged => {
                replace(&mut states, index, b"");
                states.marks[index] = 2;
            }
            Fault::Refuses => {}
        }
        Ok(states)
    }

    fn replace(states: &mut OptionalColumn, index: usize, with: &[u8]) {
        let start = match index {
            0 => 0,
            _ => states.ends[index - 1] as usize,
        };
        let end = states.ends[index] as usize;
        states.data.splice(start..end, with.iter().copied());
        for later in &mut states.ends[index..] {
            *later = *later + with.len() as u32 - (end - start) as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::{Fault, Garbage};

    #[test]
    fn what_is_folded_is_counted() {
        let mut driver = Driver::<Garbage>::configured(&[("fault", "too-few")]).unwrap();
        driver.send(Record::raw("a", "")).unwrap();
        assert_eq!(driver.query("a", "", &[]).unwrap()["count"], 1);
    }

    #[test]
    fn an_unknown_fault_is_refused() {
        let error = Driver::<Garbage>::configured(&[("fault", "none")]).unwrap_err();
        assert!(error.contains("too-few"), "{error}");
        assert_eq!(Fault::default(), Fault::Unreadable);
    }
}
