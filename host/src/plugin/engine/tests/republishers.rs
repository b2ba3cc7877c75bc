//! Records that a component emits and keys that it names, through the real sandbox: those of good ones,
//! and every way in which `plugins/misbehaving` breaks them.

use std::fs;

use super::*;
use crate::plugin::{PluginCode, RouteInput};

/// A misbehaving plugin with the fault that it shall have.
fn misbehaving(name: &str, fault: &str) -> (Arc<dyn PluginCode>, TempDir) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../plugins/misbehaving/prebuilt")
        .join(format!("{name}.wasm"));
    let bytes = fs::read(&path).unwrap();
    let (engine, folder) = engine();
    let parameters = Parameters::from([("fault".to_owned(), fault.to_owned())]);
    (engine.load(&bytes, &parameters).unwrap(), folder)
}

/// Events of the keys a, b, a, each with a header.
fn events(values: [Option<&[u8]>; 3]) -> Columns {
    let mut input = Columns::default();
    for (key, state) in [("a", Some(&b"{\"count\":6}"[..])), ("b", None)] {
        input.keys.push(key.as_bytes());
        input.states.push(state);
    }
    let mut headers = HeadersColumn::default();
    for (offset, value) in (10..).zip(values) {
        input.entities.push(u32::from(offset == 11));
        input.values.push(value);
        input.inputs.push(0);
        input.timestamps_ms.push(-1);
        input.offsets.push(offset);
        headers.counts.push(1);
        headers.names.push(b"trace");
        headers.values.push(Some(offset.to_string().as_bytes()));
    }
    input.headers = Some(headers);
    input
}

#[test]
fn a_republisher_is_one_by_what_it_exports() {
    let (code, _folder) = misbehaving("broken-records", "too-many");
    let inspection = code.inspection();
    assert_eq!(inspection.kind, Kind::Republisher);
    assert!(!inspection.capabilities.fold && !inspection.capabilities.route);
    let output = inspection.manifest.output.as_ref().unwrap();
    assert_eq!(output.topic.as_str(), "counts");
    let default = limits::COMMIT_INTERVAL_WRITER_DEFAULT;
    assert_eq!(inspection.manifest.commit_interval, default);
}

#[test]
fn what_a_republisher_emits_comes_back_in_the_order_of_its_causes() {
    let (code, _folder) = misbehaving("broken-records", "too-many");
    let mut instance = code.instance().unwrap();
    let folded = instance
        .fold(&events([Some(b"x"), Some(b"y"), None]).input())
        .unwrap();
    assert_eq!(folded.states.get(0), Some(&b"{\"count\":8}"[..]));
    assert_eq!(folded.states.get(1), Some(&b"{\"count\":1}"[..]));
    let emitted = &folded.emitted;
    assert_eq!(emitted.causes, [0, 1, 2]);
    let records: Vec<_> = (0..emitted.len())
        .map(|index| (emitted.keys.get(index), emitted.values.get(index)))
        .collect();
    let expected: [(&[u8], Option<&[u8]>); 3] = [
        (b"a", Some(b"{\"count\":7}")),
        (b"b", Some(b"{\"count\":1}")),
        (b"a", None),
    ];
    assert_eq!(records, expected);
    assert_eq!(emitted.timestamps_ms, None, "those of the causes");
    let headers = emitted.headers.as_ref().unwrap();
    assert_eq!(headers.counts, [1, 1, 1]);
    assert_eq!(headers.names.get(2), b"trace");
    assert_eq!(headers.values.get(2), Some(&b"12"[..]));
    assert!(instance.fuel_used() > 0);

    let mut plain = events([Some(b"x"), Some(b"y"), None]);
    plain.headers = None;
    assert_eq!(instance.fold(&plain.input()).unwrap().emitted.headers, None);
}

