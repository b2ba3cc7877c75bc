//! The fields of protobuf messages as text, from the Rust that is written for them and from the `.proto` file that
//! others read. For the tests of `bank-events`, `fleet-events` and `flight-events`, which hold the two against each other.

/// Type, name and tag of a field.
pub type Field = (String, String, u32);

/// The fields of a Rust file's messages, up to its tests, in the words of a `.proto` file.
///
/// # Panics
/// If the file is not written as the events beside this crate are.
#[must_use]
pub fn of_rust(source: &str) -> Vec<Field> {
    let (source, _) = source
        .split_once("#[cfg(test)]")
        .expect("it ends with tests");
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let fields = lines.windows(2).filter_map(|pair| {
        let kind = pair[0].strip_prefix("#[prost(")?.strip_suffix(")]")?;
        let (kind, tag) = kind.split_once(", tag = \"")?;
        let tag = tag
            .trim_end_matches('"')
            .parse()
            .expect("a tag is a number");
        let (name, kind) = match pair[1].strip_prefix("pub ") {
            Some(field) => {
                let (name, of_rust) = field.trim_end_matches(',').split_once(": ")?;
                (name.to_owned(), in_proto(kind, of_rust))
            }
            None => {
                let (name, message) = pair[1].split_once('(').expect("a case of a oneof");
                let message = message.trim_end_matches("),");
                (name.to_lowercase(), message.to_owned())
            }
        };
        Some((kind, name, tag))
    });
    fields.collect()
}

/// What prost calls `kind`, of a field with the type `of_rust`.
fn in_proto(kind: &str, of_rust: &str) -> String {
    let inner = |outer: &str| of_rust.strip_prefix(outer)?.strip_suffix('>');
    if let Some(message) = inner("Option<") {
        return message.to_owned();
    }
    if let Some(message) = inner("Vec<").filter(|_| kind.ends_with("repeated")) {
        return format!("repeated {message}");
    }
    match inner("BTreeMap<String, ") {
        Some(message) => format!("map<string, {message}>"),
        None => kind.to_owned(),
    }
}

/// The fields of the messages of a `.proto` file.
#[must_use]
pub fn of_proto(source: &str) -> Vec<Field> {
    let lines = source.lines().map(str::trim);
    let fields = lines.filter_map(|line| {
        let (field, tag) = line.strip_suffix(';')?.split_once(" = ")?;
        let (kind, name) = field.rsplit_once(' ')?;
        Some((kind.to_owned(), name.to_owned(), tag.parse().ok()?))
    });
    fields.collect()
}
