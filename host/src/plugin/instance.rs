//! Running a plugin: compiled code, and instances of it. `partition` folds and decides through them,
//! `http` answers through them; `engine` makes the code.
//!
//! Invariants: every call begins with the manifest's fuel and the watchdog's deadline; what comes
//! back went through `check`; an instance is configured before anything else is asked of it.

use std::sync::Arc;

use wasmtime::component::{Instance, InstancePre};
use wasmtime::{Store, Trap};

use super::bindings::{
    AnswerFn, Bound, ConfigureFn, DecideFn, DescribeFn, EmitStateFn, Export, FoldFn, MigrateFn,
    ReactFn, RouteFn, Signature,
};
use super::component::Examined;
use super::engine::watchdog;
use super::limits::InstanceLimiter;
use super::manifest::Limits;
use super::{
    BytesColumn, CallError, Command, Decision, Description, Emitted, EventOut, Fault, FoldInput,
    Folded, Inspection, OptionalColumn, Parameters, Payload, PluginCode, PluginInstance,
    QueryError, Question, Refusal, RouteInput, Routes,
};
use crate::clock::Clock;
use crate::limits;
use crate::types::Digest;

mod check;
mod convert;
mod guest_log;

use guest_log::{GuestLog, LogGate};

pub(super) use guest_log::add_log;

/// What belongs to one instance on the host's side.
#[derive(Debug)]
pub(super) struct HostState {
    limiter: InstanceLimiter,
    log: GuestLog,
}

/// Compiled, linked code with its parameters.
pub struct WasmCode {
    pre: InstancePre<HostState>,
    exports: Exports,
    inspection: Inspection,
    parameters: Parameters,
    gate: Arc<LogGate>,
}

/// Where a component's exports are; what it lacks is none.
struct Exports {
    fold: Option<Export>,
    react: Option<Export>,
    route: Option<Export>,
    answer: Option<Export>,
    decide: Option<Export>,
    emit_state: Option<Export>,
    migrate: Option<Export>,
    configure: Option<Export>,
    describe: Export,
}

impl std::fmt::Debug for WasmCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmCode")
            .field("inspection", &self.inspection)
            .finish_non_exhaustive()
    }
}

impl WasmCode {
    /// Finds the exports, asks the component what it offers, and lets it see its parameters.
    pub(super) fn new(
        pre: InstancePre<HostState>,
        digest: Digest,
        examined: Examined,
        parameters: &Parameters,
        clock: &Clock,
    ) -> Result<Self, Vec<Fault>> {
        let exports = Exports::find(&pre, &examined).map_err(|error| vec![wrong_shape(&error)])?;
        let Examined {
            manifest,
            capabilities,
            kind,
        } = examined;
        let gate = LogGate::new(manifest.name.to_string(), clock.clone());
        let description = Description::default();
        let mut code = Self {
            pre,
            exports,
            inspection: Inspection {
                digest,
                manifest,
                capabilities,
                kind,
                description,
            },
            parameters: parameters.clone(),
            gate,
        };
        code.inspection.description = code.describe()?;
        code.try_parameters()?;
        Ok(code)
    }

    fn limits(&self) -> &Limits {
        &self.inspection.manifest.limits
    }

    /// An instance that was not configured yet.
    fn bare(&self) -> Result<(Call, Instance), CallError> {
        let limits = *self.limits();
        let state = HostState {
            limiter: InstanceLimiter::new(limits.memory_bytes),
            log: GuestLog::new(Arc::clone(&self.gate)),
        };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.limiter);
        // A plugin has no use for handles. What fits its memory it may return, up to what the host
        // takes: lists may overlap, and memory may be a gigabyte.
        store.set_max_component_handles(0);
        store.set_hostcall_fuel(limits.memory_bytes.min(limits::PLUGIN_RETURNED_BYTES_MAX));
        let mut call = Call {
            store,
            limits,
            fuel_used: 0,
        };
        let instance =
            call.run(|store| self.pre.instantiate(store))
                .map_err(|error| match error {
                    CallError::BadColumns(detail) => CallError::Instantiate(detail),
                    other => other,
                })?;
        Ok((call, instance))
    }

    fn describe(&self) -> Result<Description, Vec<Fault>> {
        let bad = |detail: String| {
            vec![Fault {
                code: "bad-description",
                detail: format!("the plugin does not describe itself: {detail}"),
            }]
        };
        let (mut call, instance) = self.bare().map_err(|error| vec![does_not_start(&error)])?;
        let describe: Bound<DescribeFn> = (self.exports.describe)
            .bind(&mut call.store, &instance)
            .map_err(|error| vec![wrong_shape(&error)])?;
        let described = call
            .run(|store| describe.call(store, ()))
            .map_err(|error| bad(error.to_string()))?;
        let description = convert::description(described);
        check::operations(&description.queries).map_err(bad)?;
        check::commands(&description.commands).map_err(bad)?;
        Ok(description)
    }

    fn try_parameters(&self) -> Result<(), Vec<Fault>> {
        self.configured().map(drop).map_err(|error| {
            vec![match error {
                StartError::Shape(error) => wrong_shape(&error),
                StartError::Call(error) => does_not_start(&error),
                StartError::Configure(error) => Fault {
                    code: "bad-parameters",
                    detail: format!("the plugin failed on its parameters (--set): {error}"),
                },
                StartError::Refused(reason) => Fault {
                    code: "bad-parameters",
                    detail: format!("the plugin refuses its parameters (--set): {reason}"),
                },
            }]
        })
    }

    fn configured(&self) -> Result<WasmInstance, StartError> {
        let (mut call, instance) = self.bare().map_err(StartError::Call)?;
        if let Some(configure) = self.exports.configure {
            let configure: Bound<ConfigureFn> = configure
                .bind(&mut call.store, &instance)
                .map_err(StartError::Shape)?;
            let parameters: Vec<(&str, &str)> = self
                .parameters
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .collect();
            call.run(|store| configure.call(store, (&parameters,)))
                .map_err(StartError::Configure)?
                .map_err(|reason| {
                    StartError::Refused(
                        check::cut(&reason, limits::PLUGIN_REASON_BYTES_MAX).to_owned(),
                    )
                })?;
        }
        call.fuel_used = 0;
        let store = &mut call.store;
        let exports = &self.exports;
        Ok(WasmInstance {
            fold: bound(exports.fold, store, &instance)?,
            react: bound(exports.react, store, &instance)?,
            route: bound(exports.route, store, &instance)?,
            answer: bound(exports.answer, store, &instance)?,
            decide: bound(exports.decide, store, &instance)?,
            emit_state: bound(exports.emit_state, store, &instance)?,
            migrate: bound(exports.migrate, store, &instance)?,
            call,
        })
    }
}

