//! What earlier versions wrote is read; what later ones wrote is refused and left as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use foldhost_tests::host::{GENEROUS, Start};
use foldhost_tests::http::{Client, number};
use foldhost_tests::paths::{Scratch, repository};
use foldhost_tests::wait::wait_until_ok;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Unpacks a data folder that an earlier version left.
fn unpacked(format: &str, scratch: &Scratch) -> Result<PathBuf> {
    let archive = repository().join(format!("tests/fixtures/{format}.tar.gz"));
    let status = Command::new("tar")
        .arg("xzf")
        .arg(&archive)
        .arg("-C")
        .arg(scratch.path())
        .status()
        .context("cannot run tar")?;
    ensure!(status.success(), "tar: {status}");
    Ok(scratch.join("data"))
}

fn count(client: &Client, key: &str) -> Result<Option<u64>> {
    let reply = client.ask("counter", key, "")?.expect_status(200)?;
    Ok(number(&reply.json()?["count"]))
}

/// Every file below a folder with the digest of what is in it; locks say nothing.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "LOCK") {
                found.insert(path.clone(), Sha256::digest(fs::read(&path)?).to_vec());
            }
        }
    }
    Ok(found)
}

#[test]
fn a_folder_of_the_first_format_is_read_and_gone_on_with() -> Result<()> {
    goes_on("format-1")
}

#[test]
fn a_folder_with_states_in_pages_is_read_and_gone_on_with() -> Result<()> {
    goes_on("format-2")
}

fn goes_on(format: &str) -> Result<()> {
    let scratch = Scratch::new(format)?;
    unpacked(format, &scratch)?;
    let start = Start::serve(scratch.path());
    for round in 0..2 {
        let host = start.ready()?;
        let client = host.client()?;
        for plugin in ["counter", "latest"] {
            host.wait_caught_up(plugin, GENEROUS)?;
        }
        // A tombstone is a record too.
        for (key, counted) in [("k0", 16 + round), ("k3", 17), ("k24", 16)] {
            ensure!(count(&client, key)? == Some(counted), "{key}");
        }
        let latest = client
            .ask("latest", "k24", "")?
            .expect_status(200)?
            .json()?;
        let expected = json!({"value": {"n": 399}, "at": "2026-11-24T04:16:51.087Z"});
        ensure!(latest == expected, "{latest}");
        client
            .ask("latest", "k3", "")?
            .expect_problem(404, "not-found")?;
        client.append_all("flights", &[json!({"key": "k0", "value": {"n": 400}})])?;
        wait_until_ok(GENEROUS, "the new record to be counted", || {
            let counted = count(&client, "k0")?;
            ensure!(counted == Some(17 + round), "{counted:?}");
            Ok(())
        })?;
        ensure!(host.stop()? == 0);
    }
    Ok(())
}

#[test]
fn what_a_newer_version_wrote_is_refused_and_left_as_it_is() -> Result<()> {
    let newer = [
        ("FORMAT", "foldhost-data 2\n"),
        ("log/FORMAT", "foldhost-embedded-log 2\n"),
        ("objects/foldhost-cluster.json", ""),
    ];
    for (index, (file, text)) in newer.into_iter().enumerate() {
        let scratch = Scratch::new(&format!("format-newer-{index}"))?;
        let data = unpacked("format-1", &scratch)?;
        let path = data.join(file);
        let text = match fs::read_to_string(&path) {
            Ok(before) if text.is_empty() => before
                .replace("\"format\":1", "\"format\":2")
                .replace("\"format\": 1", "\"format\": 2"),
            Ok(before) => before.replace('1', "2"),
            Err(_) => text.to_owned(),
        };
        fs::write(&path, text)?;
        let before = contents(&data)?;
        let (code, said) = Start::serve(scratch.path()).refused()?;
        ensure!(code != 0, "{file}: {said}");
        ensure!(said.contains("newer"), "{file}: it does not say so: {said}");
        ensure!(contents(&data)? == before, "{file}: something was changed");
    }
    Ok(())
}
