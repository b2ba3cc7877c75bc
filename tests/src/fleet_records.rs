//! Made-up changes of groups and access, as records of the topics of `fleet-onboarding`, and what they must
//! end in. Called by scenarios that deliver them in several ways.
//!
//! Invariants: encoded by hand from the published schema, and the end computed from the facts alone; nothing
//! is shared with the plugins. Facts of one group, and those of one user, come in the order of their times.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::flight_records::{bytes, varint};
use crate::flights::format_time;
use crate::topic;

const CARRIERS: [&str; 6] = ["AA", "B6", "DL", "EV", "UA", "WN"];
const DEVICES: usize = 12;
const USERS: usize = 5;
/// 2013-01-01T00:00:00Z, in milliseconds since the Unix epoch.
const BEGIN_MS: i64 = 1_356_998_400_000;

/// Something that is so from some time on.
#[derive(Debug, Clone)]
pub struct Fact {
    at_ms: i64,
    carrier: &'static str,
    group: String,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Created { discovery: bool },
    Device { device: String, is_in: bool },
    User { user: String, may_see: bool },
}

/// So many facts, the same for the same seed. Each carrier has a discovery group and one that a user made.
pub fn random(seed: u64, count: usize) -> Vec<Fact> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut facts = Vec::with_capacity(count);
    for carrier in CARRIERS {
        for discovery in [true, false] {
            facts.push((carrier, discovery, What::Created { discovery }));
        }
    }
    while facts.len() < count {
        let carrier = CARRIERS[random.random_range(0..CARRIERS.len())];
        let discovery = random.random_bool(0.7);
        let what = if random.random_bool(0.6) {
            What::Device {
                device: format!("N{}", random.random_range(0..DEVICES)),
                is_in: random.random_bool(0.7),
            }
        } else {
            What::User {
                user: format!("user-{}", random.random_range(0..USERS)),
                may_see: random.random_bool(0.7),
            }
        };
        facts.push((carrier, discovery, what));
    }
    let facts = facts.into_iter().zip((BEGIN_MS..).step_by(60_000));
    facts
        .map(|((carrier, discovery, what), at_ms)| Fact {
            at_ms,
            carrier,
            group: group(carrier, discovery),
            what,
        })
        .collect()
}

/// Three facts, in their order, of which each is smaller than the notification that follows from them: it has
/// the user of one and the device of another.
pub fn of_long_names(user_bytes: usize, device_bytes: usize) -> Vec<Fact> {
    let carrier = CARRIERS[0];
    let facts = [
        What::Created { discovery: true },
        What::User {
            user: "u".repeat(user_bytes),
            may_see: true,
        },
        What::Device {
            device: "d".repeat(device_bytes),
            is_in: true,
        },
    ];
    let facts = facts.into_iter().zip(BEGIN_MS..);
    facts
        .map(|(what, at_ms)| Fact {
            at_ms,
            carrier,
            group: group(carrier, true),
            what,
        })
        .collect()
}

fn group(carrier: &str, discovery: bool) -> String {
    let kind = if discovery { "discovery" } else { "fleet" };
    format!("{kind}-{carrier}")
}

impl Fact {
    /// Whether it belongs into `fleet-access`; else into `fleet-groups`.
    pub fn is_access(&self) -> bool {
        matches!(self.what, What::User { .. })
    }

    /// The key of its record.
    pub fn key(&self) -> &str {
        match &self.what {
            What::User { user, .. } => user,
            What::Created { .. } | What::Device { .. } => &self.group,
        }
    }

    /// Its record in the words of the HTTP contract; `frame` lies before its value.
    pub fn record(&self, frame: &[u8]) -> Value {
        let value = [frame, &self.value()].concat();
        json!({
            "key": self.key(),
            "value_base64": STANDARD.encode(value),
            "timestamp": self.at_ms,
        })
    }

    fn value(&self) -> Vec<u8> {
        let mut event = Vec::new();
        bytes(&mut event, 1, self.carrier.as_bytes());
        let mut inner = Vec::new();
        match &self.what {
            What::Created { discovery } => {
                bytes(&mut event, 2, self.group.as_bytes());
                varint(&mut inner, 1, u64::from(*discovery));
                bytes(&mut event, 3, &inner);
            }
            What::Device { device, is_in } => {
                bytes(&mut event, 2, self.group.as_bytes());
                bytes(&mut inner, 1, device.as_bytes());
                bytes(&mut event, if *is_in { 4 } else { 5 }, &inner);
            }
            What::User { user, may_see } => {
                bytes(&mut event, 2, user.as_bytes());
                bytes(&mut event, 3, self.group.as_bytes());
                bytes(&mut event, if *may_see { 4 } else { 5 }, &inner);
            }
        }
        event
    }
}

