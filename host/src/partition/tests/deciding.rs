//! The worker of a command handler: one winner for each version, the same answer to every repeat, and nothing in the
//! log that was decided on less than all of it; whatever crashes and whoever takes over.

use std::collections::BTreeSet;

use super::publishing::{folded, publishing};
use super::*;
use crate::partition::{Answer, CommandFault, CommandRequest, Expects, Sequence, Settled};
use crate::plugin::manifest::OnRefusal;
use crate::plugin::{CallContext, Command, Decision, EventOut, Refusal};

/// A stock of items: `add` and `take` change it by the number in the body, `drop` removes it.
#[derive(Debug)]
pub(super) struct Stock(pub(super) Inspection);

#[derive(Debug)]
struct StockInstance;

impl Stock {
    pub(super) fn new() -> Arc<Self> {
        let manifest = Manifest::from_toml(
            "name = \"stock\"\nversion = \"1.0.0\"\noutput = \"told\"\nstate-schema = \"stock/1\"\n",
        );
        Arc::new(Self(Inspection {
            digest: Digest::of(b"stock"),
            manifest: manifest.unwrap(),
            capabilities: Capabilities {
                fold: true,
                decide: true,
                emit_state: true,
                ..Capabilities::default()
            },
            kind: Kind::CommandHandler,
            description: Description::default(),
        }))
    }
}

impl PluginCode for Stock {
    fn inspection(&self) -> &Inspection {
        &self.0
    }

    fn instance(&self) -> Result<Box<dyn PluginInstance>, CallError> {
        Ok(Box::new(StockInstance))
    }
}

pub(super) fn number(bytes: &[u8]) -> i64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

impl PluginInstance for StockInstance {
    fn route(&mut self, _: &RouteInput) -> Result<Routes, CallError> {
        unreachable!("it has no route")
    }

    /// The state is the value of the last event; "bad" is rejected.
    fn fold(&mut self, input: &FoldInput<'_>) -> Result<Folded, CallError> {
        assert!(
            input.offsets.is_empty(),
            "an event is folded before it has an offset"
        );
        let states = (0..input.keys.len()).map(|key| input.states.get(key).map(<[u8]>::to_vec));
        let mut states: Vec<_> = states.collect();
        let mut folded = Folded::default();
        for event in 0..input.events() {
            match input.values.get(event) {
                Some(b"bad") => folded.rejected.push(Rejection {
                    index: u32::try_from(event).unwrap(),
                    code: "bad".to_owned(),
                    reason: "it is bad".to_owned(),
                }),
                value => states[input.entities[event] as usize] = value.map(<[u8]>::to_vec),
            }
        }
        for state in states {
            folded.states.push(state.as_deref());
        }
        Ok(folded)
    }

    fn decide(
        &mut self,
        _: &[u8],
        state: Option<&[u8]>,
        command: &Command,
    ) -> Result<Result<Decision, Refusal>, CallError> {
        let there = state.map_or(0, number);
        let event = |value: Option<String>| EventOut {
            value: value.map(String::into_bytes),
            headers: Vec::new(),
        };
        let body = &command.content.body;
        let events = match command.name.as_str() {
            "add" => vec![event(Some((there + number(body)).to_string()))],
            "twice" => vec![
                event(Some((there + 1).to_string())),
                event(Some((there + 2).to_string())),
            ],
            "take" if number(body) > there => {
                return Ok(Err(Refusal::Refused {
                    code: "too-few".to_owned(),
                    reason: format!("there are {there}"),
                    details: String::new(),
                }));
            }
            "take" => vec![event(Some((there - number(body)).to_string()))],
            "drop" => vec![event(None)],
            "bad" => vec![event(Some("bad".to_owned()))],
            "trap" => return Err(CallError::Trap("as told".to_owned())),
            _ => return Ok(Err(Refusal::UnknownCommand)),
        };
        Ok(Ok(Decision {
            events,
            reply: None,
        }))
    }

