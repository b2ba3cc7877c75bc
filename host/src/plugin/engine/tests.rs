//! Faults, limits and calls of the engine, tried with a guest written by hand.

use std::path::Path;

use tempfile::TempDir;
use wit_component::StringEncoding;
use wit_parser::Resolve;

use super::*;
use crate::plugin::component::{self, EncodeError};
use crate::plugin::{
    BytesColumn, CallError, Capabilities, FoldInput, HeadersColumn, Kind, Mark, OptionalColumn,
    OriginsColumn, PluginInstance, QueryError, Question,
};

mod handlers;
mod republishers;

const MANIFEST: &str = "name = \"guest\"\nversion = \"1\"\ninputs = [\"in\"]\n\
                        [limits]\nmemory = \"4MiB\"\nfuel-per-call = 20_000_000\n";
const GUEST: &str = include_str!("tests/guest.wat");
const ALL: &str = "import foldhost:plugin/log@0.1.0;
    export foldhost:plugin/describe@0.1.0;
    export foldhost:plugin/fold@0.1.0;
    export foldhost:plugin/query@0.1.0;
    export foldhost:plugin/migrate@0.1.0;
    export foldhost:plugin/configure@0.1.0;";

/// A core module with the metadata that `wit-bindgen` would have put into it.
fn module(wat: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve
        .push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit"))
        .unwrap();
    let own = format!("package test:guest; world guest {{ {world} }}");
    let package = resolve.push_str("guest.wit", &own).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = wat::parse_str(wat).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .unwrap();
    module
}

fn guest() -> Vec<u8> {
    component::encode(&module(GUEST, ALL), MANIFEST).unwrap().0
}

fn engine() -> (WasmEngine, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let cache_dir = folder.path().join("code");
    let engine = WasmEngine::new(EngineSettings {
        cache_dir,
        clock: Clock::manual(0, 1),
    });
    (engine.unwrap(), folder)
}

fn instance() -> (Box<dyn PluginInstance>, TempDir) {
    let (engine, folder) = engine();
    let code = engine.load(&guest(), &Parameters::new()).unwrap();
    (code.instance().unwrap(), folder)
}

/// A batch of partition 1, with columns of its own.
#[derive(Default)]
struct Columns {
    keys: BytesColumn,
    states: OptionalColumn,
    entities: Vec<u32>,
    values: OptionalColumn,
    inputs: Vec<u8>,
    timestamps_ms: Vec<i64>,
    offsets: Vec<u64>,
    headers: Option<HeadersColumn>,
    record_keys: Option<OptionalColumn>,
    origins: Option<OriginsColumn>,
}

impl Columns {
    fn input(&self) -> FoldInput<'_> {
        FoldInput {
            partition: 1,
            keys: &self.keys,
            states: &self.states,
            entities: &self.entities,
            values: &self.values,
            inputs: &self.inputs,
            timestamps_ms: &self.timestamps_ms,
            offsets: &self.offsets,
            headers: self.headers.as_ref(),
            record_keys: self.record_keys.as_ref(),
            origins: self.origins.as_ref(),
        }
    }
}

/// A batch of two keys and two events whose first value is `value`.
fn batch(value: &[u8]) -> Columns {
    let mut input = Columns::default();
    for (index, key) in ["a", "b"].into_iter().enumerate() {
        input.keys.push(key.as_bytes());
        input.states.push(Some(b"before"));
        input.entities.push(index as u32);
        input.values.push(Some(value));
        input.inputs.push(0);
        input.timestamps_ms.push(-1);
        input.offsets.push(7 + index as u64);
    }
    input
}

/// A batch of one key and two events.
fn one_key(value: &[u8]) -> Columns {
    let mut input = batch(value);
    input.keys.clear();
    input.keys.push(b"a");
    input.states.clear();
    input.states.push(None);
    input.entities = vec![0, 0];
    input
}

fn codes(result: Result<Inspection, Vec<Fault>>) -> Vec<&'static str> {
    result
        .unwrap_err()
        .into_iter()
        .map(|fault| fault.code)
        .collect()
}

#[test]
fn a_component_is_inspected() {
    let (engine, _folder) = engine();
    let bytes = guest();
    let inspection = engine.inspect(&bytes, &Parameters::new()).unwrap();
    assert_eq!(inspection.digest, Digest::of(&bytes));
    assert_eq!(inspection.manifest.name.as_str(), "guest");
    assert_eq!(inspection.kind, Kind::View);
    let expected = Capabilities {
        fold: true,
        query: true,
        migrate: true,
        configure: true,
        ..Capabilities::default()
    };
    assert_eq!(inspection.capabilities, expected);
}