/// What the default query of `notification-inbox` must answer in the end, by user.
pub fn inboxes(facts: &[Fact]) -> BTreeMap<String, Value> {
    // Since when a device is in a group, and who may see it.
    let mut devices: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    let mut users: BTreeSet<(&str, &str)> = BTreeSet::new();
    for fact in facts {
        let group = fact.group.as_str();
        match &fact.what {
            What::Created { .. } => {}
            What::Device { device, is_in } => match is_in {
                true => drop(devices.entry((device, group)).or_insert(fact.at_ms)),
                false => drop(devices.remove(&(device.as_str(), group))),
            },
            What::User { user, may_see } => match may_see {
                true => drop(users.insert((user, group))),
                false => drop(users.remove(&(user.as_str(), group))),
            },
        }
    }
    let mut inboxes = BTreeMap::new();
    for user in (0..USERS).map(|n| format!("user-{n}")) {
        let open: Vec<Value> = devices
            .iter()
            .filter(|((device, group), _)| {
                let carrier = group.strip_prefix("discovery-");
                let is_new = carrier.is_some_and(|carrier| {
                    !devices.contains_key(&(*device, self::group(carrier, false).as_str()))
                });
                is_new && users.contains(&(user.as_str(), *group))
            })
            .map(|((device, group), since)| {
                json!({"device": device, "group": group, "since": format_time(*since)})
            })
            .collect();
        inboxes.insert(user, json!({ "open": open }));
    }
    inboxes
}

/// Fails unless each device is told to each user as new and as no more new in turns: what is told twice, or
/// is missing, breaks that.
///
/// # Errors
/// With the first record that breaks it.
pub fn check_turns(notifications: &[Value]) -> Result<()> {
    let mut open = BTreeSet::new();
    for record in notifications {
        let user = record["key"].as_str().context("no text key")?.to_owned();
        let (group, device, is_opened) = notification(record)?;
        let about = (user, group, device);
        let is_new = match is_opened {
            true => open.insert(about),
            false => open.remove(&about),
        };
        ensure!(is_new, "told twice, or out of turn: {record}");
    }
    Ok(())
}

/// Group, device, and whether it is opened, of a `Notification`, all of whose fields are of bytes.
fn notification(record: &Value) -> Result<(String, String, bool)> {
    let value = topic::value_bytes(record)?;
    let (mut group, mut device, mut opened) = (String::new(), String::new(), false);
    let mut rest = &value[..];
    while let [tag, length, behind @ ..] = rest {
        let (field, after) = behind
            .split_at_checked(usize::from(*length))
            .with_context(|| format!("a field is cut: {record}"))?;
        match tag >> 3 {
            1 => group = String::from_utf8(field.to_vec())?,
            2 => device = String::from_utf8(field.to_vec())?,
            3 => opened = true,
            4 => opened = false,
            other => bail!("field {other}: {record}"),
        }
        rest = after;
    }
    Ok((group, device, opened))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn fact(at_ms: i64, discovery: bool, what: What) -> Fact {
        let carrier = "UA";
        let group = group(carrier, discovery);
        Fact {
            at_ms,
            carrier,
            group,
            what,
        }
    }

    fn device(is_in: bool) -> What {
        let device = "N1".to_owned();
        What::Device { device, is_in }
    }

    #[test]
    fn what_is_new_and_seen_is_open() {
        let user = "user-3".to_owned();
        let may_see = true;
        let mut facts = vec![
            fact(BEGIN_MS, true, device(true)),
            fact(1, true, What::User { user, may_see }),
            fact(2, true, device(true)),
        ];
        let entry =
            json!({"device": "N1", "group": "discovery-UA", "since": "2013-01-01T00:00:00Z"});
        assert_eq!(inboxes(&facts)["user-3"], json!({ "open": [entry] }));
        assert_eq!(inboxes(&facts)["user-1"], json!({ "open": [] }));
        facts.push(fact(3, false, device(true)));
        assert_eq!(inboxes(&facts)["user-3"], json!({ "open": [] }));
    }

    #[test]
    fn what_is_told_twice_is_found() {
        let record = |change: &[u8]| {
            let value = [b"\x0a\x01g\x12\x01d", change].concat();
            json!({"key": "u", "value_base64": URL_SAFE_NO_PAD.encode(value)})
        };
        let (opened, cleared) = (record(b"\x1a\x00"), record(b"\x22\x00"));
        assert!(check_turns(&[opened.clone(), cleared.clone(), opened.clone()]).is_ok());
        assert!(check_turns(&[opened.clone(), opened.clone()]).is_err());
        assert!(check_turns(&[opened, cleared.clone(), cleared]).is_err());
    }
}
