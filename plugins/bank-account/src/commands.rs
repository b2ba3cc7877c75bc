//! The decisions: what may be done to an account, as it is.
//!
//! Called by the list of commands in `lib.rs`. Invariant: no decision takes out more than is there; of a
//! transfer, every number is answered once on each side; and what is under way fits on the account that it
//! came from, so a refund is never refused for want of room.

use bank_events::{
    AccountChange, AccountClosed, AccountEvent, AccountOpened, AccountState, Deposit,
    DepositDeclined, Deposited, FromSender, Refund, Refunded, Transfer, Withdrawn,
};
use foldhost_sdk::{Command, Decision, NoArguments, Refusal};
use serde::Deserialize;
use serde_json::json;

use crate::numbers;

/// The most that can be deposited on one account: ten trillion (of whole units).
pub(crate) const BALANCE_CENTS_MAX: u64 = 1_000_000_000_000_000;
/// The most that one account can send by transfers, in all of its life. Each may come back, on top of a
/// balance, and must find room.
const SENT_CENTS_MAX: u64 = u64::MAX / 2;
const _: () = assert!(SENT_CENTS_MAX < u64::MAX - BALANCE_CENTS_MAX);
/// The longest name of an account, in bytes.
const ACCOUNT_BYTES_MAX: usize = 200;

type Account<'a> = Command<'a, AccountState>;
type Decided = Result<Decision<AccountEvent>, Refusal>;

#[derive(Debug, Deserialize)]
pub(crate) struct Open {
    owner: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Amount {
    cents: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Send {
    to: String,
    cents: u64,
}

pub(crate) fn open(command: Account, body: Open) -> Decided {
    name(command)?;
    if body.owner.trim().is_empty() {
        return Err(Refusal::bad_body("owner", "expected somebody's name"));
    }
    let account = command.state_if_any().filter(|account| account.opened);
    match account {
        Some(account) if account.closed => Err(closed()),
        Some(_) => Err(Refusal::new(
            "account-exists",
            "this account is open already",
        )),
        None => {
            let opened = AccountOpened { owner: body.owner };
            Ok(happened(AccountChange::Opened(opened), 0))
        }
    }
}

pub(crate) fn deposit(command: Account, body: Deposit) -> Decided {
    positive(body.cents)?;
    let Deposit { cents, transfer } = body;
    let Some(transfer) = transfer else {
        return deposited(room_for(command, cents)?, cents, None);
    };
    let transfer = received(command, transfer)?;
    if is_answered(command, &transfer) {
        return Ok(nothing(command));
    }
    match room_for(command, cents) {
        Ok(account) => deposited(account, cents, Some(transfer)),
        Err(refusal) => {
            let declined = DepositDeclined {
                cents,
                transfer: Some(transfer),
                reason: refusal.code().to_owned(),
            };
            let balance = command
                .state_if_any()
                .map_or(0, |account| account.balance_cents);
            Ok(happened(AccountChange::Declined(declined), balance))
        }
    }
}

fn deposited(account: &AccountState, cents: u64, transfer: Option<Transfer>) -> Decided {
    let balance_cents = account.balance_cents + cents;
    let deposited = Deposited {
        cents,
        balance_cents,
        transfer,
    };
    Ok(happened(AccountChange::Deposited(deposited), balance_cents))
}

/// From a closed account, too: something may have come back to it.
pub(crate) fn withdraw(command: Account, body: Amount) -> Decided {
    positive(body.cents)?;
    let balance_cents = taken_out(known(command)?, body.cents)?;
    let withdrawn = Withdrawn {
        cents: body.cents,
        balance_cents,
        transfer: None,
    };
    Ok(happened(AccountChange::Withdrawn(withdrawn), balance_cents))
}

pub(crate) fn transfer(command: Account, body: Send) -> Decided {
    positive(body.cents)?;
    let Send { to, cents } = body;
    if !(1..=ACCOUNT_BYTES_MAX).contains(&to.len()) {
        let expected = format!("expected an account, of 1 to {ACCOUNT_BYTES_MAX} bytes");
        return Err(Refusal::bad_body("to", expected));
    }
    if name(command)? == to {
        return Err(Refusal::new("same-account", "the money is there already"));
    }
    let account = in_use(command)?;
    let balance_cents = taken_out(account, cents)?;
    if cents > SENT_CENTS_MAX - account.sent_cents {
        let message = "this account has sent as much as one account can";
        return Err(Refusal::new("transfer-limit", message));
    }
    let sent = account
        .counterparties
        .get(&to)
        .map_or(0, |other| other.sent);
    let number = sent + 1;
    let withdrawn = Withdrawn {
        cents,
        balance_cents,
        transfer: Some(Transfer {
            other: to.clone(),
            number,
        }),
    };
    let reply = json!({"balance_cents": balance_cents, "transfer": {"to": to, "number": number}});
    let change = AccountChange::Withdrawn(withdrawn);
    Ok(Decision::from(AccountEvent::from(change)).reply(reply))
}

/// Never declined for what the account has become: the money has nowhere else to go.
pub(crate) fn refund(command: Account, body: Refund) -> Decided {
    positive(body.cents)?;
    let Refund {
        cents,
        transfer,
        reason,
    } = body;
    let unknown = || Refusal::new("unknown-transfer", "this account has sent no such transfer");
    let account = command.state_if_any().ok_or_else(unknown)?;
    let other = account
        .counterparties
        .get(&transfer.to)
        .ok_or_else(unknown)?;
    if !(1..=other.sent).contains(&transfer.number) {
        return Err(unknown());
    }
    if numbers::contains(&other.refunded, transfer.number) {
        return Ok(nothing(command));
    }
    if cents > other.sent_cents.saturating_sub(other.refunded_cents) {
        return Err(unknown());
    }
    // It fits, since all that was ever sent fits.
    let balance_cents = account.balance_cents + cents;
    let refunded = Refunded {
        cents,
        balance_cents,
        transfer: Some(Transfer {
            other: transfer.to,
            number: transfer.number,
        }),
        reason,
    };
    Ok(happened(AccountChange::Refunded(refunded), balance_cents))
}

pub(crate) fn close(command: Account, _: NoArguments) -> Decided {
    let account = known(command)?;
    if account.closed {
        return Ok(nothing(command));
    }
    if account.balance_cents > 0 {
        return Err(Refusal::new(
            "not-empty",
            "there is money on this account: take it out first",
        )
        .details(json!({"balance_cents": account.balance_cents})));
    }
    Ok(happened(AccountChange::Closed(AccountClosed {}), 0))
}

/// One event, and the balance for the caller.
fn happened(change: AccountChange, balance_cents: u64) -> Decision<AccountEvent> {
    Decision::from(AccountEvent::from(change)).reply(json!({"balance_cents": balance_cents}))
}

/// What was asked for is so already.
fn nothing(command: Account) -> Decision<AccountEvent> {
    let balance_cents = command
        .state_if_any()
        .map_or(0, |account| account.balance_cents);
    Decision::new().reply(json!({"balance_cents": balance_cents}))
}

fn name(command: Account<'_>) -> Result<&str, Refusal> {
    let name = std::str::from_utf8(command.key()).ok();
    name.filter(|name| (1..=ACCOUNT_BYTES_MAX).contains(&name.len()))
        .ok_or_else(|| {
            let message = format!("an account's name is text of 1 to {ACCOUNT_BYTES_MAX} bytes");
            Refusal::new("bad-account", message)
        })
}

fn positive(cents: u64) -> Result<(), Refusal> {
    match cents {
        0 => Err(Refusal::bad_body("cents", "expected at least 1")),
        _ => Ok(()),
    }
}

/// The account, open or closed.
fn known<'a>(command: Account<'a>) -> Result<&'a AccountState, Refusal> {
    let account = command.state_if_any().filter(|account| account.opened);
    account.ok_or_else(|| Refusal::new("no-account", "there is no such account"))
}

