//! What every handler holds: the services that it answers from, and the budgets that bound what all
//! requests take together. Cheap to clone.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::HttpServices;
use super::routes::RouteTable;
use crate::error::{Code, Problem};
use crate::limits;
use crate::partition::Lookups;

/// Shared context of all requests.
#[derive(Debug, Clone)]
pub(super) struct App(Arc<Context>);

/// See [`App`].
#[derive(Debug)]
pub(super) struct Context {
    /// What the host consists of.
    pub(super) services: HttpServices,
    /// Cancelled when the host stops: whatever waits ends.
    pub(super) stop: CancellationToken,
    /// Room for bodies, in units of [`BODY_UNIT_BYTES`].
    pub(super) bodies: Arc<Semaphore>,
    /// Reads of topics that may run now.
    pub(super) topic_reads: Semaphore,
    /// Streams of changes that may begin now.
    pub(super) change_streams: Arc<Semaphore>,
    /// Batches of commands that may be decided now.
    pub(super) command_batches: Arc<Semaphore>,
    /// Looks for the ends of merge topics.
    pub(super) lookups: Lookups,
    /// The OpenAPI document, serialised once.
    pub(super) openapi: Bytes,
    /// All routes, for answers to requests that hit none.
    pub(super) routes: RouteTable,
}

/// Granularity of the budget for bodies.
pub(super) const BODY_UNIT_BYTES: usize = 1024;

impl App {
    /// Bundles the services.
    pub(super) fn new(
        services: HttpServices,
        stop: CancellationToken,
        openapi: Bytes,
        routes: RouteTable,
    ) -> Self {
        Self(Arc::new(Context {
            lookups: Lookups::new(&services.log, "http.lookups"),
            services,
            stop,
            bodies: Arc::new(Semaphore::new(limits::BODIES_BYTES_MAX / BODY_UNIT_BYTES)),
            change_streams: Arc::new(Semaphore::new(limits::FEED_STREAMS_MAX)),
            topic_reads: Semaphore::new(limits::TOPIC_READS_CONCURRENT_MAX),
            command_batches: Arc::new(Semaphore::new(limits::COMMAND_BATCHES_CONCURRENT_MAX)),
            openapi,
            routes,
        }))
    }

    /// Runs something that waits, unless the host stops meanwhile.
    ///
    /// # Errors
    /// [`Code::ShuttingDown`].
    pub(super) async fn unless_stopped<T>(
        &self,
        waiting: impl Future<Output = T>,
    ) -> Result<T, Problem> {
        match self.stop.run_until_cancelled(waiting).await {
            Some(done) => Ok(done),
            None => Err(Problem::new(
                Code::ShuttingDown,
                "the host is stopping: ask again in a moment, or another host",
            )),
        }
    }
}

impl Deref for App {
    type Target = Context;
    fn deref(&self) -> &Context {
        &self.0
    }
}
