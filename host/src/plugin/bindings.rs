//! The plugin ABI as wasmtime sees it: the shapes of `wit/plugin.wit` that this host calls, and where
//! a component exports them. Used by `engine` and `instance` only.
//!
//! Written by hand, not by `bindgen!`: with borrowed parameters that macro generates invalid code for
//! a `types` interface of which a world uses only a part (wasmtime 48), and owned parameters would
//! copy every batch once more. wasmtime compares every shape with the component's own types whenever
//! an export is taken, so a difference from the WIT is an error at deploy, never a misread value.
//!
//! Parameters borrow the port's columns, results own what they carry.

use std::marker::PhantomData;

use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, ComponentType, Func, Instance, Lift,
    Lower, TypedFunc,
};
use wasmtime::{AsContextMut, Store};

/// Package that every import and export of a plugin belongs to.
pub const PACKAGE: &str = "foldhost:plugin";
/// The version of the ABI that this host speaks.
pub const VERSION: &str = "0.1.0";

/// Where a component exports a function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Export(ComponentExportIndex);

impl Export {
    /// Looks for `function` in the exported interface of this name.
    ///
    /// # Errors
    /// The component does not export it.
    pub(super) fn find(
        component: &Component,
        interface: &str,
        function: &str,
    ) -> wasmtime::Result<Self> {
        let full = format!("{PACKAGE}/{interface}@{VERSION}");
        component
            .get_export_index(None, &full)
            .and_then(|instance| component.get_export_index(Some(&instance), function))
            .map(Self)
            .ok_or_else(|| wasmtime::format_err!("{full} does not export a function {function}"))
    }

    /// Takes the function of an instance, and compares its type with `S`.
    ///
    /// # Errors
    /// The types differ.
    pub(super) fn bind<S: Signature>(
        self,
        mut store: impl AsContextMut,
        instance: &Instance,
    ) -> wasmtime::Result<Bound<S>> {
        let func = instance
            .get_func(&mut store, self.0)
            .ok_or_else(|| wasmtime::format_err!("an export is not a function"))?;
        func.typed::<S::Parameters<'static>, (S::Result,)>(&store)?;
        Ok(Bound(func, PhantomData))
    }
}

/// Types of an exported function.
pub(super) trait Signature {
    /// Its parameters, borrowed from the caller.
    type Parameters<'a>: ComponentNamedList + Lower;
    /// Its result.
    type Result: Lift + 'static;
}

/// A function of one instance, whose type was compared with `S`.
pub(super) struct Bound<S>(Func, PhantomData<fn() -> S>);

impl<S: Signature> Bound<S> {
    /// Calls it.
    ///
    /// # Errors
    /// A trap, or a result that breaks the canonical ABI.
    #[allow(unsafe_code, reason = "the type was compared before, see below")]
    pub(super) fn call<T: 'static>(
        &self,
        store: &mut Store<T>,
        parameters: S::Parameters<'_>,
    ) -> wasmtime::Result<S::Result> {
        // SAFETY: `bind` compared this function's type with these types; they differ in a lifetime here, of
        // which a component's type knows nothing. To compare again takes a twentieth of a query's time.
        let typed = unsafe { TypedFunc::<S::Parameters<'_>, (S::Result,)>::new_unchecked(self.0) };
        typed.call(store, parameters).map(|(result,)| result)
    }
}

/// `fold.fold`.
pub(super) struct FoldFn;
impl Signature for FoldFn {
    type Parameters<'a> = (States<'a>, Events<'a>);
    type Result = Folded;
}

/// `react.react`.
pub(super) struct ReactFn;
impl Signature for ReactFn {
    type Parameters<'a> = (States<'a>, Events<'a>);
    type Result = (Folded, Emitted);
}

/// `route.route`.
pub(super) struct RouteFn;
impl Signature for RouteFn {
    type Parameters<'a> = (Records<'a>,);
    type Result = Routes;
}