    /// The state is an event as it is; some keys are told wrongly.
    fn emit_state(&mut self, key: &[u8], state: &[u8]) -> Result<Vec<EventOut>, CallError> {
        let event = |value: &[u8]| EventOut {
            value: Some(value.to_vec()),
            headers: vec![("told".to_owned(), None)],
        };
        match key {
            b"lost" => Ok(vec![event(b"0")]),
            b"mute" => Ok(Vec::new()),
            b"odd" => Ok(vec![event(b"bad")]),
            b"pair" => Ok(vec![event(b"0"), event(state)]),
            _ => Ok(vec![event(state)]),
        }
    }

    fn answer(
        &mut self,
        _: &[u8],
        _: Option<&[u8]>,
        _: &Question,
        _: u64,
    ) -> Result<Result<Payload, QueryError>, CallError> {
        Ok(Err(QueryError::UnknownQuery))
    }

    fn migrate(
        &mut self,
        _: &str,
        _: u32,
        _: &BytesColumn,
        _: &OptionalColumn,
    ) -> Result<Result<OptionalColumn, String>, CallError> {
        unreachable!("it migrates nothing")
    }

    fn fuel_used(&self) -> u64 {
        1
    }
}

pub(super) fn request(id: &str, key: &str, name: &str, body: i64) -> CommandRequest {
    CommandRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        command: Command {
            name: name.to_owned(),
            id: id.to_owned(),
            content: Payload {
                content_type: "text/plain".to_owned(),
                body: body.to_string().into_bytes(),
            },
            context: CallContext::default(),
        },
        expects: Expects::Anything,
        travelling: Vec::new(),
    }
}

fn on_version(request: CommandRequest, version: u64) -> CommandRequest {
    CommandRequest {
        expects: Expects::OneOf(vec![version]),
        ..request
    }
}

impl World {
    /// Runs the stock's only partition.
    pub(super) fn decide(&self) -> Running {
        self.decide_with(&Stock::new())
    }

    /// Runs it with this code.
    pub(super) fn decide_with(&self, code: &Arc<Stock>) -> Running {
        let control = Control::new(code_of(1, code.clone()));
        self.codes.0.lock().insert(1, Counter::new());
        let own = Publishing {
            decides: true,
            ..publishing(Role::Serving, Some("foldhost.stock.0"))
        };
        let input = Input::own(&TopicName::new("told").unwrap());
        self.start_on(1, None, control, Some(own), input)
    }

    /// Runs it with commands from the topic `events` as well.
    fn decide_records(&self, on_refusal: OnRefusal) -> Running {
        let mut code = Stock::new();
        Arc::get_mut(&mut code)
            .expect("it is new")
            .0
            .manifest
            .on_refusal = on_refusal;
        let control = Control::new(code_of(1, code.clone()));
        self.codes.0.lock().insert(1, Counter::new());
        let own = Publishing {
            decides: true,
            ..publishing(Role::Serving, Some("foldhost.stock.0"))
        };
        let input = Input::own(&TopicName::new("told").unwrap());
        let commands = Some(TopicName::new("events").unwrap());
        self.start_with_commands(1, None, control, Some(own), input, commands)
    }

    /// Writes commands to the topic `events`: key, name, body.
    async fn command(&self, commands: &[(&str, &str, i64)]) {
        let records = commands.iter().map(|(key, name, body)| NewRecord {
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::from(body.to_string())),
            headers: vec![(
                "foldhost-command".into(),
                Some(Bytes::copy_from_slice(name.as_bytes())),
            )],
            ..NewRecord::default()
        });
        let topic = TopicName::new("events").unwrap();
        self.log.append(&topic, records.collect()).await.unwrap();
    }

    /// What the log says: key, value, and the command that caused it.
    async fn events(&self) -> Vec<(String, Option<String>, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        self.read_as("told", |record| {
            let mut headers = record.headers();
            let cause = headers.find(|(name, _)| *name == "foldhost-cause");
            let cause = cause.and_then(|(_, value)| value).map(text);
            let key = record.key.map(text).unwrap_or_default();
            (key, record.value.map(text), cause.unwrap_or_default())
        })
        .await
    }
}

