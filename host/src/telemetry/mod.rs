//! What a host says about itself: figures for Prometheus and lines for a log. Used by every layer
//! above.

mod logging;
mod metrics;

pub use logging::{LogFilterError, LogFormat, init_logging};
pub use metrics::{CONTENT_TYPE, Level, Metrics, PartitionLabels};