/// `query.answer`.
pub(super) struct AnswerFn;
impl Signature for AnswerFn {
    type Parameters<'a> = (&'a [u8], Option<&'a [u8]>, Request<'a>);
    type Result = Result<Payload, QueryError>;
}

/// `decide.decide`.
pub(super) struct DecideFn;
impl Signature for DecideFn {
    type Parameters<'a> = (&'a [u8], Option<&'a [u8]>, Command<'a>);
    type Result = Result<Decision, Refusal>;
}

/// `emit-state.emit-state`.
pub(super) struct EmitStateFn;
impl Signature for EmitStateFn {
    type Parameters<'a> = (&'a [u8], &'a [u8]);
    type Result = Vec<EventOut>;
}

/// `migrate.migrate`.
pub(super) struct MigrateFn;
impl Signature for MigrateFn {
    type Parameters<'a> = (&'a str, States<'a>);
    type Result = Result<ReturnedColumn, String>;
}

/// `describe.describe`.
pub(super) struct DescribeFn;
impl Signature for DescribeFn {
    type Parameters<'a> = ();
    type Result = Description;
}

/// `configure.configure`.
pub(super) struct ConfigureFn;
impl Signature for ConfigureFn {
    type Parameters<'a> = (&'a [(&'a str, &'a str)],);
    type Result = Result<(), String>;
}

/// `types.bytes-column` on the way in.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct BytesColumn<'a> {
    pub(super) data: &'a [u8],
    pub(super) ends: &'a [u32],
}

/// `types.optional-column` on the way in.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct OptionalColumn<'a> {
    pub(super) data: &'a [u8],
    pub(super) ends: &'a [u32],
    pub(super) marks: &'a [u8],
}

/// `types.states`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct States<'a> {
    pub(super) keys: BytesColumn<'a>,
    pub(super) values: OptionalColumn<'a>,
}

/// `types.headers`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Headers<'a> {
    pub(super) counts: &'a [u32],
    pub(super) names: BytesColumn<'a>,
    pub(super) values: OptionalColumn<'a>,
}

/// `types.origins`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Origins<'a> {
    pub(super) partitions: &'a [u32],
    pub(super) offsets: &'a [u64],
}

/// `types.events`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Events<'a> {
    pub(super) partition: u32,
    pub(super) entities: &'a [u32],
    pub(super) values: OptionalColumn<'a>,
    pub(super) inputs: &'a [u8],
    pub(super) timestamps: &'a [i64],
    pub(super) offsets: Option<&'a [u64]>,
    #[component(name = "record-keys")]
    pub(super) record_keys: Option<OptionalColumn<'a>>,
    pub(super) origins: Option<Origins<'a>>,
    pub(super) headers: Option<Headers<'a>>,
}

/// `route.records`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Records<'a> {
    pub(super) inputs: &'a [u8],
    pub(super) keys: OptionalColumn<'a>,
    pub(super) values: OptionalColumn<'a>,
    pub(super) timestamps: &'a [i64],
    pub(super) headers: Option<Headers<'a>>,
}

/// `types.bytes-column` on the way out.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct ReturnedBytes {
    pub(super) data: Vec<u8>,
    pub(super) ends: Vec<u32>,
}

/// `types.optional-column` on the way out.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct ReturnedColumn {
    pub(super) data: Vec<u8>,
    pub(super) ends: Vec<u32>,
    pub(super) marks: Vec<u8>,
}

/// `types.rejection`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Rejection {
    pub(super) index: u32,
    pub(super) code: String,
    pub(super) reason: String,
}

/// `types.folded`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Folded {
    pub(super) values: ReturnedColumn,
    pub(super) rejected: Vec<Rejection>,
}

/// `types.headers` on the way out.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct ReturnedHeaders {
    pub(super) counts: Vec<u32>,
    pub(super) names: ReturnedBytes,
    pub(super) values: ReturnedColumn,
}

