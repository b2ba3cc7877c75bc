//! Merge patches (RFC 7396): a patch is written as what it makes of a document; `null` takes a member away.
//!
//! Called by the command `merge-patch`. Invariant: members that the patch does not name stay as they are,
//! and where they are; new ones come last.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::json::{Member, Node};

/// The RFC's `MergePatch`. `target` is what there is, if there is anything.
pub(crate) fn merge<'a>(target: Option<Node<'a>>, patch: Node<'a>) -> Node<'a> {
    let Node::Object(changes) = patch else {
        return patch;
    };
    let members = match target {
        Some(Node::Object(members)) => members,
        _ => Vec::new(),
    };
    let names = members.iter().map(|member| member.name.clone());
    let places: BTreeMap<Cow<'_, str>, usize> = names.zip(0..).collect();
    let mut members: Vec<Option<Member<'_>>> = members.into_iter().map(Some).collect();
    for change in changes {
        let place = places.get(&change.name).copied();
        let before = place.and_then(|place| members[place].take());
        if change.node == Node::Null {
            continue;
        }
        let merged = change.map(|patch| merge(before.map(|member| member.node), patch));
        match place {
            Some(place) => members[place] = Some(merged),
            None => members.push(Some(merged)),
        }
    }
    Node::Object(members.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::read;

    fn merged(target: &str, patch: &str) -> String {
        let target = read(target.as_bytes()).unwrap();
        merge(Some(target), read(patch.as_bytes()).unwrap()).to_text()
    }

    /// Appendix A of the RFC.
    #[test]
    fn the_examples_of_the_rfc() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, r#"null"#, r#"null"#),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            (
                r#"{}"#,
                r#"{"a":{"bb":{"ccc":null}}}"#,
                r#"{"a":{"bb":{}}}"#,
            ),
        ] {
            assert_eq!(merged(target, patch), result, "{target} {patch}");
        }
    }

    #[test]
    fn what_the_patch_does_not_name_stays_as_it_came() {
        let target = r#"{"z":12345678901234567890123,"m":{"y":1.10,"x":2},"a":[1.0]}"#;
        let patch = r#"{"new":1e2,"m":{"x":3.00}}"#;
        let result = r#"{"z":12345678901234567890123,"m":{"y":1.10,"x":3.00},"a":[1.0],"new":1e2}"#;
        assert_eq!(merged(target, patch), result);
        assert_eq!(
            merged(r#"{"a\/b":1,"c":2}"#, r#"{"a/b":null}"#),
            r#"{"c":2}"#
        );
    }
}
