//! Points at which a test kills the host, to see that the next one goes on from there. Called wherever the
//! order of two durable steps matters.
//!
//! Invariant: without the cargo feature `fail-points`, which no release has, a point is nothing at all.

/// Where the host may be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The writer of a partition has taken its transactional id over.
    WriterFenced,
    /// The store of a partition is open.
    StoreOpened,
    /// The epoch of an owner is committed to the store.
    EpochCommitted,
    /// An owner has announced itself in the journal.
    OwnerAnnounced,
    /// The journal has told how far what a plugin makes is published.
    JournalRead,
    /// A transaction is about to be written.
    TransactionBegins,
    /// A transaction is durable, and nobody has heard of it.
    TransactionWritten,
    /// A commit of states is about to be written.
    CommitBegins,
    /// A commit of states is durable, and nobody has heard of it.
    CommitWritten,
    /// Whoever copies an input has taken its transactional id over.
    MergeFenced,
    /// Copies are about to be written.
    MergeBegins,
    /// Copies are durable, and nobody has heard of it.
    MergeWritten,
}

/// Kills the process here, as `kill -9` does, if the environment says so: `FOLDHOST_FAIL_AT=POINT:N` at the n-th
/// time that the host comes by, such as `TransactionWritten:3`.
#[cfg(feature = "fail-points")]
pub fn point(point: Point) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static SEEN: AtomicU32 = AtomicU32::new(0);
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("FOLDHOST_FAIL_AT").ok()?;
        let (name, times) = text.split_once(':')?;
        Some((name.to_owned(), times.parse().ok()?))
    });
    if let Some((name, times)) = armed
        && *name == format!("{point:?}")
        && SEEN.fetch_add(1, Ordering::Relaxed) + 1 == *times
    {
        tracing::error!("killed at {point:?}");
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn point(_point: Point) {}
