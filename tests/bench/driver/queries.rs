//! Point queries over HTTP/1.1 on kept-alive connections, against any contestant that answers them: latency
//! of one client at a time, and how many a CPU second of the server is good for. The client is a plain socket:
//! it must not be what is measured.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use foldhost_tests::wait::wait_until_ok;

use crate::input::{Input, key_text, scramble};
use crate::measure::{self, quantile};

/// Connections that ask at the same time, for throughput.
const CONNECTIONS: u64 = 8;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Latencies of one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `127.0.0.1:<port>`.
    pub(crate) address: String,
    /// Path of the question about a key.
    pub(crate) path_of: fn(&str) -> String,
    /// Number of its process.
    pub(crate) process: u32,
}

/// Waits until all of these keys have a state.
///
/// # Errors
/// If one has none within `deadline`.
pub(crate) fn wait_for_keys(
    target: &Target,
    keys: impl IntoIterator<Item = u64>,
    deadline: Duration,
) -> Result<()> {
    let mut connection = Connection::open(&target.address)?;
    for key in keys {
        let path = (target.path_of)(&key_text(key));
        wait_until_ok(deadline, &path, || connection.get(target, &path))?;
    }
    Ok(())
}

/// Asks about keys by chance, one after the other, for as long as said.
///
/// # Errors
/// If an answer is not 200.
pub(crate) fn latency(target: &Target, input: &Input, lasts: Duration) -> Result<Latency> {
    let mut connection = Connection::open(&target.address)?;
    let mut took = Vec::new();
    let began = Instant::now();
    for n in 0.. {
        let asked = Instant::now();
        if asked.duration_since(began) >= lasts {
            break;
        }
        connection.ask(target, input, n)?;
        took.push(asked.elapsed());
    }
    took.sort_unstable();
    let micros = |part| quantile(&took, part).as_secs_f64() * 1e6;
    Ok(Latency {
        p50_us: micros(0.5),
        p99_us: micros(0.99),
        p999_us: micros(0.999),
    })
}

/// Asks on several connections as fast as answers come: answers for each CPU second of the server.
///
/// # Errors
/// If an answer is not 200.
pub(crate) fn per_cpu_second(target: &Target, input: &Input, lasts: Duration) -> Result<f64> {
    let before = measure::cpu(target.process)?;
    let began = Instant::now();
    let askers: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (target, input) = (target.clone(), input.clone());
            std::thread::spawn(move || -> Result<u64> {
                let mut connection = Connection::open(&target.address)?;
                let mut answers = 0;
                while began.elapsed() < lasts {
                    connection.ask(&target, &input, (number << 32) + answers)?;
                    answers += 1;
                }
                Ok(answers)
            })
        })
        .collect();
    let mut answers = 0;
    for asker in askers {
        answers += asker.join().ok().context("an asker panicked")??;
    }
    let cpu = measure::cpu(target.process)?.saturating_sub(before);
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    Ok(answers as f64 / cpu.as_secs_f64())
}

pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("nobody listens on {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(Self {
            stream,
            buffer: vec![0; 64 * 1024],
        })
    }

    fn ask(&mut self, target: &Target, input: &Input, n: u64) -> Result<()> {
        let key = key_text(scramble(n) % input.keys);
        self.get(target, &(target.path_of)(&key))
    }

    fn get(&mut self, target: &Target, path: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", target.address);
        self.exchange(request.as_bytes(), path)
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// If it is not 200.
    pub(crate) fn exchange(&mut self, request: &[u8], path: &str) -> Result<()> {
        self.stream.write_all(request)?;
        let mut have = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[have..])?;
            ensure!(read > 0, "the connection was closed");
            have += read;
            if let Some(whole) = whole_answer(&self.buffer[..have])? {
                ensure!(whole == have, "more than one answer came");
                let ok = self.buffer.starts_with(b"HTTP/1.1 200");
                ensure!(
                    ok,
                    "{path}: {}",
                    String::from_utf8_lossy(&self.buffer[..have])
                );
                return Ok(());
            }
        }
    }
}

/// Length of the answer that the bytes begin with, once they hold all of it.
fn whole_answer(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..head])?;
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("an answer without content-length")?
        .1;
    let whole = head + 4 + length.trim().parse::<usize>()?;
    Ok((bytes.len() >= whole).then_some(whole))
}
