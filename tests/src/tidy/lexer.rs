//! Just enough of Rust's lexis to look for names safely: comments and literals are blanked (same
//! length, same lines), and items under `#[cfg(test)]` are known as test code. Called by the tidy rules.

use std::ops::Range;

/// A file's code.
#[derive(Debug)]
pub struct Code {
    /// As long as the text; comments, strings and characters are spaces.
    pub masked: String,
    /// Byte ranges of test code.
    test: Vec<Range<usize>>,
}

impl Code {
    /// Reads a text; `all_test` says that the whole file is test code.
    pub fn of(text: &str, all_test: bool) -> Self {
        let masked = mask(text);
        // One range that is the whole file, not a list of its bytes.
        let whole = 0..masked.len();
        let test = if all_test {
            vec![whole]
        } else {
            test_items(&masked)
        };
        Self { masked, test }
    }

    /// True if the byte belongs to test code.
    pub fn is_test(&self, at: usize) -> bool {
        self.test.iter().any(|range| range.contains(&at))
    }

    /// The line of a byte, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.masked.as_bytes()[..at]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
            + 1
    }

    /// Where `path` (identifiers joined by `::`) begins in the code, as whole identifiers.
    pub fn mentions(&self, path: &str) -> Vec<usize> {
        let bytes = self.masked.as_bytes();
        self.masked
            .match_indices(path)
            .map(|(at, _)| at)
            .filter(|&at| at == 0 || !is_identifier(bytes[at - 1]))
            .filter(|&at| {
                bytes
                    .get(at + path.len())
                    .is_none_or(|&next| !is_identifier(next))
            })
            .collect()
    }
}

/// True for a byte that an identifier may hold.
pub fn is_identifier(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80
}

fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' | b'c' if at == 0 || !is_identifier(bytes[at - 1]) => {
                match prefixed_end(bytes, at) {
                    Some(end) => end,
                    None => identifier_end(bytes, at),
                }
            }
            b'\'' => character_end(bytes, at).unwrap_or(at + 1),
            byte if is_identifier(byte) => identifier_end(bytes, at),
            _ => at + 1,
        };
        let is_name = is_identifier(bytes[at]) && out[at..end].iter().all(|&b| is_identifier(b));
        if end > at + 1 && !is_name {
            for byte in &mut out[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("whole characters were replaced by spaces")
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..]
        .iter()
        .position(|&byte| byte == b'\n')
        .map_or(bytes.len(), |n| from + n)
}

fn identifier_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..]
        .iter()
        .position(|&byte| !is_identifier(byte))
        .map_or(bytes.len(), |n| from + n)
}

fn block_end(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at + 1 < bytes.len() {
        match (bytes[at], bytes[at + 1]) {
            (b'/', b'*') => {
                depth += 1;
                at += 2;
            }
            (b'*', b'/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of a string that begins with its quote at `from`.
fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of a literal with a prefix (`b"…"`, `r#"…"#`, `b'…'`), if there is one at `from`.
fn prefixed_end(bytes: &[u8], from: usize) -> Option<usize> {
    let letters = bytes[from..]
        .iter()
        .take(2)
        .take_while(|b| b"brc".contains(b))
        .count();
    for length in (1..=letters).rev() {
        let raw = bytes[from..from + length].contains(&b'r');
        let after = from + length;
        match bytes.get(after) {
            Some(b'"') if !raw => return Some(string_end(bytes, after)),
            Some(b'\'') if bytes[from..after] == *b"b" => return character_end(bytes, after),
            Some(b'"' | b'#') if raw => {
                let hashes = bytes[after..].iter().take_while(|&&b| b == b'#').count();
                if bytes.get(after + hashes) != Some(&b'"') {
                    continue;
                }
                let close: Vec<u8> = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
                let body = after + hashes + 1;
                let end = bytes[body..].windows(close.len()).position(|w| w == close);
                return Some(end.map_or(bytes.len(), |n| body + n + close.len()));
            }
            _ => {}
        }
    }
    None
}

/// The end of a character that begins with its quote at `from`; none if it is a lifetime.
fn character_end(bytes: &[u8], from: usize) -> Option<usize> {
    match bytes.get(from + 1)? {
        b'\\' => {
            let close = bytes[from + 3..].iter().position(|&byte| byte == b'\'')?;
            Some(from + 3 + close + 1)
        }
        byte => {
            let width = match byte {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            (bytes.get(from + 1 + width) == Some(&b'\'')).then_some(from + width + 2)
        }
    }
}

/// Items under `#[cfg(test)]` or `#[test]`, as ranges of masked text.
fn test_items(masked: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for attribute in ["#[cfg(test)]", "#[test]", "#[tokio::test", "#[cfg(all(test"] {
        for (start, _) in masked.match_indices(attribute) {
            found.push(start..item_end(masked.as_bytes(), start));
        }
    }
    found
}

/// The end of the item whose attributes begin at `from`: its `;` or its closing brace.
fn item_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    // Attributes first: they may hold anything, in brackets.
    loop {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        if bytes.get(at) != Some(&b'#') {
            break;
        }
        at = closing(bytes, at + 1, b'[', b']');
    }
    let mut round = 0_i32;
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b';' if round == 0 => return at + 1,
            b'{' if round == 0 => {
                let end = closing(bytes, at, b'{', b'}');
                // `use a::{b, c};` goes on after its brace.
                let next = bytes[end..].iter().position(|b| !b.is_ascii_whitespace());
                return match next {
                    Some(n) if bytes[end + n] == b';' => end + n + 1,
                    _ => end,
                };
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

fn closing(bytes: &[u8], from: usize, open: u8, close: u8) -> usize {
    let mut depth = 0_i32;
    for (n, &byte) in bytes[from..].iter().enumerate() {
        if byte == open {
            depth += 1;
        } else if byte == close {
            depth -= 1;
            if depth == 0 {
                return from + n + 1;
            }
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank() {
        let text = "a /* b /* c */ d */ e // f\n\"g\\\"h\" r#\"i\"j\"# b'k' 'l' b\"m\" '\\u{6e}' o<'p> 'é'";
        let masked = mask(text);
        assert_eq!(masked.len(), text.len());
        let names: String = masked.chars().filter(char::is_ascii_alphabetic).collect();
        assert_eq!(names, "aeop");
    }

    #[test]
    fn names_that_begin_like_literals_stay() {
        assert_eq!(
            mask("crate::raw bytes r#type br"),
            "crate::raw bytes r#type br"
        );
    }

    #[test]
    fn test_items_are_known() {
        let text = "use a;\n#[cfg(test)]\nuse b::{c, d};\nfn e() {}\n#[cfg(test)]\n#[allow(x)]\n\
                    mod tests { fn f() { g() } }\nfn h() {}";
        let code = Code::of(text, false);
        for (name, test) in [
            ("use a", false),
            ("b::", true),
            ("e()", false),
            ("g()", true),
            ("h()", false),
        ] {
            assert_eq!(code.is_test(text.find(name).unwrap()), test, "{name}");
        }
        assert!(Code::of("x", true).is_test(0));
    }

    #[test]
    fn mentions_are_whole_names() {
        let code = Code::of(
            "axum::Router; laxum::x; axum_extra::y; // axum\nuse axum;",
            false,
        );
        assert_eq!(code.mentions("axum").len(), 2);
        assert_eq!(code.line(code.mentions("axum")[1]), 2);
    }
}
