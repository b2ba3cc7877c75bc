//! [`Migrate`]: states of older code, the export `migrate`.
//!
//! Implemented by plugins; [`Schemas`] carries the states of one call to the schema they were written
//! under, and says which schemas there are when it is none of them. Invariant: a migration is a
//! function of key and old state alone; one state that cannot be migrated fails the call, and the host
//! finds out which by calling again with fewer.

use std::fmt;
use std::marker::PhantomData;

use crate::abi::types::{OptionalColumn, States};
use crate::{Codec, View};

/// A view that takes over the states of older code, so that a change of how states are written needs
/// no rebuild from the log: `foldhost plugin deploy FILE --state keep`.
///
/// Name it in the export: `foldhost_sdk::export!(Balance: View + Query + Migrate)`.
///
/// Whatever writes states in another way gets another `state-schema` in `plugin.toml`. [`schemas`]
/// names the ones before it that this code still reads: for each, the type they were written as, and
/// what becomes of one state. While the old code goes on answering, the host hands every state of it
/// through; the new code takes over once all are done. Under a schema that is not named here, the
/// deployment is refused and nothing is touched.
///
/// A migration is a **pure function** of the key and the old state, as [`fold`](View::fold) is of
/// state and event. It can only say again what the old state says: states that lack something, or that
/// a mistake in the old `fold` has spoiled, want a rebuild (`--state rebuild`, the default).
///
/// ```
/// use foldhost_sdk::testing::Driver;
/// use foldhost_sdk::{Event, Json, Migrate, Reject, Schemas, View};
///
/// /// Cents, since schema `balance/3`; the number was euros before, and text at first.
/// #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
/// struct Cents { cents: i64 }
///
/// struct Balance;
/// impl View for Balance {
///     type State = Json<Cents>;
///     type Event = Json<i64>;
///     fn fold(state: &mut Option<Self::State>, event: &Event<Json<i64>>) -> Result<(), Reject> {
///         state.get_or_insert(Json(Cents { cents: 0 })).cents += event.required()?.0;
///         Ok(())
///     }
/// }
///
/// impl Migrate for Balance {
///     fn schemas(from: &mut Schemas<Self>) {
///         from.schema("balance/2", |_key, euros: Json<i64>| cents(euros.0));
///         from.schema("balance/1", |_key, text: Json<String>| match text.parse() {
///             Ok(euros) => cents(euros),
///             Err(_) => Err(format!("`{}` is no number of euros", text.0)),
///         });
///     }
/// }
///
/// /// An account without money has no state any more.
/// fn cents(euros: i64) -> Result<Option<Json<Cents>>, String> {
///     Ok((euros != 0).then_some(Json(Cents { cents: 100 * euros })))
/// }
/// foldhost_sdk::export!(Balance: View + Migrate);
///
/// let mut driver = Driver::<Balance>::new();
/// driver.migrate("balance/2", [("ann", "7"), ("bob", "0")]).unwrap();
/// assert_eq!(driver.state("ann"), Some(Json(Cents { cents: 700 })));
/// assert_eq!(driver.state("bob"), None);
///
/// let error = driver.migrate("balance/1", [("eve", r#""much""#)]).unwrap_err();
/// assert_eq!(error, "the state of key `eve` (6 bytes) cannot be migrated: `much` is no number of euros");
/// let error = driver.migrate("balance/9", [("eve", "7")]).unwrap_err();
/// assert_eq!(error, "states of schema `balance/9` cannot be read; known are `balance/2`, `balance/1`");
/// ```
///
/// [`schemas`]: Migrate::schemas
pub trait Migrate: View + Sized {
    /// Names the schemas that can be read, and what becomes of their states. Called for every call
    /// of the host; does nothing but call [`Schemas::schema`], with the same ids every time.
    fn schemas(from: &mut Schemas<'_, Self>);
}

/// The schemas whose states a view reads; see [`Migrate`].
///
/// Walked once per call of the host. Nothing is boxed or kept: the schema that is asked for migrates
/// the states on the spot.
pub struct Schemas<'a, V: View> {
    from_schema: &'a str,
    before: &'a States,
    known: Vec<&'static str>,
    migrated: Option<Result<OptionalColumn, String>>,
    view: PhantomData<V>,
}

impl<V: View> fmt::Debug for Schemas<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schemas")
            .field("from_schema", &self.from_schema)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl<V: View> Schemas<'_, V> {
    /// States whose `state-schema` was `id` were written as `Old`; `migrate` makes of a key and such a
    /// state the one of today, or nothing: the key has no state any more.
    ///
    /// A state that is no `Old`, and one for which `migrate` gives an error (a sentence for people),
    /// blocks the deployment, not the code that runs. A panic is a trap, and does the same without a
    /// sentence.
    ///
    /// # Panics
    /// `id` is named twice.
    pub fn schema<Old: Codec>(
        &mut self,
        id: &'static str,
        mut migrate: impl FnMut(&[u8], Old) -> Result<Option<V::State>, String>,
    ) {
        assert!(
            !self.known.contains(&id),
            "the schema `{id}` is named twice: one of them would never be used"
        );
        self.known.push(id);
        if id == self.from_schema {
            let one = |key: &[u8], bytes: &[u8]| migrate(key, read::<Old>(bytes)?);
            self.migrated = Some(column::<V>(self.before, one));
        }
    }
}

fn read<Old: Codec>(bytes: &[u8]) -> Result<Old, String> {
    Old::decode(bytes).map_err(|error| format!("it cannot be decoded: {error}"))
}

/// Migrates every state of `before`; a key without one stays so.
fn column<V: View>(
    before: &States,
    mut one: impl FnMut(&[u8], &[u8]) -> Result<Option<V::State>, String>,
) -> Result<OptionalColumn, String> {
    let keys = before.keys.len();
    let mut after = OptionalColumn::with_capacity(keys, before.values.data.len());
    for index in 0..keys {
        let key = before.keys.item(index);
        let state = match before.values.item(index) {
            Some(bytes) => one(key, bytes)?,
            None => None,
        };
        after.push_encoded(state.as_ref());
    }
    Ok(after)
}

/// Migrates states: the export `migrate`.
///
/// # Errors
/// The schema is not known, or a state cannot be migrated; a sentence.
///
/// # Panics
/// The view panics.
pub fn migrate<V: Migrate>(from_schema: &str, before: &States) -> Result<OptionalColumn, String> {
    let mut schemas = Schemas::<V> {
        from_schema,
        before,
        known: Vec::new(),
        migrated: None,
        view: PhantomData,
    };
    V::schemas(&mut schemas);
    let known = schemas.known;
    schemas
        .migrated
        .unwrap_or_else(|| Err(unknown(from_schema, &known)))
}

fn unknown(schema: &str, known: &[&str]) -> String {
    let known: Vec<_> = known.iter().map(|id| format!("`{id}`")).collect();
    format!(
        "states of schema `{schema}` cannot be read; known are {}",
        known.join(", ")
    )
}
