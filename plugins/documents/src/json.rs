//! JSON as it was written: members in their order, numbers with all of their digits.
//!
//! Used for documents, patches and schemas. `serde_json::Value` would round numbers and sort members. The
//! syntax is checked by `serde_json`; what is found here is the structure. Invariant: names are distinct in
//! their object, texts are Unicode, and nothing lies deeper than [`DEPTH_MAX`], so everything that walks a
//! [`Node`] may recurse.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::value::RawValue;

/// How deep objects and lists may lie in each other.
pub(crate) const DEPTH_MAX: usize = 64;

/// A JSON value, borrowed from its text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node<'a> {
    Object(Vec<Member<'a>>),
    Array(Vec<Node<'a>>),
    /// With its quotes and escapes.
    Text(&'a str),
    Number(&'a str),
    Bool(bool),
    Null,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member<'a> {
    pub(crate) name: Cow<'a, str>,
    /// With its quotes and escapes.
    written: &'a str,
    pub(crate) node: Node<'a>,
}

impl<'a> Member<'a> {
    /// The same name with another value.
    pub(crate) fn map(self, change: impl FnOnce(Node<'a>) -> Node<'a>) -> Self {
        Self {
            node: change(self.node),
            ..self
        }
    }
}

/// What is wrong, and where: a JSON Pointer (RFC 6901), empty = the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) problem: String,
}

impl Fault {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            problem: problem.into(),
        }
    }

    pub(crate) fn inside(mut self, segment: &str) -> Self {
        self.path.insert_str(0, &step(segment));
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.problem),
            path => write!(f, "`{path}`: {}", self.problem),
        }
    }
}

/// A step of a JSON Pointer.
pub(crate) fn step(segment: &str) -> String {
    format!("/{}", segment.replace('~', "~0").replace('/', "~1"))
}

/// Reads one JSON value.
pub(crate) fn read(bytes: &[u8]) -> Result<Node<'_>, Fault> {
    let text = serde_json::from_slice::<&RawValue>(bytes);
    let text =
        text.map_err(|error| Fault::new(format!("expected JSON, and this is none: {error}")))?;
    let mut reader = Reader { rest: text.get() };
    reader.node(0)
}

/// Walks over text whose syntax is right.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn node(&mut self, depth: usize) -> Result<Node<'a>, Fault> {
        match self.peek() {
            b'{' | b'[' if depth == DEPTH_MAX => Err(Fault::new(format!(
                "it lies too deep: at most {DEPTH_MAX} objects and lists may lie in each other"
            ))),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.text().map(|(written, _)| Node::Text(written)),
            _ => Ok(self.plain()),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node<'a>, Fault> {
        let mut members: Vec<Member<'_>> = Vec::new();
        while self.goes_on(b'}') {
            let (written, name) = self.text()?;
            self.peek();
            self.skip(1); // the colon
            let node = self.node(depth + 1);
            let node = node.map_err(|fault| fault.inside(&name))?;
            members.push(Member {
                name,
                written,
                node,
            });
        }
        let mut names = BTreeSet::new();
        match members.iter().find(|member| !names.insert(&member.name)) {
            Some(twice) => Err(Fault::new("this name occurs more than once").inside(&twice.name)),
            None => Ok(Node::Object(members)),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node<'a>, Fault> {
        let mut items = Vec::new();
        while self.goes_on(b']') {
            let item = self.node(depth + 1);
            items.push(item.map_err(|fault| fault.inside(&items.len().to_string()))?);
        }
        Ok(Node::Array(items))
    }

    /// Steps over what opens, separates or closes; whether something follows.
    fn goes_on(&mut self, end: u8) -> bool {
        let first = self.peek();
        if first == end {
            self.skip(1);
            return false;
        }
        // `{`, `[` or a comma, unless the object or list is over behind it.
        self.skip(1);
        if self.peek() == end {
            self.skip(1);
            return false;
        }
        true
    }

    /// As it is written, and what it says.
    fn text(&mut self) -> Result<(&'a str, Cow<'a, str>), Fault> {
        let bytes = self.rest.as_bytes();
        let mut end = 1;
        while bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let written = &self.rest[..=end];
        self.skip(end + 1);
        Ok((written, said(written)?))
    }

    fn plain(&mut self) -> Node<'a> {
        let ends = |c: char| matches!(c, ',' | '}' | ']' | ' ' | '\n' | '\r' | '\t');
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let written = &self.rest[..end];
        self.skip(end);
        match written {
            "null" => Node::Null,
            "true" => Node::Bool(true),
            "false" => Node::Bool(false),
            number => Node::Number(number),
        }
    }

    /// The next byte that is no space.
    fn peek(&mut self) -> u8 {
        self.rest = self.rest.trim_start_matches([' ', '\n', '\r', '\t']);
        self.rest.as_bytes()[0]
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }
}

