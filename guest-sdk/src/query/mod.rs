//! [`Query`]: the questions that a view answers.
//!
//! Implemented by plugins; [`Queries`] carries one question to the handler it names, or lists all of
//! them for `describe`. Invariant: an answer is a function of key, state, arguments and body, and of
//! the context only where the operation declares so (such answers are never cached).

pub(crate) mod arguments;
mod glue;
mod operation;
mod question;
pub(crate) mod schema;

pub(crate) use glue::ask;
pub use glue::{answer, describe};
pub(crate) use operation::assert_url_name;
pub use operation::{Operation, OperationInContext, Queries};
pub use question::{Context, Payload, QueryError, Question};

use crate::View;

/// A view that answers questions over HTTP: `GET /v1/views/{plugin}/keys/{key}[/{query}]?a=b`.
///
/// Name it in the export: `foldhost_sdk::export!(Temperature: View + Query)`.
///
/// A handler takes the [`Question`] (key, state, body) and its arguments, and gives something that
/// serde can write as JSON. Arguments are a struct with a field per argument: text, numbers,
/// booleans, unit enums, [`Timestamp`](crate::Timestamp)s, `Option`s of those for what may be left
/// out, and `Vec`s for what may be given more than once. [`NoArguments`] where there are none. An
/// argument that is missing, wrong or unknown is answered with its name and what would be right,
/// before the handler runs.
///
/// ```
/// use foldhost_sdk::testing::{Driver, Record};
/// use foldhost_sdk::{Event, Json, NoArguments, Queries, Query, QueryError, Question, Reject, View};
///
/// /// The readings of a sensor.
/// struct Temperature;
///
/// impl View for Temperature {
///     type State = Json<Vec<i32>>;
///     type Event = Json<i32>;
///     fn fold(state: &mut Option<Self::State>, event: &Event<Self::Event>) -> Result<(), Reject> {
///         state.get_or_insert_default().push(event.required()?.0);
///         Ok(())
///     }
/// }
///
/// #[derive(serde::Deserialize)]
/// struct Above {
///     degrees: i32,
/// }
///
/// impl Query for Temperature {
///     fn queries(on: &mut Queries<Self>) {
///         on.default("The last reading").answer(|question, NoArguments {}| {
///             Ok(question.state()?.last().copied())
///         });
///         on.query("above", "How many readings lie above a limit").answer(above);
///     }
/// }
///
/// fn above(question: Question<Json<Vec<i32>>>, limit: Above) -> Result<usize, QueryError> {
///     let readings = question.state()?;
///     Ok(readings.iter().filter(|reading| **reading > limit.degrees).count())
/// }
/// foldhost_sdk::export!(Temperature: View + Query);
///
/// let mut driver = Driver::<Temperature>::new();
/// driver.send(Record::new("attic", &Json(31))).unwrap();
/// assert_eq!(driver.query("attic", "", &[]).unwrap(), 31);
/// assert_eq!(driver.query("attic", "above", &[("degrees", "30")]).unwrap(), 1);
/// assert_eq!(
///     driver.query("attic", "above", &[("degrees", "hot")]),
///     Err(QueryError::bad_argument("degrees", "expected an integer from -2147483648 to 2147483647, not `hot`")),
/// );
/// assert_eq!(driver.query("cellar", "", &[]), Err(QueryError::NotFound));
/// ```
pub trait Query: View + Sized {
    /// Names the queries and who answers them. Called for every question, and once for `describe`;
    /// does nothing but call methods of `on`, the same ones every time.
    fn queries(on: &mut Queries<'_, Self>);
}

/// The arguments of a query, or the body of a command, that has none; giving it one is an error that names
/// it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
pub struct NoArguments {}
