//! Input of many lines, cut into chunks that go into one request each. Called by the commands that send lines.
//!
//! Invariant: memory is bounded by one chunk, whatever comes in; every line is kept, empty ones included, so that
//! line numbers stay right.

use std::io::BufRead;
use std::io::Read as _;

use anyhow::Context as _;

use super::exit::UsageError;

/// Bounds of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Lines.
    pub(super) lines_max: usize,
    /// Bytes, but for the last line.
    pub(super) bytes_max: usize,
    /// Bytes of one line.
    pub(super) line_bytes_max: usize,
}

/// Lines of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    /// They, each with its end.
    pub(super) text: String,
    /// How many they are.
    pub(super) lines: usize,
    /// How many of them are not empty.
    pub(super) filled: usize,
}

impl Bounds {
    /// The next lines, as many as go into one request; `None` at the end.
    pub(super) fn next_chunk(self, input: &mut impl BufRead) -> anyhow::Result<Option<Chunk>> {
        let mut chunk = Chunk {
            text: String::new(),
            lines: 0,
            filled: 0,
        };
        while chunk.lines < self.lines_max && chunk.text.len() < self.bytes_max {
            let from = chunk.text.len();
            let longest = self.line_bytes_max;
            let read = input
                .by_ref()
                .take(longest as u64)
                .read_line(&mut chunk.text)
                .context("the input cannot be read as UTF-8 text")?;
            if read == 0 {
                break;
            }
            if read == longest {
                let message =
                    format!("a line has more than {longest} bytes: none may be that long");
                return Err(UsageError(message).into());
            }
            chunk.lines += 1;
            chunk.filled += usize::from(!chunk.text[from..].trim().is_empty());
        }
        Ok((chunk.lines > 0).then_some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_cut_into_bounded_chunks_of_whole_lines() {
        let bounds = Bounds {
            lines_max: 3,
            bytes_max: 100,
            line_bytes_max: 200,
        };
        let text = format!("a\nb\nc\n\n{}\nlast", "x".repeat(120));
        let mut input = text.as_bytes();
        let mut next = || bounds.next_chunk(&mut input).unwrap();
        let first = next().unwrap();
        assert_eq!(
            (&*first.text, first.lines, first.filled),
            ("a\nb\nc\n", 3, 3)
        );
        let second = next().unwrap();
        assert_eq!((second.lines, second.filled), (2, 1));
        let third = next().unwrap();
        assert_eq!((&*third.text, third.lines), ("last", 1));
        assert_eq!(next(), None);
        let mut long = &[b'x'; 200][..];
        assert!(bounds.next_chunk(&mut long).is_err());
        let mut binary = &b"\xff\n"[..];
        assert!(bounds.next_chunk(&mut binary).is_err());
    }
}
