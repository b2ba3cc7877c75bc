//! [`Commands`]: the list of a handler's commands, walked once per command and once for `describe`.
//!
//! Called by [`CommandHandler::commands`](super::CommandHandler::commands) of the plugin. Nothing is boxed
//! or kept: the command that was given is decided on the spot. Invariant: at most one closure runs, and
//! names are unique (checked by `describe` and by the test driver, so a clash is found at the first
//! deployment or test).

use std::fmt;

use serde::de::DeserializeOwned;

use super::{Command, CommandHandler, Decision, Refusal, body};
use crate::View;
use crate::abi::describe::Operation as Described;
use crate::query::{assert_url_name, schema};

pub(super) type Outcome<H> = Result<Decision<<H as View>::Event>, Refusal>;

/// The commands of a handler; see [`CommandHandler`].
pub struct Commands<'a, H: CommandHandler> {
    pub(super) mode: Mode<'a, H>,
}

/// Why the list is walked.
pub(super) enum Mode<'a, H: CommandHandler> {
    Decide(Given<'a, H>),
    Describe(Vec<Described>),
}

pub(super) struct Given<'a, H: CommandHandler> {
    pub(super) command: Command<'a, H::State>,
    pub(super) outcome: Option<Outcome<H>>,
}

impl<'a, H: CommandHandler> Commands<'a, H> {
    /// A command: `POST /v1/commands/{plugin}/{key}/{name}`. The summary is one sentence for people.
    ///
    /// # Panics
    /// The name cannot stand in a URL: it needs lower case letters, digits and `-`, and a letter first.
    pub fn command(
        &mut self,
        name: &'static str,
        summary: &'static str,
    ) -> NamedCommand<'_, 'a, H> {
        assert_url_name("command", name);
        NamedCommand {
            commands: self,
            name,
            summary,
        }
    }

    /// Lists a command, or decides it if it is the one that was given.
    fn register(
        &mut self,
        (name, summary): (&'static str, &'static str),
        body_schema: impl FnOnce() -> String,
        decide: impl FnOnce(Command<'a, H::State>) -> Outcome<H>,
    ) {
        match &mut self.mode {
            Mode::Decide(given) if given.command.name == name => {
                given.outcome = Some(decide(given.command));
            }
            Mode::Decide(_) => {}
            Mode::Describe(list) => {
                assert!(
                    list.iter().all(|operation| operation.name != name),
                    "two commands have the name `{name}`: give one of them another"
                );
                list.push(Described {
                    name: name.to_owned(),
                    summary: summary.to_owned(),
                    arguments_schema: String::new(),
                    body_schema: body_schema(),
                    answer_schema: String::new(),
                    uses_context: false,
                });
            }
        }
    }
}

/// A command that is being named. Nothing happens before `decide` or `decide_raw`.
#[must_use = "a command needs somebody who decides it: end with `.decide(…)` or `.decide_raw(…)`"]
pub struct NamedCommand<'c, 'a, H: CommandHandler> {
    commands: &'c mut Commands<'a, H>,
    name: &'static str,
    summary: &'static str,
}

impl<'a, H: CommandHandler> NamedCommand<'_, 'a, H> {
    /// Decides a command whose body is JSON: the closure takes the command and its body.
    ///
    /// The body is a struct with a field per argument, by serde's rules: `Option`s and `#[serde(default)]`
    /// for what may be left out, [`NoArguments`](crate::NoArguments) where there is nothing to say (an empty
    /// body is `{}`). A field that is missing, wrong or unknown is answered with its name and what would be
    /// right, before the closure runs.
    ///
    /// ```
    /// # use foldhost_sdk::testing::Driver;
    /// # use foldhost_sdk::{CommandHandler, Commands, Event, Json, NoState, Refusal, Reject, View};
    /// # struct Orders;
    /// # impl View for Orders {
    /// #     type State = NoState;
    /// #     type Event = Json<u32>;
    /// #     fn fold(_: &mut Option<NoState>, _: &Event<Json<u32>>) -> Result<(), Reject> { Ok(()) }
    /// # }
    /// #[derive(serde::Deserialize)]
    /// struct Order { lines: Vec<Line> }
    /// #[derive(serde::Deserialize)]
    /// struct Line { pieces: u32 }
    ///
    /// impl CommandHandler for Orders {
    ///     fn commands(on: &mut Commands<Self>) {
    ///         on.command("place", "Orders some pieces").decide(|_command, order: Order| {
    ///             let pieces: u32 = order.lines.iter().map(|line| line.pieces).sum();
    ///             Ok(Json(pieces).into())
    ///         });
    ///     }
    /// }
    ///
    /// let mut driver = Driver::<Orders>::new();
    /// let body = serde_json::json!({ "lines": [{ "pieces": 2 }, { "pieces": -1 }] });
    /// let refusal = driver.command("o-1", "place", body).unwrap_err();
    /// let problem = "expected an integer from 0 to 4294967295, not `-1`";
    /// assert_eq!(refusal, Refusal::bad_body("lines[1].pieces", problem));
    /// ```
    pub fn decide<B: DeserializeOwned>(
        self,
        decide: impl FnOnce(Command<'a, H::State>, B) -> Result<Decision<H::Event>, Refusal>,
    ) {
        let named = (self.name, self.summary);
        self.commands
            .register(named, schema::of_body::<B>, |command| {
                decide(command, body::read(&command.content.body)?)
            });
    }

    /// Decides a command whose body is in any format: the closure reads it itself, from
    /// [`Command::body`] by its media type, or with [`Command::decode`] or [`Command::json`].
    ///
    /// ```
    /// # use foldhost_sdk::testing::Driver;
    /// # use foldhost_sdk::{CommandHandler, Commands, Event, NoState, Payload, Reject, View};
    /// #[derive(Clone, PartialEq, foldhost_sdk::prost::Message)]
    /// struct Measured {
    ///     #[prost(sint32, tag = "1")]
    ///     degrees: i32,
    /// }
    /// # struct Sensors;
    /// # impl View for Sensors {
    /// #     type State = NoState;
    /// #     type Event = Measured;
    /// #     fn fold(_: &mut Option<NoState>, _: &Event<Measured>) -> Result<(), Reject> { Ok(()) }
    /// # }
    ///
    /// impl CommandHandler for Sensors {
    ///     fn commands(on: &mut Commands<Self>) {
    ///         on.command("report", "What was measured, as a protobuf message")
    ///             .decide_raw(|command| Ok(command.decode::<Measured>()?.into()));
    ///     }
    /// }
    ///
    /// let mut driver = Driver::<Sensors>::new();
    /// let body = Payload::new("application/protobuf", *b"\x08\x2a");
    /// let decided = driver.command_raw("attic", "report", body).unwrap();
    /// assert_eq!(decided.events[0].value_as::<Measured>().unwrap().degrees, 21);
    /// ```
    pub fn decide_raw(
        self,
        decide: impl FnOnce(Command<'a, H::State>) -> Result<Decision<H::Event>, Refusal>,
    ) {
        let named = (self.name, self.summary);
        self.commands.register(named, String::new, decide);
    }
}

impl<H: CommandHandler> fmt::Debug for Commands<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl<H: CommandHandler> fmt::Debug for NamedCommand<'_, '_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedCommand")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
