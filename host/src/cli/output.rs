//! What the commands print: results on standard output, everything else on standard error, so that
//! results can be piped. Called by every command.

use std::io::{self, Write as _};

use serde_json::Value;

/// Prints one line of a result.
///
/// # Errors
/// When nobody reads any more.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")
}

/// Prints a result as one JSON document.
///
/// # Errors
/// When nobody reads any more.
pub(super) fn json(value: &Value) -> io::Result<()> {
    line(&format!("{value:#}"))
}

/// Prints an answer's body as it is, ended by a line break.
///
/// # Errors
/// When nobody reads any more.
pub(super) fn body(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    match bytes.ends_with(b"\n") {
        true => Ok(()),
        false => out.write_all(b"\n"),
    }
}

/// An answer's body as a part of a JSON document: as JSON, or else as text.
pub(super) fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(bytes).into_owned()))
}

/// Says something beside the result. Nobody has to listen.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table with its columns aligned; the last column is as wide as it wants.
pub(super) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = render(&header.map(str::to_owned), &widths);
    for row in rows {
        text.push('\n');
        text.push_str(&render(row, &widths));
    }
    text
}

fn render(cells: &[String], widths: &[usize]) -> String {
    let padded: Vec<String> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:width$}"))
        .collect();
    padded.join("  ").trim_end().to_owned()
}

/// A field of a JSON answer as text; `-` where there is none.
pub(super) fn field(value: &Value, name: &str) -> String {
    text_of(&value[name])
}

/// A JSON value as it is shown in a table.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(text_of).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a".into(), "1".into()], ["longer".into(), String::new()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME    N\na       1\nlonger");
    }

    #[test]
    fn values_are_shown_as_people_write_them() {
        let value = serde_json::json!({"a": "x", "b": [1, "y"], "c": null, "d": []});
        assert_eq!(field(&value, "a"), "x");
        assert_eq!(field(&value, "b"), "1, y");
        assert_eq!(
            field(&value, "c") + &field(&value, "d") + &field(&value, "e"),
            "---"
        );
    }
}
