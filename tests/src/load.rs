//! A steady load of questions beside a scenario, and what must hold for every answer whatever happens
//! meanwhile: none fails, none goes back in time, and the code behind a key changes at one moment. Called
//! by the scenarios about upgrades, kills and outages.
//!
//! Invariant: one question at a time is under way about a key, so that its answers have an order.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::http::{Client, Reply, number};
use crate::wait::wait_until_ok;

/// So many failures are told in full.
const TOLD: usize = 5;
/// Every so many questions about a key, one brings the tag of the answer before.
const CONDITIONAL_EVERY: u64 = 3;
/// Who falls behind more than this begins anew instead of asking faster and faster.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// Where the host is right now, for threads that outlive its restarts.
#[derive(Debug, Clone, Default)]
pub struct Target(Arc<Mutex<Aim>>);

#[derive(Debug, Clone, Default)]
struct Aim {
    epoch: u64,
    client: Option<Client>,
}

impl Target {
    /// A host that answers.
    pub fn new(client: &Client) -> Self {
        let target = Self::default();
        target.up(client);
        target
    }

    /// From now on, this host must answer.
    pub fn up(&self, client: &Client) {
        let mut aim = self.lock();
        aim.epoch += 1;
        aim.client = Some(client.clone());
    }

    /// From now on, nobody needs to answer: said before the host is killed.
    pub fn down(&self) {
        let mut aim = self.lock();
        aim.epoch += 1;
        aim.client = None;
    }

    /// The host that must answer now.
    pub fn client(&self) -> Option<Client> {
        self.lock().client.clone()
    }

    /// The host that must answer now, and a number that is another once that changes.
    pub(crate) fn now(&self) -> Option<(u64, Client)> {
        let aim = self.lock();
        Some((aim.epoch, aim.client.clone()?))
    }

    /// Whether another host, or none, was named since [`Self::now`] gave this number.
    pub(crate) fn has_moved_since(&self, epoch: u64) -> bool {
        self.lock().epoch != epoch
    }

    fn lock(&self) -> MutexGuard<'_, Aim> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The code that gave an answer: the generation, and the first digits of the component's digest.
pub type Code = (u64, String);

/// An answer's `ETag`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Generation of the state.
    pub generation: u64,
    /// Partition of the key.
    pub partition: u32,
    /// Offset of the last event that changed the key.
    pub offset: u64,
    /// First eight digits of the component's digest.
    pub digest: String,
}

impl FromStr for Tag {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = || {
            let inner = text.strip_prefix('"')?.strip_suffix('"')?;
            let (place, digest) = inner.split_once('-')?;
            let mut numbers = place.split('.');
            let mut next = || numbers.next()?.parse::<u64>().ok();
            let (generation, partition, offset) = (next()?, next()?, next()?);
            let whole = numbers.next().is_none() && digest.len() == 8;
            whole.then_some(())?;
            Some(Self {
                generation,
                partition: u32::try_from(partition).ok()?,
                offset,
                digest: digest.to_owned(),
            })
        };
        parts().with_context(|| format!("not an ETag of a view: {text}"))
    }
}

impl Tag {
    /// The code that gave the answer.
    pub fn code(&self) -> Code {
        (self.generation, self.digest.clone())
    }
}

/// What is asked, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The view.
    pub view: String,
    /// Keys that are asked in turn, as they stand in a path.
    pub keys: Vec<String>,
    /// The query's name and arguments, such as `/in-motion?from=…`, or nothing.
    pub rest: String,
    /// A number in each answer that never falls.
    pub grows: &'static str,
    /// Questions a second, of all threads together.
    pub per_second: u32,
    /// How many ask at the same time.
    pub threads: usize,
}

/// Threads that ask until [`Self::finish`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    rounds: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Asked>>,
    started: Instant,
}

/// What a load has seen.
#[derive(Debug, Default)]
pub struct Report {
    /// Questions that were answered.
    pub answered: u64,
    /// Those answered with 304.
    pub not_modified: u64,
    /// Questions that found no host because it was killed.
    pub without_host: u64,
    /// The slowest answer.
    pub slowest: Duration,
    /// From the first question to the last.
    pub took: Duration,
    /// The codes that answered for each key, in order, each named when it began.
    pub codes: BTreeMap<String, Vec<Code>>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss)]
        let rate = self.answered as f64 / self.took.as_secs_f64().max(0.001);
        write!(
            f,
            "{} answers about {} keys in {:.1?} ({rate:.0} a second, {} of them 304), the slowest took {:.1?}",
            self.answered,
            self.codes.len(),
            self.took,
            self.not_modified,
            self.slowest
        )
    }
}

