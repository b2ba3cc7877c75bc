//! What is written is read back as it was; what cannot be read stops nobody.

use super::*;

#[test]
fn a_request_reads_back() {
    let toml =
        "name = \"a\"\nversion = \"1.0.0\"\ninputs = [\"flights\"]\nstate-schema = \"s/1\"\n";
    let request = Request::Deploy(Box::new(DeployRequest {
        name: PluginName::new("b").unwrap(),
        kind: Kind::View,
        digest: Digest::of(b"c"),
        manifest_toml: toml.to_owned(),
        migrates: true,
        routes: false,
        state: Some(StatePolicy::Keep),
        from_retained: false,
        adopt_topic: true,
        emit_from_earliest: true,
        parameters: [("k".to_owned(), "v".to_owned())].into(),
        topics: [(
            "flights".to_owned(),
            TopicName::new("prod.flights").unwrap(),
        )]
        .into(),
        partitions: 4,
    }));
    let event = decode(&encode("id", 7, "me", "http://h", request));
    assert_eq!(
        (
            event.request_id.as_str(),
            event.at_ms,
            event.principal.as_str()
        ),
        ("id", 7, "me")
    );
    let Body::Deploy(deploy) = event.body else {
        panic!("{event:?}")
    };
    assert_eq!(deploy.name.as_str(), "b");
    assert_eq!(deploy.manifest.name.as_str(), "a");
    assert_eq!(deploy.topics["flights"].as_str(), "prod.flights");
    assert_eq!(
        (deploy.state, deploy.migrates),
        (Some(StatePolicy::Keep), true)
    );
    assert!(deploy.adopt_topic && deploy.emit_from_earliest);
}

#[test]
fn a_report_reads_back() {
    let at = RecordPosition {
        topic: TopicName::new("flights").unwrap(),
        partition: Partition(3),
        offset: Offset(77),
    };
    let reported = |report| Reported {
        name: PluginName::new("a").unwrap(),
        generation: GenerationId(2),
        deployment: DeploymentId(9),
        partition: Partition(3),
        report,
    };
    let blocked = BlockedReport {
        code: "event-trapped".to_owned(),
        detail: "it traps".to_owned(),
        at: Some((at, Some([7; 16]))),
    };
    for report in [Report::Ready, Report::Blocked(blocked)] {
        let reported = reported(report);
        let event = decode(&encode("id", 7, "", "", Request::Report(reported.clone())));
        let Body::Report(read) = event.body else {
            panic!("{event:?}")
        };
        assert_eq!(read, reported);
    }
}

#[test]
fn decisions_about_parked_records_read_back() {
    let name = PluginName::new("a").unwrap();
    for key in [None, Some(Bytes::new()), Some(Bytes::from_static(b"k"))] {
        let replay = ReplayRequested {
            name: name.clone(),
            key,
            reason: "corrected".to_owned(),
        };
        let event = decode(&encode("id", 7, "", "", Request::Replay(replay.clone())));
        let Body::Replay(read) = event.body else {
            panic!("{event:?}")
        };
        assert_eq!(read, replay);
    }
    for topic_id in [None, Some([7; 16])] {
        let discard = Box::new(DiscardRequested {
            name: name.clone(),
            key: Bytes::from_static(b"k"),
            first: "flights/3@77".parse().unwrap(),
            last: Offset(80),
            topic_id,
            reason: "broken".to_owned(),
        });
        let event = decode(&encode("id", 7, "", "", Request::Discard(discard.clone())));
        let Body::Discard(read) = event.body else {
            panic!("{event:?}")
        };
        assert_eq!(read, discard);
    }
}

#[test]
fn decisions_about_telling_states_read_back() {
    let name = PluginName::new("a").unwrap();
    for key in [None, Some((Bytes::from_static(b"k"), Partition(3)))] {
        let request = BootstrapRequested {
            name: name.clone(),
            key,
            keys_per_second: 7,
            reason: "a new view".to_owned(),
        };
        let sent = Request::Bootstrap(request.clone());
        let Body::Bootstrap(read) = decode(&encode("id", 7, "", "", sent)).body else {
            panic!("not read back")
        };
        assert_eq!(read, request);
    }
    let told = BootstrapReported {
        name,
        partition: Partition(3),
        told: Bootstrapped {
            number: 9,
            from: Offset(5),
            after: None,
            keys: 2,
            events: 3,
            untold: 1,
            problem: Some("it is wrong".to_owned()),
            done: true,
        },
    };
    let sent = Request::Bootstrapped(told.clone());
    let Body::Bootstrapped(read) = decode(&encode("id", 7, "", "", sent)).body else {
        panic!("not read back")
    };
    assert_eq!(read, told);
}

#[test]
fn what_cannot_be_read_is_unknown_not_fatal() {
    assert!(matches!(decode(b"\xff\xff").body, Body::Unknown(_)));
    assert!(matches!(decode(b"").body, Body::Unknown(_)));
}
