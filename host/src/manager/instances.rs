//! Instances that answer queries: pooled, run off the async threads, dropped after any fault.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::limits;
use crate::plugin::{CallError, Payload, PluginCode, PluginInstance, QueryError, Question};

/// Answers queries with the code of one deployment.
#[derive(Debug)]
pub(super) struct QueryPool {
    code: Arc<dyn PluginCode>,
    idle: Mutex<Vec<Box<dyn PluginInstance>>>,
    permits: Semaphore,
}

impl QueryPool {
    pub(super) fn new(code: Arc<dyn PluginCode>) -> Arc<Self> {
        Arc::new(Self {
            code,
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(limits::QUERIES_CONCURRENT_MAX),
        })
    }

    pub(super) fn code(&self) -> &Arc<dyn PluginCode> {
        &self.code
    }

    pub(super) async fn answer(
        self: Arc<Self>,
        key: Bytes,
        state: Option<Bytes>,
        question: Question,
    ) -> Result<Result<Payload, QueryError>, CallError> {
        let pool = self.clone();
        let _permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let call = tokio::task::spawn_blocking(move || {
            let idle = pool.idle.lock().pop();
            let mut instance = match idle {
                Some(instance) => instance,
                None => pool.code.instance()?,
            };
            let answer = instance.answer(&key, state.as_deref(), &question)?;
            pool.idle.lock().push(instance);
            Ok(answer)
        });
        call.await
            .unwrap_or_else(|error| Err(CallError::Trap(format!("the call died: {error}"))))
    }
}
