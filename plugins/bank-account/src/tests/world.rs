//! Banks at random: commands of customers, and commands of transfers in any order, some of them twice, while
//! accounts open and close. At every event: no balance is below zero, and what is on all accounts and under
//! way is what came in at the counters. A failure names its seed.

use std::collections::{BTreeMap, BTreeSet};

use bank_events::{AccountChange, AccountEvent, Transfer};
use bank_transfers::BankTransfers;
use foldhost_sdk::testing::{Decided, Driver, Record};
use serde_json::json;

use crate::BankAccount;

const ACCOUNTS: [&str; 5] = ["ann", "bob", "cyd", "dan", "eve"];
/// How often a command of a transfer can come again.
const REPEATS_MAX: u8 = 3;

/// Numbers without pattern, the same ones for a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn account(&mut self) -> &'static str {
        ACCOUNTS[self.below(ACCOUNTS.len() as u64) as usize]
    }
}

/// Sender, receiver and number of a transfer.
type Id = (String, String, u64);

fn id(sender: &str, receiver: &str, transfer: &Transfer) -> Id {
    (sender.to_owned(), receiver.to_owned(), transfer.number)
}

/// Reads the topic as an auditor does, who knows nothing of how it was decided.
#[derive(Default)]
struct Audit {
    balances: BTreeMap<String, i128>,
    closed: BTreeSet<String>,
    /// What came in at the counters, less what went out there.
    cash: i128,
    sent: BTreeMap<Id, i128>,
    deposited: BTreeSet<Id>,
    declined: BTreeSet<Id>,
    refunded: BTreeSet<Id>,
}

impl Audit {
    fn read(&mut self, record: &Record) {
        let account = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
        let change = record.value_as::<AccountEvent>().unwrap().change.unwrap();
        let told = match change {
            AccountChange::Opened(_) => {
                let before = self.balances.insert(account.clone(), 0);
                assert_eq!(before, None, "{account} was opened twice");
                0
            }
            AccountChange::Deposited(it) => {
                assert!(!self.closed.contains(&account), "{account} is closed");
                match it.transfer {
                    None => self.cash += i128::from(it.cents),
                    Some(transfer) => {
                        self.arrived(id(&transfer.other, &account, &transfer), it.cents)
                    }
                }
                *self.balance_of(&account) += i128::from(it.cents);
                it.balance_cents
            }
            AccountChange::Withdrawn(it) => {
                match it.transfer {
                    None => self.cash -= i128::from(it.cents),
                    Some(transfer) => self.left(id(&account, &transfer.other, &transfer), it.cents),
                }
                *self.balance_of(&account) -= i128::from(it.cents);
                it.balance_cents
            }
            AccountChange::Declined(it) => {
                let transfer = it.transfer.unwrap();
                self.declined(id(&transfer.other, &account, &transfer), it.cents);
                return self.balance();
            }
            AccountChange::Refunded(it) => {
                let transfer = it.transfer.unwrap();
                self.came_back(id(&account, &transfer.other, &transfer), it.cents);
                *self.balance_of(&account) += i128::from(it.cents);
                it.balance_cents
            }
            AccountChange::Closed(_) => {
                assert!(
                    self.closed.insert(account.clone()),
                    "{account} was closed twice"
                );
                0
            }
            AccountChange::Snapshot(state) => {
                let balance = self.balances.get(&account).copied();
                assert_eq!(balance.unwrap_or_default(), i128::from(state.balance_cents));
                return;
            }
        };
        let balance = *self.balance_of(&account);
        assert!(balance >= 0, "{account} is overdrawn");
        assert_eq!(balance, i128::from(told), "{account} tells another balance");
        self.balance();
    }

    fn balance_of(&mut self, account: &str) -> &mut i128 {
        self.balances
            .get_mut(account)
            .expect("the account was opened")
    }

    fn left(&mut self, id: Id, cents: u64) {
        let before = self.sent.insert(id.clone(), i128::from(cents));
        assert_eq!(before, None, "{id:?} left twice");
    }

    fn arrived(&mut self, id: Id, cents: u64) {
        assert_eq!(self.sent.get(&id), Some(&i128::from(cents)), "{id:?}");
        assert!(!self.declined.contains(&id), "{id:?} was declined");
        assert!(self.deposited.insert(id.clone()), "{id:?} arrived twice");
    }

    fn declined(&mut self, id: Id, cents: u64) {
        assert_eq!(self.sent.get(&id), Some(&i128::from(cents)), "{id:?}");
        assert!(!self.deposited.contains(&id), "{id:?} has arrived");
        assert!(
            self.declined.insert(id.clone()),
            "{id:?} was declined twice"
        );
    }

