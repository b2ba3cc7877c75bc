//! The object store of a host: components by digest, the marker that names the cluster, and the
//! store that the states lie in. Opened by `node`; called by `manager`.
//!
//! Invariants: what a call wrote is durable when it returns (a local folder is written with fsync);
//! a component is believed only after its bytes gave its digest; an object store belongs to one
//! cluster, and whoever sees another one's marker refuses to start.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::limits;
use crate::types::{ClusterName, Digest};

const MARKER: &str = "foldhost-cluster.json";
const MARKER_FORMAT: u32 = 1;
/// Requests to a remote store are retried this often before they fail; callers try again later.
const REQUEST_RETRIES: usize = 3;
const REQUEST_RETRIES_TIMEOUT: Duration = Duration::from_secs(15);

/// What can go wrong with an object store, by what the caller can do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectsError {
    /// The location in the configuration is wrong.
    #[error(
        "'{location}' is no object store: {reason}; use a folder, file:///folder, \
         s3://bucket/prefix or memory://"
    )]
    Location {
        /// As configured.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It may pass: try again after a pause.
    #[error("the object store does not answer: {0}")]
    Unavailable(String),
    /// It cannot be written: rights, a full or read-only disk.
    #[error("the object store {location} cannot be written: {reason}")]
    NotWritable {
        /// As configured.
        location: String,
        /// What the disk or the service says.
        reason: String,
    },
    /// Its disk is full: try again after a pause, once somebody has made room.
    #[error("the object store {location} cannot be written: {reason}; make room")]
    Full {
        /// As configured.
        location: String,
        /// What the disk says.
        reason: String,
    },
    /// Nobody stored this component.
    #[error("there is no component {0} in the object store: deploy it again")]
    UnknownComponent(Digest),
    /// A component is larger than any component may be.
    #[error("a component of {bytes} bytes is larger than the {bytes_max} that are taken")]
    ComponentTooLarge {
        /// Its size.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// A stored component does not give its digest any more.
    #[error("the stored component {0} is damaged: deploy it again")]
    DamagedComponent(Digest),
    /// A newer version has claimed it.
    #[error(
        "the object store {location} is in format {found}, and this foldhost reads format \
         {MARKER_FORMAT}: start the newer foldhost that wrote it, or name another store in \
         `[objects] url`"
    )]
    Newer {
        /// As configured.
        location: String,
        /// Format in the marker.
        found: u32,
    },
    /// The marker cannot be read.
    #[error("the marker {MARKER} in {location} cannot be read: {reason}")]
    DamagedMarker {
        /// As configured.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store belongs to another cluster.
    #[error(
        "the object store {location} belongs to cluster '{found}' ({found_id}), and this host is of \
         '{wanted}' ({wanted_id}): give each cluster an object store and a cluster name of its own"
    )]
    ForeignCluster {
        /// As configured.
        location: String,
        /// Cluster in the marker.
        found: String,
        /// Its id.
        found_id: String,
        /// Cluster of this host.
        wanted: String,
        /// Its id, or `new`.
        wanted_id: String,
    },
}

impl ObjectsError {
    /// Whether the same call may succeed later without anybody changing the configuration.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::NotWritable { .. } | Self::Full { .. }
        )
    }
}

/// The object store of a host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    location: Arc<str>,
    /// Where it is, if it is a folder.
    folder: Option<PathBuf>,
    conditional_updates: bool,
    clock: Clock,
}

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: u32,
    cluster: String,
    id: String,
}

impl Objects {
    /// Opens an object store: a folder (`path` or `file:///path`, taken literally, created if it is
    /// missing), `s3://bucket/prefix` (credentials, region and endpoint from the usual `AWS_…`
    /// variables) or `memory://`, which forgets everything with the process. Nothing is read or
    /// written yet, except for the folder itself.
    ///
    /// # Errors
    /// [`ObjectsError::Location`], and [`ObjectsError::NotWritable`] when the folder cannot be made.
    pub fn open(location: &str, clock: Clock) -> Result<Self, ObjectsError> {
        let invalid = |reason: String| ObjectsError::Location {
            location: location.to_owned(),
            reason,
        };
        let mut folder: Option<PathBuf> = None;
        let store: Arc<dyn ObjectStore> = match location.split_once("://") {
            Some(("memory", _)) => Arc::new(InMemory::new()),
            Some(("s3", rest)) => open_s3(location, rest).map_err(invalid)?,
            Some(("file", path)) if path.starts_with('/') => {
                open_folder(folder.insert(path.into()))?
            }
            Some(("file", _)) => return Err(invalid("the path is not absolute".to_owned())),
            Some((scheme, _)) => return Err(invalid(format!("'{scheme}' is not known"))),
            None if location.is_empty() => return Err(invalid("it is empty".to_owned())),
            None => open_folder(folder.insert(location.into()))?,
        };
        Ok(Self {
            store,
            location: Arc::from(location),
            conditional_updates: folder.is_none(),
            folder,
            clock,
        })
    }

