//! When a worker commits that always has something to read.

use std::sync::OnceLock;

use super::*;
use crate::log::{LogError, PartitionReader, Read, ReadLimits};
use crate::types::TopicPartition;

/// How much time each read takes, and gives one record.
const READ: Duration = Duration::from_millis(10);
/// After so many reads the next one waits for a commit.
const READS_MAX: u64 = 2_000;

/// Readers of a topic whose next record is always there.
#[derive(Debug, Clone)]
struct Endless(Arc<Told>);

#[derive(Debug)]
struct Told {
    clock: Clock,
    worker: OnceLock<PartitionHandle>,
    /// What the first commit held.
    committed: OnceLock<Offset>,
}

/// One of them.
#[derive(Debug)]
struct Reader {
    told: Arc<Told>,
    next: Offset,
}

#[async_trait::async_trait]
impl ReaderSet for Endless {
    async fn open(
        &self,
        _: &TopicPartition,
        next: Offset,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        let told = self.0.clone();
        Ok(Box::new(Reader { told, next }))
    }
}

#[async_trait::async_trait]
impl PartitionReader for Reader {
    async fn read(&mut self, into: &mut RecordBatch, _: ReadLimits) -> Result<Read, LogError> {
        let worker = self.told.worker.get();
        let committed = worker.map_or(Offset(0), |worker| worker.status().committed);
        if committed > Offset(0) {
            let _ = self.told.committed.set(committed);
        } else if self.next.0 >= READS_MAX {
            std::future::pending::<()>().await;
        }
        self.told.clock.advance(READ);
        into.push(self.next, 0, Some(b"key-1"), Some(b""), []);
        self.next = self.next.next();
        Ok(Read::Records)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_due_waits_for_no_end_of_reading() {
    let mut world = World::new(1 << 20).await;
    world.clock = Clock::manual(0, 1);
    let told = Arc::new(Told {
        clock: world.clock.clone(),
        worker: OnceLock::new(),
        committed: OnceLock::new(),
    });
    world.readers = Arc::new(Endless(told.clone()));
    let running = world.start();
    told.worker.set(running.0.clone()).unwrap();
    wait_until(&running.0, |_| told.committed.get().is_some()).await;
    let interval = world.code.inspection.manifest.commit_interval;
    let due = u64::try_from(interval.as_millis() / READ.as_millis()).unwrap();
    let committed = told.committed.get().unwrap().0;
    assert!((due..due + 10).contains(&committed), "{committed} at {due}");
    publishing::stop(running).await;
}
