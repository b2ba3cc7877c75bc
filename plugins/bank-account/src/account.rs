//! The write model: what becomes of an account by its events.
//!
//! Called by the fold. Invariant: an event says the new balance, so nothing is computed again that was
//! decided once; a full-state event replaces everything.

use bank_events::{AccountChange, AccountState, Counterparty, Transfer};
use foldhost_sdk::Reject;

use crate::numbers;

/// # Errors
/// The event contradicts itself: it was not decided by this plugin.
pub(crate) fn apply(account: &mut AccountState, change: &AccountChange) -> Result<(), Reject> {
    match change {
        AccountChange::Opened(opened) => {
            account.opened = true;
            account.owner.clone_from(&opened.owner);
        }
        AccountChange::Deposited(deposited) => {
            account.balance_cents = deposited.balance_cents;
            if let Some(transfer) = &deposited.transfer {
                answer(account, transfer);
            }
        }
        AccountChange::Withdrawn(withdrawn) => {
            account.balance_cents = withdrawn.balance_cents;
            if let Some(transfer) = &withdrawn.transfer {
                send(account, transfer, withdrawn.cents)?;
            }
        }
        AccountChange::Declined(declined) => answer(account, of(&declined.transfer)?),
        AccountChange::Refunded(refunded) => {
            account.balance_cents = refunded.balance_cents;
            let transfer = of(&refunded.transfer)?;
            let other = counterparty(account, transfer);
            numbers::insert(&mut other.refunded, transfer.number);
            other.refunded_cents = sum(other.refunded_cents, refunded.cents)?;
        }
        AccountChange::Closed(_) => account.closed = true,
        AccountChange::Snapshot(state) => account.clone_from(state),
    }
    Ok(())
}

fn answer(account: &mut AccountState, transfer: &Transfer) {
    let other = counterparty(account, transfer);
    numbers::insert(&mut other.answered, transfer.number);
}

fn send(account: &mut AccountState, transfer: &Transfer, cents: u64) -> Result<(), Reject> {
    account.sent_cents = sum(account.sent_cents, cents)?;
    let other = counterparty(account, transfer);
    other.sent = transfer.number;
    other.sent_cents = sum(other.sent_cents, cents)?;
    Ok(())
}

fn counterparty<'a>(account: &'a mut AccountState, transfer: &Transfer) -> &'a mut Counterparty {
    let others = &mut account.counterparties;
    others.entry(transfer.other.clone()).or_default()
}

fn of(transfer: &Option<Transfer>) -> Result<&Transfer, Reject> {
    let missing = || {
        Reject::new(
            Reject::BAD_EVENT,
            "the event says of no transfer that it is of one",
        )
    };
    transfer.as_ref().ok_or_else(missing)
}

fn sum(a: u64, b: u64) -> Result<u64, Reject> {
    let too_large = || Reject::new(Reject::BAD_EVENT, "there is no such amount of money");
    a.checked_add(b).ok_or_else(too_large)
}
