//! What becomes of a body that a handler did not read to its end. Used by `middleware`.
//!
//! Closing a connection on a client that still sends resets it, and the client may never see why it was
//! refused: so the rest is read and thrown away before the refusal goes out, within bounds.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::body;
use crate::limits;

/// The rest of a body, once its handler has dropped it.
#[derive(Debug)]
pub(super) struct Rest {
    left: Arc<Mutex<Option<Left>>>,
    /// The client sends nothing before it is told to go on.
    waits: bool,
}

#[derive(Debug)]
struct Left {
    body: Body,
    bytes_read: usize,
    was_polled: bool,
}

/// A body for a handler that gives back what is left of it.
struct Lent {
    body: Body,
    bytes_read: usize,
    was_polled: bool,
    left: Arc<Mutex<Option<Left>>>,
}

/// Lends a body out; without one there is nothing to drain.
pub(super) fn lend(headers: &HeaderMap, body: Body) -> (Body, Option<Rest>) {
    if body.is_end_stream() {
        return (body, None);
    }
    let left = Arc::new(Mutex::new(None));
    let rest = Rest {
        left: left.clone(),
        waits: headers.contains_key(header::EXPECT),
    };
    let lent = Lent {
        body,
        bytes_read: 0,
        was_polled: false,
        left,
    };
    (Body::new(lent), Some(rest))
}

impl Rest {
    /// Reads the rest and throws it away. Whether all of it came makes no difference to the answer.
    pub(super) async fn drain(self) {
        let Some(left) = self.left.lock().take() else {
            return;
        };
        if self.waits && !left.was_polled {
            return;
        }
        let mut bytes = left.bytes_read;
        let mut rest = pin!(left.body);
        let draining = async {
            while let Some(Ok(chunk)) = body::next(rest.as_mut()).await {
                bytes += chunk.len();
                if bytes > limits::BODY_DRAIN_BYTES_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(limits::REQUEST_BODY_MAX, draining).await;
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.was_polled = true;
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes_read += frame.data_ref().map_or(0, Bytes::len);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            *self.left.lock() = Some(Left {
                body: std::mem::take(&mut self.body),
                bytes_read: self.bytes_read,
                was_polled: self.was_polled,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::stream::{self, StreamExt as _};

    use super::*;

    fn counted(chunks: usize) -> (Body, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let counter = read.clone();
        let chunks = stream::iter(0..chunks).map(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from_static(b"chunk"))
        });
        (Body::from_stream(chunks), read)
    }

    #[tokio::test]
    async fn what_a_handler_left_is_read() {
        let (body, read) = counted(10);
        let (lent, rest) = lend(&HeaderMap::new(), body);
        let mut lent = Box::pin(lent);
        assert!(body::next(lent.as_mut()).await.unwrap().is_ok());
        drop(lent);
        assert_eq!(read.load(Ordering::Relaxed), 1);
        rest.unwrap().drain().await;
        assert_eq!(read.load(Ordering::Relaxed), 10);
    }

    #[tokio::test]
    async fn a_client_that_waits_for_its_turn_is_not_waited_for() {
        let (body, read) = counted(10);
        let headers = HeaderMap::from_iter([(header::EXPECT, "100-continue".parse().unwrap())]);
        let (lent, rest) = lend(&headers, body);
        drop(lent);
        rest.unwrap().drain().await;
        assert_eq!(read.load(Ordering::Relaxed), 0);
        assert!(lend(&headers, Body::empty()).1.is_none());
    }
}
