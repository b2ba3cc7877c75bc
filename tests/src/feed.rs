//! Records that keep coming while a scenario goes on, over kills of the host. Called by the scenarios
//! about upgrades, kills and soaking.
//!
//! Invariant: what a feed says it wrote is in the topic exactly once. A batch whose answer was lost with
//! the host is looked for in the topic before it is sent again; that works because a feed is the only
//! writer of its topic, and an append is whole or not there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::http::{Client, number};
use crate::load::Target;
use crate::topic;
use crate::wait::{wait_until, wait_until_ok};

/// A killed host is back long before.
const BACK_WITHIN: Duration = Duration::from_secs(180);
/// Records of one append when all that is left is written at once.
const LARGE_BATCH: usize = 2_000;

/// Records in the shape of the HTTP contract, with text keys.
pub type Records = Box<dyn Iterator<Item = Value> + Send>;

/// A thread that appends until [`Self::finish`].
#[derive(Debug)]
pub struct Feed {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<Result<Fed>>,
}

/// What was written, and what was not any more.
pub struct Fed {
    /// Records of each key.
    pub counts: BTreeMap<String, u64>,
    /// All records.
    pub written: u64,
    /// From the first append to the last.
    pub took: Duration,
    /// Appends whose answer was lost with the host.
    pub unknown: u64,
    topic: String,
    rest: Records,
}

impl std::fmt::Debug for Fed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} records of {} keys in {:.1?}, {} appends without an answer",
            self.written,
            self.counts.len(),
            self.took,
            self.unknown
        )
    }
}

/// How fast a feed writes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Records of one append.
    pub batch: usize,
    /// Records a second, or as many as the machine takes.
    pub per_second: u64,
}

impl Feed {
    /// Begins to append `records` to a topic that nobody else writes to.
    pub fn start(target: &Target, topic: &str, records: Records, pace: Pace) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            target: target.clone(),
            stop: Arc::clone(&stop),
            progress: Arc::clone(&written),
            pace,
            fed: Fed {
                counts: BTreeMap::new(),
                written: 0,
                took: Duration::ZERO,
                unknown: 0,
                topic: topic.to_owned(),
                rest: records,
            },
            before: None,
        };
        Self {
            stop,
            written,
            thread: std::thread::spawn(move || writer.run()),
        }
    }

    /// Records written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Waits until so many more records are written.
    ///
    /// # Errors
    /// If that takes longer than `deadline`.
    pub fn wait_more(&self, records: u64, deadline: Duration) -> Result<()> {
        let goal = self.written() + records;
        wait_until_ok(deadline, "records to be written", || {
            let written = self.written();
            ensure!(!self.thread.is_finished(), "the feed has ended");
            ensure!(written >= goal, "{written} of {goal}");
            Ok(())
        })
    }

    /// Stops after the append that is under way.
    ///
    /// # Errors
    /// If one was refused while the host was there, or found written in part.
    pub fn finish(self) -> Result<Fed> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread
            .join()
            .map_err(|_| anyhow!("the feed panicked"))?
    }
}

impl Fed {
    /// Writes all records that are left, at once.
    ///
    /// # Errors
    /// If they are refused.
    pub fn write_rest(&mut self, client: &Client) -> Result<()> {
        loop {
            let batch: Vec<Value> = self.rest.by_ref().take(LARGE_BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            client.append_all(&self.topic, &batch)?;
            self.count(&batch)?;
        }
    }

    fn count(&mut self, batch: &[Value]) -> Result<()> {
        for record in batch {
            let key = record["key"].as_str().context("a record has a text key")?;
            *self.counts.entry(key.to_owned()).or_insert(0) += 1;
        }
        self.written += u64::try_from(batch.len())?;
        Ok(())
    }
}

struct Writer {
    target: Target,
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    pace: Pace,
    fed: Fed,
    /// Records of the topic before the first append.
    before: Option<u64>,
}

impl Writer {
    fn run(mut self) -> Result<Fed> {
        let begun = Instant::now();
        let mut due = begun;
        while !self.stop.load(Ordering::SeqCst) {
            let batch: Vec<Value> = self.fed.rest.by_ref().take(self.pace.batch).collect();
            if batch.is_empty() {
                break;
            }
            let now = Instant::now();
            if due > now {
                std::thread::sleep(due - now);
            }
            // What the machine did not take is not made up for: the rate is offered, not owed.
            due = due.max(now) + self.interval(batch.len())?;
            self.write(&batch)?;
            self.progress.store(self.fed.written, Ordering::SeqCst);
            self.fed.took = begun.elapsed();
        }
        Ok(self.fed)
    }

