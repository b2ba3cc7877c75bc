//! What an instance may take from the host: linear memory, tables, core instances. Asked by wasmtime
//! on every growth; read by `instance` after a trap.
//!
//! Invariant: all linear memories of one instance together stay within the manifest's bound, and a
//! growth that was denied is remembered until the next call, so that the trap which follows it is
//! told as what it is.

use wasmtime::ResourceLimiter;

use crate::limits;

/// Limiter of one instance.
#[derive(Debug)]
pub(super) struct InstanceLimiter {
    memory_bytes: usize,
    memory_bytes_max: usize,
    memory_denied: bool,
}

impl InstanceLimiter {
    /// Allows `memory_bytes_max` bytes of linear memory.
    pub(super) fn new(memory_bytes_max: usize) -> Self {
        Self {
            memory_bytes: 0,
            memory_bytes_max,
            memory_denied: false,
        }
    }

    /// Forgets an earlier denial: a call begins.
    pub(super) fn begin_call(&mut self) {
        self.memory_denied = false;
    }

    /// Whether memory was denied since the call began.
    pub(super) fn memory_denied(&self) -> bool {
        self.memory_denied
    }
}

impl ResourceLimiter for InstanceLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A component may have several memories; their sum counts.
        let total = self
            .memory_bytes
            .saturating_add(desired.saturating_sub(current));
        if total > self.memory_bytes_max {
            self.memory_denied = true;
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // Above the memory's own maximum, or the machine has none left: out of memory either way.
        self.memory_denied = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= limits::PLUGIN_TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        limits::PLUGIN_CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        limits::PLUGIN_CORE_INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        limits::PLUGIN_CORE_INSTANCES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_of_an_instance_share_one_bound() {
        let mut limiter = InstanceLimiter::new(3 << 16);
        assert!(limiter.memory_growing(0, 1 << 16, None).unwrap());
        assert!(limiter.memory_growing(0, 1 << 16, None).unwrap());
        assert!(!limiter.memory_growing(1 << 16, 3 << 16, None).unwrap());
        assert!(limiter.memory_denied());
        limiter.begin_call();
        assert!(limiter.memory_growing(1 << 16, 2 << 16, None).unwrap());
        assert!(!limiter.memory_denied());
    }

    #[test]
    fn tables_are_bounded() {
        let mut limiter = InstanceLimiter::new(1);
        let bound = limits::PLUGIN_TABLE_ELEMENTS_MAX;
        assert!(limiter.table_growing(0, bound, None).unwrap());
        assert!(!limiter.table_growing(0, bound + 1, None).unwrap());
    }
}
