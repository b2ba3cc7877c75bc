//! Counts, and emits each count under its key, with the header `trace` of the event; but of a batch that
//! holds a marked event it emits what breaks the ABI, or too much, in the way that the parameter `fault`
//! names.

use counting::Count;
use foldhost_sdk::{Configure, Event, Outputs, Queries, Query, Raw, Reject, Republisher};

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

/// What is wrong with the records.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A record is caused by an event before that of the record before it, or by one that does not exist.
    #[default]
    CausesDecrease,
    /// The marked event is rejected, and yet it causes a record.
    RejectedCause,
    /// There is a key too few.
    WrongLengths,
    /// The first key ends behind all data.
    EndsDecrease,
    /// A value is neither there nor missing.
    UnknownMark,
    /// A header has a name that belongs to the host.
    HostHeader,
    /// A key is longer than keys may be.
    LongKey,
    /// 70,000 records.
    TooMany,
    /// 20 MiB of records.
    TooLarge,
    /// Nothing is wrong: the code is mended.
    Mended,
}

impl Configure for Broken {
    type Parameters = Parameters;
}

impl Republisher for Broken {
    type State = Count;
    type Event = Raw;
    type Output = Count;

    fn react(
        state: &mut Option<Count>,
        event: &Event<Raw>,
        out: &mut Outputs<Count>,
    ) -> Result<(), Reject> {
        counting::count(state)?;
        let record = match event.value() {
            Some(_) => out.emit(event.key(), state.get_or_insert_default()),
            None => out.tombstone(event.key()),
        };
        if let Some(trace) = event.header("trace") {
            record.header("trace", trace);
        }
        Ok(())
    }
}

impl Query for Broken {
    fn queries(on: &mut Queries<Self>) {
        counting::answer(on);
    }
}

/// The SDK emits no broken records: what it exports as `react` is wrapped by hand.
#[cfg(target_arch = "wasm32")]
mod exports {
    use foldhost_sdk::__private::abi;
    use foldhost_sdk::__private::abi::describe::Description;
    use foldhost_sdk::__private::abi::types::{
        BytesColumn, Emitted, Events, Folded, Headers, OptionalColumn, Rejection, States,
    };
    use foldhost_sdk::Configure;

    use super::{Broken, Fault};

    const MANY: usize = 70_000;
    const LARGE: usize = 20;
    const LARGE_BYTES: usize = 1 << 20;
    const LONG_KEY_BYTES: usize = 33 << 10;

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

    impl abi::react::Guest for Guest {
        fn react(before: States, batch: Events) -> (Folded, Emitted) {
            foldhost_sdk::__private::enter();
            let (mut folded, mut emitted) =
                foldhost_sdk::__private::react_batch::<Broken>(&before, &batch);
            if let Some(marked) = marked(&batch) {
                spoil(
                    &mut folded,
                    &mut emitted,
                    marked,
                    Broken::parameters().fault,
                );
            }
            (folded, emitted)
        }
    }
    abi::react::export!(Guest with_types_in abi::react);

    /// The first marked event of a batch. Every event causes one record, so it is the record's index, too.
    fn marked(batch: &Events) -> Option<usize> {
        let mut start = 0;
        batch.values.ends.iter().position(|&end| {
            let value = &batch.values.data[start..end as usize];
            start = end as usize;
            value == counting::POISON
        })
    }

    fn spoil(folded: &mut Folded, emitted: &mut Emitted, marked: usize, fault: Fault) {
        let cause = marked as u32;
        match fault {
            Fault::CausesDecrease => {
                emitted.causes[marked] = cause + 1;
                if let Some(next) = emitted.causes.get_mut(marked + 1) {
                    *next = cause;
                }
            }
            Fault::RejectedCause => folded.rejected.push(Rejection {
                index: cause,
                code: "marked".to_owned(),
                reason: "the event is marked".to_owned(),
            }),
            Fault::WrongLengths => drop(emitted.keys.ends.pop()),
            Fault::EndsDecrease => emitted.keys.ends[0] = emitted.keys.data.len() as u32 + 1,
            Fault::UnknownMark => emitted.values.marks[marked] = 2,
            Fault::HostHeader => {
                *emitted = records(cause, 1, 1, 1);
                emitted.headers = Some(Headers {
                    counts: vec![1],
                    names: of_items(1, b"foldhost-cause"),
                    values: optional(of_items(1, b"")),
                });
            }
            Fault::LongKey => *emitted = records(cause, 1, LONG_KEY_BYTES, 1),
            Fault::TooMany => *emitted = records(cause, MANY, 1, 1),
            Fault::TooLarge => *emitted = records(cause, LARGE, 1, LARGE_BYTES),
            Fault::Mended => {}
        }
    }

    /// So many records of one event, whose keys and values have so many bytes.
    fn records(cause: u32, count: usize, key_bytes: usize, value_bytes: usize) -> Emitted {
        Emitted {
            causes: vec![cause; count],
            keys: of_items(count, &vec![b'k'; key_bytes]),
            values: optional(of_items(count, &vec![b'v'; value_bytes])),
            timestamps: None,
            headers: None,
        }
    }

    fn of_items(count: usize, item: &[u8]) -> BytesColumn {
        let ends = (1..=count).map(|end| (end * item.len()) as u32);
        BytesColumn {
            data: item.repeat(count),
            ends: ends.collect(),
        }
    }

    fn optional(items: BytesColumn) -> OptionalColumn {
        OptionalColumn {
            marks: vec![1; items.ends.len()],
            data: items.data,
            ends: items.ends,
        }
    }
}

#[cfg(test)]
mod tests {
    use foldhost_sdk::Codec as _;
    use foldhost_sdk::testing::{Driver, Record};

    use super::{Broken, Count, Fault};

    #[test]
    fn what_is_not_marked_is_counted_and_told() {
        let mut driver = Driver::<Broken>::configured(&[("fault", "too-many")]).unwrap();
        driver.send(Record::raw("a", "")).unwrap();
        let told = driver.react(Record::raw("a", "").header("trace", "7"));
        let count = String::from_utf8(Count(2).to_bytes()).unwrap();
        assert_eq!(
            told.unwrap(),
            [Record::raw("a", count).header("trace", "7")]
        );
        assert_eq!(driver.query("a", "", &[]).unwrap()["count"], 2);
        let told = driver.react(Record::tombstone("a")).unwrap();
        assert_eq!(told, [Record::tombstone("a")]);
    }

    #[test]
    fn an_unknown_fault_is_refused() {
        let error = Driver::<Broken>::configured(&[("fault", "none")]).unwrap_err();
        assert!(error.contains("causes-decrease"), "{error}");
        assert_eq!(Fault::default(), Fault::CausesDecrease);
    }
}
