//! The glue between the host's `decide` and `describe` and a plugin's [`CommandHandler`].
//!
//! Called by what [`export!`](crate::export) generates, and by the test driver.

use super::commands::{Commands, Given, Mode};
use super::{Command, CommandHandler, Refusal, write_events};
use crate::abi::decide::{Command as AbiCommand, Decision as AbiDecision, Refusal as AbiRefusal};
use crate::abi::describe::Operation as Described;
use crate::abi::types::Payload as AbiPayload;
use crate::fold::read_state;
use crate::{Context, Payload};

/// Decides a command: the export `decide`.
///
/// # Errors
/// What the handler says.
///
/// # Panics
/// The state cannot be decoded, or the handler itself panics.
pub fn decide<H: CommandHandler>(
    key: &[u8],
    state: Option<&[u8]>,
    what: AbiCommand,
) -> Result<AbiDecision, AbiRefusal> {
    let state = state.map(|bytes| read_state::<H>(key, bytes));
    let content = Payload {
        content_type: what.content.content_type,
        body: what.content.body,
    };
    let mut commands = Commands::<H> {
        mode: Mode::Decide(Given {
            command: Command {
                key,
                state: state.as_ref(),
                name: &what.name,
                id: &what.id,
                content: &content,
                context: Context(&what.context),
            },
            outcome: None,
        }),
    };
    H::commands(&mut commands);
    let Mode::Decide(given) = commands.mode else {
        unreachable!("a handler cannot change why the list is walked");
    };
    match given.outcome {
        Some(Ok(decision)) => Ok(AbiDecision {
            events: write_events(decision.events),
            reply: decision.reply.map(|reply| AbiPayload {
                content_type: reply.content_type,
                body: reply.body,
            }),
        }),
        Some(Err(refusal)) => Err(to_abi(refusal)),
        None => Err(AbiRefusal::UnknownCommand),
    }
}

fn to_abi(refusal: Refusal) -> AbiRefusal {
    match refusal {
        Refusal::UnknownCommand => AbiRefusal::UnknownCommand,
        Refusal::BadBody { field, problem } => AbiRefusal::BadBody((field, problem)),
        Refusal::Refused {
            code,
            message,
            details,
        } => AbiRefusal::Refused((code, message, details.unwrap_or_default())),
    }
}

/// Lists the commands of a handler, for the export `describe`.
///
/// # Panics
/// Two commands have one name.
pub fn describe_commands<H: CommandHandler>() -> Vec<Described> {
    let mut commands = Commands::<H> {
        mode: Mode::Describe(Vec::new()),
    };
    H::commands(&mut commands);
    match commands.mode {
        Mode::Describe(list) => list,
        Mode::Decide(_) => unreachable!("a handler cannot change why the list is walked"),
    }
}
