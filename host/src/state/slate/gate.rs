//! Stands between one open database and its object store. Used by `slate` only.
//!
//! SlateDB tries failed writes again for ever, also while it closes. The gate says early why a
//! write does not succeed, and ends the trying when the store is closed.
//!
//! Invariant: once shut, nothing of this database reaches the object store any more.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::sync::watch;

use crate::state::objects::unwritable;

/// An object store that can be shut and remembers its last fault. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    inner: Arc<dyn ObjectStore>,
    seen: Arc<watch::Sender<Seen>>,
}

#[derive(Debug, Default, Clone)]
struct Seen {
    shut: bool,
    /// The last error that is no answer to a condition.
    fault: Option<String>,
    /// What keeps the store from being written, if the last fault was of that kind.
    unwritable: Option<String>,
}

impl Gate {
    pub(super) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            seen: Arc::new(watch::Sender::new(Seen::default())),
        }
    }

    /// From now on every call fails, and SlateDB does not try it again.
    pub(super) fn shut(&self) {
        self.seen.send_modify(|seen| seen.shut = true);
    }

    /// Forgets the faults seen so far.
    pub(super) fn clear(&self) {
        self.seen.send_modify(|seen| {
            seen.fault = None;
            seen.unwritable = None;
        });
    }

    /// The last fault since [`clear`](Self::clear).
    pub(super) fn fault(&self) -> Option<String> {
        self.seen.borrow().fault.clone()
    }

    /// What keeps the store from being written, if the last fault was of that kind.
    pub(super) fn unwritable_now(&self) -> Option<String> {
        self.seen.borrow().unwritable.clone()
    }

    /// Ends when a fault says that the store cannot be written, with what it says.
    pub(super) async fn unwritable(&self) -> String {
        let mut seen = self.seen.subscribe();
        let seen = seen.wait_for(|seen| seen.unwritable.is_some()).await;
        let seen = seen.expect("the gate holds the sender");
        seen.unwritable.clone().unwrap_or_default()
    }

    fn pass(&self) -> Result<()> {
        if self.seen.borrow().shut {
            // Of the errors that SlateDB gives up at, the one that no store gives by itself here.
            return Err(Error::NotSupported {
                source: "this store is closed".into(),
            });
        }
        Ok(())
    }

    fn observe<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && !is_answer(error)
        {
            self.seen.send_modify(|seen| {
                seen.fault = Some(error.to_string());
                seen.unwritable = unwritable(error);
            });
        }
        result
    }
}

/// Errors by which a store answers a condition; SlateDB asks for them.
fn is_answer(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::AlreadyExists { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
    )
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.pass()?;
        self.observe(self.inner.put_opts(location, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.pass()?;
        let inner = self.observe(self.inner.put_multipart_opts(location, options).await)?;
        Ok(Box::new(GatedUpload {
            inner,
            gate: self.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass()?;
        self.observe(self.inner.get_opts(location, options).await)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.pass()?;
        self.observe(self.inner.get_ranges(location, ranges).await)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let gate = self.clone();
        let open = locations.and_then(move |location| {
            let open = gate.pass();
            async move { open.map(|()| location) }
        });
        let gate = self.clone();
        let deleted = self.inner.delete_stream(open.boxed());
        deleted.map(move |result| gate.observe(result)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.gated(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.gated(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.pass()?;
        self.observe(self.inner.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.pass()?;
        self.observe(self.inner.copy_opts(from, to, options).await)
    }
}

impl Gate {
    fn gated(
        &self,
        listed: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(shut) = self.pass() {
            return stream::once(async move { Err(shut) }).boxed();
        }
        let gate = self.clone();
        listed.map(move |result| gate.observe(result)).boxed()
    }
}

#[derive(Debug)]
struct GatedUpload {
    inner: Box<dyn MultipartUpload>,
    gate: Gate,
}

#[async_trait]
impl MultipartUpload for GatedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        if let Err(shut) = self.gate.pass() {
            return Box::pin(async move { Err(shut) });
        }
        let part = self.inner.put_part(data);
        let gate = self.gate.clone();
        Box::pin(async move { gate.observe(part.await) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.gate.pass()?;
        let completed = self.inner.complete().await;
        self.gate.observe(completed)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
