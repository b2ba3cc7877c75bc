//! What is known of one carrier: its groups, their devices, and who may see them.
//!
//! Changed by the events, in `lib.rs`. Invariant: every fact carries the time of the event that it comes
//! from, and only a newer event changes it; so an event that comes again, or late, changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use foldhost_sdk::Reject;
use prost::Message;

/// The state of a carrier.
#[derive(Clone, PartialEq, Message)]
pub struct Fleet {
    /// By name.
    #[prost(btree_map = "string, message", tag = "1")]
    groups: BTreeMap<String, Group>,
}

/// A group of devices. It may be heard of before it is created, since access to it is told elsewhere.
#[derive(Clone, PartialEq, Message)]
struct Group {
    /// Whether it is a discovery group; `None` until it is created.
    #[prost(bool, optional, tag = "1")]
    discovery: Option<bool>,
    /// By tail number.
    #[prost(btree_map = "string, message", tag = "2")]
    devices: BTreeMap<String, Since>,
    /// By name; those who may see the group.
    #[prost(btree_map = "string, message", tag = "3")]
    users: BTreeMap<String, Since>,
}

/// Whether something is so or not, and since when; what is so no more is kept, or an old event could bring it
/// back.
#[derive(Clone, Copy, PartialEq, Message)]
struct Since {
    /// Milliseconds since the Unix epoch: when it came to be so, or not.
    #[prost(sint64, tag = "1")]
    since_ms: i64,
    /// The time of the newest event that told of it.
    #[prost(sint64, tag = "2")]
    told_ms: i64,
    /// It is not so any more.
    #[prost(bool, tag = "3")]
    ended: bool,
}

/// A device that is new to a user. Ordered by user, then device, then group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Open {
    pub user: String,
    pub device: String,
    pub group: String,
    pub since_ms: i64,
}

/// What an event can have changed; `None` = anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Touched<'a> {
    pub group: Option<&'a str>,
    pub device: Option<&'a str>,
    pub user: Option<&'a str>,
}

impl Fleet {
    /// # Errors
    /// The group was created before, and was of the other kind.
    pub fn create(&mut self, group: &str, discovery: bool) -> Result<(), Reject> {
        let known = &mut self.group(group).discovery;
        if known.is_some_and(|known| known != discovery) {
            return Err(Reject::new(
                "group-exists",
                format!("the group `{group}` was created before, and was of the other kind"),
            ));
        }
        *known = Some(discovery);
        Ok(())
    }

    /// A device is in a group, or not any more.
    pub fn place(&mut self, group: &str, device: &str, at_ms: i64, is_in: bool) {
        change(&mut self.group(group).devices, device, at_ms, is_in);
    }

    /// A user may see a group, or not any more.
    pub fn allow(&mut self, group: &str, user: &str, at_ms: i64, may_see: bool) {
        change(&mut self.group(group).users, user, at_ms, may_see);
    }

    fn group(&mut self, name: &str) -> &mut Group {
        self.groups.entry(name.to_owned()).or_default()
    }

    /// Which devices are new to whom, among those that were touched: they are in a discovery group that
    /// the user may see, and nobody has put them into a group that a user made.
    pub fn open(&self, touched: Touched<'_>) -> BTreeSet<Open> {
        let discovery = self.groups.iter().filter(|(name, group)| {
            group.discovery == Some(true) && touched.group.is_none_or(|only| only == *name)
        });
        let mut open = BTreeSet::new();
        for (name, group) in discovery {
            let new = present(&group.devices, touched.device)
                .filter(|(device, _)| !self.is_placed(device));
            for (device, since) in new {
                open.extend(present(&group.users, touched.user).map(|(user, _)| Open {
                    user: user.clone(),
                    device: device.clone(),
                    group: name.clone(),
                    since_ms: since.since_ms,
                }));
            }
        }
        open
    }

    fn is_placed(&self, device: &str) -> bool {
        let mut made = self.groups.values();
        made.any(|group| {
            let device = group.devices.get(device);
            group.discovery == Some(false) && device.is_some_and(|since| !since.ended)
        })
    }
}

/// Those that are so: all, or the one that is named.
fn present<'a>(
    all: &'a BTreeMap<String, Since>,
    only: Option<&'a str>,
) -> impl Iterator<Item = (&'a String, &'a Since)> {
    let one = only.and_then(|name| all.get_key_value(name));
    let rest = only.is_none().then(|| all.iter());
    let found = one.into_iter().chain(rest.into_iter().flatten());
    found.filter(|(_, since)| !since.ended)
}

/// The newest event counts; at the same instant, an end comes after a beginning.
fn change(all: &mut BTreeMap<String, Since>, name: &str, at_ms: i64, is_so: bool) {
    let Some(since) = all.get_mut(name) else {
        let new = Since {
            since_ms: at_ms,
            told_ms: at_ms,
            ended: !is_so,
        };
        all.insert(name.to_owned(), new);
        return;
    };
    if (at_ms, !is_so) <= (since.told_ms, since.ended) {
        return;
    }
    if since.ended == is_so {
        since.since_ms = at_ms;
    }
    since.told_ms = at_ms;
    since.ended = !is_so;
}