/// `types.emitted`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Emitted {
    pub(super) causes: Vec<u32>,
    pub(super) keys: ReturnedBytes,
    pub(super) values: ReturnedColumn,
    pub(super) timestamps: Option<Vec<i64>>,
    pub(super) headers: Option<ReturnedHeaders>,
}

/// `route.routes`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Routes {
    pub(super) causes: Vec<u32>,
    pub(super) keys: ReturnedBytes,
    pub(super) rejected: Vec<Rejection>,
}

/// `types.payload` on the way in.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Content<'a> {
    #[component(name = "content-type")]
    pub(super) content_type: &'a str,
    pub(super) body: &'a [u8],
}

/// `types.call-context`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct CallContext<'a> {
    pub(super) now: i64,
    pub(super) version: Option<u64>,
    #[component(name = "changed-at")]
    pub(super) changed_at: Option<i64>,
    pub(super) principal: Option<&'a str>,
    pub(super) headers: &'a [(&'a str, &'a [u8])],
}

/// `query.request`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Request<'a> {
    pub(super) name: &'a str,
    pub(super) arguments: &'a [(&'a str, &'a str)],
    pub(super) content: Option<Content<'a>>,
    pub(super) accept: &'a str,
    pub(super) context: CallContext<'a>,
}

/// `decide.command`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Command<'a> {
    pub(super) name: &'a str,
    pub(super) id: &'a str,
    pub(super) content: Content<'a>,
    pub(super) context: CallContext<'a>,
}

/// `types.payload` on the way out.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Payload {
    #[component(name = "content-type")]
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
}

/// `query.query-error`.
#[derive(Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum QueryError {
    #[component(name = "unknown-query")]
    UnknownQuery,
    #[component(name = "bad-argument")]
    BadArgument((String, String)),
    #[component(name = "not-found")]
    NotFound,
    #[component(name = "other")]
    Other((String, String)),
}

/// `types.event-out`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct EventOut {
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// `decide.decision`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Decision {
    pub(super) events: Vec<EventOut>,
    pub(super) reply: Option<Payload>,
}

/// `decide.refusal`.
#[derive(Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum Refusal {
    #[component(name = "unknown-command")]
    UnknownCommand,
    #[component(name = "bad-body")]
    BadBody((String, String)),
    #[component(name = "refused")]
    Refused((String, String, String)),
}

/// `describe.operation`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) summary: String,
    #[component(name = "arguments-schema")]
    pub(super) arguments_schema: String,
    #[component(name = "body-schema")]
    pub(super) body_schema: String,
    #[component(name = "answer-schema")]
    pub(super) answer_schema: String,
    #[component(name = "uses-context")]
    pub(super) uses_context: bool,
}

/// `describe.schema`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
#[expect(
    dead_code,
    reason = "the record must be lifted whole; schemas are for other tools"
)]
pub(super) struct Schema {
    pub(super) subject: String,
    pub(super) format: String,
    pub(super) data: Vec<u8>,
}

/// `describe.description`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
#[expect(
    dead_code,
    reason = "the record must be lifted whole; schemas are for other tools"
)]
pub(super) struct Description {
    pub(super) queries: Vec<Operation>,
    pub(super) commands: Vec<Operation>,
    pub(super) schemas: Vec<Schema>,
}

/// `log.level`. (The import itself is bound in `instance/guest_log`.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[allow(dead_code, reason = "made by lifting what a plugin says")]
#[repr(u8)]
pub(super) enum Level {
    /// For whoever looks for a mistake.
    #[component(name = "debug")]
    Debug,
    /// Worth knowing.
    #[component(name = "info")]
    Info,
    /// Unexpected.
    #[component(name = "warn")]
    Warn,
    /// Wrong; the SDK writes a panic's message so, before it traps.
    #[component(name = "error")]
    Error,
}
