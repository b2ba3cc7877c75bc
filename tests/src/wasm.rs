//! Components made for tests: a shipped plugin with another manifest, and broken ones. Called by the
//! scenarios about deployments. It edits sections as bytes (id, LEB128 length, content; the same for
//! core modules and components), so it needs no library that the host might use too.

use anyhow::{Context, Result, bail};

/// The custom section that holds the manifest's TOML.
pub const MANIFEST_SECTION: &str = "foldhost:manifest";

/// Number of a component's section of exports.
const EXPORT_SECTION: u8 = 11;
const COMPONENT_HEADER: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

/// The manifest inside a component.
///
/// # Errors
/// If it has none, or the bytes are no WebAssembly.
pub fn manifest(wasm: &[u8]) -> Result<String> {
    for (range, name) in custom_sections(wasm)? {
        if name == MANIFEST_SECTION {
            return Ok(String::from_utf8(wasm[range].to_vec())?);
        }
    }
    bail!("the component has no section {MANIFEST_SECTION}")
}

/// The component without a manifest.
///
/// # Errors
/// If the bytes are no WebAssembly.
pub fn without_manifest(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut kept = wasm.get(..8).context("shorter than a header")?.to_vec();
    for section in sections(wasm)? {
        if section.name.as_deref() != Some(MANIFEST_SECTION) {
            kept.extend_from_slice(&wasm[section.start..section.end]);
        }
    }
    Ok(kept)
}

/// The component with this manifest in place of its own.
///
/// # Errors
/// If the bytes are no WebAssembly.
pub fn with_manifest(wasm: &[u8], toml: &str) -> Result<Vec<u8>> {
    let mut changed = without_manifest(wasm)?;
    let mut content = Vec::new();
    write_length(&mut content, MANIFEST_SECTION.len());
    content.extend_from_slice(MANIFEST_SECTION.as_bytes());
    content.extend_from_slice(toml.as_bytes());
    changed.push(0);
    write_length(&mut changed, content.len());
    changed.extend_from_slice(&content);
    Ok(changed)
}

/// The component with one line of its manifest's top level replaced or added: `field = value`, the
/// value as TOML.
///
/// # Errors
/// If it has no manifest.
pub fn with_field(wasm: &[u8], field: &str, value: &str) -> Result<Vec<u8>> {
    let old = manifest(wasm)?;
    let mut lines = vec![format!("{field} = {value}")];
    let mut top_level = true;
    for line in old.lines() {
        top_level &= !line.trim_start().starts_with('[');
        let name = line.split('=').next().unwrap_or_default().trim();
        if !(top_level && name == field) {
            lines.push(line.to_owned());
        }
    }
    with_manifest(wasm, &(lines.join("\n") + "\n"))
}

/// The smallest core module.
pub fn core_module() -> Vec<u8> {
    vec![0, b'a', b's', b'm', 1, 0, 0, 0]
}

/// A component with a manifest that imports an interface (an empty instance) of this name.
///
/// # Errors
/// Never in practice: the bytes are well-formed.
pub fn importing(interface: &str, toml: &str) -> Result<Vec<u8>> {
    let mut component = COMPONENT_HEADER.to_vec();
    // Type section: one type, an instance (0x42) that exports nothing.
    component.extend_from_slice(&[7, 3, 1, 0x42, 0]);
    // Import section: one import with a plain name (0), an instance (5) of type 0.
    let mut import = vec![1, 0];
    write_length(&mut import, interface.len());
    import.extend_from_slice(interface.as_bytes());
    import.extend_from_slice(&[5, 0]);
    component.push(10);
    write_length(&mut component, import.len());
    component.extend_from_slice(&import);
    with_manifest(&component, toml)
}

/// The names that a component exports, sorted: its interfaces.
///
/// # Errors
/// If the bytes are no component, or export something else than functions and instances.
pub fn exports(wasm: &[u8]) -> Result<Vec<String>> {
    if !wasm.starts_with(&COMPONENT_HEADER) {
        bail!("not a component");
    }
    let mut names = Vec::new();
    for section in sections(wasm)?
        .iter()
        .filter(|section| section.id == EXPORT_SECTION)
    {
        let mut at = section.content;
        for _ in 0..read_length(wasm, &mut at)? {
            names.push(export(wasm, &mut at)?);
        }
    }
    names.sort();
    Ok(names)
}