#[test]
fn a_batch_goes_in_and_its_states_come_back() {
    let (mut instance, _folder) = instance();
    assert_eq!(instance.fuel_used(), 0);
    let folded = instance.fold(&batch(b"-").input()).unwrap();
    assert_eq!(folded.states.marks, [Mark::Unchanged as u8; 2]);
    assert!(folded.rejected.is_empty());
    let fuel = instance.fuel_used();
    assert!(fuel > 0);
    instance.fold(&batch(b"-").input()).unwrap();
    assert_eq!(instance.fuel_used(), fuel, "equal calls use equal fuel");
}

#[test]
fn a_rejection_comes_back() {
    let (mut instance, _folder) = instance();
    let rejected = instance.fold(&batch(b"r").input()).unwrap().rejected;
    assert_eq!(rejected.len(), 1);
    assert_eq!((rejected[0].index, &*rejected[0].code), (0, "bad-event"));
    assert_eq!(rejected[0].reason, "it says so");
}

#[test]
fn a_question_is_answered() {
    let (mut instance, _folder) = instance();
    let answer = instance
        .answer(b"N14228", None, &Question::default(), u64::MAX)
        .unwrap()
        .unwrap();
    assert_eq!(
        (&*answer.content_type, &*answer.body),
        ("text/plain", &b"N14228"[..])
    );
}

/// Two keys, of which the second has no state.
fn old_states() -> (BytesColumn, OptionalColumn) {
    let Columns { keys, .. } = batch(b"-");
    let mut states = OptionalColumn::default();
    states.push(Some(b"before"));
    states.push(None);
    (keys, states)
}

#[test]
fn states_of_another_schema_are_migrated() {
    let (mut instance, _folder) = instance();
    let (keys, states) = old_states();
    let migrated = instance.migrate("guest/1", 0, &keys, &states).unwrap();
    assert_eq!(migrated, Ok(states.clone()));
    let none = (BytesColumn::default(), OptionalColumn::default());
    let migrated = instance.migrate("guest/1", 0, &none.0, &none.1).unwrap();
    assert_eq!(migrated, Ok(none.1.clone()));
    for (keys, states) in [(&keys, &states), (&none.0, &none.1)] {
        let refused = instance.migrate("guest/x", 0, keys, states).unwrap();
        assert_eq!(refused, Err("no state of that schema is known".to_owned()));
    }
}

#[test]
fn every_fault_of_a_migration_has_its_name() {
    let (engine, _folder) = engine();
    let code = engine.load(&guest(), &Parameters::new()).unwrap();
    let (keys, states) = old_states();
    let migrate = |schema: &str| {
        let mut instance = code.instance().unwrap();
        instance.migrate(schema, 0, &keys, &states).unwrap_err()
    };
    assert!(matches!(migrate("t"), CallError::Trap(_)));
    assert_eq!(migrate("l"), CallError::OutOfFuel { fuel: 20_000_000 });
    assert!(matches!(migrate("f"), CallError::BadColumns(text) if text.contains("2 keys")));
    assert!(matches!(migrate("u"), CallError::BadColumns(text) if text.contains("is 2")));
    assert!(matches!(
        migrate("b"),
        CallError::StateTooLarge { key_index: 0, .. }
    ));
}

#[test]
fn a_plugin_without_migrate_says_so() {
    let (engine, _folder) = engine();
    let without = ALL.replace("export foldhost:plugin/migrate@0.1.0;", "");
    let bytes = component::encode(&module(GUEST, &without), MANIFEST).unwrap();
    let code = engine.load(&bytes.0, &Parameters::new()).unwrap();
    assert!(!code.inspection().capabilities.migrate);
    let (keys, states) = old_states();
    let refused = code.instance().unwrap().migrate("a", 0, &keys, &states);
    assert_eq!(
        refused,
        Ok(Err("the plugin does not export migrate".to_owned()))
    );
}

#[test]
fn every_fault_of_a_call_has_its_name() {
    let (engine, _folder) = engine();
    let code = engine.load(&guest(), &Parameters::new()).unwrap();
    let fold = |value: &[u8]| {
        code.instance()
            .unwrap()
            .fold(&batch(value).input())
            .unwrap_err()
    };
    assert_eq!(
        fold(b"p"),
        CallError::Trap("boom: the guest gives up".to_owned())
    );
    assert!(matches!(fold(b"t"), CallError::Trap(text) if text.contains("unreachable")));
    assert!(matches!(fold(b"s"), CallError::Trap(text) if text.contains("stack exhausted")));
    assert_eq!(fold(b"l"), CallError::OutOfFuel { fuel: 20_000_000 });
    assert_eq!(fold(b"m"), CallError::OutOfMemory { bytes_max: 4 << 20 });
    for broken in [b"R", b"B", b"c", b"k"] {
        let error = fold(broken);
        assert!(
            matches!(error, CallError::BadColumns(_)),
            "{broken:?}: {error:?}"
        );
    }
}