/// Takes an export of an instance, if there is one.
fn bound<S: Signature>(
    export: Option<Export>,
    store: &mut Store<HostState>,
    instance: &Instance,
) -> Result<Option<Bound<S>>, StartError> {
    export
        .map(|export| export.bind(store, instance))
        .transpose()
        .map_err(StartError::Shape)
}

impl PluginCode for WasmCode {
    fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    fn instance(&self) -> Result<Box<dyn PluginInstance>, CallError> {
        match self.configured() {
            Ok(instance) => Ok(Box::new(instance)),
            Err(StartError::Call(error) | StartError::Configure(error)) => Err(error),
            Err(StartError::Shape(error)) => Err(CallError::Instantiate(format!("{error:#}"))),
            Err(StartError::Refused(reason)) => Err(CallError::Instantiate(format!(
                "it refuses its parameters: {reason}; deploy it again with others (--set)"
            ))),
        }
    }
}

impl Exports {
    fn find(pre: &InstancePre<HostState>, examined: &Examined) -> wasmtime::Result<Self> {
        let has = examined.capabilities;
        let find = |present: bool, interface, function| {
            present
                .then(|| Export::find(pre.component(), interface, function))
                .transpose()
        };
        Ok(Self {
            fold: find(has.fold, "fold", "fold")?,
            react: find(has.react, "react", "react")?,
            route: find(has.route, "route", "route")?,
            answer: find(has.query, "query", "answer")?,
            decide: find(has.decide, "decide", "decide")?,
            emit_state: find(has.emit_state, "emit-state", "emit-state")?,
            migrate: find(has.migrate, "migrate", "migrate")?,
            configure: find(has.configure, "configure", "configure")?,
            describe: Export::find(pre.component(), "describe", "describe")?,
        })
    }
}

/// Why an instance is not ready.
enum StartError {
    Shape(wasmtime::Error),
    Call(CallError),
    Configure(CallError),
    Refused(String),
}

fn wrong_shape(error: &wasmtime::Error) -> Fault {
    Fault {
        code: "wrong-abi",
        detail: format!(
            "the component's exports do not fit this host ({error:#}): build it with the SDK that \
             belongs to this host"
        ),
    }
}

fn does_not_start(error: &CallError) -> Fault {
    Fault {
        code: "does-not-start",
        detail: format!("the component cannot be started: {error}; look at limits in plugin.toml"),
    }
}

fn missing(export: &str) -> CallError {
    CallError::BadColumns(format!("the plugin does not export {export}"))
}

/// A store, and the frame around every call into it.
struct Call {
    store: Store<HostState>,
    limits: Limits,
    fuel_used: u64,
}

impl Call {
    /// Runs one call with fresh fuel and a fresh deadline, and says why it failed.
    fn run<T>(
        &mut self,
        call: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        self.run_with(self.limits.fuel_per_call, call)
    }

