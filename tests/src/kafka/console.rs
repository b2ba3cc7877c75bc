//! Kafka's own console consumer, in Java: what a consumer sees that shares no code with the host, not even
//! its client library. Called by the scenarios about what is published.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Broker, java};

/// It ends once nothing has come for so long. Its start is in there: a group of its own, and its fetches.
/// Where those take longer, it ends well all the same, and has printed a part or nothing.
const SILENCE: Duration = Duration::from_secs(6);

/// A record as it is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// The partition.
    pub partition: u32,
    /// The offset in it.
    pub offset: u64,
    /// The headers, whose values hold no comma.
    pub headers: BTreeMap<String, String>,
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

/// Every committed record of a topic (`read_committed`), those of each partition in its order. Its keys,
/// values and headers are text without tabs and line ends. On a machine that is slow it may be fewer: who
/// knows how many there are reads again.
///
/// # Errors
/// If the consumer fails, or prints something else.
pub fn read_committed(broker: &Broker, topic: &str) -> Result<Vec<Printed>> {
    let mut command = java(&["-Xmx256m"], "tools.properties")?;
    command.arg("org.apache.kafka.tools.consumer.ConsoleConsumer");
    command.args(["--bootstrap-server", &broker.bootstrap(), "--topic", topic]);
    command.args(["--isolation-level", "read_committed", "--from-beginning"]);
    command.args(["--timeout-ms", &SILENCE.as_millis().to_string()]);
    for printed in ["partition", "offset", "headers", "key"] {
        command.args(["--property", &format!("print.{printed}=true")]);
    }
    let output = command.output().context("cannot start java")?;
    let text = String::from_utf8(output.stdout).context("it printed something that is no text")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("the console consumer failed on {topic}: {said}");
    }
    let lines = text.lines();
    lines
        .map(|line| parse(line).with_context(|| format!("not a record: {line}")))
        .collect()
}

/// `Partition:0`, `Offset:7`, `name:value,name:value`, the key and the value, with tabs between.
fn parse(line: &str) -> Option<Printed> {
    let mut columns = line.splitn(5, '\t');
    let partition = columns.next()?.strip_prefix("Partition:")?;
    let offset = columns.next()?.strip_prefix("Offset:")?;
    let headers = match columns.next()? {
        "NO_HEADERS" => BTreeMap::new(),
        some => some
            .split(',')
            .map(|header| {
                let (name, value) = header.split_once(':')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect::<Option<_>>()?,
    };
    Some(Printed {
        partition: partition.parse().ok()?,
        offset: offset.parse().ok()?,
        headers,
        key: columns.next()?.to_owned(),
        value: columns.next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;
    use crate::kafka;
    use crate::wait::wait_until_ok;

    #[test]
    fn lines_are_taken_apart() {
        let line = "Partition:1\tOffset:20\ta:1,b:t/0@3\tk\t{\"x\":1}";
        let printed = parse(line).unwrap();
        assert_eq!((printed.partition, printed.offset), (1, 20));
        assert_eq!(printed.headers["b"], "t/0@3");
        assert_eq!(
            (printed.key.as_str(), printed.value.as_str()),
            ("k", "{\"x\":1}")
        );
        assert_eq!(parse("Processed a total of 3 messages"), None);
    }

    #[test]
    fn it_prints_what_is_there() {
        let broker = kafka::shared().unwrap();
        broker.create_topic("printed", 2).unwrap();
        broker
            .produce("printed", &[("a", Some("1")), ("b", Some("2"))])
            .unwrap();
        let printed = wait_until_ok(Duration::from_secs(90), "both to be printed", || {
            let printed = read_committed(&broker, "printed")?;
            ensure!(printed.len() >= 2, "{printed:?}");
            Ok(printed)
        });
        let mut printed: Vec<_> = printed
            .unwrap()
            .into_iter()
            .map(|it| (it.key, it.value, it.headers.len()))
            .collect();
        printed.sort();
        let expected = [("a", "1", 0), ("b", "2", 0)];
        assert_eq!(
            printed,
            expected.map(|(k, v, n)| (k.to_owned(), v.to_owned(), n))
        );
    }
}