impl World {
    /// The values of the log's events, once there are so many.
    async fn values(&self, count: usize) -> Vec<String> {
        let there = async {
            loop {
                let events = self.events().await.into_iter();
                let values: Vec<_> = events.filter_map(|it| it.1).collect();
                if values.len() >= count {
                    return values;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PLENTY, there)
            .await
            .expect("they come")
    }
}

pub(super) async fn live(running: &Running) {
    wait_until(&running.0, |status| status.phase == Phase::Live).await;
}

pub(super) async fn ask(running: &Running, request: CommandRequest) -> Answer {
    running.0.command(request).await.unwrap()
}

pub(super) fn is_accepted(answer: &Answer) -> bool {
    matches!(answer.outcome.what, Settled::Accepted { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_a_sequence_are_decided_in_their_order_or_not_at_all() {
    let world = World::new(1 << 20).await;
    let running = world.decide();
    live(&running).await;
    let sequence = Sequence::default();
    let mut waiting = Vec::new();
    // More than the queue holds: each waits for room.
    for number in 1..=2_000 {
        let request = request(&format!("s-{number}"), "a", "add", 1);
        waiting.push(running.0.enqueue(request, &sequence).await.unwrap());
    }
    for (version, waiting) in (1..).zip(waiting) {
        let answer = waiting.answered().await.unwrap();
        assert_eq!(answer.outcome.version, Some(version));
    }
    // A refusal is an outcome, and a fault of the plugin is final: what comes behind is decided.
    for (name, is_outcome) in [("take", true), ("trap", false), ("add", true)] {
        let request = request(name, "b", name, 7);
        let waiting = running.0.enqueue(request, &sequence).await.unwrap();
        assert_eq!(waiting.answered().await.is_ok(), is_outcome, "{name}");
    }
    sequence.break_off();
    let behind = running
        .0
        .enqueue(request("behind", "a", "add", 1), &sequence);
    assert_eq!(behind.await.unwrap_err(), CommandFault::Behind);
    assert!(is_accepted(
        &ask(&running, request("other", "a", "add", 1)).await
    ));
    assert_eq!(world.events().await.len(), 2_002);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_who_take_the_last_items_at_once_no_more_get_one_than_there_are() {
    let world = World::new(1 << 20).await;
    let running = world.decide();
    live(&running).await;
    assert!(is_accepted(
        &ask(&running, request("0", "a", "add", 10)).await
    ));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..=64 {
        let handle = running.0.clone();
        tasks.spawn(async move {
            let id = number.to_string();
            handle.command(request(&id, "a", "take", 1)).await.unwrap()
        });
    }
    let answers = tasks.join_all().await;
    let accepted = answers.iter().filter(|it| is_accepted(it));
    let versions: BTreeSet<_> = accepted.map(|it| it.outcome.version).collect();
    assert_eq!(versions, (2..=11).map(Some).collect());
    let events = world.events().await;
    let values: Vec<_> = events.iter().map(|it| it.1.clone().unwrap()).collect();
    let expected: Vec<_> = (0..=10).rev().map(|left| left.to_string()).collect();
    assert_eq!(values, expected);
    // What they see afterwards is where the last event lies.
    let position = answers
        .iter()
        .filter_map(|it| it.position.clone())
        .max_by_key(|it| it.offset);
    assert_eq!(running.0.status().next, position.unwrap().offset.next());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_has_one_winner_and_counts_on_where_a_state_is_gone() {
    let world = World::new(1 << 20).await;
    let mut running = world.decide();
    live(&running).await;
    let first = CommandRequest {
        expects: Expects::Absent,
        ..request("1", "a", "add", 5)
    };
    assert_eq!(ask(&running, first).await.outcome.version, Some(1));
    let twice = ask(&running, on_version(request("2", "a", "twice", 0), 1)).await;
    assert_eq!(twice.outcome.version, Some(3));
    let stale = ask(&running, on_version(request("3", "a", "add", 1), 1)).await;
    assert_eq!(
        (stale.outcome.what, stale.outcome.version),
        (Settled::Stale, Some(3))
    );
    let gone = ask(&running, on_version(request("4", "a", "drop", 0), 3)).await;
    assert!(is_accepted(&gone) && gone.outcome.version.is_none());
    assert_eq!(running.0.state(b"a").await.unwrap().state, None);
    assert_eq!(running.0.scan(b"", None, 10).await.unwrap().states, []);
    for _ in 0..2 {
        // A restart, with and without a commit of the state.
        running.1.send_replace(Stop::Abandon);
        running.2.await.unwrap();
        running = world.decide();
        live(&running).await;
    }
    let absent = CommandRequest {
        expects: Expects::Absent,
        ..request("5", "a", "add", 7)
    };
    // Whoever has seen version 1 can not take the new one for it.
    assert_eq!(ask(&running, absent).await.outcome.version, Some(5));
    let state = running.0.state(b"a").await.unwrap().state.unwrap();
    assert_eq!((&*state.state, state.version()), (&b"7"[..], 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_gets_the_first_answer_also_of_a_later_owner() {
    let world = World::new(1 << 20).await;
    let mut running = world.decide();
    live(&running).await;
    let asked = [
        request("1", "a", "add", 5),
        request("2", "a", "take", 9),
        on_version(request("3", "a", "add", 1), 7),
    ];
    let mut first = Vec::new();
    for request in &asked {
        first.push(ask(&running, request.clone()).await.outcome);
    }
    for _ in 0..3 {
        for (request, first) in asked.iter().zip(&first) {
            let again = ask(&running, request.clone()).await;
            assert!(again.is_repeat && again.outcome == *first);
        }
        let other = running.0.command(request("1", "a", "add", 6)).await;
        assert_eq!(other, Err(CommandFault::OtherRequest));
        running.1.send_replace(Stop::Abandon);
        running.2.await.unwrap();
        running = world.decide();
        live(&running).await;
    }
    let of_first = world
        .events()
        .await
        .into_iter()
        .filter(|it| it.2 == "command 1");
    assert_eq!(of_first.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_leaves_nothing_behind_and_the_partition_goes_on() {
    let world = World::new(1 << 20).await;
    let running = world.decide();
    live(&running).await;
    ask(&running, request("1", "a", "add", 5)).await;
    let fault = |code: &str, fault: Result<Answer, CommandFault>| match fault {
        Err(CommandFault::Failed { code: found, .. }) => assert_eq!(found, code),
        other => panic!("{other:?}"),
    };
    fault(
        "plugin-trapped",
        running.0.command(request("2", "a", "trap", 0)).await,
    );
    fault(
        "own-event-rejected",
        running.0.command(request("3", "a", "bad", 0)).await,
    );
    let unknown = running.0.command(request("4", "a", "fly", 0)).await;
    assert_eq!(unknown, Err(CommandFault::UnknownCommand));
    assert_eq!(
        ask(&running, request("5", "a", "add", 1))
            .await
            .outcome
            .version,
        Some(2)
    );
    assert_eq!(world.events().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lost_the_partition_decides_nothing_any_more() {
    let world = World::new(1 << 20).await;
    let first = world.decide();
    live(&first).await;
    ask(&first, request("1", "a", "add", 1)).await;
    let second = world.decide();
    live(&second).await;
    assert!(is_accepted(
        &ask(&second, request("2", "a", "take", 1)).await
    ));
    // On its state there is still one.
    let late = first.0.command(request("3", "a", "take", 1)).await;
    assert!(
        matches!(
            late,
            Err(CommandFault::Unknown(_) | CommandFault::NotDeciding)
        ),
        "{late:?}"
    );
    assert!(matches!(first.2.await.unwrap(), Exit::Fenced(_)));
    let again = ask(&second, request("3", "a", "take", 1)).await;
    assert!(matches!(again.outcome.what, Settled::Refused { .. }));
    assert_eq!(world.events().await.len(), 2);
}

/// Clients that take and add at random and repeat what they have no answer to, while the owner is killed: the log
/// holds each accepted command once, each decided on the state that those before it have made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_is_decided_once_on_all_that_came_before_whatever_crashes() {
    for seed in 0..4 {
        let world = World::new(1 << 20).await;
        let current = Arc::new(parking_lot::Mutex::new(None::<PartitionHandle>));
        let answers = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..8_u64 {
            let (current, answers) = (current.clone(), answers.clone());
            let mut random = ChaCha8Rng::seed_from_u64(seed * 100 + client);
            clients.spawn(async move {
                for number in 0..60 {
                    let id = format!("{client}-{number}");
                    let name = match random.random_bool(0.5) {
                        true => "add",
                        false => "take",
                    };
                    let key = format!("k{}", random.random_range(0..3));
                    let asked = request(&id, &key, name, random.random_range(1..5));
                    let answer = loop {
                        let handle = current.lock().clone();
                        if let Some(handle) = handle
                            && let Ok(answer) = handle.command(asked.clone()).await
                        {
                            break answer;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    };
                    answers.lock().push((id, answer));
                }
            });
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut running = world.decide();
        loop {
            *current.lock() = Some(running.0.clone());
            let pause = Duration::from_millis(random.random_range(5..60));
            let all = async { while clients.join_next().await.is_some() {} };
            if tokio::time::timeout(pause, all).await.is_ok() {
                break;
            }
            let how = match random.random_bool(0.3) {
                true => Stop::Clean,
                false => Stop::Abandon,
            };
            running.1.send_replace(how);
            running.2.await.unwrap();
            running = world.decide();
        }
        live(&running).await;
        let mut counts = BTreeMap::<String, i64>::new();
        let mut causes = BTreeSet::new();
        for (key, value, cause) in world.events().await {
            assert!(causes.insert(cause.clone()), "seed {seed}: {cause} twice");
            let value = number(value.unwrap().as_bytes());
            let before = counts.insert(key, value).unwrap_or(0);
            assert!(
                value >= 0 && (value - before).abs() < 5,
                "seed {seed}: {before} {value}"
            );
        }
        let answers = std::mem::take(&mut *answers.lock());
        assert_eq!(answers.len(), 8 * 60);
        let accepted = answers.iter().filter(|(_, answer)| is_accepted(answer));
        let accepted: BTreeSet<_> = accepted.map(|(id, _)| format!("command {id}")).collect();
        assert_eq!(accepted, causes, "seed {seed}");
        for (key, count) in counts {
            let state = running
                .0
                .state(key.as_bytes())
                .await
                .unwrap()
                .state
                .unwrap();
            assert_eq!(number(&state.state), count, "seed {seed}, {key}");
        }
        folded(&running, Offset(0)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_from_a_topic_are_decided_once_and_in_order_whatever_crashes() {
    for seed in 0..6 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let world = World::new(1 << 20).await;
        let mut model = BTreeMap::<String, i64>::new();
        let (mut expected, mut refused) = (Vec::new(), 0);
        for round in 0..8 {
            let running = world.decide_records(OnRefusal::DeadLetter);
            let mut commands = Vec::new();
            for _ in 0..random.random_range(1..60) {
                let key = format!("k{}", random.random_range(0..3));
                let name = ["add", "take", "take", "fly"][random.random_range(0..4)];
                let body = random.random_range(1..5);
                let count = model.entry(key.clone()).or_default();
                let next = match name {
                    "add" => *count + body,
                    "take" => *count - body,
                    _ => -1,
                };
                if next >= 0 {
                    *count = next;
                    expected.push((key.clone(), next.to_string()));
                } else {
                    refused += 1;
                }
                commands.push((key, name, body));
            }
            let commands = commands
                .iter()
                .map(|(key, name, body)| (&**key, *name, *body));
            world.command(&commands.collect::<Vec<_>>()).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await;
            let how = match random.random_bool(0.3) {
                true => Stop::Clean,
                false => Stop::Abandon,
            };
            running.1.send_replace(how);
            let exit = running.2.await.unwrap();
            let is_over = matches!(exit, Exit::Stopped | Exit::Abandoned | Exit::Fenced(_));
            assert!(is_over, "seed {seed}, round {round}: {exit:?}");
        }
        let running = world.decide_records(OnRefusal::DeadLetter);
        live(&running).await;
        let all = tokio::time::timeout(PLENTY, async {
            while world.events().await.len() < expected.len()
                || world.read("foldhost.counter.dead-letters").await.len() < refused
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        all.await.expect("all are decided");
        let told = world.events().await.into_iter();
        let told: Vec<_> = told.map(|(key, value, _)| (key, value.unwrap())).collect();
        assert_eq!(told, expected, "seed {seed}");
        assert_eq!(
            world.read("foldhost.counter.dead-letters").await.len(),
            refused
        );
        running.1.send_replace(Stop::Clean);
        assert_eq!(running.2.await.unwrap(), Exit::Stopped);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_a_topic_that_cannot_be_decided_holds_up_those_behind_it_only() {
    let world = World::new(1 << 20).await;
    world
        .command(&[("a", "add", 1), ("a", "trap", 0), ("a", "add", 1)])
        .await;
    let running = world.decide_records(OnRefusal::Ignore);
    wait_until(&running.0, is_held_up).await;
    // Over HTTP it goes on; nothing behind is lost.
    assert!(is_accepted(
        &ask(&running, request("1", "a", "add", 5)).await
    ));
    assert_eq!(world.events().await.len(), 2);
    assert!(is_held_up(&running.0.status()), "and that stays so");
    running.1.send_replace(Stop::Clean);
    running.2.await.unwrap();
    let running = world.decide_records(OnRefusal::DeadLetter);
    assert_eq!(world.values(3).await, ["1", "6", "7"]);
    let letters = world.read("foldhost.counter.dead-letters").await;
    assert_eq!(letters.len(), 1);
    running.1.send_replace(Stop::Clean);
    running.2.await.unwrap();
}

/// Whether it has stopped before the second command of the topic, and says what to do.
fn is_held_up(status: &PartitionStatus) -> bool {
    status.blocked.as_ref().is_some_and(|it| {
        let at = it.at.as_ref().map(|at| at.offset);
        let says = |words| it.detail.contains(words);
        it.code == "plugin-trapped"
            && at == Some(Offset(1))
            && says("events/0@1")
            && says("--state keep")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_a_topic_that_is_left_out_leaves_nothing_behind() {
    let world = World::new(1 << 20).await;
    world
        .command(&[("a", "add", 1), ("a", "trap", 0), ("a", "add", 1)])
        .await;
    let running = world.decide_records(OnRefusal::Ignore);
    wait_until(&running.0, is_held_up).await;
    let status = running.0.status();
    let skips: Arc<Skips> = Arc::new([(Offset(1), status.topic_id)].into_iter().collect());
    running.0.direct(|now| {
        now.command_skips = skips.clone();
        true
    });
    assert_eq!(world.values(2).await, ["1", "2"]);
    wait_until(&running.0, |status| status.phase == Phase::Live).await;
    running.1.send_replace(Stop::Abandon);
    running.2.await.unwrap();
    // Whoever comes later does not come to it again, whatever it is told.
    let running = world.decide_records(OnRefusal::Ignore);
    live(&running).await;
    world.command(&[("a", "add", 1)]).await;
    assert_eq!(world.values(3).await, ["1", "2", "3"]);
    assert!(running.0.status().blocked.is_none());
    running.1.send_replace(Stop::Clean);
    running.2.await.unwrap();
}