    /// As [`run`](Self::run), with this much fuel.
    fn run_with<T>(
        &mut self,
        fuel: u64,
        call: impl FnOnce(&mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        let store = &mut self.store;
        store.set_fuel(fuel).expect("the engine counts fuel");
        store.set_epoch_deadline(watchdog::ticks_max());
        store.data_mut().limiter.begin_call();
        store.data_mut().log.begin_call();
        let result = call(&mut self.store);
        let left = self.store.get_fuel().expect("the engine counts fuel");
        self.fuel_used = fuel.saturating_sub(left);
        result.map_err(|error| self.explain(&error, fuel))
    }

    fn explain(&self, error: &wasmtime::Error, fuel: u64) -> CallError {
        let HostState { limiter, log } = self.store.data();
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => CallError::OutOfFuel { fuel },
            Some(Trap::Interrupt) => CallError::Interrupted {
                seconds: limits::PLUGIN_CALL_MAX.as_secs(),
            },
            _ if limiter.memory_denied() => CallError::OutOfMemory {
                bytes_max: self.limits.memory_bytes,
            },
            Some(trap) => CallError::Trap(match log.last_error() {
                Some(message) => message.to_owned(),
                None => trap.to_string(),
            }),
            None => CallError::BadColumns(format!("{error:#}")),
        }
    }
}

/// An instance of a plugin.
pub struct WasmInstance {
    call: Call,
    fold: Option<Bound<FoldFn>>,
    react: Option<Bound<ReactFn>>,
    route: Option<Bound<RouteFn>>,
    answer: Option<Bound<AnswerFn>>,
    decide: Option<Bound<DecideFn>>,
    emit_state: Option<Bound<EmitStateFn>>,
    migrate: Option<Bound<MigrateFn>>,
}

impl std::fmt::Debug for WasmInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmInstance")
            .field("fuel_used", &self.call.fuel_used)
            .finish_non_exhaustive()
    }
}

impl PluginInstance for WasmInstance {
    fn fold(&mut self, input: &FoldInput<'_>) -> Result<Folded, CallError> {
        let columns = convert::fold_input(input);
        let (folded, emitted) = if let Some(react) = &self.react {
            let (folded, emitted) = self.call.run(|store| react.call(store, columns))?;
            (folded, convert::emitted(emitted))
        } else if let Some(fold) = &self.fold {
            let folded = self.call.run(|store| fold.call(store, columns))?;
            (folded, Emitted::default())
        } else {
            return Err(missing("fold or react"));
        };
        let (states, rejected) = convert::folded(folded);
        let (keys, events) = (input.keys.len(), input.events());
        let folded = check::folded(states, rejected, keys, events, &self.call.limits)?;
        let emitted = check::emitted(emitted, &folded.rejected, events)?;
        Ok(Folded { emitted, ..folded })
    }

    fn route(&mut self, records: &RouteInput) -> Result<Routes, CallError> {
        let Some(route) = &self.route else {
            return Err(missing("route"));
        };
        let routes = self
            .call
            .run(|store| route.call(store, (convert::route_input(records),)))?;
        check::routes(convert::routes(routes), records)
    }

    fn answer(
        &mut self,
        key: &[u8],
        state: Option<&[u8]>,
        question: &Question,
        fuel_max: u64,
    ) -> Result<Result<Payload, QueryError>, CallError> {
        let Some(answer) = &self.answer else {
            return Ok(Err(QueryError::UnknownQuery));
        };
        let fuel = self.call.limits.fuel_per_call.min(fuel_max);
        let answered = self.call.run_with(fuel, |store| {
            convert::with_request(question, |request| {
                answer.call(store, (key, state, request))
            })
        })?;
        match convert::answer(answered) {
            Ok(payload) => check::payload(payload, &self.call.limits).map(Ok),
            Err(error) => check::query_error(error).map(Err),
        }
    }

    fn decide(
        &mut self,
        key: &[u8],
        state: Option<&[u8]>,
        command: &Command,
    ) -> Result<Result<Decision, Refusal>, CallError> {
        let Some(decide) = &self.decide else {
            return Err(missing("decide"));
        };
        let decided = self.call.run(|store| {
            convert::with_command(command, |command| decide.call(store, (key, state, command)))
        })?;
        match convert::decided(decided) {
            Ok(decision) => check::decision(decision, key, &self.call.limits).map(Ok),
            Err(refusal) => check::refusal(refusal).map(Err),
        }
    }

    fn emit_state(&mut self, key: &[u8], state: &[u8]) -> Result<Vec<EventOut>, CallError> {
        let Some(emit_state) = &self.emit_state else {
            return Err(missing("emit-state"));
        };
        let emitted = self
            .call
            .run(|store| emit_state.call(store, (key, state)))?;
        check::events(convert::events(emitted), key)
    }

    fn migrate(
        &mut self,
        from_schema: &str,
        _partition: u32,
        keys: &BytesColumn,
        states: &OptionalColumn,
    ) -> Result<Result<OptionalColumn, String>, CallError> {
        let Some(migrate) = &self.migrate else {
            return Ok(Err("the plugin does not export migrate".to_owned()));
        };
        let migrated = self
            .call
            .run(|store| migrate.call(store, (from_schema, convert::key_states(keys, states))))?;
        match migrated {
            Ok(column) => {
                check::migrated(convert::column(column), keys.len(), &self.call.limits).map(Ok)
            }
            Err(reason) => Ok(Err(check::reason(reason))),
        }
    }

    fn fuel_used(&self) -> u64 {
        self.call.fuel_used
    }
}
