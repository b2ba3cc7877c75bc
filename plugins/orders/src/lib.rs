//! The portions of a dish that are left, and the tables that have ordered one.
//!
//! The key is the dish. Two rules keep a portion from being promised twice: `order` takes no more than are
//! left, which holds whatever a waiter has read; and the manifest's `expected-version = "required"`, by which
//! a waiter who has read what is no longer so is told, and decides again. Events say what is left.

use foldhost_sdk::{
    Command, CommandHandler, Commands, Decision, EmitState, Event, Json, NewEvents, NoArguments,
    Queries, Query, QueryError, Question, Refusal, Reject, View,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The most portions of a dish that there can be.
const PORTIONS_MAX: u32 = 1_000_000;

/// What has happened to a dish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum OrderEvent {
    /// The kitchen has made some.
    Offered { portions: u32, left: u32 },
    /// A table has ordered some; the waiter is known if the host knows who called.
    Ordered {
        table: u32,
        portions: u32,
        left: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waiter: Option<String>,
    },
    /// A table has given some back.
    Cancelled {
        table: u32,
        portions: u32,
        left: u32,
    },
    /// All that is known of the dish.
    Snapshot(Dish),
}

/// The write model of a dish.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dish {
    left: u32,
    /// By table; with at least one portion.
    tables: Vec<Table>,
}

/// What a table has ordered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    table: u32,
    portions: u32,
}

pub struct Orders;

impl View for Orders {
    type State = Json<Dish>;
    type Event = Json<OrderEvent>;

    fn fold(state: &mut Option<Json<Dish>>, event: &Event<Json<OrderEvent>>) -> Result<(), Reject> {
        let dish = &mut state.get_or_insert_default().0;
        match event.required()?.0.clone() {
            OrderEvent::Offered { left, .. } => dish.left = left,
            OrderEvent::Ordered {
                table,
                portions,
                left,
                ..
            } => {
                dish.left = left;
                dish.set(table, dish.of(table).saturating_add(portions));
            }
            OrderEvent::Cancelled {
                table,
                portions,
                left,
            } => {
                dish.left = left;
                dish.set(table, dish.of(table).saturating_sub(portions));
            }
            OrderEvent::Snapshot(whole) => *dish = whole,
        }
        Ok(())
    }
}

impl Dish {
    /// How many portions a table has ordered.
    fn of(&self, table: u32) -> u32 {
        let found = self.tables.iter().find(|it| it.table == table);
        found.map_or(0, |it| it.portions)
    }

    fn set(&mut self, table: u32, portions: u32) {
        self.tables.retain(|it| it.table != table);
        if portions > 0 {
            let at = self.tables.partition_point(|it| it.table < table);
            self.tables.insert(at, Table { table, portions });
        }
    }
}

#[derive(Deserialize)]
struct Offer {
    portions: u32,
}

#[derive(Deserialize)]
struct Order {
    table: u32,
    portions: u32,
}

impl CommandHandler for Orders {
    fn commands(on: &mut Commands<Self>) {
        on.command("offer", "The kitchen has made some portions")
            .decide(offer);
        on.command("order", "A table orders some portions, if so many are left")
            .decide(order);
        on.command("cancel", "A table gives back what it has ordered")
            .decide(cancel);
    }
}

type Decided = Result<Decision<Json<OrderEvent>>, Refusal>;

fn offer(command: Command<Json<Dish>>, Offer { portions }: Offer) -> Decided {
    at_least_one(portions)?;
    let left = command.state_if_any().map_or(0, |dish| dish.left);
    let left = left.saturating_add(portions);
    if left > PORTIONS_MAX {
        let expected = format!("expected no more than {PORTIONS_MAX} in all");
        return Err(Refusal::bad_body("portions", expected));
    }
    Ok(happened(OrderEvent::Offered { portions, left }, left))
}

fn order(command: Command<Json<Dish>>, Order { table, portions }: Order) -> Decided {
    at_least_one(portions)?;
    let dish = known(command)?;
    let Some(left) = dish.left.checked_sub(portions) else {
        return Err(
            Refusal::new("sold-out", format!("{} portions are left", dish.left))
                .details(json!({"left": dish.left})),
        );
    };
    let waiter = command.context().principal().map(str::to_owned);
    let ordered = OrderEvent::Ordered {
        table,
        portions,
        left,
        waiter,
    };
    Ok(happened(ordered, left))
}

fn cancel(command: Command<Json<Dish>>, Order { table, portions }: Order) -> Decided {
    at_least_one(portions)?;
    let dish = known(command)?;
    if portions > dish.of(table) {
        let message = format!("table {table} has ordered {} portions", dish.of(table));
        return Err(Refusal::new("not-ordered", message));
    }
    let left = dish.left.saturating_add(portions);
    let cancelled = OrderEvent::Cancelled {
        table,
        portions,
        left,
    };
    Ok(happened(cancelled, left))
}

fn at_least_one(portions: u32) -> Result<(), Refusal> {
    match portions {
        0 => Err(Refusal::bad_body("portions", "expected at least 1")),
        _ => Ok(()),
    }
}

