//! Commands through the real sandbox: what is decided, what is refused, and every way in which a handler
//! breaks what it may say.

use super::*;
use crate::plugin::{CallContext, Command, Decision, EventOut, Payload, PluginCode, Refusal};

const HANDLER: &str = include_str!("handler.wat");
const MANIFEST: &str = "name = \"handler\"\nversion = \"1\"\noutput = \"told\"\n[limits]\n\
                        memory = \"4MiB\"\nfuel-per-call = 20_000_000\nanswer-size = 1024\n";
const WORLD: &str = "import foldhost:plugin/log@0.1.0;
    export foldhost:plugin/describe@0.1.0;
    export foldhost:plugin/fold@0.1.0;
    export foldhost:plugin/decide@0.1.0;";

fn handler(world: &str) -> (Arc<dyn PluginCode>, TempDir) {
    let (component, _) = component::encode(&module(HANDLER, world), MANIFEST).unwrap();
    let (engine, folder) = engine();
    let code = engine.load(&component, &Parameters::new()).unwrap();
    (code, folder)
}

fn command(body: &[u8]) -> Command {
    Command {
        name: "reserve".to_owned(),
        id: "7f3a".to_owned(),
        content: Payload {
            content_type: "application/json".to_owned(),
            body: body.to_vec(),
        },
        context: CallContext {
            now_ms: -1,
            version: Some(u64::MAX),
            changed_at_ms: Some(i64::MIN),
            principal: Some("alice".to_owned()),
            headers: vec![("user-agent".to_owned(), b"curl".to_vec())],
        },
    }
}

/// What a fresh instance says to a command with this body about the key `k`, which has no state.
fn decide(code: &Arc<dyn PluginCode>, body: &[u8]) -> Result<Result<Decision, Refusal>, CallError> {
    code.instance().unwrap().decide(b"k", None, &command(body))
}

fn header(name: &str, value: Option<&[u8]>) -> (String, Option<Vec<u8>>) {
    (name.to_owned(), value.map(<[u8]>::to_vec))
}

#[test]
fn a_command_handler_is_one_by_what_it_exports() {
    let (code, _folder) = handler(WORLD);
    let inspection = code.inspection();
    assert_eq!(inspection.kind, Kind::CommandHandler);
    assert!(inspection.capabilities.fold && inspection.capabilities.decide);
    assert!(inspection.manifest.inputs.is_empty());
    let output = inspection.manifest.output.as_ref().unwrap();
    assert_eq!(output.topic.as_str(), "told");
}

#[test]
fn a_command_becomes_events_and_a_reply() {
    let (code, _folder) = handler(WORLD);
    let mut instance = code.instance().unwrap();
    let decided = instance.decide(b"k", Some(b"4 left"), &command(b"-1"));
    let mut expected = Decision {
        events: vec![
            EventOut {
                value: Some(b"-1".to_vec()),
                headers: vec![
                    header("id", Some(b"7f3a")),
                    header("by", Some(b"alice")),
                    header("key", Some(b"k")),
                ],
            },
            EventOut {
                value: None,
                headers: vec![header("reserve", None)],
            },
        ],
        reply: Some(Payload {
            content_type: "text/plain".to_owned(),
            body: b"4 left".to_vec(),
        }),
    };
    assert_eq!(decided, Ok(Ok(expected.clone())));
    let fuel = instance.fuel_used();
    assert!(fuel > 0);
    let again = instance.decide(b"k", Some(b"4 left"), &command(b"-1"));
    assert_eq!(again, decided);
    assert_eq!(instance.fuel_used(), fuel, "equal calls use equal fuel");

    // Without a state, and from nobody in particular.
    let mut anonymous = command(b"-1");
    anonymous.context = CallContext::default();
    let decided = instance.decide(b"k", None, &anonymous);
    expected.reply = None;
    expected.events[0].headers[1].1 = None;
    assert_eq!(decided, Ok(Ok(expected)));

    // A state without bytes is one.
    let decided = instance.decide(b"k", Some(b""), &anonymous).unwrap();
    assert_eq!(decided.unwrap().reply.unwrap().body, b"");
    assert_eq!(decide(&code, b"n"), Ok(Ok(Decision::default())));
}

#[test]
fn a_handler_folds_what_has_no_offset_yet() {
    let (code, _folder) = handler(WORLD);
    let mut instance = code.instance().unwrap();
    let mut events = one_key(b"x");
    let folded = instance.fold(&events.input()).unwrap();
    assert_eq!(folded.states.get(0), Some(&b"+xx"[..]));
    events.offsets.clear();
    let folded = instance.fold(&events.input()).unwrap();
    assert_eq!(folded.states.get(0), Some(&b"-xx"[..]));
    assert!(folded.emitted.is_empty());
}

