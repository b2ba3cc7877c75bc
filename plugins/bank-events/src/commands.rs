//! The commands of the topic `bank-commands`, by which a transfer goes on: `bank-transfers` writes them, and
//! `bank-account` decides them. Their key is the account, their value this as JSON.

use serde::{Deserialize, Serialize};

/// `deposit`: money comes in, at a counter or by a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deposit {
    /// How much.
    pub cents: u64,
    /// By which transfer, if by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<FromSender>,
}

/// A transfer as its receiver hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromSender {
    /// The account that sends the money.
    pub from: String,
    /// Which of the transfers from that account to this one, from 1.
    pub number: u64,
}

/// `refund`: the money of a transfer comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// How much.
    pub cents: u64,
    /// Of which transfer.
    pub transfer: ToReceiver,
    /// Why it was declined.
    pub reason: String,
}

/// A transfer as its sender named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToReceiver {
    /// The account to which it went.
    pub to: String,
    /// Which of the transfers from this account to that one, from 1.
    pub number: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_so() {
        let mut deposit = Deposit {
            cents: 5,
            transfer: Some(FromSender {
                from: "ann".into(),
                number: 2,
            }),
        };
        let json = r#"{"cents":5,"transfer":{"from":"ann","number":2}}"#;
        assert_eq!(serde_json::to_string(&deposit).unwrap(), json);
        deposit.transfer = None;
        assert_eq!(serde_json::to_string(&deposit).unwrap(), r#"{"cents":5}"#);
        let json = r#"{"cents":5,"transfer":{"to":"bob","number":2},"reason":"account-closed"}"#;
        let refund: Refund = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&refund).unwrap(), json);
    }
}
