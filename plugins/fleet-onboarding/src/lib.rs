//! Tells users of devices that are new in the groups they may see.
//!
//! Two topics, routed by carrier: which devices are in which groups (keyed by group), and who may see
//! which group (keyed by user). From the state of a carrier follows which devices are new to whom; what
//! an event changes in that is emitted, keyed by user. So an event that changes nothing emits nothing.

mod fleet;

use fleet::{Fleet, Open, Touched};
use fleet_events::{
    AccessChange, AccessEvent, GroupChange, GroupEvent, Notification, NotificationChange,
    NotificationCleared, NotificationOpened,
};
use foldhost_sdk::{Event, Incoming, Keys, Outputs, Reject, Republisher, Route};

pub struct FleetOnboarding;

foldhost_sdk::inputs! {
    /// In the order of `inputs` in `plugin.toml`.
    #[derive(Debug)]
    pub enum FleetEvent {
        Group(GroupEvent),
        Access(AccessEvent),
    }
}

impl Route for FleetOnboarding {
    fn route(record: &Incoming<FleetEvent>, keys: &mut Keys) -> Result<(), Reject> {
        let carrier = match record.required()? {
            FleetEvent::Group(event) => &event.carrier,
            FleetEvent::Access(event) => &event.carrier,
        };
        if carrier.is_empty() {
            return Err(Reject::new("no-carrier", "the event names no carrier"));
        }
        keys.add(carrier);
        Ok(())
    }
}

impl Republisher for FleetOnboarding {
    type State = Fleet;
    type Event = FleetEvent;
    type Output = Notification;

    fn react(
        state: &mut Option<Fleet>,
        event: &Event<FleetEvent>,
        out: &mut Outputs<Notification>,
    ) -> Result<(), Reject> {
        let fleet = state.get_or_insert_default();
        let at_ms = event.timestamp().millis();
        let change = event.required()?;
        let touched = touched(change);
        let before = fleet.open(touched);
        match change {
            FleetEvent::Group(event) => regroup(fleet, event, at_ms)?,
            FleetEvent::Access(event) => allow(fleet, event, at_ms)?,
        }
        let after = fleet.open(touched);
        for gone in before.difference(&after) {
            tell(
                out,
                gone,
                NotificationChange::Cleared(NotificationCleared {}),
            );
        }
        for new in after.difference(&before) {
            let since_ms = new.since_ms;
            tell(
                out,
                new,
                NotificationChange::Opened(NotificationOpened { since_ms }),
            );
        }
        Ok(())
    }
}

/// What may be new to somebody, or no more, once the event is applied.
fn touched(event: &FleetEvent) -> Touched<'_> {
    let device = |device| Touched {
        device: Some(device),
        ..Touched::default()
    };
    match event {
        FleetEvent::Group(event) => match &event.change {
            Some(GroupChange::Added(added)) => device(&added.device),
            Some(GroupChange::Removed(removed)) => device(&removed.device),
            // Devices may be in it already, and in other groups too.
            Some(GroupChange::Created(_)) | None => Touched::default(),
        },
        FleetEvent::Access(event) => Touched {
            group: Some(&event.group),
            user: Some(&event.user),
            device: None,
        },
    }
}

fn regroup(fleet: &mut Fleet, event: &GroupEvent, at_ms: i64) -> Result<(), Reject> {
    let group = &event.group;
    match &event.change {
        Some(GroupChange::Created(created)) => fleet.create(group, created.discovery)?,
        Some(GroupChange::Added(added)) => fleet.place(group, &added.device, at_ms, true),
        Some(GroupChange::Removed(removed)) => fleet.place(group, &removed.device, at_ms, false),
        None => return Err(unknown("a creation, an addition nor a removal")),
    }
    Ok(())
}

fn allow(fleet: &mut Fleet, event: &AccessEvent, at_ms: i64) -> Result<(), Reject> {
    let may_see = match &event.change {
        Some(AccessChange::Granted(_)) => true,
        Some(AccessChange::Revoked(_)) => false,
        None => return Err(unknown("a grant nor a revocation")),
    };
    fleet.allow(&event.group, &event.user, at_ms, may_see);
    Ok(())
}

fn unknown(what: &str) -> Reject {
    let reason = format!("the event is neither {what}: deploy a fleet-onboarding that knows it");
    Reject::new(Reject::BAD_EVENT, reason)
}

fn tell(out: &mut Outputs<Notification>, about: &Open, change: NotificationChange) {
    let notification = Notification {
        group: about.group.clone(),
        device: about.device.clone(),
        change: Some(change),
    };
    out.emit(&about.user, &notification);
}

foldhost_sdk::export!(FleetOnboarding: Republisher + Route);

#[cfg(test)]
mod tests;
