//! An object store that fails on command, for tests: a process that dies at any write, a disk that
//! is full for a while, a commit whose answer is lost. It counts what is read.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// When a commit fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Nothing of it is there.
    BeforeWriting,
    /// It is there, and the caller is told that it failed.
    AfterWriting,
}

/// Says what fails. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    writes: u64,
    read_bytes: u64,
    crash: Option<Crash>,
    crashed: bool,
    full: bool,
    next_commit: Option<When>,
}

#[derive(Debug, Clone, Copy)]
struct Crash {
    at_write: u64,
    lands: bool,
}

impl Faults {
    /// `inner` with faults to come, and the handle that says which.
    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> (Arc<dyn ObjectStore>, Self) {
        let faults = Self::default();
        (
            Arc::new(FaultyStore {
                inner,
                faults: faults.clone(),
            }),
            faults,
        )
    }

    /// Dies at the write after `writes` more, which lands or not. Then everything fails, as for a
    /// process that is gone, until [`revive`](Self::revive).
    pub(crate) fn crash_after(&self, writes: u64, lands: bool) {
        let mut plan = self.0.lock();
        plan.crash = Some(Crash {
            at_write: plan.writes + writes + 1,
            lands,
        });
    }

    /// Whether it has died.
    pub(crate) fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// A new process starts. Drop what the old one had open first.
    pub(crate) fn revive(&self) {
        let mut plan = self.0.lock();
        plan.crashed = false;
        plan.crash = None;
    }

    /// Bytes that have been read from objects.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.0.lock().read_bytes
    }

    /// Writes fail as on a full disk, or succeed again.
    pub(crate) fn disk_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// The next commit that would be done fails.
    pub(crate) fn fail_next_commit(&self, when: When) {
        self.0.lock().next_commit = Some(when);
    }

    fn alive(&self) -> Result<()> {
        if self.0.lock().crashed {
            return Err(Error::NotSupported {
                source: "the process is gone".into(),
            });
        }
        Ok(())
    }

    /// What becomes of a write.
    fn write(&self, location: &Path) -> Result<Outcome> {
        self.alive()?;
        let mut plan = self.0.lock();
        plan.writes += 1;
        if plan.full {
            return Ok(Outcome::Fails);
        }
        if let Some(crash) = plan.crash.filter(|crash| plan.writes >= crash.at_write) {
            plan.crashed = true;
            return Ok(if crash.lands {
                Outcome::LandsAtDeath
            } else {
                Outcome::Dies
            });
        }
        if location.as_ref().contains("/manifest/")
            && let Some(when) = plan.next_commit.take()
        {
            return Ok(match when {
                When::BeforeWriting => Outcome::Fails,
                When::AfterWriting => Outcome::LandsUnheard,
            });
        }
        Ok(Outcome::Lands)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Lands,
    LandsUnheard,
    Fails,
    /// It lands, but nobody is there to hear it.
    LandsAtDeath,
    /// It does not land, and nobody is there to hear it.
    Dies,
}

/// An error that nobody tries again.
fn gone() -> Error {
    Error::NotSupported {
        source: "the process is gone".into(),
    }
}

fn full() -> Error {
    Error::Generic {
        store: "faulty",
        source: Box::new(io::Error::from(io::ErrorKind::StorageFull)),
    }
}

#[derive(Debug)]
struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        match self.faults.write(location)? {
            Outcome::Lands => self.inner.put_opts(location, payload, options).await,
            Outcome::LandsUnheard => {
                self.inner.put_opts(location, payload, options).await?;
                Err(full())
            }
            Outcome::LandsAtDeath => {
                self.inner.put_opts(location, payload, options).await?;
                Err(gone())
            }
            Outcome::Fails => Err(full()),
            Outcome::Dies => Err(gone()),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        match self.faults.write(location)? {
            Outcome::Lands => self.inner.put_multipart_opts(location, options).await,
            // Parts of an upload that is never completed are nothing.
            Outcome::LandsUnheard | Outcome::Fails => Err(full()),
            Outcome::LandsAtDeath | Outcome::Dies => Err(gone()),
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.faults.alive()?;
        let got = self.inner.get_opts(location, options).await?;
        self.faults.0.lock().read_bytes += got.range.end - got.range.start;
        Ok(got)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.faults.alive() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(gone) => stream::once(async move { Err(gone) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.faults.alive() {
            Ok(()) => self.inner.list(prefix),
            Err(gone) => stream::once(async move { Err(gone) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.faults.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults.alive()?;
        self.inner.copy_opts(from, to, options).await
    }
}
