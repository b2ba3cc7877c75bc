//! [`Queries`]: the list of a view's queries, walked once per question and once for `describe`.
//!
//! Called by [`Query::queries`](super::Query::queries) of the plugin. Nothing is boxed or kept: an
//! operation whose name is asked for runs its handler on the spot. Invariant: at most one handler
//! runs, and names are unique (checked by `describe`, so a clash is found at the first deployment or
//! test).

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::arguments;
use super::question::{Context, Payload, QueryError, Question};
use super::schema;
use crate::View;
use crate::abi::describe::Operation as Described;

type Answer = Result<Payload, QueryError>;

/// The queries of a view; see [`Query`](super::Query).
pub struct Queries<'a, V: View> {
    pub(super) mode: Mode<'a, V::State>,
    view: PhantomData<V>,
}

/// Why the list is walked.
pub(super) enum Mode<'a, S> {
    Ask(Asked<'a, S>),
    Describe(Vec<Described>),
}

pub(super) struct Asked<'a, S> {
    pub(super) name: &'a str,
    pub(super) arguments: &'a [(String, String)],
    pub(super) question: Question<'a, S>,
    pub(super) context: Context<'a>,
    pub(super) answer: Option<Answer>,
}

impl<'a, V: View> Queries<'a, V> {
    pub(super) fn new(mode: Mode<'a, V::State>) -> Self {
        Self {
            mode,
            view: PhantomData,
        }
    }

    /// The query that answers where none is named: `GET …/keys/{key}`. The summary is one sentence
    /// for people.
    pub fn default(&mut self, summary: &'static str) -> Operation<'_, 'a, V> {
        self.operation("", summary)
    }

    /// A query with a name: `GET …/keys/{key}/{name}`. The summary is one sentence for people.
    ///
    /// # Panics
    /// The name cannot stand in a URL: it needs lower case letters, digits and `-`, and a letter
    /// first.
    pub fn query(&mut self, name: &'static str, summary: &'static str) -> Operation<'_, 'a, V> {
        assert_url_name("query", name);
        self.operation(name, summary)
    }

    fn operation(&mut self, name: &'static str, summary: &'static str) -> Operation<'_, 'a, V> {
        Operation {
            queries: self,
            name,
            summary,
        }
    }

    /// Lists an operation, or lets it answer if it is the one asked for.
    fn register<A: DeserializeOwned>(
        &mut self,
        described: (&'static str, &'static str, bool),
        handle: impl FnOnce(Question<'a, V::State>, Context<'a>, A) -> Answer,
    ) {
        let (name, summary, uses_context) = described;
        match &mut self.mode {
            Mode::Ask(asked) if asked.name == name => {
                asked.answer = Some(match arguments::read(asked.arguments) {
                    Ok(arguments) => handle(asked.question, asked.context, arguments),
                    Err(error) => Err(QueryError::bad_argument(error.name, error.expected)),
                });
            }
            Mode::Ask(_) => {}
            Mode::Describe(list) => {
                assert!(
                    list.iter().all(|operation| operation.name != name),
                    "two queries have the name `{name}`: give one of them another"
                );
                list.push(Described {
                    name: name.to_owned(),
                    summary: summary.to_owned(),
                    arguments_schema: schema::of::<A>(),
                    body_schema: String::new(),
                    answer_schema: String::new(),
                    uses_context,
                });
            }
        }
    }
}

/// # Panics
/// The name of a query or command cannot stand in a URL.
pub(crate) fn assert_url_name(what: &str, name: &str) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    assert!(
        name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(allowed),
        "the {what} name `{name}` cannot stand in a URL: use a-z, 0-9 and `-`, a letter first"
    );
}

/// A query that is being named. Nothing happens before `answer` or `answer_raw`.
#[must_use = "a query needs a handler: end with `.answer(…)` or `.answer_raw(…)`"]
pub struct Operation<'q, 'a, V: View> {
    queries: &'q mut Queries<'a, V>,
    name: &'static str,
    summary: &'static str,
}

impl<'q, 'a, V: View> Operation<'q, 'a, V> {
    /// Declares that the answer depends on the clock or the caller. The handler gets the
    /// [`Context`] too, and its answers are never cached.
    pub fn uses_context(self) -> OperationInContext<'q, 'a, V> {
        OperationInContext(self)
    }

