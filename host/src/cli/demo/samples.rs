//! Queries to paste, with what they answered just now. Printed by `demo` when all flights are folded.

use std::fmt::Write as _;

use reqwest::Url;

use super::bundled::{INBOX, LATEST, TRACKER, UTILISATION};
use crate::cli::client::Client;

/// Characters of an answer that are shown.
const ANSWER_CHARS_MAX: usize = 240;
/// Two days, in milliseconds.
const LAST_NIGHT_MS: i64 = 2 * 86_400_000;
/// Environment variable that holds a token, as in every client command.
const TOKEN: &str = "FOLDHOST_TOKEN";

/// What to ask about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// Planes whose state is on this host.
    pub(super) planes: Vec<String>,
    /// Users whose inbox is on this host.
    pub(super) users: Vec<String>,
    /// First midnight of the month of the first event, and first one behind the last event's month.
    pub(super) from: String,
    /// As above.
    pub(super) to: String,
}

impl Subject {
    /// Planes, users and a window of whole months around the events, but for those of the last two days:
    /// what departs in a month's last night lands in the next month.
    pub(super) fn new(
        planes: Vec<String>,
        users: Vec<String>,
        span_ms: Option<(i64, i64)>,
    ) -> Self {
        let (first, last) = span_ms.unwrap_or_default();
        Self {
            planes,
            users,
            from: month_start(first, 0),
            to: month_start(last - LAST_NIGHT_MS, 1),
        }
    }
}

/// First day of the month of `at_ms`, or of one `months` later, as in `2013-01-01`.
fn month_start(at_ms: i64, months: i32) -> String {
    use jiff::ToSpan as _;
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
    let date = at.to_zoned(jiff::tz::TimeZone::UTC).date().first_of_month();
    let date = date.checked_add(months.months()).unwrap_or(date);
    date.to_string()
}

/// A question to paste.
#[derive(Debug)]
struct Sample {
    about: String,
    url: Url,
    /// The command line's way to ask the same.
    also: Option<String>,
}

/// Asks the samples and gives the text that is printed. Blocks.
///
/// # Errors
/// A question that the host does not answer.
pub(super) fn asked(url: &str, is_open: bool, subject: &Subject) -> anyhow::Result<String> {
    let token = std::env::var(TOKEN).ok();
    let may_ask = is_open || token.is_some();
    let client = Client::of(url, token)?;
    let mut text = String::from("Try these:\n");
    for sample in samples(&client, subject) {
        let _ = write!(
            text,
            "\n# {}\n{}\n",
            sample.about,
            curl(&sample.url, is_open)
        );
        if let Some(also) = &sample.also {
            let _ = writeln!(text, "{also}");
        }
        if may_ask {
            let answer = client.send(client.request(reqwest::Method::GET, sample.url))?;
            let _ = writeln!(
                text,
                "  {}",
                shortened(&String::from_utf8_lossy(&answer.body))
            );
        }
    }
    let records = client.url(&["v1", "topics", "events", "records"], &[]);
    let value = client.url(&["v1", "views", LATEST, "keys", "thermostat"], &[]);
    let token = if is_open {
        ""
    } else {
        "-H \"Authorization: Bearer $FOLDHOST_TOKEN\" "
    };
    let _ = write!(
        text,
        "\n# Append a record of your own, and see it in the view\n\
         curl -s {token}-H 'Content-Type: application/json' -d '{{\"key\":\"thermostat\",\"value\":{{\"celsius\":21.5}}}}' '{records}'\n\
         {}\n",
        curl(&value, is_open)
    );
    Ok(text)
}

fn samples(client: &Client, subject: &Subject) -> Vec<Sample> {
    let url_option = format!(
        "--url {}",
        client.url(&[], &[]).as_str().trim_end_matches('/')
    );
    let window = [("from", subject.from.as_str()), ("to", subject.to.as_str())];
    let mut samples = Vec::new();
    for plane in &subject.planes {
        samples.push(Sample {
            about: format!("Where is {plane}?"),
            url: client.url(&["v1", "views", TRACKER, "keys", plane], &[]),
            also: Some(format!("foldhost query {TRACKER} {plane} {url_option}")),
        });
    }
    if let Some(plane) = subject.planes.first() {
        let path = |query| ["v1", "views", UTILISATION, "keys", plane.as_str(), query];
        samples.push(Sample {
            about: format!("How much of the time was {plane} in the air?"),
            url: client.url(&path("in-motion"), &window),
            also: None,
        });
        samples.push(Sample {
            about: "The same, day by day".to_owned(),
            url: client.url(&path("by-day"), &window),
            also: None,
        });
    }
    samples.push(Sample {
        about: "All planes on this host, page by page".to_owned(),
        url: client.url(&["v1", "views", TRACKER, "keys"], &[("_limit", "2")]),
        also: None,
    });
    for user in &subject.users {
        samples.push(Sample {
            about: format!("Which planes are new to {user}?"),
            url: client.url(&["v1", "views", INBOX, "keys", user], &[]),
            also: Some(format!("foldhost query {INBOX} {user} {url_option}")),
        });
    }
    samples
}

fn curl(url: &Url, is_open: bool) -> String {
    let token = if is_open {
        ""
    } else {
        "-H \"Authorization: Bearer $FOLDHOST_TOKEN\" "
    };
    // A URL holds no single quote that is not percent-encoded, except as a sub-delimiter of a path.
    format!("curl -s {token}'{}'", url.as_str().replace('\'', "%27"))
}

fn shortened(text: &str) -> String {
    let text = text.trim_end();
    if text.chars().count() <= ANSWER_CHARS_MAX {
        return text.to_owned();
    }
    let start: String = text.chars().take(ANSWER_CHARS_MAX).collect();
    format!("{start} …")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn the_window_is_of_whole_months() {
        let to = |last: &str| {
            let span = (at("2013-01-01T10:17:00Z"), at(last));
            let subject = Subject::new(vec![], vec![], Some(span));
            assert_eq!(subject.from, "2013-01-01");
            subject.to
        };
        assert_eq!(to("2013-12-31T23:59:00Z"), "2014-01-01");
        assert_eq!(to("2013-02-01T09:00:00Z"), "2013-02-01");
    }

    #[test]
    fn samples_can_be_pasted() {
        let client = Client::of("http://127.0.0.1:8080", None).unwrap();
        let subject = Subject::new(vec!["N1'2".into()], vec!["o'b".into()], Some((0, 0)));
        for sample in samples(&client, &subject) {
            let line = curl(&sample.url, true);
            assert_eq!(line.matches('\'').count(), 2, "{line}");
        }
        assert!(curl(&client.url(&["x"], &[]), false).contains("$FOLDHOST_TOKEN"));
    }

    #[test]
    fn long_answers_are_cut_between_characters() {
        let text = shortened(&"ü".repeat(1_000));
        assert!(text.ends_with(" …") && text.chars().count() == ANSWER_CHARS_MAX + 2);
        assert_eq!(shortened("{}\n"), "{}");
    }
}
