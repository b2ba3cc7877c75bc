//! The books of the example bank, kept from what lies in its topic alone. Called by the scenario of the bank.
//!
//! Invariant: events are decoded by the published schema (`plugins/bank-events/bank.proto`), and nothing that the host
//! or the plugin says about an account is believed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use prost::{Message, Oneof};
use serde_json::Value;

use crate::http::number;
use crate::topic;

#[derive(Clone, PartialEq, Message)]
struct AccountEvent {
    #[prost(oneof = "Change", tags = "1, 2, 3, 4, 5, 6")]
    change: Option<Change>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Change {
    #[prost(message, tag = "1")]
    Opened(Opened),
    #[prost(message, tag = "2")]
    Deposited(Moved),
    #[prost(message, tag = "3")]
    Withdrawn(Moved),
    #[prost(message, tag = "4")]
    Declined(Declined),
    #[prost(message, tag = "5")]
    Refunded(Moved),
    #[prost(message, tag = "6")]
    Closed(Closed),
}

#[derive(Clone, PartialEq, Message)]
struct Opened {
    #[prost(string, tag = "1")]
    owner: String,
}

#[derive(Clone, PartialEq, Message)]
struct Closed {}

#[derive(Clone, PartialEq, Message)]
struct Moved {
    #[prost(uint64, tag = "1")]
    cents: u64,
    #[prost(uint64, tag = "2")]
    balance_cents: u64,
    #[prost(message, optional, tag = "3")]
    transfer: Option<Transfer>,
}

#[derive(Clone, PartialEq, Message)]
struct Declined {
    #[prost(uint64, tag = "1")]
    cents: u64,
    #[prost(message, optional, tag = "2")]
    transfer: Option<Transfer>,
}

#[derive(Clone, PartialEq, Message)]
struct Transfer {
    #[prost(string, tag = "1")]
    other: String,
    #[prost(uint64, tag = "2")]
    number: u64,
}

/// Sender, receiver and number.
type TransferId = (String, String, u64);

/// What became of all money.
#[derive(Debug, Default)]
pub struct Books {
    balances: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
    /// How often each command caused an event.
    commands: BTreeMap<String, usize>,
    paid_in_cents: u64,
    paid_out_cents: u64,
    sent: BTreeMap<TransferId, u64>,
    received: BTreeMap<TransferId, u64>,
    declined: BTreeMap<TransferId, u64>,
    refunded: BTreeMap<TransferId, u64>,
}

impl Books {
    /// Enters the records of `bank-accounts`, as a host tells them, by partition and offset.
    ///
    /// # Errors
    /// If an account is overdrawn at some event, an event's new balance is not the sum of those before, a step of a
    /// transfer comes twice, or versions have gaps.
    pub fn keep(records: &[Value]) -> Result<Self> {
        let mut books = Self::default();
        for record in records {
            books
                .enter(record)
                .with_context(|| format!("at {record}"))?;
        }
        Ok(books)
    }

    fn enter(&mut self, record: &Value) -> Result<()> {
        let account = record["key"].as_str().context("a key is text")?;
        let header = |name: &str| record["headers"][name].as_str();
        let version = header("foldhost-version").context("no version")?.parse()?;
        let before = self.versions.insert(account.to_owned(), version);
        ensure!(before.unwrap_or(0) + 1 == version, "follows {before:?}");
        let cause = header("foldhost-cause").context("no cause")?;
        if let Some(id) = cause.strip_prefix("command ") {
            *self.commands.entry(id.to_owned()).or_default() += 1;
        }
        let event = AccountEvent::decode(&*topic::value_bytes(record)?)?;
        match event.change.context("no change")? {
            Change::Opened(_) => ensure!(
                self.balances.insert(account.to_owned(), 0).is_none(),
                "opened twice"
            ),
            Change::Deposited(moved) => {
                self.put(account, &moved)?;
                match moved.transfer {
                    None => self.paid_in_cents += moved.cents,
                    Some(of) => once(&mut self.received, from(of, account), moved.cents)?,
                }
            }
            Change::Withdrawn(moved) => {
                let balance = self.balances.get_mut(account).context("not opened")?;
                let left = balance.checked_sub(moved.cents).context("overdrawn")?;
                ensure!(left == moved.balance_cents, "{left} are left");
                *balance = left;
                match moved.transfer {
                    None => self.paid_out_cents += moved.cents,
                    Some(of) => once(&mut self.sent, to(account, of), moved.cents)?,
                }
            }
            Change::Declined(declined) => {
                let of = declined.transfer.context("of no transfer")?;
                once(&mut self.declined, from(of, account), declined.cents)?;
            }
            Change::Refunded(moved) => {
                self.put(account, &moved)?;
                let of = moved.transfer.context("of no transfer")?;
                once(&mut self.refunded, to(account, of), moved.cents)?;
            }
            Change::Closed(_) => {
                ensure!(self.balances.get(account) == Some(&0), "not empty");
            }
        }
        Ok(())
    }

