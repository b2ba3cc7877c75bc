//! Machine code on disk, so that a restart compiles nothing. Used by the engine only.
//!
//! Invariant: an entry is used only if it is whole (a checksum over its code), and was written for
//! this very component by an engine of these very settings: both are part of its key, and the key is
//! part of the entry, so a renamed, foreign, damaged or half-written file is compiled anew. The
//! cache may lose anything at any time; failing to read or write it fails nothing.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::clock::Clock;
use crate::types::Digest;

/// First bytes of an entry. The last one is the version of the entry's format.
const MAGIC: &[u8; 8] = b"foldcod\x01";
const HEADER_BYTES: usize = MAGIC.len() + 32 + 32;
const EXTENSION: &str = "cwasm";

/// A folder of machine code.
#[derive(Debug)]
pub(super) struct CodeCache {
    folder: PathBuf,
    bytes_max: u64,
    clock: Clock,
    /// Digest of the engine's settings, target and version.
    engine: [u8; 32],
}

impl CodeCache {
    /// A cache for code of `engine` in `folder`, which is made when it is needed.
    pub(super) fn new(folder: PathBuf, bytes_max: u64, clock: Clock, engine: &Engine) -> Self {
        Self {
            folder,
            bytes_max,
            clock,
            engine: fingerprint(engine),
        }
    }

    /// Code of the component with this digest, if it is here and whole.
    pub(super) fn get(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let key = self.key(digest);
        let path = self.path(&key);
        let entry = fs::read(&path).ok()?;
        let Some(code) = verified(&entry, &key) else {
            tracing::warn!(path = %path.display(), "machine code in the cache is damaged; compiling again");
            return None;
        };
        match deserialize(engine, code) {
            Ok(component) => {
                self.touch(&path);
                Some(component)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "machine code in the cache does not fit; compiling again");
                None
            }
        }
    }

    /// Keeps the code of a component. Failing is no error: the next start compiles again.
    pub(super) fn put(&self, digest: Digest, component: &Component) {
        let kept = component
            .serialize()
            .map_err(io::Error::other)
            .and_then(|code| self.write(digest, &code))
            .and_then(|()| self.evict());
        if let Err(error) = kept {
            tracing::warn!(folder = %self.folder.display(), %error, "machine code was not cached");
        }
    }

    fn write(&self, digest: Digest, code: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let key = self.key(digest);
        let mut entry = Vec::with_capacity(HEADER_BYTES + code.len());
        entry.extend_from_slice(MAGIC);
        entry.extend_from_slice(&key);
        entry.extend_from_slice(&Sha256::digest(code));
        entry.extend_from_slice(code);
        // Two writers of one entry write the same bytes, each to a file of its own.
        let unfinished = self
            .folder
            .join(format!("{}.tmp.{EXTENSION}", self.clock.unique_id()));
        fs::write(&unfinished, entry)
            .and_then(|()| fs::rename(&unfinished, self.path(&key)))
            .inspect_err(|_| drop(fs::remove_file(&unfinished)))
    }

    /// Removes the entries that were not used for longest, until the rest fits.
    fn evict(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == EXTENSION)
                && let Ok(meta) = fs::metadata(&path)
            {
                entries.push((meta.modified().unwrap_or(UNIX_EPOCH), meta.len(), path));
            }
        }
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        entries.sort();
        for (_, bytes, path) in entries {
            if total <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            total -= bytes;
        }
        Ok(())
    }

    /// Says that an entry was used. Its time only orders the eviction.
    fn touch(&self, path: &Path) {
        let now_ms = u64::try_from(self.clock.now_ms()).unwrap_or(0);
        let now: SystemTime = UNIX_EPOCH + Duration::from_millis(now_ms);
        if let Ok(file) = fs::File::options().write(true).open(path) {
            drop(file.set_modified(now));
        }
    }

    fn key(&self, digest: Digest) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(MAGIC);
        hash.update(self.engine);
        hash.update(digest.as_bytes());
        hash.finalize().into()
    }

    fn path(&self, key: &[u8; 32]) -> PathBuf {
        self.folder
            .join(format!("{}.{EXTENSION}", Digest::from_bytes(*key)))
    }
}

