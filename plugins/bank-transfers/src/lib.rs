//! Carries the money of transfers to the other account, and back where it is declined: events of
//! `bank-account` → commands for it.
//!
//! It remembers nothing. The host publishes what an event causes once; and an event that its producer wrote
//! twice causes a command that `bank-account` has answered already.

use bank_events::{
    AccountChange, AccountEvent, Deposit, DepositDeclined, FromSender, Refund, ToReceiver, Transfer,
};
use foldhost_sdk::{Event, Json, NoState, Outputs, Reject, Republisher};
use serde::{Deserialize, Serialize};

pub struct BankTransfers;

/// The body of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Body {
    Refund(Refund),
    Deposit(Deposit),
}

impl Republisher for BankTransfers {
    type State = NoState;
    type Event = AccountEvent;
    type Output = Json<Body>;

    fn react(
        _: &mut Option<NoState>,
        event: &Event<AccountEvent>,
        out: &mut Outputs<Json<Body>>,
    ) -> Result<(), Reject> {
        let account = event.key_str()?;
        match &event.required()?.change {
            Some(AccountChange::Withdrawn(withdrawn)) => {
                if let Some(transfer) = &withdrawn.transfer {
                    deposit(out, account, transfer, withdrawn.cents);
                }
            }
            Some(AccountChange::Declined(declined)) => refund(out, account, declined)?,
            // Another thing may have happened than this code knows; then it has nothing to do with it.
            _ => {}
        }
        Ok(())
    }
}

fn deposit(out: &mut Outputs<Json<Body>>, sender: &str, transfer: &Transfer, cents: u64) {
    let body = Body::Deposit(Deposit {
        cents,
        transfer: Some(FromSender {
            from: sender.to_owned(),
            number: transfer.number,
        }),
    });
    command(out, &transfer.other, "deposit", body);
}

fn refund(
    out: &mut Outputs<Json<Body>>,
    receiver: &str,
    declined: &DepositDeclined,
) -> Result<(), Reject> {
    let Some(transfer) = &declined.transfer else {
        return Err(Reject::new(
            Reject::BAD_EVENT,
            "the decline names no transfer",
        ));
    };
    let body = Body::Refund(Refund {
        cents: declined.cents,
        transfer: ToReceiver {
            to: receiver.to_owned(),
            number: transfer.number,
        },
        reason: declined.reason.clone(),
    });
    command(out, &transfer.other, "refund", body);
    Ok(())
}

fn command(out: &mut Outputs<Json<Body>>, account: &str, name: &str, body: Body) {
    out.emit(account, &Json(body))
        .command(name)
        .header("content-type", "application/json");
}

foldhost_sdk::export!(BankTransfers: Republisher);

#[cfg(test)]
mod tests {
    use bank_events::{AccountState, Withdrawn};
    use foldhost_sdk::testing::{Driver, Record};
    use serde_json::{Value, json};

    use super::*;

    fn record(account: &str, change: AccountChange) -> Record {
        Record::new(account, &AccountEvent::from(change)).at("2013-01-01")
    }

    fn transfer(other: &str, number: u64) -> Option<Transfer> {
        let other = other.to_owned();
        Some(Transfer { other, number })
    }

    fn withdrawn(transfer: Option<Transfer>) -> AccountChange {
        AccountChange::Withdrawn(Withdrawn {
            cents: 500,
            balance_cents: 0,
            transfer,
        })
    }

    fn declined(transfer: Option<Transfer>) -> AccountChange {
        AccountChange::Declined(DepositDeclined {
            cents: 500,
            transfer,
            reason: "account-closed".into(),
        })
    }

    fn command(account: &str, name: &str, body: Value) -> Record {
        let body: Body = serde_json::from_value(body).unwrap();
        Record::new(account, &Json(body))
            .at("2013-01-01")
            .header("foldhost-command", name)
            .header("content-type", "application/json")
    }

    #[test]
    fn money_that_went_out_goes_in_elsewhere() {
        let mut driver = Driver::<BankTransfers>::new();
        let caused = driver
            .react(record("ann", withdrawn(transfer("bob", 3))))
            .unwrap();
        let body = json!({"cents": 500, "transfer": {"from": "ann", "number": 3}});
        assert_eq!(caused, [command("bob", "deposit", body.clone())]);
        assert_eq!(caused[0].value_as::<Json<Value>>(), Some(Json(body)));
        driver.assert_deterministic();
    }

    #[test]
    fn money_that_is_declined_goes_back() {
        let mut driver = Driver::<BankTransfers>::new();
        let caused = driver
            .react(record("bob", declined(transfer("ann", 3))))
            .unwrap();
        let body = json!({
            "cents": 500, "transfer": {"to": "bob", "number": 3}, "reason": "account-closed",
        });
        assert_eq!(caused, [command("ann", "refund", body.clone())]);
        assert_eq!(caused[0].value_as::<Json<Value>>(), Some(Json(body)));
        driver.assert_deterministic();
    }

    #[test]
    fn what_is_no_transfer_causes_nothing() {
        let mut driver = Driver::<BankTransfers>::new();
        let snapshot = AccountChange::Snapshot(AccountState::default());
        for change in [withdrawn(None), snapshot] {
            assert_eq!(driver.react(record("ann", change)).unwrap(), []);
        }
        let unknown = Record::new("ann", &AccountEvent { change: None });
        assert_eq!(driver.react(unknown).unwrap(), []);
        assert!(driver.states().is_empty());
    }

    #[test]
    fn what_cannot_be_carried_is_rejected() {
        let mut driver = Driver::<BankTransfers>::new();
        for (record, code) in [
            (record("ann", declined(None)), "bad-event"),
            (Record::tombstone("ann"), "no-value"),
            (Record::raw(*b"\xff", ""), "bad-key"),
        ] {
            assert_eq!(driver.react(record).unwrap_err().code(), code);
        }
    }
}
