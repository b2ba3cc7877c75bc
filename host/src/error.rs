//! Stable error codes: one table from code to HTTP status and title. Every layer that refuses
//! something names one of these; only `http` and `cli` turn it into text for a user.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $title:literal;)*) => {
        /// A stable code of a refusal or fault; part of the public contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All codes, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as clients see it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// HTTP status that goes with it.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The same short title every time.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request itself is malformed.
    BadRequest = "bad-request", 400, "The request is malformed";
    /// A host parameter (one that starts with `_`) is unknown or wrong.
    BadParameter = "bad-parameter", 400, "A parameter is wrong";
    /// The key does not fit the plugin's key format.
    BadKey = "bad-key", 400, "The key does not fit the plugin's key format";
    /// An argument of a query is missing or wrong.
    BadArgument = "bad-argument", 400, "An argument is missing or wrong";
    /// A line of a body is not what it should be; nothing was written.
    BadRecord = "bad-record", 400, "A record is malformed";
    /// The body of a command is wrong; its field is named.
    BadBody = "bad-body", 400, "The body of the command is wrong";
    /// A condition of a request is malformed.
    BadEtag = "bad-etag", 400, "A condition is malformed";
    /// The handler has no such command.
    UnknownCommand = "unknown-command", 400, "The handler has no such command";
    /// A position is malformed.
    BadPosition = "bad-position", 400, "A position is malformed";
    /// A position names a topic that is not an input of the view.
    PositionNotAnInput = "position-not-an-input", 400, "The position is not of an input of this view";
    /// A token of a feed of changes is not one of this plugin.
    BadChangesToken = "bad-changes-token", 400, "The token is not of this plugin's changes";
    /// A name breaks its rules.
    BadName = "bad-name", 400, "A name breaks its rules";
    /// No token where one is needed.
    Unauthorized = "unauthorized", 401, "A token is needed";
    /// The token lacks a scope or a plugin.
    Forbidden = "forbidden", 403, "The token does not allow this";
    /// No such route.
    UnknownRoute = "unknown-route", 404, "There is no such route";
    /// No such plugin.
    UnknownPlugin = "unknown-plugin", 404, "There is no such plugin";
    /// The plugin has no such generation, or not any more.
    UnknownGeneration = "unknown-generation", 404, "There is no such generation";
    /// No such topic.
    UnknownTopic = "unknown-topic", 404, "There is no such topic";
    /// No such partition.
    UnknownPartition = "unknown-partition", 404, "There is no such partition";
    /// The plugin has no such query.
    UnknownQuery = "unknown-query", 404, "The plugin has no such query";
    /// The plugin has nothing to say about the key.
    NotFound = "not-found", 404, "There is nothing for this key";
    /// The key has no state.
    NoState = "no-state", 404, "The key has no state";
    /// The route exists, for other methods.
    MethodNotAllowed = "method-not-allowed", 405, "The route does not take this method";
    /// The name belongs to another plugin.
    NameTaken = "name-taken", 409, "The name is taken";
    /// Another deployment of the plugin is not finished.
    DeploymentUnderWay = "deployment-under-way", 409, "A deployment is under way";
    /// There is nothing to roll back to.
    NoPreviousDeployment = "no-previous-deployment", 409, "There is no previous deployment";
    /// No partition is blocked at the record that is to be skipped.
    NotBlocked = "not-blocked", 409, "It is not blocked at that record";
    /// The plugin takes no commands.
    NotAHandler = "not-a-handler", 409, "The plugin takes no commands";
    /// The code of the plugin cannot tell its states in events.
    NoEmitState = "no-emit-state", 409, "The plugin does not tell its states";
    /// The plugin tells its states in events already.
    BootstrapUnderWay = "bootstrap-under-way", 409, "The states are being told already";
    /// The plugin does not tell its states in events now.
    NoBootstrap = "no-bootstrap", 409, "The states are not being told";
    /// The plugin does not remember its changes.
    NoChanges = "no-changes", 409, "The plugin does not remember its changes";
    /// The plugin does not keep where the events of its keys are.
    NoHistory = "no-history", 409, "The plugin keeps no history";
    /// Nothing is parked that could be folded again or discarded.
    NotParked = "not-parked", 409, "Nothing is parked";
    /// States cannot be kept: they were folded from other inputs.
    InputsChanged = "inputs-changed", 409, "The inputs have changed";
    /// States cannot be kept: the code cannot read them.
    SchemaChanged = "schema-changed", 409, "The schema of the states has changed";
    /// The log has lost its beginning.
    HistoryCut = "history-cut", 409, "The log does not reach back to its start";
    /// The topic exists already.
    TopicExists = "topic-exists", 409, "The topic exists already";
    /// The host, or a plugin, owns the topic.
    TopicOwned = "topic-owned", 409, "The topic is owned";
    /// Another plugin owns the topic that a plugin is to publish to.
    OutputTaken = "output-taken", 409, "The output belongs to another plugin";
    /// It would publish twice, or never publishes what it reads.
    EmitFromRefused = "emit-from-refused", 409, "It cannot publish from the earliest record on";
    /// A plugin reads the topic.
    TopicInUse = "topic-in-use", 409, "The topic is in use";
    /// The topic has other partitions than asked for.
    PartitionsDiffer = "partitions-differ", 409, "The topic has another number of partitions";
    /// What has changed since a token is not known any more.
    ChangesTokenTooOld = "changes-token-too-old", 410, "The token is too old";
    /// The command was meant for another version.
    PreconditionFailed = "precondition-failed", 412, "It was meant for another version";
    /// A body or record is too large; nothing was written.
    TooLarge = "too-large", 413, "It is too large";
    /// The content type is not taken here.
    UnsupportedMediaType = "unsupported-media-type", 415, "The content type is not taken here";
    /// Another host owns the key.
    NotOwner = "not-owner", 421, "Another host owns the key";
    /// The component was refused; every fault is listed.
    InvalidPlugin = "invalid-plugin", 422, "The component is refused";
    /// The handler refused the command, with a code of its own.
    CommandRefused = "command-refused", 422, "The command is refused";
    /// The idempotency key belongs to another command.
    IdempotencyConflict = "idempotency-conflict", 422, "The idempotency key belongs to another command";
    /// The plugin refused the question with a code of its own.
    PluginRefused = "plugin-refused", 422, "The plugin refused";
    /// The handler takes no command without a version.
    PreconditionRequired = "precondition-required", 428, "The command must say for which version it is";
    /// Something in the host failed.
    Internal = "internal", 500, "Something failed in the host";
    /// The plugin trapped while it answered.
    PluginTrapped = "plugin-trapped", 500, "The plugin failed while it answered";
    /// The partition has not read its backlog yet.
    Replaying = "replaying", 503, "The view is still reading its backlog";
    /// The host, or a plugin on it, is not ready yet.
    NotReady = "not-ready", 503, "It is not ready yet";
    /// The view has not folded the record in time.
    PositionNotReached = "position-not-reached", 503, "The view has not folded that record yet";
    /// As many commands wait as may.
    CommandsFull = "commands-full", 503, "Too many commands wait";
    /// As many streams of changes are served as may be.
    StreamsFull = "streams-full", 503, "Too many streams are served";
    /// As many outcomes are kept as may be.
    OutcomesFull = "outcomes-full", 503, "Too many outcomes are kept";
    /// No host owns the key right now.
    NoOwner = "no-owner", 503, "No host owns the key right now";
    /// The log does not answer.
    LogUnavailable = "log-unavailable", 503, "The log does not answer";
    /// The object store or state does not answer.
    StateUnavailable = "state-unavailable", 503, "The state does not answer";
    /// The host is stopping.
    ShuttingDown = "shutting-down", 503, "The host is stopping";
    /// The write may or may not have happened.
    OutcomeUnknown = "outcome-unknown", 504, "The outcome is unknown";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal with its code, what is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// Stable code.
    pub code: Code,
    /// What is wrong and what to do, in one or two sentences.
    pub detail: String,
    /// Further members of the problem document, such as `argument`, `line` or `faults`.
    pub members: Vec<(&'static str, serde_json::Value)>,
}

impl Problem {
    /// A problem without further members.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            members: Vec::new(),
        }
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_carry_an_error_status() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert!((400..600).contains(&code.status()), "{code}");
        }
    }
}