fn known<'a>(command: Command<'a, Json<Dish>>) -> Result<&'a Dish, Refusal> {
    let dish = command.state_if_any();
    dish.map(|dish| &dish.0)
        .ok_or_else(|| Refusal::new("no-dish", "the kitchen does not offer this dish"))
}

fn happened(event: OrderEvent, left: u32) -> Decision<Json<OrderEvent>> {
    Decision::from(Json(event)).reply(json!({"left": left}))
}

impl EmitState for Orders {
    fn emit_state(_dish: &[u8], state: &Json<Dish>) -> NewEvents<Json<OrderEvent>> {
        Json(OrderEvent::Snapshot(state.0.clone())).into()
    }
}

impl Query for Orders {
    fn queries(on: &mut Queries<Self>) {
        on.default("How many portions are left, and who has ordered")
            .answer(dish);
    }
}

fn dish<'a>(question: Question<'a, Json<Dish>>, _: NoArguments) -> Result<&'a Dish, QueryError> {
    Ok(question.state()?)
}

foldhost_sdk::export!(Orders: CommandHandler + Query + EmitState);

#[cfg(test)]
mod tests {
    use foldhost_sdk::testing::{Decided, Driver, Record};

    use super::*;

    fn portions(portions: u32) -> serde_json::Value {
        json!({"portions": portions})
    }

    fn at(table: u32, portions: u32) -> serde_json::Value {
        json!({"table": table, "portions": portions})
    }

    fn driver(left: u32) -> Driver<Orders> {
        let mut driver = Driver::new();
        driver.command("lasagne", "offer", portions(left)).unwrap();
        driver
    }

    fn code(outcome: Result<Decided, Refusal>) -> String {
        outcome.unwrap_err().code().to_owned()
    }

    #[test]
    fn two_waiters_do_not_get_the_last_portion() {
        let mut driver = driver(1);
        // Both have read this, with this version.
        let read = driver.query("lasagne", "", &[]).unwrap();
        assert_eq!(read, json!({"left": 1, "tables": []}));
        assert_eq!(driver.version("lasagne"), Some(1));

        driver.set_principal(Some("ann"));
        let decided = driver.command("lasagne", "order", at(7, 1)).unwrap();
        assert_eq!(
            (decided.reply(), decided.version),
            (json!({"left": 0}), Some(2))
        );
        let ordered = OrderEvent::Ordered {
            table: 7,
            portions: 1,
            left: 0,
            waiter: Some("ann".into()),
        };
        assert_eq!(decided.events, [Record::new("lasagne", &Json(ordered))]);

        // With `If-Match: "1"` the other one does not come as far as this. Without, the rule holds.
        driver.set_principal(Some("bob"));
        let refusal = driver.command("lasagne", "order", at(9, 1)).unwrap_err();
        assert_eq!(refusal.to_string(), "sold-out: 0 portions are left");
        assert_eq!(refusal.details_json(), Some(r#"{"left":0}"#));
        assert_eq!(driver.version("lasagne"), Some(2));
        driver.assert_deterministic();
    }

    #[test]
    fn what_is_given_back_can_be_ordered_again() {
        let mut driver = driver(5);
        for (command, table, portions, left) in [
            ("order", 9, 2, 3),
            ("order", 7, 1, 2),
            ("order", 9, 1, 1),
            ("cancel", 9, 3, 4),
            ("order", 8, 4, 0),
        ] {
            let decided = driver
                .command("lasagne", command, at(table, portions))
                .unwrap();
            assert_eq!(decided.reply(), json!({"left": left}));
        }
        driver.command("lasagne", "offer", portions(2)).unwrap();
        let answer = json!({"left": 2, "tables": [
            {"table": 7, "portions": 1}, {"table": 8, "portions": 4},
        ]});
        assert_eq!(driver.query("lasagne", "", &[]).unwrap(), answer);
        driver.assert_deterministic();
        driver.assert_emit_state();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut driver = driver(1);
        assert_eq!(code(driver.command("soup", "order", at(7, 1))), "no-dish");
        assert_eq!(code(driver.command("soup", "cancel", at(7, 1))), "no-dish");
        assert_eq!(
            code(driver.command("lasagne", "cancel", at(7, 1))),
            "not-ordered"
        );
        for body in [
            at(7, 0),
            json!({"table": 7}),
            json!({"table": "seven", "portions": 1}),
        ] {
            assert_eq!(code(driver.command("lasagne", "order", body)), "bad-body");
        }
        let refusal = driver
            .command("lasagne", "offer", portions(PORTIONS_MAX))
            .unwrap_err();
        let expected = "field `portions`: expected no more than 1000000 in all";
        assert_eq!(refusal.to_string(), expected);
        assert_eq!(driver.query("soup", "", &[]), Err(QueryError::NotFound));
    }

    #[test]
    fn events_are_written_so() {
        let mut driver = driver(1);
        let decided = driver.command("lasagne", "order", at(7, 1)).unwrap();
        let value = r#"{"type":"ordered","table":7,"portions":1,"left":0}"#;
        assert_eq!(decided.events, [Record::raw("lasagne", value)]);
        let told = &driver.emit_state("lasagne")[0];
        let value = r#"{"type":"snapshot","left":0,"tables":[{"table":7,"portions":1}]}"#;
        assert_eq!(*told, Record::raw("lasagne", value));
    }
}