    fn came_back(&mut self, id: Id, cents: u64) {
        assert_eq!(self.sent.get(&id), Some(&i128::from(cents)), "{id:?}");
        assert!(self.declined.contains(&id), "{id:?} was not declined");
        assert!(self.refunded.insert(id.clone()), "{id:?} came back twice");
    }

    /// Money is neither made nor lost.
    fn balance(&self) {
        assert_eq!(self.on_accounts() + self.under_way(), self.cash);
    }

    fn on_accounts(&self) -> i128 {
        self.balances.values().sum()
    }

    fn under_way(&self) -> i128 {
        let open = self
            .sent
            .iter()
            .filter(|(id, _)| !self.deposited.contains(*id) && !self.refunded.contains(*id));
        open.map(|(_, cents)| cents).sum()
    }
}

struct World {
    random: Random,
    bank: Driver<BankAccount>,
    transfers: Driver<BankTransfers>,
    audit: Audit,
    /// Commands of transfers, and how often each has come.
    under_way: Vec<(Record, u8)>,
    refused: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            bank: Driver::new(),
            transfers: Driver::new(),
            audit: Audit::default(),
            under_way: Vec::new(),
            refused: 0,
        }
    }

    fn step(&mut self) {
        let account = self.random.account();
        let cents = self.random.below(400) + 1;
        let (command, body) = match self.random.below(20) {
            0..2 => ("open", json!({"owner": "somebody"})),
            2..5 => ("deposit", json!({"cents": cents})),
            5..7 => ("withdraw", json!({"cents": cents})),
            // The receiver may be unknown, closed, or the same account.
            7..12 => (
                "transfer",
                json!({"to": self.random.account(), "cents": cents}),
            ),
            12 => ("close", json!({})),
            13 => return self.tell_again(account),
            _ => return self.deliver(true),
        };
        match self.bank.command(account, command, body) {
            Ok(decided) => self.happened(&decided),
            Err(_) => self.refused += 1,
        }
    }

    /// One of the commands under way is decided: any of them, and perhaps not for the last time.
    fn deliver(&mut self, may_repeat: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let index = self.random.below(self.under_way.len() as u64) as usize;
        let (command, repeats) = &mut self.under_way[index];
        let command = command.clone();
        *repeats += 1;
        let again = may_repeat && *repeats < REPEATS_MAX && self.random.below(3) == 0;
        if !again {
            self.under_way.swap_remove(index);
        }
        let decided = self.bank.deliver(&command);
        let decided = decided.unwrap_or_else(|refusal| panic!("{command:?} is refused: {refusal}"));
        self.happened(&decided);
    }

    /// The write model is told in an event, as an operator can ask for at any time.
    fn tell_again(&mut self, account: &str) {
        let before = self.bank.state(account);
        let events = self.bank.emit_state(account);
        self.bank.given(events.iter().cloned());
        assert_eq!(self.bank.state(account), before);
        for event in events {
            self.audit.read(&event);
            assert_eq!(self.transfers.react(event).unwrap(), []);
        }
    }

    fn happened(&mut self, decided: &Decided) {
        for event in &decided.events {
            self.audit.read(event);
            let mut caused = self.transfers.react(event.clone()).unwrap();
            // An event that is observed twice causes its commands twice.
            if self.random.below(4) == 0 {
                caused.extend(self.transfers.react(event.clone()).unwrap());
            }
            self.under_way
                .extend(caused.into_iter().map(|command| (command, 0)));
        }
    }

    /// Everything under way arrives, and what follows from it.
    fn settle(&mut self) {
        while !self.under_way.is_empty() {
            self.deliver(false);
        }
    }
}

#[test]
fn money_is_neither_made_nor_lost() {
    let (mut sent, mut refunded, mut refused) = (0, 0, 0);
    for seed in 0..200 {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..250 {
                world.step();
            }
            world.settle();
            assert_eq!(world.audit.under_way(), 0, "every transfer has ended");
            assert_eq!(world.audit.on_accounts(), world.audit.cash);
            for (account, balance) in &world.audit.balances {
                let told = world.bank.query(account, "", &[]).unwrap();
                assert_eq!(
                    i128::from(told["balance_cents"].as_u64().unwrap()),
                    *balance
                );
            }
            if seed % 20 == 0 {
                world.bank.assert_deterministic();
                world.bank.assert_emit_state();
                world.transfers.assert_deterministic();
            }
            (
                world.audit.sent.len(),
                world.audit.refunded.len(),
                world.refused,
            )
        });
        let Ok((sent_here, refunded_here, refused_here)) = outcome else {
            panic!("seed {seed}: see above");
        };
        sent += sent_here;
        refunded += refunded_here;
        refused += refused_here;
    }
    // The banks did what they are there to show.
    assert!(
        sent > 2000 && refunded > 500 && refused > 5000,
        "{sent} {refunded} {refused}"
    );
}