    /// Where it is, if it is a folder of this machine.
    #[must_use]
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.folder.as_deref()
    }

    /// The store itself, for the adapter of the states.
    #[must_use]
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Whether the store can replace an object on the condition that nobody else did (a local
    /// folder cannot).
    #[must_use]
    pub fn conditional_updates(&self) -> bool {
        self.conditional_updates
    }

    /// As configured.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Writes, reads and deletes a probe.
    ///
    /// # Errors
    /// [`ObjectsError::NotWritable`] for rights and full or read-only disks;
    /// [`ObjectsError::Unavailable`].
    pub async fn check_writable(&self) -> Result<(), ObjectsError> {
        let probe = Path::from(format!("probes/{}", self.clock.unique_id()));
        let written = self
            .store
            .put(&probe, PutPayload::from_static(b"foldhost"))
            .await;
        written.map_err(|error| self.fault(&error))?;
        self.store
            .delete(&probe)
            .await
            .map_err(|error| self.fault(&error))
    }

    /// Refuses a store that a newer version has claimed; nothing is written. One that is not claimed
    /// yet, or does not answer, is left to [`claim`](Self::claim).
    ///
    /// # Errors
    /// [`ObjectsError::Newer`], [`ObjectsError::DamagedMarker`].
    pub async fn check_format(&self) -> Result<(), ObjectsError> {
        match self.store.get(&Path::from(MARKER)).await {
            Ok(_) => self.marker().await.map(|_| ()),
            Err(_) => Ok(()),
        }
    }

    /// Claims the store for `cluster` and returns the cluster's id: `known` if the log names one
    /// already, else the one in the marker, else a new one. Whoever comes second gets the first
    /// one's.
    ///
    /// # Errors
    /// [`ObjectsError::ForeignCluster`] when the store has another name or id than that.
    pub async fn claim(
        &self,
        cluster: &ClusterName,
        known: Option<&str>,
    ) -> Result<String, ObjectsError> {
        let marker = Marker {
            format: MARKER_FORMAT,
            cluster: cluster.to_string(),
            id: known.map_or_else(|| self.clock.unique_id(), str::to_owned),
        };
        let bytes = serde_json::to_vec(&marker).expect("a marker is plain text");
        let found = if self
            .put_if_absent(&Path::from(MARKER), bytes.into())
            .await?
        {
            marker
        } else {
            self.marker().await?
        };
        if found.cluster == cluster.as_str() && known.is_none_or(|known| known == found.id) {
            return Ok(found.id);
        }
        Err(ObjectsError::ForeignCluster {
            location: self.location.to_string(),
            found: found.cluster,
            found_id: found.id,
            wanted: cluster.to_string(),
            wanted_id: known.unwrap_or("new").to_owned(),
        })
    }

    /// Stores a component under its digest. Nothing happens if it is there already and sound.
    ///
    /// # Errors
    /// [`ObjectsError::ComponentTooLarge`], [`ObjectsError::NotWritable`],
    /// [`ObjectsError::Unavailable`].
    pub async fn put_component(&self, component: Bytes) -> Result<Digest, ObjectsError> {
        check_component_size(component.len() as u64)?;
        let digest = Digest::of(&component);
        let path = component_path(&digest);
        if self.put_if_absent(&path, component.clone()).await? {
            return Ok(digest);
        }
        match self.component(&digest).await {
            Ok(_) => Ok(digest),
            Err(ObjectsError::Unavailable(reason)) => Err(ObjectsError::Unavailable(reason)),
            // It was damaged or removed: put it right.
            Err(_) => match self.store.put(&path, component.into()).await {
                Ok(_) => Ok(digest),
                Err(error) => Err(self.fault(&error)),
            },
        }
    }

    /// Bytes of a component, checked against its digest.
    ///
    /// # Errors
    /// [`ObjectsError::UnknownComponent`], [`ObjectsError::DamagedComponent`],
    /// [`ObjectsError::ComponentTooLarge`], [`ObjectsError::Unavailable`].
    pub async fn component(&self, digest: &Digest) -> Result<Bytes, ObjectsError> {
        let found = match self.store.get(&component_path(digest)).await {
            Err(object_store::Error::NotFound { .. }) => {
                return Err(ObjectsError::UnknownComponent(*digest));
            }
            found => found.map_err(|error| self.fault(&error))?,
        };
        check_component_size(found.meta.size)?;
        let bytes = found.bytes().await.map_err(|error| self.fault(&error))?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(ObjectsError::DamagedComponent(*digest))
        }
    }

    /// Whether it was written: `false` if something is there already.
    async fn put_if_absent(&self, path: &Path, bytes: Bytes) -> Result<bool, ObjectsError> {
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(path, bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.fault(&error)),
        }
    }

    async fn marker(&self) -> Result<Marker, ObjectsError> {
        let found = self.store.get(&Path::from(MARKER)).await;
        let found = found.map_err(|error| self.fault(&error))?;
        let bytes = found.bytes().await.map_err(|error| self.fault(&error))?;
        let damaged = |reason: String| ObjectsError::DamagedMarker {
            location: self.location.to_string(),
            reason,
        };
        let marker: Marker =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if marker.format > MARKER_FORMAT {
            return Err(ObjectsError::Newer {
                location: self.location.to_string(),
                found: marker.format,
            });
        }
        Ok(marker)
    }

    fn fault(&self, error: &object_store::Error) -> ObjectsError {
        let location = self.location.to_string();
        match unwritable(error) {
            Some(reason) if is_full(error) => ObjectsError::Full { location, reason },
            Some(reason) => ObjectsError::NotWritable { location, reason },
            None => ObjectsError::Unavailable(error.to_string()),
        }
    }
}

