//! What an account does and refuses, and every way that a transfer can take; of whole banks, at random, in
//! `world`.

mod world;

use bank_events::{DepositDeclined, Refunded, Transfer, Withdrawn};
use bank_transfers::BankTransfers;
use foldhost_sdk::Refusal;
use foldhost_sdk::testing::{Decided, Driver, Record};
use serde_json::{Value, json};

use super::*;

type Bank = Driver<BankAccount>;

/// A bank with these accounts, and so much on them.
fn bank(accounts: &[(&str, u64)]) -> Bank {
    let mut bank = Bank::new();
    for (account, cents) in accounts {
        bank.command(account, "open", json!({"owner": format!("Mx {account}")}))
            .unwrap();
        if *cents > 0 {
            deposit(&mut bank, account, *cents).unwrap();
        }
    }
    bank
}

fn deposit(bank: &mut Bank, account: &str, cents: u64) -> Result<Decided, Refusal> {
    bank.command(account, "deposit", json!({"cents": cents}))
}

fn withdraw(bank: &mut Bank, account: &str, cents: u64) -> Result<Decided, Refusal> {
    bank.command(account, "withdraw", json!({"cents": cents}))
}

fn transfer(bank: &mut Bank, from: &str, to: &str, cents: u64) -> Result<Decided, Refusal> {
    bank.command(from, "transfer", json!({"to": to, "cents": cents}))
}

/// The commands that follow from what was decided.
fn follow(decided: &Decided) -> Vec<Record> {
    let mut transfers = Driver::<BankTransfers>::new();
    assert_eq!(transfers.send_all(decided.events.iter().cloned()), []);
    transfers.outputs().to_vec()
}

/// Decides what follows, and what follows from that, in order.
fn settle(bank: &mut Bank, decided: &Decided) {
    let mut commands = follow(decided);
    while !commands.is_empty() {
        let next = commands.remove(0);
        commands.extend(follow(&bank.deliver(&next).unwrap()));
    }
}

fn cents(bank: &mut Bank, account: &str) -> u64 {
    bank.query(account, "", &[]).unwrap()["balance_cents"]
        .as_u64()
        .unwrap()
}

fn event(account: &str, change: AccountChange) -> Record {
    Record::new(account, &AccountEvent::from(change))
}

fn of(other: &str, number: u64) -> Option<Transfer> {
    let other = other.to_owned();
    Some(Transfer { other, number })
}

fn code(outcome: Result<Decided, Refusal>) -> String {
    outcome.unwrap_err().code().to_owned()
}

#[test]
fn an_account_lives() {
    let mut bank = Bank::new();
    bank.command("ann", "open", json!({"owner": "Ann"}))
        .unwrap();
    assert_eq!(
        deposit(&mut bank, "ann", 500).unwrap().reply(),
        json!({"balance_cents": 500})
    );
    let decided = withdraw(&mut bank, "ann", 200).unwrap();
    let withdrawn = Withdrawn {
        cents: 200,
        balance_cents: 300,
        transfer: None,
    };
    assert_eq!(
        decided.events,
        [event("ann", AccountChange::Withdrawn(withdrawn))]
    );
    let answer = json!({"owner": "Ann", "balance_cents": 300, "status": "open"});
    assert_eq!(bank.query("ann", "", &[]).unwrap(), answer);

    assert_eq!(code(bank.command("ann", "close", ())), "not-empty");
    withdraw(&mut bank, "ann", 300).unwrap();
    bank.command("ann", "close", ()).unwrap();
    assert_eq!(bank.query("ann", "", &[]).unwrap()["status"], "closed");
    let again = bank.command("ann", "close", ()).unwrap();
    assert_eq!(again.events, [], "it is closed already");
    for (command, body) in [
        ("open", json!({"owner": "Bob"})),
        ("deposit", json!({"cents": 1})),
        ("transfer", json!({"to": "bob", "cents": 1})),
    ] {
        assert_eq!(code(bank.command("ann", command, body)), "account-closed");
    }
    assert_eq!(code(withdraw(&mut bank, "ann", 1)), "insufficient-funds");
    bank.assert_deterministic();
    bank.assert_emit_state();
}

