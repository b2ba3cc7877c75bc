//! The data folder: its lock, the format of what lies in it, and this host's name. Used by `node`.
//!
//! ```text
//! FORMAT        "foldhost-data 1": format of the folder; what has none is in the first
//! LOCK          held (flock) by the host that uses the folder
//! instance      this host's name in its groups
//! log/          the embedded log, with a format of its own
//! objects/      the object store, unless it lies elsewhere; its marker carries its format
//! machine-code/ compiled components; lost without harm
//! ```
//!
//! Invariant: a folder of a newer version is not written to.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::clock::Clock;
use crate::config::Config;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_NAME: &str = "foldhost-data";
const FORMAT_VERSION: u32 = 1;

/// Makes the data folder if it is missing, and keeps other hosts out of it.
pub(super) fn lock_folder(data: &Path) -> anyhow::Result<File> {
    let shown = data.display();
    check_format(data)?;
    fs::create_dir_all(data).with_context(|| {
        format!("the data folder {shown} cannot be made: give this user the right, or name another with --data")
    })?;
    let path = data.join("LOCK");
    let open = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let lock = open.with_context(|| {
        format!("the data folder {shown} cannot be written: give this user the right, or name another with --data")
    })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "the data folder {shown} is in use by another host: stop that one, or give this one a \
             folder of its own with --data"
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("the data folder {shown} cannot be locked"))
        }
    }
}

/// This host's name in its groups, kept in the data folder so that a restart is the same member.
pub(super) fn instance_id(config: &Config, clock: &Clock) -> anyhow::Result<String> {
    if let Some(instance) = &config.instance {
        return Ok(instance.clone());
    }
    let path = config.data.join("instance");
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", path.display()));
        }
    }
    let id = clock.unique_id();
    let write = || {
        let mut file = File::create(&path)?;
        file.write_all(id.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("writing {}", path.display()))?;
    Ok(id)
}

/// Refuses a folder that a newer version wrote.
fn check_format(data: &Path) -> anyhow::Result<()> {
    let path = data.join(FORMAT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let version = text
        .strip_prefix(FORMAT_NAME)
        .and_then(|rest| rest.trim().parse::<u32>().ok());
    match version {
        Some(FORMAT_VERSION) => Ok(()),
        Some(found) => bail!(
            "the data folder {} is in format {found}, and this foldhost reads format \
             {FORMAT_VERSION}: start the newer foldhost that wrote it, or name another folder with \
             --data",
            data.display()
        ),
        None => bail!(
            "{} does not say '{FORMAT_NAME} <version>': name another folder with --data, or restore \
             this one from a backup",
            path.display()
        ),
    }
}

/// Says which format the folder has; the caller has checked all that lies in it.
pub(super) fn mark_format(data: &Path) -> anyhow::Result<()> {
    let path = data.join(FORMAT_FILE);
    if path.exists() {
        return Ok(());
    }
    let new = data.join(format!("{FORMAT_FILE}.new"));
    let write = || {
        let mut file = File::create(&new)?;
        writeln!(file, "{FORMAT_NAME} {FORMAT_VERSION}")?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(data)?.sync_all()
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_marked_once_and_read_by_its_version_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FORMAT_FILE);
        drop(lock_folder(folder.path()).unwrap());
        mark_format(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "foldhost-data 1\n");
        drop(lock_folder(folder.path()).unwrap());
        for (text, word) in [
            ("foldhost-data 2\n", "start the newer"),
            ("notes\n", "backup"),
        ] {
            fs::write(&path, text).unwrap();
            let refused = lock_folder(folder.path()).unwrap_err().to_string();
            assert!(refused.contains(word), "{refused}");
        }
    }
}