impl Load {
    /// Begins to ask.
    pub fn start(target: &Target, plan: &Plan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut rounds = Vec::new();
        let count = plan.threads.clamp(1, plan.keys.len().max(1));
        for number in 0..count {
            let keys = plan.keys.iter().skip(number).step_by(count);
            let watches = keys.map(|key| Watch::new(key.clone())).collect();
            let round = Arc::new(AtomicU64::new(0));
            rounds.push(Arc::clone(&round));
            let asker = Asker {
                target: target.clone(),
                plan: plan.clone(),
                every: Duration::from_secs(1) * u32::try_from(count).unwrap_or(1)
                    / plan.per_second.max(1),
                stop: Arc::clone(&stop),
                round,
            };
            threads.push(std::thread::spawn(move || asker.run(watches)));
        }
        Self {
            stop,
            rounds,
            threads,
            started: Instant::now(),
        }
    }

    /// Waits until every key has been asked at least once more from now on.
    ///
    /// # Errors
    /// If that takes longer than `deadline`.
    pub fn wait_round(&self, deadline: Duration) -> Result<()> {
        let seen = |rounds: &Arc<AtomicU64>| rounds.load(Ordering::SeqCst);
        let goals: Vec<u64> = self.rounds.iter().map(|round| seen(round) + 2).collect();
        wait_until_ok(deadline, "a round of questions", || {
            let now: Vec<u64> = self.rounds.iter().map(seen).collect();
            let reached = now.iter().zip(&goals).all(|(now, goal)| now >= goal);
            ensure!(reached, "rounds {now:?} of {goals:?}");
            Ok(())
        })
    }

    /// Stops asking.
    ///
    /// # Errors
    /// If an answer was not as it must be, or nothing was asked.
    pub fn finish(self) -> Result<Report> {
        self.stop.store(true, Ordering::SeqCst);
        let mut report = Report {
            took: self.started.elapsed(),
            ..Report::default()
        };
        let mut failures = Vec::new();
        for thread in self.threads {
            let asked = thread.join().map_err(|_| anyhow!("an asker panicked"))?;
            report.answered += asked.answered;
            report.not_modified += asked.not_modified;
            report.without_host += asked.without_host;
            report.slowest = report.slowest.max(asked.slowest);
            for watch in asked.watches {
                report.codes.insert(watch.key, watch.codes);
            }
            failures.extend(asked.failures);
        }
        if !failures.is_empty() {
            let told: Vec<String> = failures.iter().take(TOLD).cloned().collect();
            bail!(
                "{} of {} answers were not as they must be: {}",
                failures.len(),
                report.answered,
                told.join("\n")
            );
        }
        ensure!(report.answered > 0, "nothing was asked");
        Ok(report)
    }
}

impl Report {
    /// Every key was answered by these codes in this order, each for one stretch of time; a key may
    /// have missed some of them between two questions.
    ///
    /// # Errors
    /// With the first key for which that is not so.
    pub fn expect_order(&self, order: &[Code]) -> Result<()> {
        for (key, codes) in &self.codes {
            let mut left = order.iter();
            for code in codes {
                ensure!(
                    left.any(|next| next == code),
                    "{key} was answered by {codes:?}, which is not in the order {order:?}"
                );
            }
        }
        Ok(())
    }

    /// How many keys were answered by this code at some time.
    pub fn keys_of(&self, code: &Code) -> usize {
        let seen = |codes: &&Vec<Code>| codes.contains(code);
        self.codes.values().filter(seen).count()
    }
}

/// What one thread has seen.
#[derive(Debug, Default)]
struct Asked {
    answered: u64,
    not_modified: u64,
    without_host: u64,
    slowest: Duration,
    failures: Vec<String>,
    watches: Vec<Watch>,
}

struct Asker {
    target: Target,
    plan: Plan,
    every: Duration,
    stop: Arc<AtomicBool>,
    round: Arc<AtomicU64>,
}