/// What keeps a store from being written, if `error` is of that kind: rights, a full or a read-only
/// disk. Trying again helps only when somebody does something about it.
pub(super) fn unwritable(error: &object_store::Error) -> Option<String> {
    if let object_store::Error::PermissionDenied { .. }
    | object_store::Error::Unauthenticated { .. } = error
    {
        return Some(error.to_string());
    }
    let fault = disk_fault(error).filter(|fault| is_unwritable(fault.kind()));
    fault.map(ToString::to_string)
}

/// Whether a disk has no room left.
fn is_full(error: &object_store::Error) -> bool {
    disk_fault(error).is_some_and(|fault| {
        matches!(
            fault.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    })
}

/// What the disk said, if it was the disk.
fn disk_fault(error: &object_store::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(fault) = error.downcast_ref() {
            return Some(fault);
        }
        cause = error.source();
    }
    None
}

fn is_unwritable(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::NotADirectory
    )
}

fn open_folder(folder: &std::path::Path) -> Result<Arc<dyn ObjectStore>, ObjectsError> {
    let not_writable = |reason: String| ObjectsError::NotWritable {
        location: folder.display().to_string(),
        reason,
    };
    std::fs::create_dir_all(folder).map_err(|error| not_writable(error.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(folder)
        .map_err(|error| not_writable(error.to_string()))?
        .with_fsync(true)
        .with_automatic_cleanup(true);
    Ok(Arc::new(store))
}

fn open_s3(location: &str, rest: &str) -> Result<Arc<dyn ObjectStore>, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("it names no bucket".to_owned());
    }
    let retry = RetryConfig {
        max_retries: REQUEST_RETRIES,
        retry_timeout: REQUEST_RETRIES_TIMEOUT,
        ..RetryConfig::default()
    };
    let store = AmazonS3Builder::from_env()
        .with_url(location)
        .with_retry(retry)
        .build()
        .map_err(|error| error.to_string())?;
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|error| error.to_string())?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

fn component_path(digest: &Digest) -> Path {
    Path::from(format!("components/{digest}.wasm"))
}