#[test]
fn every_refusal_comes_back() {
    let (code, _folder) = handler(WORLD);
    for (body, refusal) in [
        (b"u", Refusal::UnknownCommand),
        (
            b"b",
            Refusal::BadBody {
                field: "amount".to_owned(),
                problem: "not a number".to_owned(),
            },
        ),
        (
            b"r",
            Refusal::Refused {
                code: "sold-out".to_owned(),
                reason: "nothing is left".to_owned(),
                details: "{\"left\":0}".to_owned(),
            },
        ),
    ] {
        assert_eq!(decide(&code, body), Ok(Err(refusal)));
    }
}

#[test]
fn every_fault_of_a_decision_has_its_name() {
    let (code, _folder) = handler(WORLD);
    let fault = |body: &[u8]| decide(&code, body).unwrap_err();
    let boom = "boom: the handler gives up".to_owned();
    assert_eq!(fault(b"p"), CallError::Trap(boom));
    assert_eq!(fault(b"l"), CallError::OutOfFuel { fuel: 20_000_000 });
    for (body, what, max) in [
        (b"m", "1001 events", limits::COMMAND_EVENTS_MAX),
        // The key is one byte.
        (
            b"B",
            "1048577 bytes of events",
            limits::COMMAND_EVENTS_BYTES_MAX,
        ),
        (
            b"D",
            "20000 bytes of details",
            limits::PLUGIN_DETAILS_BYTES_MAX,
        ),
    ] {
        let what = what.to_owned();
        assert_eq!(fault(body), CallError::TooMuch { what, max });
    }
    let (bytes, bytes_max) = (2_000, 1_024);
    assert_eq!(fault(b"A"), CallError::AnswerTooLarge { bytes, bytes_max });
    for (body, said) in [
        (b"H", "'foldhost-cause'"),
        (b"x", "utf-8"),
        (b"C", "'Sold Out' is not a code"),
        (b"d", "the details of a refusal are not JSON"),
    ] {
        let error = fault(body);
        assert!(
            matches!(&error, CallError::BadColumns(text) if text.contains(said)),
            "not '{said}': {error:?}"
        );
    }
}

#[test]
fn a_state_is_told_in_events_that_are_checked() {
    let world = format!("{WORLD}\nexport foldhost:plugin/emit-state@0.1.0;");
    let (code, _folder) = handler(&world);
    assert!(code.inspection().capabilities.emit_state);
    let told = |state: &[u8]| code.instance().unwrap().emit_state(b"k", state);
    let event = EventOut {
        value: Some(b"4 left".to_vec()),
        headers: vec![header("key", Some(b"k"))],
    };
    assert_eq!(told(b"4 left"), Ok(vec![event]));
    assert!(matches!(told(b"p"), Err(CallError::Trap(_))));
    let error = told(b"m").unwrap_err();
    assert!(matches!(error, CallError::TooMuch { .. }), "{error:?}");
    let error = told(b"H").unwrap_err().to_string();
    assert!(error.contains("'foldhost-cause'"), "{error}");
    // One that does not export it says so.
    let (code, _folder) = handler(WORLD);
    let error = code.instance().unwrap().emit_state(b"k", b"").unwrap_err();
    assert!(
        error.to_string().contains("does not export emit-state"),
        "{error}"
    );
}

#[test]
fn a_handler_without_fold_decides_and_folds_nothing() {
    let (code, _folder) = handler(&WORLD.replace("export foldhost:plugin/fold@0.1.0;", ""));
    assert_eq!(code.inspection().kind, Kind::CommandHandler);
    assert!(decide(&code, b"-").unwrap().is_ok());
    let error = code
        .instance()
        .unwrap()
        .fold(&one_key(b"x").input())
        .unwrap_err();
    let said = "the plugin does not export fold or react".to_owned();
    assert_eq!(error, CallError::BadColumns(said));
}

#[test]
fn a_plugin_without_decide_says_so() {
    let (mut instance, _folder) = instance();
    let error = instance.decide(b"k", None, &command(b"-")).unwrap_err();
    let said = "the plugin does not export decide".to_owned();
    assert_eq!(error, CallError::BadColumns(said));
}

#[test]
fn a_handler_that_cannot_be_one_is_refused() {
    let refused = |manifest: &str, world: &str| {
        let refused = component::encode(&module(HANDLER, world), manifest).unwrap_err();
        let EncodeError::Refused(faults) = refused else {
            panic!("{refused}")
        };
        faults.iter().map(|fault| fault.code).collect::<Vec<_>>()
    };
    let with_inputs = MANIFEST.replace("output", "inputs = [\"in\"]\non-error = \"park-key\"\n#");
    assert_eq!(
        refused(&with_inputs, WORLD),
        ["no-output", "on-error-of-a-handler"]
    );
    let view = WORLD.replace("export foldhost:plugin/decide@0.1.0;", "");
    assert_eq!(refused(MANIFEST, &view), ["no-inputs", "output-of-a-view"]);
}
