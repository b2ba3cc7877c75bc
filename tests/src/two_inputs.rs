//! Two inputs that have nothing in common but their keys: other numbers of partitions, other partitioners.
//! Called by the scenarios about plugins that read both.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::http::Client;
use crate::paths::repository;
use crate::wasm;

/// Partitions of the left one, by murmur2.
pub const LEFT_PARTITIONS: u32 = 3;
/// Partitions of the right one, by CRC-32; neither number divides the other.
pub const RIGHT_PARTITIONS: u32 = 5;

/// One of the misbehaving plugins.
///
/// # Errors
/// If it is not there.
pub fn misbehaving(name: &str) -> Result<Vec<u8>> {
    let folder = repository().join("plugins/misbehaving/prebuilt");
    let path = folder.join(format!("{name}.wasm"));
    fs::read(&path).with_context(|| format!("no plugin at {}", path.display()))
}

/// The component on two inputs, with more lines at the top of its manifest. Records of `right` are spread by
/// CRC-32.
///
/// # Errors
/// If it has no manifest.
pub fn on_two_inputs(wasm: &[u8], [left, right]: [&str; 2], more: &str) -> Result<Vec<u8>> {
    let manifest = wasm::manifest(wasm)?;
    let kept = manifest.lines().filter(|line| {
        let name = line.split('=').next().unwrap_or_default().trim();
        name != "inputs"
            && !more
                .lines()
                .any(|new| new.starts_with(&format!("{name} =")))
    });
    let kept: Vec<_> = kept.collect();
    let toml = format!(
        "{more}\n{}\n[[inputs]]\nname = \"left\"\ntopic = \"{left}\"\n\
         [[inputs]]\nname = \"right\"\ntopic = \"{right}\"\npartitioner = \"crc32\"\n",
        kept.join("\n")
    );
    wasm::with_manifest(wasm, &toml)
}

/// Creates both, with their numbers of partitions.
///
/// # Errors
/// If one is there already.
pub fn create_inputs(client: &Client, [left, right]: [&str; 2]) -> Result<()> {
    for (topic, partitions) in [(left, LEFT_PARTITIONS), (right, RIGHT_PARTITIONS)] {
        client
            .put_json(
                &format!("/v1/topics/{topic}"),
                &json!({"partitions": partitions}),
            )?
            .success()?;
    }
    Ok(())
}

/// CRC-32 of zlib, as librdkafka's `consistent` partitioner takes it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    !crc
}

/// A record of the right input, in the partition that its writer chose.
pub fn to_the_right(mut record: Value) -> Value {
    if let Some(key) = record["key"].as_str() {
        let partition = crc32(key.as_bytes()) % RIGHT_PARTITIONS;
        record["partition"] = json!(partition);
    }
    record
}

/// What `Foldhost-Min-Position` takes of a place.
pub fn at(topic: &str, (partition, offset): (u32, u64)) -> String {
    format!("{topic}/{partition}@{offset}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_32_is_that_of_everybody_else() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_writer_of_the_right_input_chooses_the_partition() {
        let record = to_the_right(json!({"key": "123456789", "value": 1}));
        assert_eq!(record["partition"], 0xcbf4_3926_u32 % RIGHT_PARTITIONS);
        let keyless = json!({"value": 1});
        assert_eq!(to_the_right(keyless.clone()), keyless);
    }
}
