//! librdkafka's error codes as [`LogError`]s, by what the caller can do about them. The one place
//! where a code is judged; used by every part of the adapter.
//!
//! Invariant: a write that may have happened is never called refused or unavailable.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::super::LogError;

/// What a code means, whatever was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It may pass.
    Transient,
    /// Another writer or member has taken over.
    Fenced,
    /// Settings, rights or arguments are wrong.
    Refused,
    /// The topic or partition does not exist.
    Missing,
    /// What is stored cannot be read.
    Damaged,
    /// The record is larger than the broker or the client takes.
    TooLarge,
    /// The next record was removed, or never was.
    OutOfRange,
}

/// Judges a code.
pub(super) fn kind(code: Code) -> Kind {
    match code {
        Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::UnknownMemberId
        | Code::IllegalGeneration
        | Code::AssignmentLost => Kind::Fenced,
        Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => {
            Kind::Missing
        }
        Code::BadMessage | Code::InvalidMessage | Code::BadCompression => Kind::Damaged,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => Kind::TooLarge,
        Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation => Kind::OutOfRange,
        code if is_refusal(code) => Kind::Refused,
        _ => Kind::Transient,
    }
}

/// Whether the brokers, or what the client knows of them, have yet to settle who leads a partition.
pub(super) fn is_unsettled(code: Code) -> bool {
    kind(code) == Kind::Missing
        || matches!(
            code,
            Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::ReplicaNotAvailable
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
                | Code::OffsetNotAvailable
        )
}

fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::SecurityDisabled
            | Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidReplicaAssignment
            | Code::InvalidConfig
            | Code::InvalidRequest
            | Code::InvalidArgument
            | Code::InvalidGroupId
            | Code::InvalidSessionTimeout
            | Code::InvalidTransactionTimeout
            | Code::InvalidTimestamp
            | Code::InvalidRequiredAcks
            | Code::InconsistentGroupProtocol
            | Code::GroupMaxSizeReached
            | Code::PolicyViolation
            | Code::TopicDeletionDisabled
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::UnsupportedForMessageFormat
            | Code::UnsupportedCompressionType
            | Code::NotImplemented
    )
}

/// What to do about a refusal, where the code tells.
fn remedy(code: Code) -> &'static str {
    match code {
        Code::TopicAuthorizationFailed => {
            ": grant the host its rights on the topic (`foldhost plugin requirements` lists them)"
        }
        Code::GroupAuthorizationFailed => {
            ": grant the host READ on its group (`foldhost plugin requirements` lists it)"
        }
        Code::TransactionalIdAuthorizationFailed => {
            ": grant the host WRITE on its transactional ids (`foldhost plugin requirements` lists them)"
        }
        Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => {
            ": check sasl.* and security.protocol in [kafka]"
        }
        Code::InvalidReplicationFactor => {
            ": set [topics] replication-factor to at most the number of brokers"
        }
        Code::InvalidSessionTimeout => {
            ": set session.timeout.ms in [kafka] to what the brokers allow (group.min.session.timeout.ms)"
        }
        Code::InvalidTransactionTimeout => {
            ": set transaction.timeout.ms in [kafka] to what the brokers allow"
        }
        Code::FencedInstanceId => {
            ": another host uses the same instance id; give every host a data folder of its own"
        }
        _ => "",
    }
}

/// What was done, what came of it, and what to do about that.
pub(super) fn text(code: Code, what: &str) -> String {
    format!("{what}: {code}{}", remedy(code))
}

/// The error of a question that changes nothing; `what` was asked.
pub(super) fn asked(code: Code, what: &str) -> LogError {
    let text = text(code, what);
    match kind(code) {
        Kind::Transient => LogError::Unavailable(text),
        Kind::Fenced => LogError::Fenced(text),
        Kind::Damaged => LogError::Corrupt(text),
        Kind::Refused | Kind::Missing | Kind::TooLarge | Kind::OutOfRange => {
            LogError::Rejected(text)
        }
    }
}

/// The error of a write; `perhaps_written` unless it is certain that nothing was.
pub(super) fn written(code: Code, perhaps_written: bool, what: &str) -> LogError {
    let text = text(code, what);
    match kind(code) {
        Kind::Fenced => LogError::Fenced(text),
        _ if perhaps_written => LogError::OutcomeUnknown(text),
        Kind::Transient => LogError::Unavailable(text),
        _ => LogError::Rejected(text),
    }
}

/// The error of making a client: librdkafka names the property that it does not take.
pub(super) fn made(error: &KafkaError) -> LogError {
    LogError::Rejected(match error {
        KafkaError::ClientConfig(_, reason, key, _) => {
            format!("{reason}: correct or remove '{key}' in [kafka]")
        }
        KafkaError::ClientCreation(reason) => format!("{reason}: correct it in [kafka]"),
        other => other.to_string(),
    })
}

/// The code of an error that comes with one.
pub(super) fn code_of(error: &KafkaError) -> Code {
    match error {
        KafkaError::AdminOp(code) => *code,
        other => other.rdkafka_error_code().unwrap_or(Code::Fail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fenced_writer_or_member_is_told_so() {
        for code in [
            Code::Fenced,
            Code::InvalidProducerEpoch,
            Code::UnknownMemberId,
            Code::IllegalGeneration,
            Code::FencedInstanceId,
        ] {
            assert!(matches!(asked(code, "x"), LogError::Fenced(_)), "{code:?}");
            assert!(
                matches!(written(code, true, "x"), LogError::Fenced(_)),
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_rebalance_passes() {
        assert!(matches!(
            asked(Code::RebalanceInProgress, "x"),
            LogError::Unavailable(_)
        ));
    }

    #[test]
    fn a_write_that_may_have_happened_is_never_refused() {
        for code in [
            Code::MessageTimedOut,
            Code::TopicAuthorizationFailed,
            Code::Unknown,
        ] {
            assert!(
                matches!(written(code, true, "x"), LogError::OutcomeUnknown(_)),
                "{code:?}"
            );
        }
        let timed_out = written(Code::MessageTimedOut, false, "x");
        assert!(matches!(timed_out, LogError::Unavailable(_)));
        let denied = written(Code::TopicAuthorizationFailed, false, "x");
        assert!(matches!(denied, LogError::Rejected(_)));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = asked(Code::TopicAuthorizationFailed, "reading 'a'").to_string();
        assert!(
            text.contains("reading 'a'") && text.contains("requirements"),
            "{text}"
        );
        assert!(
            asked(Code::FencedInstanceId, "x")
                .to_string()
                .contains("data folder")
        );
    }

    #[test]
    fn what_is_not_known_may_pass() {
        assert_eq!(kind(Code::BrokerTransportFailure), Kind::Transient);
        assert_eq!(kind(Code::NotLeaderForPartition), Kind::Transient);
        assert_eq!(kind(Code::Unknown), Kind::Transient);
    }
}