#[test]
fn every_fault_of_what_is_emitted_has_its_name() {
    let marked = events([Some(b"x"), Some(b"poison"), Some(b"x")]);
    let mut alone = events([Some(b"poison"), None, None]);
    alone.keys.truncate(1);
    alone.states.items.truncate(1);
    alone.states.marks.truncate(1);
    alone.values.items.truncate(1);
    alone.values.marks.truncate(1);
    alone.entities.truncate(1);
    alone.inputs.truncate(1);
    alone.timestamps_ms.truncate(1);
    alone.offsets.truncate(1);
    alone.headers = None;
    for (fault, of_batch, of_one) in [
        (
            "causes-decrease",
            "record 2 is caused by event 1, and the one before it by 2",
            "record 0 is caused by event 1, but there are 1",
        ),
        (
            "rejected-cause",
            "record 1 is caused by event 1, which is rejected",
            "record 0 is caused by event 0, which is rejected",
        ),
        (
            "wrong-lengths",
            "3 records, but 2 ends of keys",
            "1 records, but 0 ends of keys",
        ),
        (
            "ends-decrease",
            "the end of key 1 (2) lies before its begin (4)",
            "the last key ends at 2 of 1 bytes",
        ),
        (
            "unknown-mark",
            "the mark of value 1 is 2",
            "the mark of value 0 is 2",
        ),
        ("host-header", "'foldhost-cause'", "'foldhost-cause'"),
        ("long-key", "key 0 has 33792 bytes", "key 0 has 33792 bytes"),
    ] {
        let (code, _folder) = misbehaving("broken-records", fault);
        for (input, said) in [(&marked, of_batch), (&alone, of_one)] {
            let error = code.instance().unwrap().fold(&input.input()).unwrap_err();
            assert!(
                matches!(&error, CallError::BadColumns(text) if text.contains(said)),
                "{fault}, not '{said}': {error:?}"
            );
        }
    }
    for (fault, said) in [
        ("too-many", "70000 records in one call"),
        ("too-large", "20971540 bytes of records in one call"),
    ] {
        let (code, _folder) = misbehaving("broken-records", fault);
        for input in [&marked, &alone] {
            let error = code.instance().unwrap().fold(&input.input()).unwrap_err();
            assert!(matches!(error, CallError::TooMuch { .. }), "{error:?}");
            assert!(
                error.is_about_size() && error.to_string().contains(said),
                "{error}"
            );
        }
    }
}

/// Records without headers; the keys are a, none, a, …
fn records(values: &[Option<&[u8]>]) -> RouteInput {
    let mut records = RouteInput::default();
    for (index, value) in values.iter().enumerate() {
        records.inputs.push(0);
        records.keys.push((index % 2 == 0).then_some(b"a"));
        records.values.push(*value);
        records.timestamps_ms.push(0);
    }
    records
}

#[test]
fn records_are_routed_to_the_keys_that_the_plugin_names() {
    let (code, _folder) = misbehaving("broken-routes", "too-many");
    assert!(code.inspection().capabilities.route);
    let mut instance = code.instance().unwrap();
    let records = records(&[Some(b"x"), Some(b"to:b,c"), None, None]);
    let routes = instance.route(&records).unwrap();
    assert_eq!(routes.causes, [0, 1, 1, 2]);
    let keys: Vec<_> = (0..4).map(|index| routes.keys.get(index)).collect();
    assert_eq!(keys, [b"a", b"b", b"c", b"a"]);
    assert_eq!(routes.rejected.len(), 1);
    let rejection = &routes.rejected[0];
    assert_eq!((rejection.index, &*rejection.code), (3, "no-key"));
}

#[test]
fn a_routed_record_tells_where_it_was() {
    let (code, _folder) = misbehaving("broken-routes", "too-many");
    let mut input = batch(b"x");
    input.states.clear();
    input.states.push(None);
    input.states.push(None);
    let rejected = code
        .instance()
        .unwrap()
        .fold(&input.input())
        .unwrap()
        .rejected;
    assert_eq!(rejected.len(), 2);
    assert_eq!(rejected[0].code, "no-origin");
    input.origins = Some(OriginsColumn {
        partitions: vec![4, 2],
        offsets: vec![u64::MAX, 7],
    });
    let mut record_keys = OptionalColumn::default();
    record_keys.push(None);
    record_keys.push(Some(b"other"));
    input.record_keys = Some(record_keys);
    let folded = code.instance().unwrap().fold(&input.input()).unwrap();
    assert!(folded.rejected.is_empty(), "{:?}", folded.rejected);
    assert_eq!(folded.states.get(0), Some(&b"{\"count\":1}"[..]));
}

