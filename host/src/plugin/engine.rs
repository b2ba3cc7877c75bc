//! The plugin engine: one wasmtime engine for all plugins of a host. Made by `node`, called by
//! `manager` (inspection, loading); `instance` runs what it compiles.
//!
//! Invariants: settings make execution deterministic (fuel decides, NaNs are canonical, no threads,
//! no relaxed SIMD); nothing is compiled or run before [`component::examine`] passed; a component
//! imports the log and nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine};

use super::instance::{self, HostState, WasmCode};
use super::{Fault, Inspection, Parameters, PluginCode, PluginEngine, component};
use crate::clock::Clock;
use crate::limits;
use crate::types::Digest;

mod cache;
pub(super) mod watchdog;

use cache::CodeCache;
use watchdog::Watchdog;

/// What an engine is made of.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Folder for machine code, in the host's data folder; made when it is needed.
    pub cache_dir: PathBuf,
    /// For the rate of the plugins' log lines and the age of cached code.
    pub clock: Clock,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// wasmtime refused the settings, or the machine cannot run it.
    #[error("the plugin engine cannot start on this machine: {0}")]
    Engine(String),
    /// No thread for the watchdog.
    #[error("the plugin engine cannot start its watchdog: {0}; raise the limit of threads")]
    Watchdog(#[from] std::io::Error),
}

/// The engine on wasmtime.
#[derive(Debug)]
pub struct WasmEngine {
    engine: Engine,
    cache: CodeCache,
    clock: Clock,
    _watchdog: Watchdog,
}

impl WasmEngine {
    /// Starts an engine and its watchdog.
    ///
    /// # Errors
    /// [`EngineError`] says what the machine lacks.
    pub fn new(settings: EngineSettings) -> Result<Self, EngineError> {
        let engine =
            Engine::new(&config()).map_err(|error| EngineError::Engine(format!("{error:#}")))?;
        let watchdog = Watchdog::start(&engine)?;
        let EngineSettings { cache_dir, clock } = settings;
        let bytes_max = limits::MACHINE_CODE_CACHE_BYTES_MAX;
        let cache = CodeCache::new(cache_dir, bytes_max, clock.clone(), &engine);
        Ok(Self {
            engine,
            cache,
            clock,
            _watchdog: watchdog,
        })
    }

    fn compile(&self, bytes: &[u8], digest: Digest) -> Result<Component, Fault> {
        if let Some(component) = self.cache.get(&self.engine, digest) {
            return Ok(component);
        }
        let component = Component::from_binary(&self.engine, bytes).map_err(|error| Fault {
            code: "not-wasm",
            detail: format!(
                "the component is damaged or uses WebAssembly features that plugins may not \
                 ({error:#}): build it again for wasm32-unknown-unknown"
            ),
        })?;
        self.cache.put(digest, &component);
        Ok(component)
    }

    fn code(&self, bytes: &[u8], parameters: &Parameters) -> Result<WasmCode, Vec<Fault>> {
        let examined = component::examine(bytes)?;
        if !parameters.is_empty() && !examined.capabilities.configure {
            let names = parameters
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            return Err(vec![Fault {
                code: "bad-parameters",
                detail: format!("the plugin takes no parameters: leave out --set ({names})"),
            }]);
        }
        let digest = Digest::of(bytes);
        let component = self.compile(bytes, digest).map_err(|fault| vec![fault])?;
        let pre = self.linker().instantiate_pre(&component).map_err(|error| {
            vec![Fault {
                code: "wrong-abi",
                detail: format!(
                    "the component's imports do not fit this host ({error:#}): build it with the \
                     SDK that belongs to this host"
                ),
            }]
        })?;
        WasmCode::new(pre, digest, examined, parameters, &self.clock)
    }

    fn linker(&self) -> Linker<HostState> {
        let mut linker = Linker::new(&self.engine);
        instance::add_log(&mut linker).expect("the names of one import in a fresh linker differ");
        linker
    }
}

impl PluginEngine for WasmEngine {
    fn inspect(&self, component: &[u8], parameters: &Parameters) -> Result<Inspection, Vec<Fault>> {
        self.code(component, parameters)
            .map(|code| code.inspection().clone())
    }

    fn load(
        &self,
        component: &[u8],
        parameters: &Parameters,
    ) -> Result<Arc<dyn PluginCode>, Vec<Fault>> {
        Ok(Arc::new(self.code(component, parameters)?))
    }
}

/// Settings under which equal arguments give equal bytes, on any machine, and a call is bounded.
fn config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_threads(false)
        .max_wasm_stack(limits::PLUGIN_STACK_BYTES_MAX)
        // Halves the cost of a call; plugins have nothing to wait for.
        .concurrency_support(false)
        // A trap is told by the panic message that the plugin logged, not by addresses in it.
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false);
    config
}

#[cfg(test)]
mod tests;
