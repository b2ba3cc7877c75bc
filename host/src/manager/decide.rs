//! Requests to the fold: append one, and wait for the verdict that this host's own fold gives it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Inner;
use super::deployments::Verdict;
use super::record::{self, Request};
use crate::error::{Code, Problem};
use crate::limits;
use crate::log::{LogError, NewRecord};
use crate::types::{Partition, PluginName, RecordPosition};

/// See [`super::Manager::delete`].
pub(super) async fn delete(
    manager: &Arc<Inner>,
    name: &PluginName,
    principal: &str,
) -> Result<(), Problem> {
    let verdict = decide(manager, principal, Request::Delete(name.clone())).await?;
    accepted(verdict).map(|_| ())
}

/// See [`super::Manager::pause`].
pub(super) async fn pause(
    manager: &Arc<Inner>,
    name: &PluginName,
    paused: bool,
    principal: &str,
) -> Result<(), Problem> {
    let verdict = decide(manager, principal, Request::Pause(name.clone(), paused)).await?;
    accepted(verdict)?;
    if !paused {
        return Ok(());
    }
    // Workers hear of it between two batches: whoever is told that it stands still can rely on it here.
    let stands_still = async {
        loop {
            let plugin = manager.plugins.read().get(name).cloned();
            if plugin.is_none_or(|plugin| plugin.stands_still()) {
                return;
            }
            tokio::time::sleep(limits::ALIGN_INTERVAL).await;
        }
    };
    // One that is still being opened folds nothing either before it has heard.
    let _ = tokio::time::timeout(limits::WAIT_DEFAULT, stands_still).await;
    Ok(())
}

/// See [`super::Manager::skip`].
pub(super) async fn skip(
    manager: &Arc<Inner>,
    name: &PluginName,
    at: RecordPosition,
    reason: String,
    principal: &str,
) -> Result<u64, Problem> {
    // Who sees a partition blocked on this host may be faster than the report of it.
    let is_told = async {
        loop {
            let plugin = manager.plugins.read().get(name).cloned();
            if plugin.is_none_or(|plugin| plugin.knows_blocked(&at)) {
                return;
            }
            tokio::time::sleep(limits::ALIGN_INTERVAL).await;
        }
    };
    let _ = tokio::time::timeout(limits::WAIT_DEFAULT, is_told).await;
    let request = Request::Skip(name.clone(), at, reason);
    match accepted(decide(manager, principal, request).await?)? {
        Verdict::Skipped(number) => Ok(number),
        _ => Err(of_another_kind()),
    }
}

/// Appends a decision about parked records; returns its number.
pub(super) async fn parked(
    manager: &Arc<Inner>,
    request: Request,
    principal: &str,
) -> Result<u64, Problem> {
    match accepted(decide(manager, principal, request).await?)? {
        Verdict::Parked(number) => Ok(number),
        _ => Err(of_another_kind()),
    }
}

/// Appends a decision about telling states in events; returns the number of the decision to tell them.
pub(super) async fn bootstrap(
    manager: &Arc<Inner>,
    request: Request,
    principal: &str,
) -> Result<u64, Problem> {
    match accepted(decide(manager, principal, request).await?)? {
        Verdict::Bootstrap(number) => Ok(number),
        _ => Err(of_another_kind()),
    }
}

/// A verdict that is no refusal.
pub(super) fn accepted(verdict: Verdict) -> Result<Verdict, Problem> {
    match verdict {
        Verdict::Refused(problem) => Err(problem),
        verdict => Ok(verdict),
    }
}

/// The fold said something that does not fit the request.
pub(super) fn of_another_kind() -> Problem {
    Problem::new(
        Code::Internal,
        "the verdict belongs to another kind of request",
    )
}

/// What the fold would say to a request, as far as this host has heard; nothing is asked for.
pub(super) fn foresee(manager: &Inner, principal: &str, request: Request) -> Verdict {
    let context = &manager.context;
    let now_ms = context.clock.now_ms();
    let value = record::encode("", now_ms, principal, &context.advertised_url, request);
    let next = *manager.next.lock();
    let mut deployments = manager.deployments.read().clone();
    deployments.apply(next, record::decode(&value))
}

/// Appends a request and waits until this host's own fold has come to it.
pub(super) async fn decide(
    manager: &Arc<Inner>,
    principal: &str,
    request: Request,
) -> Result<Verdict, Problem> {
    let context = &manager.context;
    if let Err(why) = &manager.readiness.read().following {
        return Err(Problem::new(
            Code::LogUnavailable,
            format!("this host does not follow the deployments yet ({why}); try again shortly"),
        ));
    }
    let id = context.clock.unique_id();
    let (sender, verdict) = oneshot::channel();
    manager.waiting.lock().insert(id.clone(), sender);
    let _forget = Forget {
        waiting: &manager.waiting,
        id: &id,
    };
    let now_ms = context.clock.now_ms();
    let value = record::encode(&id, now_ms, principal, &context.advertised_url, request);
    append(manager, value).await?;
    match tokio::time::timeout(limits::VERDICT_WAIT_MAX, verdict).await {
        Ok(Ok(verdict)) => Ok(verdict),
        _ => Err(Problem::new(
            Code::OutcomeUnknown,
            "the request is in the log, but its verdict did not come back in time: look at \
             `foldhost plugin list`",
        )),
    }
}

async fn append(manager: &Inner, value: Bytes) -> Result<(), Problem> {
    let topic = manager.context.cluster.deployments_topic();
    let record = NewRecord {
        value: Some(value),
        partition: Some(Partition(0)),
        ..NewRecord::default()
    };
    manager
        .context
        .log
        .append(&topic, vec![record])
        .await
        .map(|_| ())
        .map_err(log_problem)
}

/// A request that nobody waits for any more leaves the table.
struct Forget<'a> {
    waiting: &'a parking_lot::Mutex<BTreeMap<String, oneshot::Sender<Verdict>>>,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(self.id);
    }
}

/// What a fault of the log means to whoever asked.
pub(super) fn log_problem(error: LogError) -> Problem {
    let code = match error {
        LogError::OutcomeUnknown(_) => Code::OutcomeUnknown,
        _ => Code::LogUnavailable,
    };
    Problem::new(code, error.to_string())
}
