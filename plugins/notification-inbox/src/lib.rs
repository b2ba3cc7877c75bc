//! The open notifications of each user: what `fleet-onboarding` has opened and not cleared.

use std::collections::BTreeMap;

use fleet_events::{Notification, NotificationChange};
use foldhost_sdk::{
    Event, NoArguments, Queries, Query, QueryError, Question, Reject, Timestamp, View,
};
use serde::Serialize;

pub struct NotificationInbox;

/// The state of a user; without an open notification there is none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Inbox {
    /// By device.
    #[prost(btree_map = "string, message", tag = "1")]
    devices: BTreeMap<String, Groups>,
}

/// Where a device is new; at least in one group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Groups {
    /// By group: since when, milliseconds since the Unix epoch.
    #[prost(btree_map = "string, int64", tag = "1")]
    since_ms: BTreeMap<String, i64>,
}

impl View for NotificationInbox {
    type State = Inbox;
    type Event = Notification;

    fn fold(state: &mut Option<Inbox>, event: &Event<Notification>) -> Result<(), Reject> {
        let Some(notification) = event.value() else {
            *state = None;
            return Ok(());
        };
        let (device, group) = (&notification.device, &notification.group);
        match &notification.change {
            Some(NotificationChange::Opened(opened)) => {
                let devices = &mut state.get_or_insert_default().devices;
                let groups = devices.entry(device.clone()).or_default();
                groups.since_ms.insert(group.clone(), opened.since_ms);
            }
            Some(NotificationChange::Cleared(_)) => {
                if let Some(inbox) = state {
                    inbox.clear(device, group);
                    if inbox.devices.is_empty() {
                        *state = None;
                    }
                }
            }
            None => {
                return Err(Reject::new(
                    Reject::BAD_EVENT,
                    "the notification is neither opened nor cleared: deploy a notification-inbox that \
                     knows it",
                ));
            }
        }
        Ok(())
    }
}

impl Inbox {
    fn clear(&mut self, device: &str, group: &str) {
        if let Some(groups) = self.devices.get_mut(device) {
            groups.since_ms.remove(group);
            if groups.since_ms.is_empty() {
                self.devices.remove(device);
            }
        }
    }
}

impl Query for NotificationInbox {
    fn queries(on: &mut Queries<Self>) {
        on.default("The open notifications, by device, then group")
            .answer(open);
    }
}

/// The answer.
#[derive(Serialize)]
struct Opened<'a> {
    open: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    device: &'a str,
    group: &'a str,
    since: Timestamp,
}

fn open<'a>(question: Question<'a, Inbox>, _: NoArguments) -> Result<Opened<'a>, QueryError> {
    let inbox = question.state_if_any();
    let devices = inbox.iter().flat_map(|inbox| &inbox.devices);
    let open = devices.flat_map(|(device, groups)| {
        groups.since_ms.iter().map(move |(group, since_ms)| Entry {
            device,
            group,
            since: Timestamp::from_millis(*since_ms),
        })
    });
    Ok(Opened {
        open: open.collect(),
    })
}

foldhost_sdk::export!(NotificationInbox: View + Query);

#[cfg(test)]
mod tests {
    use fleet_events::{NotificationCleared, NotificationOpened};
    use foldhost_sdk::testing::{Driver, Record};
    use serde_json::json;

    use super::*;

    fn record(device: &str, group: &str, change: Option<NotificationChange>) -> Record {
        let notification = Notification {
            group: group.into(),
            device: device.into(),
            change,
        };
        Record::new("ops", &notification)
    }

    fn opened(device: &str, group: &str, since_ms: i64) -> Record {
        let opened = NotificationOpened { since_ms };
        record(device, group, Some(NotificationChange::Opened(opened)))
    }

    fn cleared(device: &str, group: &str) -> Record {
        let cleared = NotificationChange::Cleared(NotificationCleared {});
        record(device, group, Some(cleared))
    }

    #[test]
    fn what_was_opened_and_not_cleared_is_open() {
        let mut driver = Driver::<NotificationInbox>::new();
        let rejected = driver.send_all([
            opened("N2", "new-UA", 1000),
            opened("N1", "new-UA", 2000),
            opened("N1", "new-AA", 3000),
            opened("N3", "new-UA", 4000),
            cleared("N3", "new-UA"),
            cleared("N3", "new-UA"),
            cleared("N2", "new-AA"),
        ]);
        assert_eq!(rejected, []);
        let answer = json!({"open": [
            {"device": "N1", "group": "new-AA", "since": "1970-01-01T00:00:03Z"},
            {"device": "N1", "group": "new-UA", "since": "1970-01-01T00:00:02Z"},
            {"device": "N2", "group": "new-UA", "since": "1970-01-01T00:00:01Z"},
        ]});
        assert_eq!(driver.query("ops", "", &[]).unwrap(), answer);
        driver.assert_deterministic();
        driver.assert_idempotent();
    }

    #[test]
    fn an_empty_inbox_has_no_state() {
        let mut driver = Driver::<NotificationInbox>::new();
        assert_eq!(driver.query("ops", "", &[]).unwrap(), json!({"open": []}));
        driver.send(opened("N1", "new-UA", 1)).unwrap();
        driver.send(cleared("N1", "new-UA")).unwrap();
        assert_eq!(driver.state("ops"), None);
        driver.send(opened("N1", "new-UA", 1)).unwrap();
        driver.send(Record::tombstone("ops")).unwrap();
        assert_eq!(driver.state("ops"), None);
    }

    #[test]
    fn what_it_does_not_know_is_rejected() {
        let mut driver = Driver::<NotificationInbox>::new();
        let reject = driver.send(record("N1", "new-UA", None)).unwrap_err();
        assert_eq!(reject.code(), "bad-event");
    }
}