impl Asker {
    fn run(self, watches: Vec<Watch>) -> Asked {
        let mut asked = Asked {
            watches,
            ..Asked::default()
        };
        let mut due = Instant::now();
        while !self.stop.load(Ordering::SeqCst) {
            for at in 0..asked.watches.len() {
                if self.stop.load(Ordering::SeqCst) {
                    return asked;
                }
                due = self.pace(due);
                self.ask(&mut asked, at);
            }
            self.round.fetch_add(1, Ordering::SeqCst);
        }
        asked
    }

    /// Waits until the next question is due, and says when the one after it is.
    fn pace(&self, due: Instant) -> Instant {
        let now = Instant::now();
        if due > now {
            std::thread::sleep(due - now);
        }
        let late = now.saturating_duration_since(due) > BEHIND_MAX;
        if late {
            now + self.every
        } else {
            due + self.every
        }
    }

    fn ask(&self, asked: &mut Asked, at: usize) {
        let Some((epoch, client)) = self.target.now() else {
            asked.without_host += 1;
            return;
        };
        let watch = &mut asked.watches[at];
        watch.questions += 1;
        let tag = watch.tag_to_bring().unwrap_or_default();
        let path = format!(
            "/v1/views/{}/keys/{}{}",
            self.plan.view, watch.key, self.plan.rest
        );
        let begun = Instant::now();
        let headers = [("if-none-match", tag.as_str())];
        let headers = if tag.is_empty() {
            &headers[..0]
        } else {
            &headers
        };
        let reply = client.get_with(&path, headers);
        let took = begun.elapsed();
        let checked = reply.and_then(|reply| {
            asked.not_modified += u64::from(reply.status == 304);
            watch.take(&reply, self.plan.grows, !tag.is_empty())
        });
        if checked.is_err() && self.target.has_moved_since(epoch) {
            // The host was killed under this question.
            asked.without_host += 1;
            return;
        }
        asked.answered += 1;
        asked.slowest = asked.slowest.max(took);
        if let Err(error) = checked {
            asked.failures.push(format!("{:?}: {error:#}", watch.key));
        }
    }
}

/// What was last seen of a key.
#[derive(Debug)]
struct Watch {
    key: String,
    questions: u64,
    last: Option<Seen>,
    codes: Vec<Code>,
}

#[derive(Debug)]
struct Seen {
    etag: String,
    tag: Tag,
    position: u64,
    grows: u64,
    body: Vec<u8>,
}

impl Watch {
    fn new(key: String) -> Self {
        Self {
            key,
            questions: 0,
            last: None,
            codes: Vec::new(),
        }
    }

    fn tag_to_bring(&self) -> Option<String> {
        let last = self.last.as_ref()?;
        self.questions
            .is_multiple_of(CONDITIONAL_EVERY)
            .then(|| last.etag.clone())
    }

    /// Checks an answer against the one before, and remembers it.
    fn take(&mut self, reply: &Reply, grows: &str, brought_tag: bool) -> Result<()> {
        match reply.status {
            200 => {
                let seen = Seen::of(reply, grows)?;
                if let Some(last) = &self.last {
                    seen.follows(last).with_context(|| format!("{reply:?}"))?;
                }
                let code = seen.tag.code();
                if self.codes.last() != Some(&code) {
                    self.codes.push(code);
                }
                self.last = Some(seen);
                Ok(())
            }
            304 => {
                let last = self.last.as_mut().context("304 to no tag")?;
                let same = brought_tag && reply.header("etag") == Some(&last.etag);
                ensure!(same, "304 to another tag than {}: {reply:?}", last.etag);
                let position = position(reply)?;
                ensure!(position >= last.position, "back in time: {reply:?}");
                last.position = position;
                Ok(())
            }
            404 => {
                let nothing = reply.json()?["code"] == "not-found";
                ensure!(nothing && self.last.is_none(), "{reply:?}");
                Ok(())
            }
            _ => bail!("{reply:?}"),
        }
    }
}

impl Seen {
    fn of(reply: &Reply, grows: &str) -> Result<Self> {
        let etag = reply.header("etag").context("no ETag")?.to_owned();
        let grown = number(&reply.json()?[grows]);
        Ok(Self {
            tag: etag.parse()?,
            etag,
            position: position(reply)?,
            grows: grown.with_context(|| format!("no `{grows}`: {reply:?}"))?,
            body: reply.body.clone(),
        })
    }

