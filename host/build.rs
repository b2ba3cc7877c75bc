//! Compiles the `.proto` files of what the host writes, and lists the SDK's sources so that
//! `plugin new` can unpack them anywhere.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    compile_protos(&root)?;
    list_sdk(&root)
}

fn compile_protos(root: &Path) -> Result<(), Failure> {
    let own = root.join("proto");
    let flights = root.join("../plugins/flight-events");
    let fleet = root.join("../plugins/fleet-events");
    let files = [
        own.join("deployments.proto"),
        own.join("journal.proto"),
        own.join("merge.proto"),
        own.join("state.proto"),
        own.join("demo.proto"),
        flights.join("flight.proto"),
        fleet.join("fleet.proto"),
    ];
    let files: Vec<_> = files.into_iter().filter(|file| file.exists()).collect();
    for folder in [&own, &flights, &fleet] {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    let descriptors = protox::compile(&files, [&own, &flights, &fleet])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}

/// Writes `sdk_sources.rs`: a list of (path, contents) of the SDK and its WIT package.
fn list_sdk(root: &Path) -> Result<(), Failure> {
    let mut files = Vec::new();
    for folder in ["guest-sdk", "wit"] {
        let base = root.join("..").join(folder);
        println!("cargo::rerun-if-changed={}", base.display());
        collect(&base, Path::new(folder), &mut files)?;
    }
    files.sort();
    let mut list = String::from("&[\n");
    for (name, path) in files {
        list.push_str(&format!(
            "    ({name:?}, include_str!({:?})),\n",
            path.canonicalize()?
        ));
    }
    list.push_str("]\n");
    fs::write(
        PathBuf::from(env::var("OUT_DIR")?).join("sdk_sources.rs"),
        list,
    )?;
    Ok(())
}

fn collect(folder: &Path, name: &Path, into: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = name.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" && entry.file_name() != "tests" {
                collect(&entry.path(), &name, into)?;
            }
        } else if matches!(
            entry
                .path()
                .extension()
                .and_then(|extension| extension.to_str()),
            Some("rs" | "toml" | "wit" | "md")
        ) {
            into.push((name.to_string_lossy().into_owned(), entry.path()));
        }
    }
    Ok(())
}
