//! The inputs: events that any contestant can be checked against. A generator, not a file: event `n` of an
//! input is a function of `n`.
//!
//! Invariant: the first `keys` events have every key once, the others are spread by chance.

use anyhow::{Result, ensure};

use crate::topic::PARTITIONS;

/// Bytes of every value, where nothing else is asked for.
const VALUE_BYTES: usize = 100;
/// Goes once round any number of keys that it does not share a factor with.
const STEP: u64 = 7_368_787;

/// An input.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// Short name, as in the report: `100k`, `1m`.
    pub(crate) name: String,
    /// Its topic.
    pub(crate) topic: String,
    /// Partitions of the topic.
    pub(crate) partitions: i32,
    /// Distinct keys.
    pub(crate) keys: u64,
    /// Events.
    pub(crate) events: u64,
    /// Bytes of every value; at least 20.
    pub(crate) value_bytes: usize,
}

/// What a state says when all is folded, as the contestants' `check` lines give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Check {
    /// Keys with a state.
    pub(crate) keys: u64,
    /// Sum of their counts.
    pub(crate) events: u64,
    /// Sum over all keys of [`digest_of`].
    pub(crate) digest: u64,
}

impl Input {
    /// An input of the benchmark.
    pub(crate) fn new(name: &str, keys: u64, events: u64) -> Self {
        Self {
            name: name.to_owned(),
            topic: format!("bench-{name}"),
            partitions: PARTITIONS,
            keys,
            events,
            value_bytes: VALUE_BYTES,
        }
    }

    /// Number of the key of event `n`.
    pub(crate) fn key_of(&self, n: u64) -> u64 {
        if n < self.keys {
            n.wrapping_mul(STEP) % self.keys
        } else {
            scramble(n) % self.keys
        }
    }

    /// Value of event `n`: its number, then letters by chance, so that nothing compresses well.
    pub(crate) fn write_value(&self, n: u64, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(format!("{n:020}").as_bytes());
        let mut word = scramble(n ^ 0x5eed);
        while into.len() < self.value_bytes {
            word = scramble(word);
            for byte in word
                .to_le_bytes()
                .into_iter()
                .take(self.value_bytes - into.len())
            {
                into.push(b'a' + byte % 26);
            }
        }
    }

    /// How many events each key has.
    pub(crate) fn counts(&self) -> Vec<u64> {
        let keys = usize::try_from(self.keys).expect("fits this machine");
        let mut counts = vec![0; keys];
        for n in 0..self.events {
            counts[usize::try_from(self.key_of(n)).expect("fits")] += 1;
        }
        counts
    }

    /// What the state must say.
    pub(crate) fn check(&self) -> Check {
        let keys = usize::try_from(self.keys).expect("fits this machine");
        let mut seen = vec![(0_u64, 0_u64); keys];
        for n in 0..self.events {
            let (count, last) = &mut seen[usize::try_from(self.key_of(n)).expect("fits")];
            *count += 1;
            *last = n;
        }
        let mut value = Vec::with_capacity(self.value_bytes);
        let mut check = Check {
            keys: 0,
            events: 0,
            digest: 0,
        };
        for (key, &(count, last)) in (0..).zip(&seen) {
            if count > 0 {
                self.write_value(last, &mut value);
                check.add(key_text(key).as_bytes(), count, &value);
            }
        }
        check
    }
}

impl Check {
    /// Compares what a contestant has with this.
    ///
    /// # Errors
    /// If it is another state.
    pub(crate) fn expect(self, found: Self) -> Result<()> {
        ensure!(
            found == self,
            "its state is {found:?}, and must be {self:?}"
        );
        Ok(())
    }

    /// Adds the state of a key.
    pub(crate) fn add(&mut self, key: &[u8], count: u64, last: &[u8]) {
        self.keys += 1;
        self.events += count;
        self.digest = self.digest.wrapping_add(digest_of(key, count, last));
    }
}

const KEY_PREFIX: &str = "key-";

/// How key `number` is written.
pub(crate) fn key_text(number: u64) -> String {
    format!("{KEY_PREFIX}{number}")
}

/// The number of a key that is written so.
pub(crate) fn key_number(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    text.strip_prefix(KEY_PREFIX)?.parse().ok()
}

/// FNV-1a, 64 bits, of the key, the count (8 bytes, little-endian) and the last value.
fn digest_of(key: &[u8], count: u64, last: &[u8]) -> u64 {
    let count = count.to_le_bytes();
    let bytes = key.iter().chain(&count).chain(last);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(crate) fn scramble(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