#[test]
fn a_too_large_state_is_refused() {
    let (mut instance, _folder) = instance();
    let error = instance.fold(&one_key(b"b").input()).unwrap_err();
    let bytes_max = limits::STATE_BYTES_DEFAULT;
    assert_eq!(
        error,
        CallError::StateTooLarge {
            key_index: 0,
            bytes: 1_100_000,
            bytes_max
        }
    );
}

#[test]
fn logging_costs_fuel() {
    let (mut instance, _folder) = instance();
    // 20,000,000 units pay for about 300 lines of 64 KiB, not for as many as a loop could write.
    assert_eq!(
        instance.fold(&batch(b"w").input()),
        Err(CallError::OutOfFuel { fuel: 20_000_000 })
    );
    assert_eq!(instance.fuel_used(), 20_000_000);
}

#[test]
fn not_a_numbers_are_canonical() {
    let (engine, _folder) = engine();
    let code = engine.load(&guest(), &Parameters::new()).unwrap();
    let folded = code
        .instance()
        .unwrap()
        .fold(&one_key(b"n").input())
        .unwrap();
    assert_eq!(
        folded.states.get(0),
        Some(&0x7fc0_0000_u32.to_le_bytes()[..])
    );
}

#[test]
fn parameters_are_offered_to_the_plugin() {
    let (engine, _folder) = engine();
    let parameters = Parameters::from([("unit".to_owned(), "knots".to_owned())]);
    let faults = engine.inspect(&guest(), &parameters).unwrap_err();
    assert_eq!(faults[0].code, "bad-parameters");
    assert!(faults[0].detail.ends_with("no-parameter"), "{faults:?}");

    let without = ALL.replace("export foldhost:plugin/configure@0.1.0;", "");
    let plain = component::encode(&module(GUEST, &without), MANIFEST)
        .unwrap()
        .0;
    let faults = engine.inspect(&plain, &parameters).unwrap_err();
    assert_eq!(faults[0].code, "bad-parameters");
    assert!(
        faults[0].detail.contains("takes no parameters"),
        "{faults:?}"
    );
    assert!(engine.inspect(&plain, &Parameters::new()).is_ok());
}

#[test]
fn what_is_no_component_is_told_apart() {
    let (engine, _folder) = engine();
    let inspect = |bytes: &[u8]| codes(engine.inspect(bytes, &Parameters::new()));
    assert_eq!(inspect(b""), ["not-wasm"]);
    assert_eq!(inspect(b"#!/bin/sh"), ["not-wasm"]);
    assert_eq!(inspect(&module(GUEST, ALL)), ["not-a-component"]);
    let bytes = guest();
    assert_eq!(inspect(&bytes[..bytes.len() / 2]), ["not-wasm"]);
    assert_eq!(
        inspect(&vec![0; limits::COMPONENT_BYTES_MAX + 1]),
        ["too-large"]
    );
    // A component that says nothing: no manifest and no kind, both told at once.
    let empty = wasm_encoder::Component::new().finish();
    assert_eq!(inspect(&empty), ["no-manifest", "no-kind"]);
}

#[test]
fn a_damaged_component_is_refused_without_a_panic() {
    let (engine, _folder) = engine();
    let bytes = guest();
    for index in (8..bytes.len()).step_by(13) {
        let mut damaged = bytes.clone();
        damaged[index] ^= 0x55;
        // Some bytes do not matter (names); the others are faults, whatever they are.
        if let Err(faults) = engine.inspect(&damaged, &Parameters::new()) {
            assert!(!faults.is_empty());
        }
    }
}

#[test]
fn every_fault_of_a_component_is_found_at_once() {
    const WAT: &str = r#"(component
        (import "wasi:clocks/monotonic-clock@0.2.0" (instance))
        (import "wasi:random/random@0.2.0" (instance))
        (import "foldhost:plugin/log@0.9.0" (instance))
        (import "foldhost:plugin/fold@0.1.0" (instance)))"#;
    let (engine, _folder) = engine();
    let mut bytes = wat::parse_str(WAT).unwrap();
    append_manifest(&mut bytes, "name = \"a\"\nversoin = \"1\"");
    let faults = engine.inspect(&bytes, &Parameters::new()).unwrap_err();
    let found: Vec<_> = faults.iter().map(|fault| fault.code).collect();
    assert_eq!(
        found,
        [
            "bad-manifest",
            "bad-manifest",
            "bad-manifest",
            "forbidden-import",
            "forbidden-import",
            "wrong-abi",
            "forbidden-import",
            "no-kind"
        ],
        "{faults:#?}"
    );
    let text: String = faults.iter().map(|fault| fault.detail.as_str()).collect();
    for part in [
        "did you mean 'version'",
        "wasi:random/random@0.2.0",
        "'0.9.0'",
        "inputs",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn another_shape_of_a_known_interface_is_refused() {
    // The right names, another signature.
    const WAT: &str = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $fold (export "fold" (func $f)))
        (instance $describe (export "describe" (func $f)))
        (export "foldhost:plugin/fold@0.1.0" (instance $fold))
        (export "foldhost:plugin/describe@0.1.0" (instance $describe)))"#;
    let (engine, _folder) = engine();
    let mut bytes = wat::parse_str(WAT).unwrap();
    append_manifest(&mut bytes, MANIFEST);
    assert_eq!(
        codes(engine.inspect(&bytes, &Parameters::new())),
        ["wrong-abi"]
    );
}

