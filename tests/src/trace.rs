//! What a host asks the kernel for, in order, by `strace`: whether it was synced before it was answered,
//! and what happens when syncing fails. Called by the scenarios about durability.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::host::{GENEROUS, Start};
use crate::process::Supervised;
use crate::wait::wait_until_ok;

/// Calls that bring requests, send answers and make writes durable.
const CALLS: &str = "trace=read,recvfrom,recvmsg,write,writev,sendto,sendmsg,fsync,fdatasync";
/// Bytes of a call that are shown: the first line of a request or an answer.
const SHOWN_BYTES: &str = "120";

/// Whether `strace` is here and may trace a child.
pub fn is_possible() -> bool {
    Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Makes a host be traced into a file from its start on; the host stays the child that signals reach.
#[must_use]
pub fn around(start: Start, file: &Path) -> Start {
    let file = file.to_string_lossy().into_owned();
    start.wrapper(&[
        "strace",
        "-D",
        "-f",
        "-y",
        "-s",
        SHOWN_BYTES,
        "-e",
        CALLS,
        "-o",
        &file,
        "--",
    ])
}

/// Makes every sync of a running process fail until it is dropped.
///
/// # Errors
/// If the process cannot be traced.
pub fn failing_syncs(process: u32, log: &Path) -> Result<Supervised> {
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=fsync,fdatasync", "-e"]);
    command.args([
        "inject=fsync,fdatasync:error=EIO",
        "-p",
        &process.to_string(),
    ]);
    let tracer = Supervised::spawn(&mut command, log)?;
    wait_until_ok(GENEROUS, "strace to be attached", || {
        ensure!(tracer.log().contains("attached"), "{}", tracer.log());
        Ok(())
    })?;
    Ok(tracer)
}

/// What happened between a request and its answer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Files that were synced with success.
    pub synced: Vec<String>,
    /// The answer's status.
    pub status: u16,
}

/// Every exchange whose request begins with `request`, such as `POST /v1/topics/t/records`. They must
/// have been made one after the other.
///
/// # Errors
/// If the trace is not understood, or an exchange has no answer.
pub fn exchanges(trace: &str, request: &str) -> Result<Vec<Exchange>> {
    let mut exchanges = Vec::new();
    let mut open: Option<Exchange> = None;
    let mut syncing: BTreeMap<&str, &str> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        let call = call.trim_start();
        if call.contains(&format!("\"{request}")) {
            ensure!(open.is_none(), "a second request before the answer: {line}");
            open = Some(Exchange::default());
        }
        if let Some(file) = synced(thread, call, &mut syncing)
            && let Some(exchange) = &mut open
        {
            exchange.synced.push(file.to_owned());
        }
        if let Some((_, answer)) = call.split_once("\"HTTP/1.1 ")
            && let Some(mut exchange) = open.take()
        {
            let status = answer.get(..3).and_then(|status| status.parse().ok());
            exchange.status = status.with_context(|| format!("no status: {line}"))?;
            exchanges.push(exchange);
        }
    }
    ensure!(open.is_none(), "the last request has no answer");
    Ok(exchanges)
}

/// The file whose sync this line ends with success. A call that another thread interrupts stands in two
/// lines.
fn synced<'t>(
    thread: &'t str,
    call: &'t str,
    syncing: &mut BTreeMap<&'t str, &'t str>,
) -> Option<&'t str> {
    let begins = call.starts_with("fsync(") || call.starts_with("fdatasync(");
    if begins {
        let (_, file) = call.split_once('<')?;
        let (file, _) = file.split_once('>')?;
        if call.contains("<unfinished ...>") {
            syncing.insert(thread, file);
            return None;
        }
        return call.ends_with("= 0").then_some(file);
    }
    let resumes =
        call.starts_with("<... fsync resumed>") || call.starts_with("<... fdatasync resumed>");
    let file = resumes.then(|| syncing.remove(thread)).flatten()?;
    call.ends_with("= 0").then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = r#"11 fsync(4</data/early>) = 0
10 recvfrom(9<socket:[1]>, "POST /v1/topics/t/records HTTP/1.1\r\n"..., 8192, 0, NULL, NULL) = 300
11 fdatasync(5</data/log/journal> <unfinished ...>
10 write(3<anon_inode:[eventfd]>, "\1", 8) = 8
11 <... fdatasync resumed>)              = 0
12 fsync(6</data/log>)                   = -1 EIO (Input/output error)
10 sendto(9<socket:[1]>, "HTTP/1.1 200 OK\r\ncontent-type"..., 320, MSG_NOSIGNAL, NULL, 0) = 320
11 fsync(4</data/late>)                  = 0
10 recvfrom(9<socket:[1]>, "POST /v1/topics/t/records HTTP/1.1\r\n"..., 8192, 0, NULL, NULL) = 300
10 writev(9<socket:[1]>, [{iov_base="HTTP/1.1 503 Service Unavailable\r\n"..., iov_len=12}], 1) = 12
"#;

    #[test]
    fn syncs_are_counted_between_a_request_and_its_answer() {
        let found = exchanges(TRACE, "POST /v1/topics/t/records").unwrap();
        let first = Exchange {
            synced: vec!["/data/log/journal".into()],
            status: 200,
        };
        let second = Exchange {
            synced: Vec::new(),
            status: 503,
        };
        assert_eq!(found, [first, second]);
        assert!(exchanges(TRACE, "PUT /").unwrap().is_empty());
        let cut = TRACE.lines().take(2).collect::<Vec<_>>().join("\n");
        assert!(exchanges(&cut, "POST /").is_err());
    }
}