    fn interval(&self, records: usize) -> Result<Duration> {
        let micros = 1_000_000 * u64::try_from(records)? / self.pace.per_second.max(1);
        Ok(Duration::from_micros(micros))
    }

    /// Writes one batch, over kills.
    fn write(&mut self, batch: &[Value]) -> Result<()> {
        loop {
            let Some((epoch, client)) = wait_until(BACK_WITHIN, "the host to be back", || {
                if self.stop.load(Ordering::SeqCst) && self.target.now().is_none() {
                    return Some(None);
                }
                self.target.now().map(Some)
            })?
            else {
                // Nobody is there to write to, and nobody wants more: it was never sent.
                return Ok(());
            };
            if self.before.is_none() {
                self.before = Some(self.end(&client)?);
            }
            let error = match client.append_all(&self.fed.topic, batch) {
                Ok(_) => return self.fed.count(batch),
                Err(error) => error,
            };
            if !self.target.has_moved_since(epoch) {
                return Err(error.context("an append was refused while the host was there"));
            }
            self.fed.unknown += 1;
            if self.is_there(batch)? {
                return self.fed.count(batch);
            }
        }
    }

    /// Whether a batch without an answer is in the topic, once the host is back.
    fn is_there(&self, batch: &[Value]) -> Result<bool> {
        loop {
            let (epoch, client) =
                wait_until(BACK_WITHIN, "the host to be back", || self.target.now())?;
            let end = match self.end(&client) {
                Ok(end) => end,
                // Killed again under this question.
                Err(_) if self.target.has_moved_since(epoch) => continue,
                Err(error) => return Err(error),
            };
            let more = end - self.before.unwrap_or_default() - self.fed.written;
            return match usize::try_from(more)? {
                0 => Ok(false),
                all if all == batch.len() => Ok(true),
                some => bail!(
                    "{some} of {} records of an append are in the topic",
                    batch.len()
                ),
            };
        }
    }

    /// Records that the topic has ever had.
    fn end(&self, client: &Client) -> Result<u64> {
        topic::end(client, &self.fed.topic)
    }
}

/// The count that a view of `counter` gives for a key; none if it has none.
///
/// # Errors
/// If it gives something else.
pub fn counted(client: &Client, view: &str, key: &str) -> Result<Option<u64>> {
    let reply = client.ask(view, key, "")?;
    if reply.status == 404 {
        reply.expect_problem(404, "not-found")?;
        return Ok(None);
    }
    let reply = reply.expect_status(200)?;
    Ok(number(&reply.json()?["count"]))
}

/// Every key has exactly the count that was written.
///
/// # Errors
/// With the first few that have another.
pub fn expect_counts(client: &Client, view: &str, counts: &BTreeMap<String, u64>) -> Result<()> {
    let accept = [("accept", "application/x-ndjson")];
    let stream = client
        .get_with(&format!("/v1/views/{view}/keys"), &accept)?
        .expect_status(200)?;
    let mut found = BTreeMap::new();
    for line in stream.text().lines() {
        let line: Value = serde_json::from_str(line)?;
        let key = line["key"].as_str().context("a key is text")?.to_owned();
        let count = number(&line["answer"]["count"]).with_context(|| line.to_string())?;
        ensure!(found.insert(key, count).is_none(), "twice: {line}");
    }
    let wrong: Vec<String> = counts
        .iter()
        .filter(|(key, count)| found.get(*key) != Some(*count))
        .map(|(key, count)| format!("{key}: {:?}, not {count}", found.get(key)))
        .collect();
    ensure!(
        wrong.is_empty(),
        "{} of {} keys have another count: {:?}",
        wrong.len(),
        counts.len(),
        &wrong[..wrong.len().min(10)]
    );
    ensure!(
        found.len() == counts.len(),
        "{} keys have a count, {} were written to",
        found.len(),
        counts.len()
    );
    Ok(())
}