#[test]
fn every_fault_of_a_route_has_its_name() {
    let records = records(&[Some(b"x"), Some(b"to:b"), Some(b"poison")]);
    for (fault, said) in [
        (
            "no-such-record",
            "key 3 is caused by record 4294967295, but there are 3",
        ),
        (
            "rejected-key",
            "key 2 is caused by record 2, which is rejected",
        ),
        ("wrong-lengths", "3 causes, but 2 ends of keys"),
        ("long-key", "key 0 has 33792 bytes"),
    ] {
        let (code, _folder) = misbehaving("broken-routes", fault);
        let error = code.instance().unwrap().route(&records).unwrap_err();
        assert!(
            matches!(&error, CallError::BadColumns(text) if text.contains(said)),
            "{fault}, not '{said}': {error:?}"
        );
    }
    let (code, _folder) = misbehaving("broken-routes", "too-many");
    let error = code.instance().unwrap().route(&records).unwrap_err();
    let max = limits::ROUTED_KEYS_MAX;
    let what = "70000 keys".to_owned();
    assert_eq!(error, CallError::TooMuch { what, max });
}

#[test]
fn a_plugin_without_route_says_so() {
    let (mut instance, _folder) = instance();
    let error = instance.route(&records(&[Some(b"x")])).unwrap_err();
    let said = "the plugin does not export route".to_owned();
    assert_eq!(error, CallError::BadColumns(said));
}

/// What a plugin returns is copied; its lists may all name the same bytes, so memory does not bound them.
#[test]
fn one_call_returns_no_more_than_the_host_takes() {
    const MANIFEST: &str = "name = \"guest\"\nversion = \"1\"\ninputs = [\"in\"]\n\
                            [limits]\nmemory = \"1GiB\"\n";
    // b: a state of this many bytes, which are there.
    let bytes = limits::PLUGIN_RETURNED_BYTES_MAX + 1;
    let wat = GUEST
        .replacen("\"memory\") 20)", "\"memory\") 2100)", 1)
        .replacen("(i32.const 1100000)", &format!("(i32.const {bytes})"), 1);
    let component = component::encode(&module(&wat, ALL), MANIFEST).unwrap().0;
    let (engine, _folder) = engine();
    let code = engine.load(&component, &Parameters::new()).unwrap();
    let error = code
        .instance()
        .unwrap()
        .fold(&one_key(b"b").input())
        .unwrap_err();
    assert!(
        matches!(&error, CallError::BadColumns(text) if text.contains("too much data")),
        "{error:?}"
    );
}

#[test]
fn the_bounds_are_those_that_the_abi_promises() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/plugin.wit");
    let words = fs::read_to_string(path).unwrap().replace("///", " ");
    let words: Vec<&str> = words.split_whitespace().collect();
    let words = words.join(" ");
    let kib = |bytes: usize| format!("{} KiB", bytes >> 10);
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    for promise in [
        format!("emits at most {} records", limits::EMITTED_RECORDS_MAX),
        format!("with {} headers", limits::EMITTED_HEADERS_MAX),
        format!("and {} of keys, values", mib(limits::EMITTED_BYTES_MAX)),
        format!(
            "One per record, each at most {};",
            kib(limits::KEY_BYTES_MAX)
        ),
        format!(
            "A name has 1 to {} bytes",
            limits::EMITTED_HEADER_NAME_BYTES_MAX
        ),
        format!(
            "at most {} events with {} headers, and {} of keys",
            limits::COMMAND_EVENTS_MAX,
            limits::COMMAND_HEADERS_MAX,
            mib(limits::COMMAND_EVENTS_BYTES_MAX)
        ),
        format!(
            "details as JSON of at most {}",
            kib(limits::PLUGIN_DETAILS_BYTES_MAX)
        ),
        format!("names at most {} keys", limits::ROUTED_KEYS_MAX),
        format!("take at most {},", mib(limits::ROUTED_BYTES_MAX)),
        format!(
            "One per cause, each at most {}.",
            kib(limits::KEY_BYTES_MAX)
        ),
    ] {
        assert!(words.contains(&promise), "{promise}");
    }
}
