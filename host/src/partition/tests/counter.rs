//! A plugin that counts the events of each key, and does with some what they say.

use super::*;

/// Counts the events of a key; some values make it fail.
#[derive(Debug)]
pub(super) struct Counter {
    pub(super) inspection: Inspection,
    pub(super) instances: AtomicUsize,
    pub(super) traps: bool,
    /// What it puts before each count that it emits; `None` = it emits nothing.
    pub(super) emits: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct CounterInstance {
    pub(super) traps: bool,
    pub(super) emits: Option<&'static str>,
}

impl Counter {
    pub(super) fn new() -> Arc<Self> {
        Self::of(b"counter", true)
    }

    /// The code of a name; one that does not trap counts the marked events like all others.
    pub(super) fn of(name: &[u8], traps: bool) -> Arc<Self> {
        let manifest = Manifest::from_toml(
            "name = \"counter\"\nversion = \"1.0.0\"\ninputs = [\"events\"]\n\
             state-schema = \"count/1\"\ncommit-interval = \"10ms\"\n",
        )
        .unwrap();
        Arc::new(Self {
            inspection: Inspection {
                digest: Digest::of(name),
                manifest,
                capabilities: Capabilities {
                    fold: true,
                    ..Capabilities::default()
                },
                kind: Kind::View,
                description: Description::default(),
            },
            instances: AtomicUsize::new(0),
            traps,
            emits: None,
        })
    }

    /// Asks for the headers of events, and fails on one that has not exactly one.
    pub(super) fn tracing(name: &[u8]) -> Arc<Self> {
        let mut counter = Self::of(name, true);
        let this = Arc::get_mut(&mut counter).expect("it is new");
        this.inspection.manifest.headers = true;
        counter
    }

    /// Emits every count, behind this word, and does with poison what `on_error` says.
    pub(super) fn telling(word: &'static str, on_error: OnError) -> Arc<Self> {
        let mut counter = Self::of(word.as_bytes(), true);
        let this = Arc::get_mut(&mut counter).expect("it is new");
        this.emits = Some(word);
        this.inspection.manifest.on_error = on_error;
        counter
    }
}

impl PluginCode for Counter {
    fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    fn instance(&self) -> Result<Box<dyn PluginInstance>, CallError> {
        self.instances.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(CounterInstance {
            traps: self.traps,
            emits: self.emits,
        }))
    }
}

impl PluginInstance for CounterInstance {
    fn route(&mut self, _: &RouteInput) -> Result<Routes, CallError> {
        unreachable!("it has no route")
    }

    fn fold(&mut self, input: &FoldInput<'_>) -> Result<Folded, CallError> {
        let mut counts: Vec<Option<u64>> = (0..input.keys.len())
            .map(|index| {
                input
                    .states
                    .get(index)
                    .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
            })
            .collect();
        let mut folded = Folded::default();
        let mut headers = input.headers.iter().flat_map(|it| &it.counts);
        if headers.any(|count| *count != 1) {
            return Err(CallError::Trap("an event without its header".to_owned()));
        }
        let mut heavy = 0;
        for event in 0..input.events() {
            let count = &mut counts[input.entities[event] as usize];
            match input.values.get(event) {
                Some(b"trap") if self.traps => return Err(CallError::Trap("marked".to_owned())),
                Some(b"reject") => {
                    folded.rejected.push(Rejection {
                        index: u32::try_from(event).unwrap(),
                        code: "marked".to_owned(),
                        reason: "it is marked".to_owned(),
                    });
                    continue;
                }
                Some(b"heavy") => heavy += 1,
                None => {
                    *count = None;
                    continue;
                }
                Some(_) => {}
            }
            *count = Some(count.unwrap_or(0) + 1);
            if let Some(word) = self.emits {
                let emitted = &mut folded.emitted;
                emitted.causes.push(u32::try_from(event).unwrap());
                emitted
                    .keys
                    .push(input.keys.get(input.entities[event] as usize));
                let told = format!("{word}{}", count.unwrap_or(0));
                emitted.values.push(Some(told.as_bytes()));
            }
        }
        // Three heavy events are too much for one call, each alone is not.
        if heavy > 2 {
            return Err(CallError::OutOfFuel { fuel: 1 });
        }
        for count in counts {
            folded
                .states
                .push(count.map(u64::to_le_bytes).as_ref().map(|bytes| &bytes[..]));
        }
        Ok(folded)
    }

    fn answer(
        &mut self,
        _: &[u8],
        _: Option<&[u8]>,
        _: &Question,
        _: u64,
    ) -> Result<Result<Payload, QueryError>, CallError> {
        Ok(Err(QueryError::UnknownQuery))
    }

    fn decide(
        &mut self,
        _: &[u8],
        _: Option<&[u8]>,
        _: &Command,
    ) -> Result<Result<Decision, Refusal>, CallError> {
        unreachable!("it takes no commands")
    }

    fn migrate(
        &mut self,
        schema: &str,
        _: u32,
        _: &BytesColumn,
        states: &OptionalColumn,
    ) -> Result<Result<OptionalColumn, String>, CallError> {
        let mut migrated = OptionalColumn::default();
        for index in 0..states.len() {
            let count = states.get(index).map(|bytes| {
                let count = u64::from_le_bytes(bytes.try_into().unwrap());
                // The odd one out, for whoever wants one.
                (schema == "count/1" || count != 3).then_some(count + 1_000)
            });
            match count {
                Some(Some(count)) => migrated.push(Some(&count.to_le_bytes())),
                Some(None) => return Ok(Err("three is too few".to_owned())),
                None => migrated.push(None),
            }
        }
        Ok(Ok(migrated))
    }

    fn fuel_used(&self) -> u64 {
        1
    }
}