/// Reads one export: a kind of name, the name, what it is, and a type if there is one.
fn export(wasm: &[u8], at: &mut usize) -> Result<String> {
    let byte = |at: &mut usize| -> Result<u8> {
        *at += 1;
        wasm.get(*at - 1).copied().context("an export is cut")
    };
    let _kind_of_name = byte(at)?;
    let length = read_length(wasm, at)?;
    let name = wasm.get(*at..*at + length).context("a name is cut")?;
    *at += length;
    let sort = byte(at)?;
    if sort == 0 {
        bail!("a component of foldhost exports nothing of a core module");
    }
    read_length(wasm, at)?;
    if byte(at)? == 1 {
        // The type: a kind and an index, for functions and instances.
        byte(at)?;
        read_length(wasm, at)?;
    }
    Ok(String::from_utf8(name.to_vec())?)
}

struct Section {
    id: u8,
    start: usize,
    end: usize,
    /// A custom section's name and where its content starts.
    name: Option<String>,
    content: usize,
}

fn custom_sections(wasm: &[u8]) -> Result<Vec<(std::ops::Range<usize>, String)>> {
    Ok(sections(wasm)?
        .into_iter()
        .filter_map(|section| Some((section.content..section.end, section.name?)))
        .collect())
}

fn sections(wasm: &[u8]) -> Result<Vec<Section>> {
    if !wasm.starts_with(b"\0asm") {
        bail!("not WebAssembly");
    }
    let mut found = Vec::new();
    let mut at = 8;
    while at < wasm.len() {
        let start = at;
        let id = wasm[at];
        at += 1;
        let length = read_length(wasm, &mut at)?;
        let end = at.checked_add(length).filter(|end| *end <= wasm.len());
        let end = end.context("a section is longer than the file")?;
        let mut content = at;
        let name = if id == 0 {
            let length = read_length(wasm, &mut content)?;
            let bytes = wasm
                .get(content..content + length)
                .context("a name is cut")?;
            content += length;
            Some(String::from_utf8(bytes.to_vec())?)
        } else {
            None
        };
        found.push(Section {
            id,
            start,
            end,
            name,
            content,
        });
        at = end;
    }
    Ok(found)
}

/// Reads an unsigned LEB128 number.
fn read_length(bytes: &[u8], at: &mut usize) -> Result<usize> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = *bytes.get(*at).context("a length is cut")?;
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
        if shift > 28 {
            bail!("a length is too long");
        }
    }
}

fn write_length(bytes: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits fit");
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_put_in_changed_and_taken_out() {
        let plain = importing("a:b/c", "name = \"x\"\n[limits]\nname = \"kept\"\n").unwrap();
        assert_eq!(
            manifest(&plain).unwrap(),
            "name = \"x\"\n[limits]\nname = \"kept\"\n"
        );
        let renamed = with_field(&plain, "name", "\"y\"").unwrap();
        assert_eq!(
            manifest(&renamed).unwrap(),
            "name = \"y\"\n[limits]\nname = \"kept\"\n"
        );
        let bare = without_manifest(&renamed).unwrap();
        assert!(manifest(&bare).is_err());
        assert!(bare.len() < plain.len());
        assert!(manifest(b"not wasm").is_err());
    }

    #[test]
    fn exports_are_read_by_name() {
        let mut component = importing("a:b/c", "").unwrap();
        // Two instances (5), the second with a type (5, index 0).
        let mut section = vec![
            2, 0, 3, b'x', b':', b'y', 5, 0, 0, 0, 1, b'a', 5, 0, 1, 5, 0,
        ];
        component.extend_from_slice(&[11, u8::try_from(section.len()).unwrap()]);
        component.append(&mut section);
        assert_eq!(exports(&component).unwrap(), ["a", "x:y"]);
        assert!(exports(&core_module()).is_err());
    }

    #[test]
    fn lengths_go_there_and_back() {
        for value in [0, 1, 127, 128, 300, 1 << 20] {
            let mut bytes = Vec::new();
            write_length(&mut bytes, value);
            let mut at = 0;
            assert_eq!(read_length(&bytes, &mut at).unwrap(), value);
            assert_eq!(at, bytes.len());
        }
    }
}