fn closed() -> Refusal {
    Refusal::new("account-closed", "this account is closed")
}

fn in_use<'a>(command: Account<'a>) -> Result<&'a AccountState, Refusal> {
    let account = known(command)?;
    match account.closed {
        true => Err(closed()),
        false => Ok(account),
    }
}

/// The account, if it can take so much more.
fn room_for<'a>(command: Account<'a>, cents: u64) -> Result<&'a AccountState, Refusal> {
    let account = in_use(command)?;
    // What came back may have brought it above the limit.
    if cents > BALANCE_CENTS_MAX.saturating_sub(account.balance_cents) {
        let message = format!("an account takes deposits up to {BALANCE_CENTS_MAX} cents");
        return Err(Refusal::new("balance-limit", message));
    }
    Ok(account)
}

/// The balance without so much: there is no overdraft.
fn taken_out(account: &AccountState, cents: u64) -> Result<u64, Refusal> {
    let balance_cents = account.balance_cents;
    balance_cents.checked_sub(cents).ok_or_else(|| {
        Refusal::new(
            "insufficient-funds",
            format!("there are {balance_cents} cents"),
        )
        .details(json!({"balance_cents": balance_cents}))
    })
}

/// A transfer as this account remembers it.
fn received(command: Account, transfer: FromSender) -> Result<Transfer, Refusal> {
    if transfer.number == 0 {
        return Err(Refusal::bad_body("transfer.number", "expected at least 1"));
    }
    if transfer.from.as_bytes() == command.key() {
        return Err(Refusal::new(
            "same-account",
            "no account sends money to itself",
        ));
    }
    Ok(Transfer {
        other: transfer.from,
        number: transfer.number,
    })
}

fn is_answered(command: Account, transfer: &Transfer) -> bool {
    let others = command
        .state_if_any()
        .map(|account| &account.counterparties);
    let other = others.and_then(|others| others.get(&transfer.other));
    other.is_some_and(|other| numbers::contains(&other.answered, transfer.number))
}