#[test]
fn every_policy_for_poison_is_taken() {
    for on_error in ["stop", "dead-letter", "park-key"] {
        let more = format!("on-error = \"{on_error}\"\n[limits]");
        let manifest = MANIFEST.replacen("[limits]", &more, 1);
        component::encode(&module(GUEST, ALL), &manifest).unwrap();
    }
}

#[test]
fn a_manifest_that_does_not_fit_its_component_is_refused() {
    let manifest = MANIFEST.replacen("[limits]", "output = \"in\"\norigins = true\n[limits]", 1);
    let refused = component::encode(&module(GUEST, ALL), &manifest).unwrap_err();
    let EncodeError::Refused(faults) = refused else {
        panic!("{refused}")
    };
    let found: Vec<_> = faults.iter().map(|fault| fault.code).collect();
    assert_eq!(
        found,
        ["output-of-a-view", "output-is-input", "nothing-to-merge"]
    );
}

#[test]
fn a_module_without_exports_is_no_plugin() {
    let error = component::encode(&module("(module)", ""), MANIFEST).unwrap_err();
    let EncodeError::Refused(faults) = error else {
        panic!("{error}")
    };
    assert_eq!(faults[0].code, "no-kind");
    let error = component::encode(&wat::parse_str("(module)").unwrap(), MANIFEST).unwrap_err();
    assert!(error.to_string().contains("export!"), "{error}");
}

#[test]
fn a_guest_that_wants_more_memory_than_it_may_have_does_not_start() {
    let (engine, _folder) = engine();
    let wat = GUEST.replacen("\"memory\") 20)", "\"memory\") 2000)", 1);
    let bytes = component::encode(&module(&wat, ALL), MANIFEST).unwrap().0;
    let faults = engine.inspect(&bytes, &Parameters::new()).unwrap_err();
    assert_eq!(faults[0].code, "does-not-start");
    assert!(faults[0].detail.contains("memory"), "{faults:?}");
}

#[test]
fn a_restart_takes_machine_code_from_the_cache() {
    let (engine, folder) = engine();
    let bytes = guest();
    engine.load(&bytes, &Parameters::new()).unwrap();
    let code = || -> Vec<_> {
        let entries = std::fs::read_dir(folder.path().join("code")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    assert_eq!(code().len(), 1);
    let settings = || EngineSettings {
        cache_dir: folder.path().join("code"),
        clock: Clock::manual(0, 2),
    };
    let again = WasmEngine::new(settings()).unwrap();
    assert!(again.cache.get(&again.engine, Digest::of(&bytes)).is_some());
    let loaded = again.load(&bytes, &Parameters::new()).unwrap();
    assert!(
        loaded
            .instance()
            .unwrap()
            .fold(&batch(b"-").input())
            .is_ok()
    );

    std::fs::write(&code()[0], b"damaged").unwrap();
    let third = WasmEngine::new(settings()).unwrap();
    assert!(third.load(&bytes, &Parameters::new()).is_ok());
    assert!(
        third.cache.get(&third.engine, Digest::of(&bytes)).is_some(),
        "it was made anew"
    );
}

#[test]
fn a_plugin_without_queries_says_so() {
    let (engine, _folder) = engine();
    let without = ALL.replace("export foldhost:plugin/query@0.1.0;", "");
    let bytes = component::encode(&module(GUEST, &without), MANIFEST)
        .unwrap()
        .0;
    let code = engine.load(&bytes, &Parameters::new()).unwrap();
    assert!(!code.inspection().capabilities.query);
    let answer = code
        .instance()
        .unwrap()
        .answer(b"k", None, &Question::default(), u64::MAX);
    assert_eq!(answer, Ok(Err(QueryError::UnknownQuery)));
}

fn append_manifest(component: &mut Vec<u8>, manifest: &str) {
    use wasm_encoder::ComponentSection as _;
    wasm_encoder::CustomSection {
        name: crate::plugin::manifest::SECTION.into(),
        data: manifest.as_bytes().into(),
    }
    .append_to_component(component);
}