/// The code of an entry, if the entry is whole and has this key.
fn verified<'a>(entry: &'a [u8], key: &[u8; 32]) -> Option<&'a [u8]> {
    let (header, code) = entry.split_at_checked(HEADER_BYTES)?;
    let (magic, header) = header.split_at(MAGIC.len());
    let (stored_key, checksum) = header.split_at(32);
    let whole = magic == MAGIC && stored_key == key && checksum == Sha256::digest(code).as_slice();
    whole.then_some(code)
}

#[allow(
    unsafe_code,
    reason = "wasmtime cannot check machine code; the checksum before it does"
)]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` is what `Component::serialize` returned to this host: it lies in the host's own
    // data folder under a checksum over all of it, which was verified, and under a key of engine
    // settings and version, which wasmtime checks once more.
    unsafe { Component::deserialize(engine, code) }
}

/// Digest of all that makes machine code fit an engine: version, target, settings.
fn fingerprint(engine: &Engine) -> [u8; 32] {
    let mut hasher = Sha256Hasher(Sha256::new());
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().into()
}

/// A `Hasher` whose result does not depend on the compiler's version and has no collisions.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Config;

    fn cache(folder: &Path, bytes_max: u64, engine: &Engine) -> CodeCache {
        CodeCache::new(
            folder.to_owned(),
            bytes_max,
            Clock::manual(1_000, 1),
            engine,
        )
    }

    fn empty_component(engine: &Engine) -> (Digest, Component) {
        let bytes = wasm_encoder::Component::new().finish();
        (Digest::of(&bytes), Component::new(engine, &bytes).unwrap())
    }

    #[test]
    fn code_is_found_again_by_component_and_settings() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let (digest, component) = empty_component(&engine);
        let here = cache(folder.path(), 1 << 20, &engine);
        assert!(here.get(&engine, digest).is_none());
        here.put(digest, &component);
        assert!(here.get(&engine, digest).is_some());
        assert!(here.get(&engine, Digest::of(b"another")).is_none());

        let fuelled = Engine::new(Config::new().consume_fuel(true)).unwrap();
        assert!(
            cache(folder.path(), 1 << 20, &fuelled)
                .get(&fuelled, digest)
                .is_none()
        );
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let (digest, component) = empty_component(&engine);
        let here = cache(folder.path(), 1 << 20, &engine);
        here.put(digest, &component);
        let path = here.path(&here.key(digest));
        let whole = fs::read(&path).unwrap();
        for index in [0, 7, 8, 40, 71, 72, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[index] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(here.get(&engine, digest).is_none(), "byte {index}");
        }
        for length in [0, 10, HEADER_BYTES, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(here.get(&engine, digest).is_none(), "length {length}");
        }
        fs::write(&path, whole).unwrap();
        assert!(here.get(&engine, digest).is_some());
    }

    #[test]
    fn an_entry_under_another_name_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let (digest, component) = empty_component(&engine);
        let here = cache(folder.path(), 1 << 20, &engine);
        here.put(digest, &component);
        let other = Digest::of(b"other");
        fs::copy(here.path(&here.key(digest)), here.path(&here.key(other))).unwrap();
        assert!(here.get(&engine, other).is_none());
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let (_, component) = empty_component(&engine);
        let digests: Vec<_> = (0..3_u8).map(|n| Digest::of(&[n])).collect();
        let roomy = cache(folder.path(), 1 << 30, &engine);
        for (index, digest) in digests.iter().enumerate() {
            roomy.put(*digest, &component);
            roomy.clock.advance(Duration::from_secs(index as u64 + 1));
            roomy.touch(&roomy.path(&roomy.key(*digest)));
        }
        assert!(roomy.get(&engine, digests[0]).is_some(), "used last now");
        let entry = fs::metadata(roomy.path(&roomy.key(digests[0])))
            .unwrap()
            .len();
        cache(folder.path(), 2 * entry, &engine).evict().unwrap();
        assert!(roomy.get(&engine, digests[1]).is_none());
        assert!(roomy.get(&engine, digests[0]).is_some());
        assert!(roomy.get(&engine, digests[2]).is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_written_fails_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let (digest, component) = empty_component(&engine);
        let blocked = folder.path().join("file");
        fs::write(&blocked, b"not a folder").unwrap();
        let here = cache(&blocked, 1 << 20, &engine);
        here.put(digest, &component);
        assert!(here.get(&engine, digest).is_none());
    }
}
