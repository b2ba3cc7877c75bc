//! Counts records under the key that their value names, or their own where it names none; but for a batch
//! that holds a marked record it names keys that break the ABI, or too many, in the way that the parameter
//! `fault` names.

use counting::Count;
use foldhost_sdk::{Configure, Event, Incoming, Keys, Queries, Query, Raw, Reject, Route, View};

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

/// What is wrong with the keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A key belongs to a record that is not there.
    #[default]
    NoSuchRecord,
    /// The marked record is rejected, and yet it has a key.
    RejectedKey,
    /// There is a key too few.
    WrongLengths,
    /// A key is longer than keys may be.
    LongKey,
    /// 70,000 keys.
    TooMany,
}

impl Configure for Broken {
    type Parameters = Parameters;
}

impl Route for Broken {
    /// The keys lie in the value, separated by commas: `to:a,b`.
    fn route(record: &Incoming<Raw>, keys: &mut Keys) -> Result<(), Reject> {
        let value = record.value().map_or(&b""[..], |value| &value.0);
        match value.strip_prefix(b"to:") {
            Some(named) => named
                .split(|&byte| byte == b',')
                .for_each(|key| keys.add(key)),
            None => keys.add(record.required_key()?),
        }
        Ok(())
    }
}

impl View for Broken {
    type State = Count;
    type Event = Raw;

    fn fold(state: &mut Option<Count>, event: &Event<Raw>) -> Result<(), Reject> {
        // A host that was asked for both tells them.
        if event.origin().is_none() {
            return Err(Reject::new(
                "no-origin",
                "the event does not say where it was",
            ));
        }
        counting::count(state)
    }
}

impl Query for Broken {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
    }
}

/// The SDK names no broken keys: what it exports as `route` is wrapped by hand.
#[cfg(target_arch = "wasm32")]
mod exports {
    use foldhost_sdk::__private::abi;
    use foldhost_sdk::__private::abi::describe::Description;
    use foldhost_sdk::__private::abi::route::{Records, Routes};
    use foldhost_sdk::__private::abi::types::{BytesColumn, Rejection};
    use foldhost_sdk::Configure;

    use super::{Broken, Fault};

    const MANY: usize = 70_000;
    const LONG_KEY_BYTES: usize = 33 << 10;

    struct Guest;

    foldhost_sdk::__export_capability!(View Broken, Guest);
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

    impl abi::route::Guest for Guest {
        fn route(batch: Records) -> Routes {
            foldhost_sdk::__private::enter();
            let routes = foldhost_sdk::__private::route_batch::<Broken>(&batch);
            match marked(&batch) {
                Some(marked) => spoilt(routes, marked, Broken::parameters().fault),
                None => routes,
            }
        }
    }
    abi::route::export!(Guest with_types_in abi::route);

    /// The first marked record of a batch.
    fn marked(batch: &Records) -> Option<u32> {
        let mut start = 0;
        let marked = batch.values.ends.iter().position(|&end| {
            let value = &batch.values.data[start..end as usize];
            start = end as usize;
            value == counting::POISON
        });
        marked.map(|index| index as u32)
    }

    fn spoilt(mut routes: Routes, marked: u32, fault: Fault) -> Routes {
        match fault {
            Fault::NoSuchRecord => {
                routes.causes.push(u32::MAX);
                routes.keys.ends.push(routes.keys.data.len() as u32);
                routes
            }
            Fault::RejectedKey => {
                routes.rejected.push(Rejection {
                    index: marked,
                    code: "marked".to_owned(),
                    reason: "the record is marked".to_owned(),
                });
                routes
            }
            Fault::WrongLengths => {
                routes.keys.ends.pop();
                routes
            }
            Fault::LongKey => keys(marked, 1, LONG_KEY_BYTES),
            Fault::TooMany => keys(marked, MANY, 1),
        }
    }

    /// So many keys of so many bytes, all for one record.
    fn keys(cause: u32, count: usize, bytes: usize) -> Routes {
        Routes {
            causes: vec![cause; count],
            keys: BytesColumn {
                data: vec![b'k'; count * bytes],
                ends: (1..=count).map(|end| (end * bytes) as u32).collect(),
            },
            rejected: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Driver, Record};

    use super::{Broken, Fault};

    #[test]
    fn what_is_not_marked_is_counted_where_it_belongs() {
        let mut driver = Driver::<Broken>::configured(&[("fault", "too-many")])
            .unwrap()
            .routed();
        driver.send(Record::raw("a", "")).unwrap();
        driver.send(Record::raw("b", "to:a,c")).unwrap();
        for (key, count) in [("a", 2), ("c", 1)] {
            assert_eq!(driver.query(key, "", &[]).unwrap()["count"], count);
        }
    }

    #[test]
    fn an_unknown_fault_is_refused() {
        let error = Driver::<Broken>::configured(&[("fault", "none")]).unwrap_err();
        assert!(error.contains("no-such-record"), "{error}");
        assert_eq!(Fault::default(), Fault::NoSuchRecord);
    }
}
