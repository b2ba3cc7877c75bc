//! Components made for tests: a shipped plugin with another manifest, and broken ones. Called by the
//! scenarios about deployments. It edits sections as bytes (id, LEB128 length, content; the same for
//! core modules and components), so it needs no library that the host might use too.

use anyhow::{Context, Result, bail};

/// The custom section that holds the manifest's TOML.
pub const MANIFEST_SECTION: &str = "foldhost:manifest";

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

struct Section {
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
