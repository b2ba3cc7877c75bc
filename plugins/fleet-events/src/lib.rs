//! The events of the topics `fleet-groups`, `fleet-access` and `notifications`, as in `fleet.proto` beside
//! this crate.
//!
//! Used by `fleet-onboarding` and `notification-inbox`. Written by hand rather than generated, so that
//! building a plugin needs no protobuf compiler; a test holds it to the `.proto` file.

use prost::{Message, Oneof};

/// Something that happened to a group of devices.
#[derive(Clone, PartialEq, Message)]
pub struct GroupEvent {
    /// The carrier to which the group belongs.
    #[prost(string, tag = "1")]
    pub carrier: String,
    /// The group's name.
    #[prost(string, tag = "2")]
    pub group: String,
    /// What happened; `None` if it is something that this code does not know.
    #[prost(oneof = "GroupChange", tags = "3, 4, 5")]
    pub change: Option<GroupChange>,
}

/// What happened to a group.
#[derive(Clone, PartialEq, Oneof)]
pub enum GroupChange {
    /// There is such a group.
    #[prost(message, tag = "3")]
    Created(GroupCreated),
    /// A device is in the group.
    #[prost(message, tag = "4")]
    Added(DeviceAdded),
    /// A device is not in the group any more.
    #[prost(message, tag = "5")]
    Removed(DeviceRemoved),
}

/// There is such a group.
#[derive(Clone, PartialEq, Message)]
pub struct GroupCreated {
    /// Whether devices come in here by themselves.
    #[prost(bool, tag = "1")]
    pub discovery: bool,
}

/// A device is in the group.
#[derive(Clone, PartialEq, Message)]
pub struct DeviceAdded {
    /// The plane's tail number.
    #[prost(string, tag = "1")]
    pub device: String,
}

/// A device is not in the group any more.
#[derive(Clone, PartialEq, Message)]
pub struct DeviceRemoved {
    /// As in the addition.
    #[prost(string, tag = "1")]
    pub device: String,
}

/// Whether a user may see a group.
#[derive(Clone, PartialEq, Message)]
pub struct AccessEvent {
    /// As in the events of the group.
    #[prost(string, tag = "1")]
    pub carrier: String,
    /// The user's name.
    #[prost(string, tag = "2")]
    pub user: String,
    /// The group's name.
    #[prost(string, tag = "3")]
    pub group: String,
    /// What happened; `None` if it is something that this code does not know.
    #[prost(oneof = "AccessChange", tags = "4, 5")]
    pub change: Option<AccessChange>,
}

/// What happened to a user's access.
#[derive(Clone, PartialEq, Oneof)]
pub enum AccessChange {
    /// The user may see the group from now on.
    #[prost(message, tag = "4")]
    Granted(AccessGranted),
    /// The user may not see the group any more.
    #[prost(message, tag = "5")]
    Revoked(AccessRevoked),
}

/// The user may see the group from now on.
#[derive(Clone, PartialEq, Message)]
pub struct AccessGranted {}

/// The user may not see the group any more.
#[derive(Clone, PartialEq, Message)]
pub struct AccessRevoked {}

/// A device is new to a user, or is so no more.
#[derive(Clone, PartialEq, Message)]
pub struct Notification {
    /// The discovery group in which the device appeared.
    #[prost(string, tag = "1")]
    pub group: String,
    /// The device.
    #[prost(string, tag = "2")]
    pub device: String,
    /// Which of the two; `None` if it is something that this code does not know.
    #[prost(oneof = "NotificationChange", tags = "3, 4")]
    pub change: Option<NotificationChange>,
}

/// Whether a notification comes or goes.
#[derive(Clone, PartialEq, Oneof)]
pub enum NotificationChange {
    /// The device is new.
    #[prost(message, tag = "3")]
    Opened(NotificationOpened),
    /// It is so no more.
    #[prost(message, tag = "4")]
    Cleared(NotificationCleared),
}

/// The device is new.
#[derive(Clone, PartialEq, Message)]
pub struct NotificationOpened {
    /// When it appeared in the group, milliseconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub since_ms: i64,
}

/// The device is not new any more, or not for this user.
#[derive(Clone, PartialEq, Message)]
pub struct NotificationCleared {}

#[cfg(test)]
mod tests {
    use proto_fields::{of_proto, of_rust};

    use super::*;

    #[test]
    fn this_file_says_what_the_proto_file_says() {
        let mut proto = of_proto(include_str!("../fleet.proto"));
        let mut rust = of_rust(include_str!("lib.rs"));
        proto.sort();
        rust.sort();
        assert_eq!(proto.len(), 18);
        assert_eq!(rust, proto);
    }

    #[test]
    fn an_event_has_these_bytes() {
        let added = GroupEvent {
            carrier: "UA".into(),
            group: "discovery-UA".into(),
            change: Some(GroupChange::Added(DeviceAdded {
                device: "N14228".into(),
            })),
        };
        let bytes = b"\x0a\x02UA\x12\x0cdiscovery-UA\x22\x08\x0a\x06N14228";
        assert_eq!(added.encode_to_vec(), bytes);
        assert_eq!(GroupEvent::decode(&bytes[..]).unwrap(), added);
    }
}