    fn put(&mut self, account: &str, moved: &Moved) -> Result<()> {
        let balance = self.balances.get_mut(account).context("not opened")?;
        *balance += moved.cents;
        ensure!(*balance == moved.balance_cents, "{balance} are there");
        Ok(())
    }

    /// How many transfers have not ended.
    #[must_use]
    pub fn under_way(&self) -> usize {
        let ended = |id| self.received.contains_key(id) || self.refunded.contains_key(id);
        self.sent.keys().filter(|id| !ended(id)).count()
    }

    /// How many transfers came back.
    #[must_use]
    pub fn refunds(&self) -> usize {
        self.refunded.len()
    }

    /// How often a command caused an event.
    #[must_use]
    pub fn caused_by(&self, command: &str) -> usize {
        self.commands.get(command).copied().unwrap_or(0)
    }

    /// How many commands, other than those of transfers, caused an event.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.commands.len()
    }

    /// That every transfer has ended once and as it was sent, and that money was neither made nor lost.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn balance(&self) -> Result<()> {
        for (id, cents) in &self.sent {
            let ends = (self.received.get(id), self.refunded.get(id));
            let (is_whole, comes_back) = match ends {
                (Some(got), None) => (got == cents, false),
                (None, Some(got)) => (got == cents, true),
                other => bail!("{id:?} has ended with {other:?}"),
            };
            let is_declined = self.declined.get(id).is_some_and(|it| it == cents);
            ensure!(is_whole && is_declined == comes_back, "{id:?}: {ends:?}");
        }
        let unsent = self.received.keys().chain(self.refunded.keys());
        let unsent = unsent.chain(self.declined.keys());
        let unsent: Vec<_> = unsent.filter(|id| !self.sent.contains_key(*id)).collect();
        ensure!(unsent.is_empty(), "never sent: {unsent:?}");
        let there: u64 = self.balances.values().sum();
        let came = self.paid_in_cents - self.paid_out_cents;
        ensure!(there == came, "{there} cents are there, {came} came");
        Ok(())
    }
}

fn to(sender: &str, of: Transfer) -> TransferId {
    (sender.to_owned(), of.other, of.number)
}

fn from(of: Transfer, receiver: &str) -> TransferId {
    (of.other, receiver.to_owned(), of.number)
}

fn once(steps: &mut BTreeMap<TransferId, u64>, id: TransferId, cents: u64) -> Result<()> {
    let shown = format!("{id:?}");
    ensure!(steps.insert(id, cents).is_none(), "{shown} twice");
    Ok(())
}

/// Cents of an account, as `bank-account` answers.
///
/// # Errors
/// If it answers something else.
pub fn balance_of(answer: &Value) -> Result<u64> {
    number(&answer["balance_cents"]).with_context(|| format!("no balance: {answer}"))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    fn record(account: &str, version: u64, cause: &str, change: Change) -> Value {
        let event = AccountEvent {
            change: Some(change),
        };
        json!({
            "key": account, "value_base64": URL_SAFE_NO_PAD.encode(event.encode_to_vec()),
            "headers": {"foldhost-version": version.to_string(), "foldhost-cause": cause},
        })
    }

    fn moved(cents: u64, balance_cents: u64, other: Option<&str>) -> Moved {
        Moved {
            cents,
            balance_cents,
            transfer: other.map(|other| Transfer {
                other: other.to_owned(),
                number: 1,
            }),
        }
    }

    fn right() -> Vec<Value> {
        let opened = || Change::Opened(Opened::default());
        vec![
            record("ann", 1, "command 1", opened()),
            record("ann", 2, "command 2", Change::Deposited(moved(9, 9, None))),
            record(
                "ann",
                3,
                "command 3",
                Change::Withdrawn(moved(4, 5, Some("bob"))),
            ),
            record("bob", 1, "command 4", opened()),
            record(
                "bob",
                2,
                "t/0@0",
                Change::Deposited(moved(4, 4, Some("ann"))),
            ),
        ]
    }

    #[test]
    fn what_is_right_passes() {
        let books = Books::keep(&right()).unwrap();
        books.balance().unwrap();
        assert_eq!((books.under_way(), books.commands()), (0, 4));
    }

    #[test]
    fn what_is_wrong_is_found() {
        let with = |index: usize, record: Value| {
            let mut records = right();
            records[index] = record;
            Books::keep(&records).and_then(|books| books.balance())
        };
        let overdrawn = Change::Withdrawn(moved(10, 0, Some("bob")));
        assert!(with(2, record("ann", 3, "c", overdrawn)).is_err());
        let made = Change::Deposited(moved(5, 5, Some("ann")));
        assert!(with(4, record("bob", 2, "c", made)).is_err());
        let other = Change::Deposited(moved(4, 4, None));
        assert!(with(4, record("bob", 2, "c", other)).is_err(), "not ended");
        let mut twice = right();
        twice.push(record(
            "bob",
            3,
            "c",
            Change::Deposited(moved(4, 8, Some("ann"))),
        ));
        assert!(Books::keep(&twice).is_err());
        let gap = record("ann", 3, "command 2", Change::Deposited(moved(9, 9, None)));
        assert!(with(1, gap).is_err());
    }
}
