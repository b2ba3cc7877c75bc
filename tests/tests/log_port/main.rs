//! The contract of the log port, held against both adapters: the same assertions run on the embedded
//! log and on a real Kafka broker (`contract`), and what only a cluster can do to a host follows
//! (`cluster`, `secured`). These scenarios call the host's library: the port is not visible from outside.

#![allow(
    clippy::unwrap_used,
    reason = "a scenario that cannot go on says where"
)]

mod bed;
mod cluster;
mod contract;
mod publishing;
mod secured;