/// What a text says that is written so.
fn said(written: &str) -> Result<Cow<'_, str>, Fault> {
    if !written.contains('\\') {
        return Ok(Cow::Borrowed(&written[1..written.len() - 1]));
    }
    let said = serde_json::from_str(written).map(Cow::Owned);
    said.map_err(|_| Fault::new("this text is no Unicode"))
}

impl<'a> Node<'a> {
    /// What it says, if it is a text.
    pub(crate) fn said(&self) -> Option<Cow<'a, str>> {
        match self {
            Node::Text(written) => said(written).ok(),
            _ => None,
        }
    }

    /// As JSON, without spaces.
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Node::Object(members) => {
                out.push('{');
                for (position, member) in members.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    out.push_str(member.written);
                    out.push(':');
                    member.node.write(out);
                }
                out.push('}');
            }
            Node::Array(items) => {
                out.push('[');
                for (position, item) in items.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Node::Text(written) | Node::Number(written) => out.push_str(written),
            Node::Bool(true) => out.push_str("true"),
            Node::Bool(false) => out.push_str("false"),
            Node::Null => out.push_str("null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str) -> String {
        read(text.as_bytes()).unwrap().to_text()
    }

    fn fault(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_read_is_written_again() {
        for text in [
            r#"{}"#,
            r#"[]"#,
            r#"{"z":12345678901234567890123,"a":1.10,"m":-0,"e":1E400}"#,
            r#"[[],{},[{"a":[null,true,false]}],"","\"\\\u00e9é","\ud83d\ude00"]"#,
            r#""text""#,
            r#"7"#,
            r#"null"#,
        ] {
            assert_eq!(again(text), text);
        }
        let spaced = " { \"a\" : [ 1 ,\n2 ] , \"b\\u0020\":\t{ } , \"c\" : null }\r\n";
        assert_eq!(again(spaced), r#"{"a":[1,2],"b\u0020":{},"c":null}"#);
    }

    #[test]
    fn what_is_wrong_says_where() {
        assert!(fault("{").starts_with("expected JSON, and this is none: EOF"));
        assert!(fault("").starts_with("expected JSON, and this is none: EOF"));
        assert!(fault("{} {}").starts_with("expected JSON, and this is none: trailing"));
        let twice = r#"{"a":[{},{"b/~":1,"c":2,"b\u002f~":3}]}"#;
        assert_eq!(
            fault(twice),
            "`/a/1/b~1~0`: this name occurs more than once"
        );
        assert_eq!(
            fault(r#"{"a":["\ud800"]}"#),
            "`/a/0`: this text is no Unicode"
        );
        assert_eq!(
            fault(r#"{"a":{"\ud800":1}}"#),
            "`/a`: this text is no Unicode"
        );
        assert!(read(b"\"\xff\"").is_err());
    }

    #[test]
    fn what_lies_too_deep_is_refused() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(again(&nested(DEPTH_MAX)), nested(DEPTH_MAX));
        assert!(fault(&nested(DEPTH_MAX + 1)).starts_with("`/0/0/"));
        assert!(fault(&nested(100_000)).contains("it lies too deep"));
    }
}
