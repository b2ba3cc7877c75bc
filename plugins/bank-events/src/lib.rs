//! What is written between the bank's plugins: the events of `bank-accounts`, as in `bank.proto` beside this
//! crate, and the commands of `bank-commands`.
//!
//! Used by `bank-account` and `bank-transfers`. Written by hand rather than generated, so that building a
//! plugin needs no protobuf compiler; a test holds it to the `.proto` file.

mod commands;

use std::collections::BTreeMap;

use prost::{Message, Oneof};

pub use commands::{Deposit, FromSender, Refund, ToReceiver};

/// Something that happened to an account, or that it answered.
#[derive(Clone, PartialEq, Message)]
pub struct AccountEvent {
    /// What happened; `None` if it is something that this code does not know.
    #[prost(oneof = "AccountChange", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub change: Option<AccountChange>,
}

/// What happened to an account.
#[derive(Clone, PartialEq, Oneof)]
pub enum AccountChange {
    /// There is such an account.
    #[prost(message, tag = "1")]
    Opened(AccountOpened),
    /// Money came in.
    #[prost(message, tag = "2")]
    Deposited(Deposited),
    /// Money went out.
    #[prost(message, tag = "3")]
    Withdrawn(Withdrawn),
    /// The money of a transfer could not come in here.
    #[prost(message, tag = "4")]
    Declined(DepositDeclined),
    /// The money of a transfer came back.
    #[prost(message, tag = "5")]
    Refunded(Refunded),
    /// The account takes no money any more.
    #[prost(message, tag = "6")]
    Closed(AccountClosed),
    /// All that is known of the account.
    #[prost(message, tag = "7")]
    Snapshot(AccountState),
}

impl From<AccountChange> for AccountEvent {
    fn from(change: AccountChange) -> Self {
        Self {
            change: Some(change),
        }
    }
}

/// There is such an account; its balance is zero.
#[derive(Clone, PartialEq, Message)]
pub struct AccountOpened {
    /// Whose account it is.
    #[prost(string, tag = "1")]
    pub owner: String,
}

/// Money came in: at a counter, or by a transfer.
#[derive(Clone, PartialEq, Message)]
pub struct Deposited {
    /// How much.
    #[prost(uint64, tag = "1")]
    pub cents: u64,
    /// What is there now.
    #[prost(uint64, tag = "2")]
    pub balance_cents: u64,
    /// Of the transfer; its `other` is the sender.
    #[prost(message, optional, tag = "3")]
    pub transfer: Option<Transfer>,
}

/// Money went out: at a counter, or by a transfer.
#[derive(Clone, PartialEq, Message)]
pub struct Withdrawn {
    /// How much.
    #[prost(uint64, tag = "1")]
    pub cents: u64,
    /// What is there now.
    #[prost(uint64, tag = "2")]
    pub balance_cents: u64,
    /// Of the transfer; its `other` is the account to which it goes.
    #[prost(message, optional, tag = "3")]
    pub transfer: Option<Transfer>,
}

/// The money of a transfer could not come in here. It goes back.
#[derive(Clone, PartialEq, Message)]
pub struct DepositDeclined {
    /// How much.
    #[prost(uint64, tag = "1")]
    pub cents: u64,
    /// Its `other` is the sender.
    #[prost(message, optional, tag = "2")]
    pub transfer: Option<Transfer>,
    /// Why: `no-account`, `account-closed` or `balance-limit`.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// The money of a transfer came back to its sender.
#[derive(Clone, PartialEq, Message)]
pub struct Refunded {
    /// How much.
    #[prost(uint64, tag = "1")]
    pub cents: u64,
    /// What is there now.
    #[prost(uint64, tag = "2")]
    pub balance_cents: u64,
    /// Its `other` is the account that declined it.
    #[prost(message, optional, tag = "3")]
    pub transfer: Option<Transfer>,
    /// As in the decline.
    #[prost(string, tag = "4")]
    pub reason: String,
}

/// The account takes no money any more. It is empty, but for what comes back to it.
#[derive(Clone, PartialEq, Message)]
pub struct AccountClosed {}

/// A transfer, as one of its two accounts sees it: sender, receiver and number name it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct Transfer {
    /// The account on the other side.
    #[prost(string, tag = "1")]
    pub other: String,
    /// Which of the transfers from this sender to this receiver, from 1.
    #[prost(uint64, tag = "2")]
    pub number: u64,
}

/// All that is known of an account: what is left of its events before this one.
#[derive(Clone, PartialEq, Message)]
pub struct AccountState {
    /// Whose account it is.
    #[prost(string, tag = "1")]
    pub owner: String,
    /// Whether there is such an account. A key may have answered transfers before.
    #[prost(bool, tag = "2")]
    pub opened: bool,
    /// Whether it takes no money any more.
    #[prost(bool, tag = "3")]
    pub closed: bool,
    /// What is there.
    #[prost(uint64, tag = "4")]
    pub balance_cents: u64,
    /// Of all transfers that it ever sent.
    #[prost(uint64, tag = "5")]
    pub sent_cents: u64,
    /// By account.
    #[prost(btree_map = "string, message", tag = "6")]
    pub counterparties: BTreeMap<String, Counterparty>,
}

/// What one account knows of its transfers with another one.
#[derive(Clone, PartialEq, Message)]
pub struct Counterparty {
    /// How many were sent to it: their numbers are 1 to this.
    #[prost(uint64, tag = "1")]
    pub sent: u64,
    /// Of all of those.
    #[prost(uint64, tag = "2")]
    pub sent_cents: u64,
    /// Which of those came back. Sorted; ranges neither overlap nor touch.
    #[prost(message, repeated, tag = "3")]
    pub refunded: Vec<Numbers>,
    /// Of all that came back.
    #[prost(uint64, tag = "4")]
    pub refunded_cents: u64,
    /// Which of the transfers from it were answered, deposited or declined. As `refunded`.
    #[prost(message, repeated, tag = "5")]
    pub answered: Vec<Numbers>,
}

/// A range of numbers; both ends are in it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Numbers {
    /// The first one.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// The last one.
    #[prost(uint64, tag = "2")]
    pub last: u64,
}

#[cfg(test)]
mod tests {
    use proto_fields::{of_proto, of_rust};

    use super::*;

    #[test]
    fn this_file_says_what_the_proto_file_says() {
        let mut proto = of_proto(include_str!("../bank.proto"));
        let mut rust = of_rust(include_str!("lib.rs"));
        proto.sort();
        rust.sort();
        assert_eq!(proto.len(), 36);
        assert_eq!(rust, proto);
    }

    #[test]
    fn an_event_has_these_bytes() {
        let withdrawn = AccountEvent::from(AccountChange::Withdrawn(Withdrawn {
            cents: 5,
            balance_cents: 200,
            transfer: Some(Transfer {
                other: "bob".into(),
                number: 1,
            }),
        }));
        let bytes = b"\x1a\x0e\x08\x05\x10\xc8\x01\x1a\x07\x0a\x03bob\x10\x01";
        assert_eq!(withdrawn.encode_to_vec(), bytes);
        assert_eq!(AccountEvent::decode(&bytes[..]).unwrap(), withdrawn);
    }
}
