//! Command handlers: the driver decides as a host does, and finds what a host would find too late.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::{
    Command, CommandHandler, Commands, Configure, Decision, EmitState, NewEvents, NoArguments,
    NoState, Outputs, Payload, Queries, Query, Refusal, Republisher,
};

/// What is in a jar, at most what it holds.
struct Jar;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum JarEvent {
    Put(u32),
    Took { pieces: u32, by: String },
    Holds(u32),
}

type JarState = Json<(u32, Vec<String>)>;

impl View for Jar {
    type State = JarState;
    type Event = Json<JarEvent>;

    fn fold(state: &mut Option<JarState>, event: &Event<'_, Json<JarEvent>>) -> Result<(), Reject> {
        assert_eq!(event.offset(), None, "it is folded before it is written");
        let Some(Json(change)) = event.value() else {
            *state = None;
            return Ok(());
        };
        let jar = state.get_or_insert_default();
        match change {
            JarEvent::Put(99) => return Err(Reject::new("unlucky", "not 99")),
            JarEvent::Put(pieces) => jar.0.0 += pieces,
            JarEvent::Took { pieces, by } => {
                jar.0.0 -= pieces;
                jar.0.1.push(by.clone());
            }
            JarEvent::Holds(pieces) => jar.0 = (*pieces, Vec::new()),
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Pieces {
    pieces: u32,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    holds: Option<u32>,
}

impl Configure for Jar {
    type Parameters = Parameters;
}

impl CommandHandler for Jar {
    fn commands(on: &mut Commands<'_, Self>) {
        on.command("put", "Puts something in")
            .decide(|_, body: Pieces| match Self::parameters().holds {
                Some(holds) if body.pieces > holds => Err(Refusal::new("full", "it is full")),
                _ => Ok(Json(JarEvent::Put(body.pieces)).into()),
            });
        on.command("take", "Takes something out").decide(take);
        on.command("smash", "Leaves nothing")
            .decide(|command, NoArguments {}| {
                command.state()?;
                Ok(Decision::new().tombstone().header("why", "anger"))
            });
        on.command("look", "Changes nothing").decide_raw(look);
    }
}

fn take(command: Command<'_, JarState>, body: Pieces) -> Result<Decision<Json<JarEvent>>, Refusal> {
    let left = command.state()?.0.0;
    if body.pieces > left {
        let refusal = Refusal::new("too-few", format!("there are {left}"));
        return Err(refusal.details(json!({"left": left})));
    }
    let by = command
        .context()
        .principal()
        .unwrap_or("somebody")
        .to_owned();
    let took = |pieces| {
        let by = by.clone();
        Json(JarEvent::Took { pieces, by })
    };
    // One by one, if there are no more than two.
    Ok(match body.pieces {
        0 => Decision::new(),
        2 => Decision::new().event(took(1)).event(took(1)),
        pieces => took(pieces).into(),
    })
}

/// Tells all that a command knows.
fn look(command: Command<'_, JarState>) -> Result<Decision<Json<JarEvent>>, Refusal> {
    let context = command.context();
    let headers: Vec<_> = context.headers().map(|(name, _)| name).collect();
    crate::log::info(format_args!("{} looks", command.id()));
    Ok(Decision::new().reply(json!({
        "key": command.key(),
        "state": command.state_if_any().map(|jar| jar.0.0),
        "name": command.name(),
        "id": command.id(),
        "body": command.body().content_type,
        "now": context.now(),
        "version": context.version(),
        "changed-at": context.changed_at(),
        "headers": headers,
    })))
}

impl Query for Jar {
    fn queries(on: &mut Queries<'_, Self>) {
        on.default("How many there are, and the version")
            .uses_context()
            .answer(|question, context, NoArguments {}| {
                Ok((question.state()?.0.0, context.version()))
            });
    }
}

impl EmitState for Jar {
    fn emit_state(_key: &[u8], state: &JarState) -> NewEvents<Json<JarEvent>> {
        Json(JarEvent::Holds(state.0.0)).into()
    }
}

crate::export!(Jar: CommandHandler + Query + Configure + EmitState);

fn put(key: &str, pieces: u32) -> Record {
    Record::new(key, &Json(JarEvent::Put(pieces)))
}

fn jar() -> Driver<Jar> {
    Driver::configured(&[]).unwrap()
}

#[test]
fn a_command_is_decided_on_all_events_before_it() {
    let mut driver = jar();
    driver.given([put("a", 3), put("b", 1)]);
    driver.set_principal(Some("ann"));
    driver.set_now("2013-01-01");
    let decided = driver.command("a", "take", json!({"pieces": 2})).unwrap();
    let by = "ann".to_owned();
    let took = Json(JarEvent::Took { pieces: 1, by });
    let took = Record::new("a", &took).at("2013-01-01");
    assert_eq!(decided.events, [took.clone(), took]);
    assert_eq!((decided.version, decided.payload), (Some(3), None));
    let refusal = driver
        .command("a", "take", json!({"pieces": 2}))
        .unwrap_err();
    assert_eq!(refusal.code(), "too-few");
    assert_eq!(refusal.details_json(), Some(r#"{"left":1}"#));
    assert_eq!(refusal.to_string(), "too-few: there are 1");
    let decided = driver.command("a", "take", json!({"pieces": 0})).unwrap();
    assert_eq!((decided.events.len(), decided.version), (0, Some(3)));
    assert_eq!(driver.query("a", "", &[]).unwrap(), json!([1, 3]));
    assert_eq!(driver.events().len(), 4);
    driver.assert_deterministic();
}

#[test]
fn a_refusal_changes_nothing() {
    let mut driver = jar();
    driver.given([put("a", 3)]);
    let before = driver.states().clone();
    for (command, body, code) in [
        ("take", json!({"pieces": 4}), "too-few"),
        ("take", json!({"pieces": "x"}), "bad-body"),
        ("take", json!({}), "bad-body"),
        ("steal", json!({}), "unknown-command"),
    ] {
        let refusal = driver.command("a", command, body).unwrap_err();
        assert_eq!(refusal.code(), code);
    }
    assert_eq!(
        driver.command("b", "smash", ()).unwrap_err().code(),
        "not-found"
    );
    assert_eq!(driver.states(), &before);
    assert_eq!((driver.version("a"), driver.version("b")), (Some(1), None));
    assert_eq!(driver.events().len(), 1);
}

#[test]
fn a_tombstone_forgets_the_state_and_counts_as_an_event() {
    let mut driver = jar();
    driver.given([put("a", 3)]);
    let decided = driver.command("a", "smash", ()).unwrap();
    assert_eq!(
        decided.events,
        [Record::tombstone("a").header("why", "anger")]
    );
    assert_eq!((decided.version, driver.version("a")), (None, None));
    let decided = driver.command("a", "put", json!({"pieces": 1})).unwrap();
    assert_eq!(decided.version, Some(3));
    driver.assert_deterministic();
}

#[test]
fn a_command_tells_all_it_knows() {
    let mut driver = jar();
    driver.given([put("a", 3).at(1500)]);
    driver.set_now(2000);
    driver.set_header("x-branch", "north");
    let decided = driver.command("a", "look", ()).unwrap();
    let expected = json!({
        "key": [97], "state": 3, "name": "look", "id": "command-1", "body": "application/json",
        "now": "1970-01-01T00:00:02Z", "version": 1, "changed-at": "1970-01-01T00:00:01.500Z",
        "headers": ["x-branch"],
    });
    assert_eq!(decided.reply(), expected);
    assert_eq!(driver.logs().last().unwrap().1, "command-1 looks");
    driver.set_command_id(Some("mine"));
    let decided = driver
        .command_raw("b", "look", Payload::new("text/plain", "?"))
        .unwrap();
    let reply = decided.reply();
    assert_eq!(
        (&reply["id"], &reply["body"]),
        (&json!("mine"), &json!("text/plain"))
    );
    assert_eq!(
        (&reply["version"], &reply["changed-at"]),
        (&json!(null), &json!(null))
    );
}

#[test]
fn a_record_becomes_a_command_by_its_header() {
    let mut driver = jar();
    let record = Record::raw("a", r#"{"pieces":2}"#)
        .header("foldhost-command", "put")
        .header("content-type", "application/json")
        .header("Foo", "bar");
    let decided = driver.deliver(&record).unwrap();
    assert_eq!(decided.events, [put("a", 2)]);
    let look = Record::tombstone("a")
        .header("foldhost-command", "look")
        .header("Foo", "bar");
    let reply = driver.deliver(&look).unwrap().reply();
    assert_eq!(
        (&reply["headers"], &reply["body"]),
        (&json!(["foo"]), &json!(""))
    );
    let unknown = Record::tombstone("a").header("foldhost-command", "steal");
    assert_eq!(driver.deliver(&unknown), Err(Refusal::UnknownCommand));
}

/// Puts into another jar what was taken.
struct Pours;

impl Republisher for Pours {
    type State = NoState;
    type Event = Json<JarEvent>;
    type Output = Json<serde_json::Value>;

    fn react(
        _: &mut Option<NoState>,
        event: &Event<'_, Json<JarEvent>>,
        out: &mut Outputs<'_, Json<serde_json::Value>>,
    ) -> Result<(), Reject> {
        if let JarEvent::Took { pieces, .. } = &event.required()?.0 {
            let body = json!({"pieces": pieces});
            out.emit("other", &Json(body))
                .command("put")
                .header("content-type", "application/json");
        }
        Ok(())
    }
}

#[test]
fn a_republisher_commands() {
    let (mut jars, mut pours) = (jar(), Driver::<Pours>::new());
    jars.given([put("a", 5)]);
    let decided = jars.command("a", "take", json!({"pieces": 3})).unwrap();
    let commands = pours.react(decided.events[0].clone()).unwrap();
    assert_eq!(commands.len(), 1);
    let decided = jars.deliver(&commands[0]).unwrap();
    assert_eq!(decided.events, [put("other", 3)]);
    pours.assert_deterministic();
    jars.assert_deterministic();
}

#[test]
#[should_panic(expected = "becomes a command by its header `foldhost-command`")]
fn a_record_without_the_header_is_no_command() {
    let _ = jar().deliver(&put("a", 2));
}

#[test]
fn parameters_reach_the_decision() {
    let mut driver = Driver::<Jar>::configured(&[("holds", "5")]).unwrap();
    let refusal = driver
        .command("a", "put", json!({"pieces": 6}))
        .unwrap_err();
    assert_eq!(refusal.code(), "full");
    driver.command("a", "put", json!({"pieces": 5})).unwrap();
    driver.assert_deterministic();
}

#[test]
#[should_panic(
    expected = "`put` was decided, and the handler's own fold rejects what it causes: unlucky"
)]
fn what_the_fold_rejects_cannot_be_decided() {
    let _ = jar().command("a", "put", json!({"pieces": 99}));
}

#[test]
#[should_panic(expected = "is rejected, unlucky: not 99")]
fn what_the_fold_rejects_cannot_be_given() {
    jar().given([put("a", 1), put("a", 99)]);
}

#[test]
#[should_panic(expected = "tell those that there are already with `given`")]
fn a_handler_is_given_events_not_sent_any() {
    let mut driver = Driver::<Intake>::new();
    driver.send(Record::new("a", &Json(7))).unwrap();
    let _ = driver.command("a", "report", ());
}

#[test]
#[should_panic(expected = "the decision has no reply")]
fn a_reply_that_was_not_given_cannot_be_read() {
    jar()
        .command("a", "put", json!({"pieces": 1}))
        .unwrap()
        .reply();
}

/// Has no state; what it decides depends on what it was asked before.
struct Intake;

static ASKED: AtomicU64 = AtomicU64::new(0);

impl View for Intake {
    type State = NoState;
    type Event = Json<u64>;
    fn fold(_: &mut Option<NoState>, _: &Event<'_, Json<u64>>) -> Result<(), Reject> {
        Ok(())
    }
}

impl CommandHandler for Intake {
    fn commands(on: &mut Commands<'_, Self>) {
        on.command("report", "Lets a number in")
            .decide(|_, NoArguments {}| Ok(Json(7).into()));
        on.command("count", "Counts in a global")
            .decide(|_, NoArguments {}| Ok(Json(ASKED.fetch_add(1, Ordering::Relaxed)).into()));
    }
}

crate::export!(Intake: StatelessCommandHandler);

#[test]
fn a_handler_without_state_has_no_version() {
    let mut driver = Driver::<Intake>::new();
    let decided = driver.command("a", "report", ()).unwrap();
    assert_eq!((decided.events.len(), decided.version), (1, None));
    assert!(driver.states().is_empty());
    driver.assert_deterministic();
}

#[test]
#[should_panic(expected = "command 1 (from 0), `count` on key `b`, is decided in two ways")]
fn a_decision_by_a_global_is_found() {
    let mut driver = Driver::<Intake>::new();
    driver.command("a", "report", ()).unwrap();
    driver.command("b", "count", ()).unwrap();
    driver.assert_deterministic();
}

#[test]
fn commands_are_described() {
    let commands = crate::command::describe_commands::<Jar>();
    let names: Vec<_> = commands
        .iter()
        .map(|c| (&c.name[..], &c.summary[..]))
        .collect();
    assert_eq!(names[0], ("put", "Puts something in"));
    assert_eq!(names.len(), 4);
    let schema: serde_json::Value = serde_json::from_str(&commands[0].body_schema).unwrap();
    assert_eq!(schema["required"], json!(["pieces"]));
    assert_eq!(
        commands[3].body_schema, "",
        "of a raw body nothing is known"
    );
}

/// Two commands of one name, or a name that is none.
struct Clash;

impl View for Clash {
    type State = NoState;
    type Event = Raw;
    fn fold(_: &mut Option<NoState>, _: &Event<'_, Raw>) -> Result<(), Reject> {
        Ok(())
    }
}

impl CommandHandler for Clash {
    fn commands(on: &mut Commands<'_, Self>) {
        on.command("same", "One")
            .decide_raw(|_| Ok(Decision::new()));
        on.command("same", "Other")
            .decide_raw(|_| Ok(Decision::new()));
    }
}

#[test]
#[should_panic(expected = "two commands have the name `same`")]
fn names_that_clash_are_found_by_the_first_command() {
    let _ = Driver::<Clash>::new().command("a", "same", ());
}

#[test]
fn full_state_events_are_told() {
    let mut driver = jar();
    driver.given([put("a", 3), put("a", 4)]);
    driver.set_now(9);
    let holds = Record::new("a", &Json(JarEvent::Holds(7))).at(9);
    assert_eq!(driver.emit_state("a"), [holds]);
    assert_eq!(driver.emit_state("b"), []);
    assert_eq!(driver.version("a"), Some(2), "nothing was written");
    driver.assert_emit_state();
}

#[test]
#[should_panic(
    expected = "the full-state events of key `a`, folded onto nothing, do not give its state"
)]
fn full_state_events_that_forget_something_are_found() {
    let mut driver = jar();
    driver.given([put("a", 3)]);
    driver.command("a", "take", json!({"pieces": 1})).unwrap();
    driver.assert_emit_state(); // who took it is not in `Holds`
}

/// Adds where it should replace.
struct Adds;

impl View for Adds {
    type State = Json<u32>;
    type Event = Json<u32>;
    fn fold(state: &mut Option<Json<u32>>, event: &Event<'_, Json<u32>>) -> Result<(), Reject> {
        state.get_or_insert_default().0 += event.required()?.0;
        Ok(())
    }
}

impl CommandHandler for Adds {
    fn commands(_: &mut Commands<'_, Self>) {}
}

impl EmitState for Adds {
    fn emit_state(_key: &[u8], state: &Json<u32>) -> NewEvents<Json<u32>> {
        (*state).into()
    }
}

#[test]
#[should_panic(expected = "folded onto that state, do not give its state")]
fn full_state_events_that_add_are_found() {
    let mut driver = Driver::<Adds>::new();
    driver.given([Record::new("a", &Json(3))]);
    driver.assert_emit_state();
}

#[test]
#[should_panic(expected = "give the driver some events first")]
fn a_check_without_states_is_of_no_use() {
    jar().assert_emit_state();
}

impl Migrate for Adds {
    fn schemas(from: &mut Schemas<'_, Self>) {
        from.schema("adds/1", |_, state: Json<u32>| Ok(Some(state)));
    }
}

#[test]
fn states_of_older_code_have_a_version() {
    let mut driver = Driver::<Adds>::new();
    driver.migrate("adds/1", [("a", "7")]).unwrap();
    driver.given([Record::new("a", &Json(3))]);
    assert_eq!(
        (driver.state("a"), driver.version("a")),
        (Some(Json(10)), Some(1))
    );
    driver.assert_deterministic();
}