    /// Nothing may be older than in the answer before.
    fn follows(&self, last: &Self) -> Result<()> {
        ensure!(
            self.position >= last.position,
            "back in time: position {} after {}",
            self.position,
            last.position
        );
        ensure!(
            self.tag.offset >= last.tag.offset,
            "back in time: {} after {}",
            self.etag,
            last.etag
        );
        ensure!(
            self.grows >= last.grows,
            "back in time: {} after {}",
            self.grows,
            last.grows
        );
        ensure!(
            self.etag != last.etag || self.body == last.body,
            "one tag, two answers; before it was {}",
            String::from_utf8_lossy(&last.body)
        );
        Ok(())
    }
}

/// The offset in `Foldhost-Position`, which names the key's partition alone.
fn position(reply: &Reply) -> Result<u64> {
    let text = reply
        .header("foldhost-position")
        .with_context(|| format!("no Foldhost-Position: {reply:?}"))?;
    let offset = text.rsplit_once('@').and_then(|(_, at)| at.parse().ok());
    offset.with_context(|| format!("not one position: {text}"))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderMap;

    use super::*;

    fn reply(status: u16, etag: &str, position: u64, body: &str) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert("etag", etag.parse().unwrap());
        let position = format!("events/2@{position}");
        headers.insert("foldhost-position", position.parse().unwrap());
        Reply {
            request: "GET /".into(),
            status,
            headers,
            body: body.as_bytes().to_vec(),
        }
    }

    fn watch() -> Watch {
        let mut watch = Watch::new("k".into());
        let first = reply(200, "\"1.2.7-0011aaff\"", 9, r#"{"count":3}"#);
        watch.take(&first, "count", false).unwrap();
        watch
    }

    #[test]
    fn tags_are_taken_apart() {
        let tag: Tag = "\"3.0.17-0011aaff\"".parse().unwrap();
        assert_eq!((tag.generation, tag.partition, tag.offset), (3, 0, 17));
        assert_eq!(tag.code(), (3, "0011aaff".to_owned()));
        for bad in [
            "3.0.17-0011aaff",
            "\"3.0-0011aaff\"",
            "\"3.0.1-0011\"",
            "\"3.0.1.2-0011aaff\"",
        ] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn going_back_in_time_shows() {
        let newer = |etag: &str, position, body: &str| {
            watch().take(&reply(200, etag, position, body), "count", false)
        };
        assert!(newer("\"1.2.8-0011aaff\"", 9, r#"{"count":4}"#).is_ok());
        assert!(newer("\"1.2.8-0011aaff\"", 8, r#"{"count":4}"#).is_err());
        assert!(newer("\"1.2.6-0011aaff\"", 9, r#"{"count":4}"#).is_err());
        assert!(newer("\"1.2.8-0011aaff\"", 9, r#"{"count":2}"#).is_err());
        assert!(newer("\"1.2.7-0011aaff\"", 9, r#"{"count":4}"#).is_err());
        let gone = reply(404, "\"1.2.7-0011aaff\"", 9, r#"{"code":"not-found"}"#);
        assert!(watch().take(&gone, "count", false).is_err());
        assert!(Watch::new("k".into()).take(&gone, "count", false).is_ok());
        let same = reply(304, "\"1.2.7-0011aaff\"", 9, "");
        assert!(watch().take(&same, "count", true).is_ok());
        assert!(watch().take(&same, "count", false).is_err());
        let down = reply(503, "\"1.2.7-0011aaff\"", 9, r#"{"code":"replaying"}"#);
        assert!(watch().take(&down, "count", false).is_err());
    }

    #[test]
    fn a_key_sees_each_code_once_and_in_order() {
        let code = |n: u64| (n, "0011aaff".to_owned());
        let report = |codes: &[u64]| Report {
            codes: BTreeMap::from([("k".to_owned(), codes.iter().map(|n| code(*n)).collect())]),
            ..Report::default()
        };
        let order = [code(1), code(2), code(3)];
        assert!(report(&[1, 3]).expect_order(&order).is_ok());
        assert!(report(&[1, 3, 2]).expect_order(&order).is_err());
        assert!(report(&[1, 2, 1]).expect_order(&order).is_err());
        assert!(report(&[4]).expect_order(&order).is_err());
        assert_eq!(report(&[1, 3]).keys_of(&code(3)), 1);
    }
}
