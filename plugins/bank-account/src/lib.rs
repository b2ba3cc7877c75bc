//! Accounts that are never overdrawn, and transfers between them.
//!
//! The key is the account. A transfer is a saga of three or four commands, each about one account: money
//! goes out here (`transfer`); `bank-transfers` makes of that event the command `deposit` for the other
//! account, which takes the money or declines it; and of a decline the command `refund` for the sender, who
//! cannot decline. Invariant: every transfer has a number among those from its sender to its receiver, and
//! each side remembers the numbers that it has answered, so no step counts twice, however often and in
//! whatever order the commands come.

mod account;
mod commands;
mod numbers;

use bank_events::{AccountChange, AccountEvent, AccountState, Counterparty};
use foldhost_sdk::{
    CommandHandler, Commands, EmitState, Event, NewEvents, NoArguments, Queries, Query, QueryError,
    Question, Reject, View,
};
use serde::Serialize;

pub struct BankAccount;

impl View for BankAccount {
    type State = AccountState;
    type Event = AccountEvent;

    fn fold(state: &mut Option<AccountState>, event: &Event<AccountEvent>) -> Result<(), Reject> {
        let Some(change) = &event.required()?.change else {
            return Err(Reject::new(
                Reject::BAD_EVENT,
                "nothing that this code knows has happened: deploy a bank-account that knows it",
            ));
        };
        account::apply(state.get_or_insert_default(), change)
    }
}

impl CommandHandler for BankAccount {
    fn commands(on: &mut Commands<Self>) {
        on.command("open", "Opens an account, with nothing in it")
            .decide(commands::open);
        on.command("deposit", "Puts money in: at a counter, or by a transfer")
            .decide(commands::deposit);
        on.command("withdraw", "Takes money out, if there is as much")
            .decide(commands::withdraw);
        on.command(
            "transfer",
            "Sends money to another account, if there is as much",
        )
        .decide(commands::transfer);
        on.command(
            "refund",
            "Takes back the money of a transfer that was declined",
        )
        .decide(commands::refund);
        on.command("close", "Closes an account that is empty")
            .decide(commands::close);
    }
}

impl EmitState for BankAccount {
    fn emit_state(_account: &[u8], state: &AccountState) -> NewEvents<AccountEvent> {
        AccountEvent::from(AccountChange::Snapshot(state.clone())).into()
    }
}

impl Query for BankAccount {
    fn queries(on: &mut Queries<Self>) {
        on.default("Owner, balance and whether it is open")
            .answer(balance);
        on.query(
            "transfers",
            "What was sent to whom, and what of it came back",
        )
        .answer(transfers);
    }
}

#[derive(Serialize)]
struct Balance<'a> {
    owner: &'a str,
    balance_cents: u64,
    status: &'static str,
}

fn balance<'a>(
    question: Question<'a, AccountState>,
    _: NoArguments,
) -> Result<Balance<'a>, QueryError> {
    let account = opened(question)?;
    Ok(Balance {
        owner: &account.owner,
        balance_cents: account.balance_cents,
        status: if account.closed { "closed" } else { "open" },
    })
}

#[derive(Serialize)]
struct Transfers<'a> {
    transfers: Vec<Sent<'a>>,
}

#[derive(Serialize)]
struct Sent<'a> {
    to: &'a str,
    sent: u64,
    sent_cents: u64,
    refunded: u64,
    refunded_cents: u64,
}

fn transfers<'a>(
    question: Question<'a, AccountState>,
    _: NoArguments,
) -> Result<Transfers<'a>, QueryError> {
    let counterparties = opened(question)?.counterparties.iter();
    let sent = counterparties.filter(|(_, other)| other.sent > 0);
    let one = |(to, other): (&'a String, &Counterparty)| Sent {
        to,
        sent: other.sent,
        sent_cents: other.sent_cents,
        refunded: numbers::count(&other.refunded),
        refunded_cents: other.refunded_cents,
    };
    Ok(Transfers {
        transfers: sent.map(one).collect(),
    })
}

/// A key that has only answered transfers is no account.
fn opened<'a>(question: Question<'a, AccountState>) -> Result<&'a AccountState, QueryError> {
    let account = question.state()?;
    account
        .opened
        .then_some(account)
        .ok_or(QueryError::NotFound)
}

foldhost_sdk::export!(BankAccount: CommandHandler + Query + EmitState);

#[cfg(test)]
mod tests;
