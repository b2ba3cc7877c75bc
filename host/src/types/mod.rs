//! Names, numbers and ids that every layer speaks: plain data, no behaviour beyond validity.
//!
//! Invariant: a value of these types is valid. Construction checks it once; nobody checks again.

mod columns;
mod id;
mod key;
mod position;

pub use columns::{BytesColumn, HeadersColumn, Mark, OptionalColumn};
pub use id::InvalidName;
pub use id::{ClusterName, DeploymentId, Digest, Epoch, GenerationId, PluginName, TopicName};
pub use key::{InvalidKey, KeyFormat};
pub use position::{InvalidPosition, Offset, Partition, RecordPosition, TopicPartition};