fn check_component_size(bytes: u64) -> Result<(), ObjectsError> {
    let bytes_max = limits::COMPONENT_BYTES_MAX as u64;
    if bytes > bytes_max {
        return Err(ObjectsError::ComponentTooLarge { bytes, bytes_max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn in_folder(folder: &tempfile::TempDir) -> Objects {
        Objects::open(folder.path().to_str().unwrap(), Clock::manual(0, 1)).unwrap()
    }

    #[tokio::test]
    async fn a_component_is_kept_by_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let objects = in_folder(&folder);
        let component = Bytes::from_static(b"\0asm");
        let digest = objects.put_component(component.clone()).await.unwrap();
        assert_eq!(
            objects.put_component(component.clone()).await.unwrap(),
            digest
        );
        assert_eq!(objects.component(&digest).await.unwrap(), component);
        let other = Digest::of(b"other");
        let missing = objects.component(&other).await;
        assert!(matches!(missing, Err(ObjectsError::UnknownComponent(of)) if of == other));
    }

    #[tokio::test]
    async fn a_damaged_component_is_seen_and_put_right() {
        let folder = tempfile::tempdir().unwrap();
        let objects = in_folder(&folder);
        let component = Bytes::from_static(b"\0asm");
        let digest = objects.put_component(component.clone()).await.unwrap();
        let file = folder.path().join(format!("components/{digest}.wasm"));
        std::fs::write(&file, b"\0as").unwrap();
        let damaged = objects.component(&digest).await;
        assert!(matches!(damaged, Err(ObjectsError::DamagedComponent(of)) if of == digest));
        objects.put_component(component.clone()).await.unwrap();
        assert_eq!(objects.component(&digest).await.unwrap(), component);
    }

    #[tokio::test]
    async fn the_first_claim_names_the_cluster() {
        let objects = Objects::open("memory://", Clock::manual(0, 1)).unwrap();
        let id = objects.claim(&cluster("prod"), None).await.unwrap();
        assert_eq!(objects.claim(&cluster("prod"), None).await.unwrap(), id);
        assert_eq!(
            objects.claim(&cluster("prod"), Some(&id)).await.unwrap(),
            id
        );
        for (name, known) in [("prod", Some("another")), ("staging", None)] {
            let refused = objects.claim(&cluster(name), known).await.unwrap_err();
            assert!(
                matches!(refused, ObjectsError::ForeignCluster { .. }),
                "{refused}"
            );
        }
    }

    #[tokio::test]
    async fn a_cluster_that_has_an_id_brings_it_to_a_new_store() {
        let objects = Objects::open("memory://", Clock::manual(0, 1)).unwrap();
        assert_eq!(
            objects
                .claim(&cluster("prod"), Some("known"))
                .await
                .unwrap(),
            "known"
        );
        assert_eq!(
            objects.claim(&cluster("prod"), None).await.unwrap(),
            "known"
        );
    }

    #[tokio::test]
    async fn a_folder_is_made_and_left_clean_by_the_probe() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        let url = format!("file://{}", folder.display());
        let objects = Objects::open(&url, Clock::manual(0, 1)).unwrap();
        objects.check_writable().await.unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn wrong_locations_say_what_would_be_right() {
        for location in ["", "ftp://x", "file://relative", "s3://", "s3:///prefix"] {
            let refused = Objects::open(location, Clock::manual(0, 1)).unwrap_err();
            assert!(
                matches!(refused, ObjectsError::Location { .. }),
                "{location}: {refused}"
            );
            assert!(refused.to_string().contains("s3://bucket/prefix"));
        }
    }

    #[test]
    fn a_path_that_is_a_file_cannot_be_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let inside = file.path().join("objects");
        let refused = Objects::open(inside.to_str().unwrap(), Clock::manual(0, 1)).unwrap_err();
        assert!(
            matches!(refused, ObjectsError::NotWritable { .. }),
            "{refused}"
        );
    }

    #[test]
    fn a_full_disk_is_told_from_a_store_that_does_not_answer() {
        let error = |source: io::Error| object_store::Error::Generic {
            store: "test",
            source: Box::new(source),
        };
        assert!(unwritable(&error(io::ErrorKind::StorageFull.into())).is_some());
        assert!(unwritable(&error(io::ErrorKind::ReadOnlyFilesystem.into())).is_some());
        assert!(unwritable(&error(io::ErrorKind::TimedOut.into())).is_none());
    }
}
