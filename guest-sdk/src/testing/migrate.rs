//! Migrating in a test: [`Driver::migrate`], packed and checked as on a host.
//!
//! Invariant: what the driver takes over was migrated twice, in one call and key by key, with equal
//! results, and can be read again.

use super::check::{self, States};
use super::{Driver, scope};
use crate::Migrate;
use crate::abi::types::{BytesColumn, OptionalColumn, States as Columns};
use crate::columns::{ABSENT, PRESENT};
use crate::migrate::migrate;

impl<V: Migrate> Driver<V> {
    /// Migrates states of an older schema, as a deployment with `--state keep` does, and goes on with
    /// what becomes of them. The states are bytes by key, as code of that schema wrote them: literal
    /// ones, or those of a driver that ran it (`old.states()`).
    ///
    /// ```
    /// # use foldhost_sdk::testing::{Driver, Record};
    /// # use foldhost_sdk::{Event, Json, Migrate, Raw, Reject, Schemas, View};
    /// # struct Tally;
    /// # impl View for Tally {
    /// #     type State = Json<(u64,)>;
    /// #     type Event = Raw;
    /// #     fn fold(state: &mut Option<Json<(u64,)>>, _event: &Event<Raw>) -> Result<(), Reject> {
    /// #         state.get_or_insert_default().0.0 += 1;
    /// #         Ok(())
    /// #     }
    /// # }
    /// # impl Migrate for Tally {
    /// #     fn schemas(from: &mut Schemas<Self>) {
    /// #         from.schema("tally/1", |_key, count: Json<u64>| Ok(Some(Json((count.0,)))));
    /// #     }
    /// # }
    /// let mut driver = Driver::<Tally>::new();
    /// driver.migrate("tally/1", [("a", "41")]).unwrap();
    /// driver.send(Record::raw("a", "one more")).unwrap();
    /// assert_eq!(driver.state("a"), Some(Json((42,))));
    /// driver.assert_deterministic();
    /// ```
    ///
    /// # Errors
    /// What the host would block the deployment with: the schema is not known, or a state cannot be
    /// migrated. The driver is as before.
    ///
    /// # Panics
    /// - A record was sent before: on a host, states are migrated before anything is folded.
    /// - The migration is not pure: key by key it gives something else than in one call, or the second
    ///   time something else than the first.
    /// - A migrated state cannot be read again, or is then written in another way.
    pub fn migrate<K: AsRef<[u8]>, S: AsRef<[u8]>>(
        &mut self,
        from_schema: &str,
        states: impl IntoIterator<Item = (K, S)>,
    ) -> Result<(), String> {
        assert!(
            self.sent.is_empty(),
            "states are migrated before anything is folded: call `migrate` first"
        );
        let states = states.into_iter();
        let before: States = states
            .map(|(key, state)| (key.as_ref().to_vec(), state.as_ref().to_vec()))
            .collect();
        let after = scope(&mut self.logs, &self.parameters, || {
            checked::<V>(from_schema, &before)
        })?;
        for key in before.keys() {
            self.base.remove(key);
        }
        self.base.extend(after);
        self.partition.states.clone_from(&self.base);
        Ok(())
    }
}

/// Migrates in one call, and once more key by key.
fn checked<V: Migrate>(from_schema: &str, before: &States) -> Result<States, String> {
    // What the host asks first: with no states at all, whether the schema is known.
    call::<V>(from_schema, &States::new())?;
    let together = call::<V>(from_schema, before);
    let one_by_one = one_by_one::<V>(from_schema, before);
    let agree = match (&together, &one_by_one) {
        (Ok(together), Ok(one_by_one)) => together == one_by_one,
        (together, one_by_one) => together.is_err() && one_by_one.is_err(),
    };
    assert!(
        agree,
        "the migration gives {together:?} in one call and {one_by_one:?} key by key: it must depend on \
         key and state only"
    );
    let after = one_by_one?;
    check::read_again::<V>(&after);
    Ok(after)
}

/// A call for each key, as the host makes them to find the one that cannot be migrated.
fn one_by_one<V: Migrate>(from_schema: &str, before: &States) -> Result<States, String> {
    let mut after = States::new();
    for (key, state) in before {
        let one = States::from([(key.clone(), state.clone())]);
        after.extend(call::<V>(from_schema, &one).map_err(|reason| {
            format!(
                "the state of key `{}` ({} bytes) cannot be migrated: {reason}",
                String::from_utf8_lossy(key),
                state.len(),
            )
        })?);
    }
    Ok(after)
}

/// One call, as the host makes it, with what it checks.
fn call<V: Migrate>(from_schema: &str, before: &States) -> Result<States, String> {
    let mut columns = Columns {
        keys: BytesColumn::empty(),
        values: OptionalColumn::with_capacity(before.len(), 0),
    };
    for (key, state) in before {
        columns.keys.push(key);
        columns.values.push(Some(state));
    }
    let after = migrate::<V>(from_schema, &columns)?;
    let keys = before.len();
    assert_eq!(after.ends.len(), keys, "one end per key");
    assert_eq!(after.marks.len(), keys, "one mark per key");
    let known = |&mark: &u8| mark == ABSENT || mark == PRESENT;
    assert!(after.marks.iter().all(known), "a state is there or not");
    let present = before.keys().enumerate();
    Ok(present
        .filter_map(|(index, key)| Some((key.clone(), after.item(index)?.to_vec())))
        .collect())
}
