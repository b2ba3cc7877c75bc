//! A librdkafka client with its events served: log lines, errors and delivery reports wait in a
//! queue until somebody polls, so a task does as soon as there are any. Used by readers, writers and
//! the questions about topics; a membership serves its own.
//!
//! Invariant: a client is closed on a thread of its own: closing waits for librdkafka's threads, and
//! no thread of the runtime may.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka_sys as sys;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::limits;

use super::context::Context;
use super::error;
use super::native::{Events, NativeHandle};

/// Questions about a topic after which a producer is connected to a broker that told of itself: the first may be
/// answered, or cut off, by an address that it was given, which it then leaves.
const CONNECTING_QUESTIONS: u32 = 3;

/// Connects a producer; blocks, for [`limits::KAFKA_REQUEST_MAX`] at most. That no broker answers, whoever writes finds
/// out.
///
/// librdkafka asks for the id of an idempotent producer when metadata come, and for the coordinator of a transactional
/// one when it is opened, if it has a connection then, and else half a second later (`rd_kafka_idemp_pid_fsm`,
/// `rd_kafka_txn_coord_query`). The first metadata make it leave the address that they came from for the brokers
/// themselves, to which it has none yet: so they are asked for again.
pub(super) fn connect<C: ProducerContext>(producer: &BaseProducer<C>, topic: &str) {
    for _ in 0..CONNECTING_QUESTIONS {
        let within = limits::KAFKA_REQUEST_MAX / CONNECTING_QUESTIONS;
        if let Err(error) = producer.client().fetch_metadata(Some(topic), within) {
            tracing::debug!(topic, %error, "a producer connects");
            if error::code_of(&error) == Code::OperationTimedOut {
                return;
            }
        }
    }
}

/// A client whose events can be served without waiting.
pub(super) trait Served: NativeHandle {
    /// Serves one event, if there is one.
    fn serve(&self);
}

impl NativeHandle for BaseConsumer<Context> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl Served for BaseConsumer<Context> {
    fn serve(&self) {
        // Errors have gone to the context; a consumer without a group gets nothing else here.
        drop(self.poll(Duration::ZERO));
    }
}

impl<C: ProducerContext + 'static> NativeHandle for BaseProducer<C> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl<C: ProducerContext + 'static> Served for BaseProducer<C> {
    fn serve(&self) {
        self.poll(Duration::ZERO);
    }
}

/// A client and the task that serves its events; closed when the last handle is gone.
pub(super) struct Client<S: Served> {
    inner: Option<(Events, S)>,
    task: OnceLock<AbortHandle>,
}

impl<S: Served> Client<S> {
    /// Begins to serve a client's events.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn serve(client: S) -> Arc<Self> {
        let woken = Arc::new(Notify::new());
        let wake = Arc::clone(&woken);
        let events = Events::of(&client, move || wake.notify_one());
        let this = Arc::new(Self {
            inner: Some((events, client)),
            task: OnceLock::new(),
        });
        let served = Arc::downgrade(&this);
        let task = tokio::spawn(async move {
            loop {
                let Some(client) = served.upgrade() else {
                    return;
                };
                let more = client.serve_some();
                drop(client);
                if more {
                    tokio::task::yield_now().await;
                } else {
                    woken.notified().await;
                }
            }
        });
        // The cell was made above and is filled here only.
        let _ = this.task.set(task.abort_handle());
        this
    }

    /// Serves a bounded number of events; true if there may be more.
    fn serve_some(&self) -> bool {
        let (events, client) = self.inner();
        for _ in 0..limits::KAFKA_EVENTS_SERVED_MAX {
            if events.len() == 0 {
                return false;
            }
            client.serve();
        }
        true
    }

    fn inner(&self) -> &(Events, S) {
        self.inner.as_ref().expect("taken on drop only")
    }
}

impl<S: Served> Deref for Client<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.inner().1
    }
}

impl<S: Served> NativeHandle for Client<S> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.inner().1.native()
    }
}

impl<S: Served> Drop for Client<S> {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
        close_elsewhere(self.inner.take());
    }
}

impl<S: Served> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Drops what takes its time to drop on a thread of its own.
pub(super) fn close_elsewhere<T: Send + 'static>(value: T) {
    let closed = std::thread::Builder::new()
        .name("kafka-close".to_owned())
        .spawn(move || {
            drop(value);
        });
    if let Err(error) = closed {
        // The closure, and with it the value, has been dropped here instead.
        tracing::debug!("no thread for closing a kafka client: {error}");
    }
}