#[test]
fn there_is_no_overdraft() {
    let mut bank = bank(&[("ann", 500), ("bob", 0)]);
    for outcome in [
        withdraw(&mut bank, "ann", 501),
        transfer(&mut bank, "ann", "bob", 501),
    ] {
        let refusal = outcome.unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "insufficient-funds: there are 500 cents"
        );
        assert_eq!(refusal.details_json(), Some(r#"{"balance_cents":500}"#));
    }
    withdraw(&mut bank, "ann", 500).unwrap();
    assert_eq!(code(withdraw(&mut bank, "ann", 1)), "insufficient-funds");
    assert_eq!(cents(&mut bank, "ann"), 0);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut bank = bank(&[("ann", 500)]);
    for (account, command, body, expected) in [
        (
            "ann",
            "open",
            json!({"owner": "Eve"}),
            "account-exists: this account is open already",
        ),
        (
            "bob",
            "open",
            json!({"owner": " "}),
            "field `owner`: expected somebody's name",
        ),
        (
            "bob",
            "deposit",
            json!({"cents": 1}),
            "no-account: there is no such account",
        ),
        (
            "bob",
            "withdraw",
            json!({"cents": 1}),
            "no-account: there is no such account",
        ),
        (
            "bob",
            "close",
            json!({}),
            "no-account: there is no such account",
        ),
        (
            "ann",
            "deposit",
            json!({"cents": 0}),
            "field `cents`: expected at least 1",
        ),
        (
            "ann",
            "withdraw",
            json!({"cents": 0}),
            "field `cents`: expected at least 1",
        ),
        (
            "ann",
            "transfer",
            json!({"to": "bob", "cents": 0}),
            "field `cents`: expected at least 1",
        ),
        (
            "ann",
            "deposit",
            json!({"cents": -1}),
            "field `cents`: expected an integer from 0 to 18446744073709551615, not `-1`",
        ),
        (
            "ann",
            "transfer",
            json!({"to": "", "cents": 1}),
            "field `to`: expected an account, of 1 to 200 bytes",
        ),
        (
            "ann",
            "transfer",
            json!({"to": "ann", "cents": 1}),
            "same-account: the money is there already",
        ),
        (
            "ann",
            "deposit",
            json!({"cents": 1, "transfer": {"from": "ann", "number": 1}}),
            "same-account: no account sends money to itself",
        ),
        (
            "ann",
            "deposit",
            json!({"cents": 1, "transfer": {"from": "bob", "number": 0}}),
            "field `transfer.number`: expected at least 1",
        ),
        (
            "ann",
            "deposit",
            json!({"cents": 1, "transfer": {"from": "bob"}}),
            "field `transfer.number`: missing",
        ),
        ("ann", "borrow", json!({}), "there is no such command"),
    ] {
        let refusal = bank.command(account, command, body).unwrap_err();
        assert_eq!(refusal.to_string(), expected);
    }
    let long = "x".repeat(201);
    assert_eq!(
        code(bank.command(&long, "open", json!({"owner": "Ann"}))),
        "bad-account"
    );
    assert_eq!(
        code(bank.command(*b"\xff", "open", json!({"owner": "Ann"}))),
        "bad-account"
    );
    assert_eq!(bank.states().len(), 1);
    bank.assert_deterministic();
}

#[test]
fn a_transfer_arrives() {
    let mut bank = bank(&[("ann", 500), ("bob", 0)]);
    let decided = transfer(&mut bank, "ann", "bob", 300).unwrap();
    let reply = json!({"balance_cents": 200, "transfer": {"to": "bob", "number": 1}});
    assert_eq!(decided.reply(), reply);
    let [command] = &follow(&decided)[..] else {
        panic!("one command follows");
    };
    let deposited = bank.deliver(command).unwrap();
    assert_eq!(follow(&deposited), []);
    assert_eq!(
        (cents(&mut bank, "ann"), cents(&mut bank, "bob")),
        (200, 300)
    );

    let again = bank.deliver(command).unwrap();
    assert_eq!(
        (&again.events[..], again.reply()),
        (&[][..], json!({"balance_cents": 300}))
    );
    let answer = json!({"transfers": [
        {"to": "bob", "sent": 1, "sent_cents": 300, "refunded": 0, "refunded_cents": 0},
    ]});
    assert_eq!(bank.query("ann", "transfers", &[]).unwrap(), answer);
    assert_eq!(
        bank.query("bob", "transfers", &[]).unwrap(),
        json!({"transfers": []})
    );
}

#[test]
fn what_is_declined_comes_back() {
    let mut bank = bank(&[("ann", 500), ("bob", 0)]);
    bank.command("bob", "close", ()).unwrap();
    for (to, reason) in [("bob", "account-closed"), ("nobody", "no-account")] {
        let sent = transfer(&mut bank, "ann", to, 300).unwrap();
        let declined = bank.deliver(&follow(&sent)[0]).unwrap();
        let expected = DepositDeclined {
            cents: 300,
            transfer: of("ann", 1),
            reason: reason.into(),
        };
        assert_eq!(
            declined.events,
            [event(to, AccountChange::Declined(expected))]
        );
        let refund = &follow(&declined)[0];
        let refunded = bank.deliver(refund).unwrap();
        let expected = Refunded {
            cents: 300,
            balance_cents: 500,
            transfer: of(to, 1),
            reason: reason.into(),
        };
        assert_eq!(
            refunded.events,
            [event("ann", AccountChange::Refunded(expected))]
        );
        assert_eq!(
            bank.deliver(refund).unwrap().events,
            [],
            "it came back already"
        );
        assert_eq!(cents(&mut bank, "ann"), 500);
    }
    let unknown = bank.query("nobody", "", &[]);
    assert_eq!(
        unknown,
        Err(QueryError::NotFound),
        "it has answered, and is no account"
    );
    bank.assert_deterministic();
    bank.assert_emit_state();
}

#[test]
fn a_declined_transfer_stays_declined() {
    let mut bank = bank(&[("ann", 500)]);
    let sent = transfer(&mut bank, "ann", "bob", 300).unwrap();
    settle(&mut bank, &sent);
    bank.command("bob", "open", json!({"owner": "Bob"}))
        .unwrap();
    let late = bank.deliver(&follow(&sent)[0]).unwrap();
    assert_eq!(
        late.events,
        [],
        "the money went back when there was no account"
    );
    assert_eq!((cents(&mut bank, "ann"), cents(&mut bank, "bob")), (500, 0));
    let next = transfer(&mut bank, "ann", "bob", 100).unwrap();
    settle(&mut bank, &next);
    assert_eq!(
        (cents(&mut bank, "ann"), cents(&mut bank, "bob")),
        (400, 100)
    );
}

#[test]
fn a_refund_comes_to_an_account_that_was_closed_meanwhile() {
    let mut bank = bank(&[("ann", 500)]);
    let sent = transfer(&mut bank, "ann", "nobody", 500).unwrap();
    bank.command("ann", "close", ()).unwrap();
    settle(&mut bank, &sent);
    let answer = json!({"owner": "Mx ann", "balance_cents": 500, "status": "closed"});
    assert_eq!(bank.query("ann", "", &[]).unwrap(), answer);
    assert_eq!(code(transfer(&mut bank, "ann", "bob", 1)), "account-closed");
    withdraw(&mut bank, "ann", 500).unwrap();
    assert_eq!(cents(&mut bank, "ann"), 0);
}

#[test]
fn refunds_of_what_was_not_sent_are_refused() {
    let mut bank = bank(&[("ann", 500), ("bob", 0)]);
    let sent = transfer(&mut bank, "ann", "bob", 300).unwrap();
    settle(&mut bank, &sent);
    let mut refund = |account: &str, to: &str, number: u64, cents: u64| {
        let transfer = json!({"to": to, "number": number});
        let body = json!({"cents": cents, "transfer": transfer, "reason": "account-closed"});
        code(bank.command(account, "refund", body))
    };
    assert_eq!(
        refund("ann", "bob", 2, 300),
        "unknown-transfer",
        "no such number"
    );
    assert_eq!(refund("ann", "bob", 0, 300), "unknown-transfer");
    assert_eq!(
        refund("ann", "bob", 1, 301),
        "unknown-transfer",
        "more than was sent"
    );
    assert_eq!(
        refund("ann", "eve", 1, 300),
        "unknown-transfer",
        "nothing went there"
    );
    assert_eq!(
        refund("bob", "ann", 1, 300),
        "unknown-transfer",
        "it was the other way"
    );
    assert_eq!(
        refund("eve", "ann", 1, 300),
        "unknown-transfer",
        "no account at all"
    );
    assert_eq!(refund("ann", "bob", 1, 0), "bad-body");
}

#[test]
fn an_account_that_is_full_declines_and_still_takes_back() {
    let full = commands::BALANCE_CENTS_MAX;
    let mut bank = bank(&[("ann", 500), ("bob", full)]);
    assert_eq!(code(deposit(&mut bank, "bob", 1)), "balance-limit");
    let sent = transfer(&mut bank, "ann", "bob", 500).unwrap();
    settle(&mut bank, &sent);
    assert_eq!(
        (cents(&mut bank, "ann"), cents(&mut bank, "bob")),
        (500, full)
    );

    // All of it goes out and is on its way back, while the account is filled again.
    let sent = transfer(&mut bank, "bob", "nobody", full).unwrap();
    deposit(&mut bank, "bob", full).unwrap();
    settle(&mut bank, &sent);
    assert_eq!(cents(&mut bank, "bob"), 2 * full);
    assert_eq!(code(deposit(&mut bank, "bob", 1)), "balance-limit");
    withdraw(&mut bank, "bob", full + 1).unwrap();
    deposit(&mut bank, "bob", 1).unwrap();
}

#[test]
fn what_an_account_sends_is_bounded_so_that_all_of_it_can_come_back() {
    let state = AccountState {
        opened: true,
        balance_cents: 100,
        sent_cents: u64::MAX / 2 - 10,
        ..AccountState::default()
    };
    let mut bank = Bank::new();
    bank.given([event("ann", AccountChange::Snapshot(state))]);
    assert_eq!(
        code(transfer(&mut bank, "ann", "bob", 11)),
        "transfer-limit"
    );
    let sent = transfer(&mut bank, "ann", "bob", 10).unwrap();
    settle(&mut bank, &sent);
    assert_eq!(code(transfer(&mut bank, "ann", "bob", 1)), "transfer-limit");
    assert_eq!(cents(&mut bank, "ann"), 100);
}

#[test]
fn events_that_contradict_themselves_are_rejected() {
    let mut bank = Bank::new();
    let declined = |transfer| {
        let reason = "no-account".to_owned();
        AccountChange::Declined(DepositDeclined {
            cents: 1,
            transfer,
            reason,
        })
    };
    let withdrawn = |cents| {
        AccountChange::Withdrawn(Withdrawn {
            cents,
            balance_cents: 0,
            transfer: of("bob", 1),
        })
    };
    let mut reject = |record: Record| bank.send(record).unwrap_err().code().to_owned();
    assert_eq!(reject(event("ann", declined(None))), "bad-event");
    assert_eq!(
        reject(Record::new("ann", &AccountEvent { change: None })),
        "bad-event"
    );
    assert_eq!(reject(Record::tombstone("ann")), "no-value");
    bank.send(event("ann", withdrawn(u64::MAX))).unwrap();
    let reject = bank.send(event("ann", withdrawn(1))).unwrap_err();
    assert_eq!(
        reject.to_string(),
        "bad-event: there is no such amount of money"
    );
}

#[test]
fn commands_are_as_bank_events_writes_them() {
    let mut bank = bank(&[("ann", 1)]);
    let body = |value: Value| value.to_string().into_bytes();
    let record = Record::raw("ann", body(json!({"cents": 5})))
        .header("foldhost-command", "deposit")
        .header("content-type", "application/json");
    assert_eq!(
        bank.deliver(&record).unwrap().reply(),
        json!({"balance_cents": 6})
    );
}