    /// Answers in JSON: the handler takes the question and its arguments.
    pub fn answer<A, R>(
        self,
        handler: impl FnOnce(Question<'a, V::State>, A) -> Result<R, QueryError>,
    ) where
        A: DeserializeOwned,
        R: Serialize,
    {
        let described = (self.name, self.summary, false);
        self.queries.register(described, |question, _, arguments| {
            json(&handler(question, arguments)?)
        });
    }

    /// Answers in any format: the handler gives bytes with their media type.
    ///
    /// ```
    /// # use foldhost_sdk::testing::{Driver, Record};
    /// # use foldhost_sdk::{Event, NoArguments, Payload, Queries, Query, Raw, Reject, View};
    /// # struct Text;
    /// # impl View for Text {
    /// #     type State = Raw;
    /// #     type Event = Raw;
    /// #     fn fold(state: &mut Option<Raw>, event: &Event<Raw>) -> Result<(), Reject> {
    /// #         *state = event.value().cloned();
    /// #         Ok(())
    /// #     }
    /// # }
    /// impl Query for Text {
    ///     fn queries(on: &mut Queries<Self>) {
    ///         on.default("The text itself").answer_raw(|question, NoArguments {}| {
    ///             Ok(Payload::new("text/plain; charset=utf-8", question.state()?.0.clone()))
    ///         });
    ///     }
    /// }
    /// # let mut driver = Driver::<Text>::new();
    /// # driver.send(Record::raw("k", *b"hi")).unwrap();
    /// # assert_eq!(driver.ask("k", "", &[], None).unwrap().body, b"hi");
    /// ```
    pub fn answer_raw<A: DeserializeOwned>(
        self,
        handler: impl FnOnce(Question<'a, V::State>, A) -> Result<Payload, QueryError>,
    ) {
        let described = (self.name, self.summary, false);
        self.queries.register(described, |question, _, arguments| {
            handler(question, arguments)
        });
    }
}

/// A query whose answer depends on the clock or the caller.
///
/// ```
/// # use foldhost_sdk::testing::{Driver, Record};
/// # use foldhost_sdk::{Context, Event, Json, NoArguments, Queries, Query, Raw, Reject, View};
/// # struct Seen;
/// # impl View for Seen {
/// #     type State = Json<i64>;
/// #     type Event = Raw;
/// #     fn fold(state: &mut Option<Json<i64>>, event: &Event<Raw>) -> Result<(), Reject> {
/// #         *state = Some(Json(event.timestamp().millis()));
/// #         Ok(())
/// #     }
/// # }
/// impl Query for Seen {
///     fn queries(on: &mut Queries<Self>) {
///         on.query("age", "Seconds since the last record")
///             .uses_context()
///             .answer(|question, context, NoArguments {}| {
///                 Ok((context.now().millis() - question.state()?.0) / 1000)
///             });
///     }
/// }
/// # let mut driver = Driver::<Seen>::new();
/// # driver.send(Record::raw("k", *b"x").at("2013-01-01")).unwrap();
/// driver.set_now("2013-01-01T00:01:00Z");
/// assert_eq!(driver.query("k", "age", &[]).unwrap(), 60);
/// ```
#[must_use = "a query needs a handler: end with `.answer(…)` or `.answer_raw(…)`"]
pub struct OperationInContext<'q, 'a, V: View>(Operation<'q, 'a, V>);

impl<'a, V: View> OperationInContext<'_, 'a, V> {
    /// Answers in JSON: the handler takes the question, the context and its arguments.
    pub fn answer<A, R>(
        self,
        handler: impl FnOnce(Question<'a, V::State>, Context<'a>, A) -> Result<R, QueryError>,
    ) where
        A: DeserializeOwned,
        R: Serialize,
    {
        self.answer_raw(|question, context, arguments| {
            json(&handler(question, context, arguments)?)
        });
    }

    /// Answers in any format: the handler gives bytes with their media type.
    pub fn answer_raw<A: DeserializeOwned>(
        self,
        handler: impl FnOnce(Question<'a, V::State>, Context<'a>, A) -> Result<Payload, QueryError>,
    ) {
        let described = (self.0.name, self.0.summary, true);
        self.0.queries.register(described, handler);
    }
}

/// # Panics
/// The type cannot be written as JSON: a mistake of the plugin, as for [`Json`](crate::Json).
fn json(answer: &impl Serialize) -> Answer {
    match serde_json::to_vec(answer) {
        Ok(body) => Ok(Payload::new("application/json", body)),
        Err(error) => panic!("this answer cannot be written as JSON: {error}"),
    }
}

/// Debug output without the state, which need not have any.
macro_rules! debug {
    ($($type:ty: $name:literal),*) => { $(
        impl<V: View> fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name).finish_non_exhaustive()
            }
        }
    )* };
}

debug! {
    Queries<'_, V>: "Queries",
    Operation<'_, '_, V>: "Operation",
    OperationInContext<'_, '_, V>: "OperationInContext"
}
