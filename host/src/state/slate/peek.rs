//! Looks at what wrote a database before it is opened. Used by `slate`.
//!
//! Invariant: nothing is written by looking: a database of a newer version is left as it is, and whoever
//! has it open keeps it. Every commit holds the checkpoint under the first of all keys, so the first
//! block of the newest file tells.

use object_store::path::Path;
use slatedb::admin::AdminBuilder;
use slatedb::{SstReader, ValueDeletable};

use super::gate::Gate;
use super::partition::CHECKPOINT_KEY;
use super::{fault, no_answer};
use crate::limits;
use crate::state::StateError;
use crate::state::checkpoint::check_checkpoint;

/// Refuses the database at `path` if a newer version wrote it. Nothing happens where there is none.
///
/// # Errors
/// [`StateError::Newer`]; others where it cannot be read.
pub(super) async fn check_format(path: &Path, gate: &Gate) -> Result<(), StateError> {
    let looking = newest_checkpoint(path, gate);
    match tokio::time::timeout(limits::STATE_CALL_MAX, looking).await {
        Ok(Ok(Some(checkpoint))) => check_checkpoint(&checkpoint),
        Ok(Ok(None)) => Ok(()),
        Ok(Err(error)) => Err(fault(gate, &error)),
        Err(_) => Err(no_answer(gate)),
    }
}

async fn newest_checkpoint(
    path: &Path,
    gate: &Gate,
) -> Result<Option<bytes::Bytes>, slatedb::Error> {
    let objects = std::sync::Arc::new(gate.clone());
    let admin = AdminBuilder::new(path.clone(), objects.clone()).build();
    let Some(manifest) = admin.read_manifest(None).await? else {
        return Ok(None);
    };
    let commits = manifest.l0().front().map(|commit| &commit.sst);
    let runs = || manifest.compacted().first()?.sst_views().first();
    let Some(newest) = commits.or_else(|| runs().map(|file| &file.sst)) else {
        return Ok(None);
    };
    let reader = SstReader::new(path.clone(), objects, None, None);
    let rows = reader
        .open_with_handle(newest.clone())?
        .read_block(0)
        .await?;
    Ok(rows.into_iter().find_map(|row| match row.value {
        ValueDeletable::Value(value) if row.key == CHECKPOINT_KEY => Some(value),
        _ => None,
    }))
}
