//! The embedded log's folder: its lock, the version of what lies in it, and the store inside.
//! Called by `EmbeddedLog::open`.
//!
//! ```text
//! LOCK    held (flock) by the host that uses the folder
//! FORMAT  "foldhost-log 1": version of the layout
//! store/  the fjall database
//! ```
//!
//! Invariant: `store/` appears by a rename, complete; a crash while it is made leaves only
//! `store.new/`, which holds nothing that was ever acknowledged.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::Path;

use fjall::config::BlockSizePolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};

use super::journal;
use super::store::{io_error, store_error};
use crate::limits;
use crate::log::LogError;

const LOCK_FILE: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_NAME: &str = "foldhost-log";
const FORMAT_VERSION: u32 = 1;
const STORE_FOLDER: &str = "store";
const STORE_FOLDER_NEW: &str = "store.new";
const KEYSPACE: &str = "log";

/// Makes the folder if there is none, and keeps other hosts out until the file is dropped.
///
/// # Errors
/// [`LogError::Rejected`] when another host holds it or it cannot be written.
pub(super) fn lock(folder: &Path) -> Result<File, LogError> {
    let shown = folder.display();
    fs::create_dir_all(folder).map_err(|error| io_error(&format!("making {shown}"), &error))?;
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| io_error(&format!("opening {}", path.display()), &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Rejected(format!(
            "another host uses the folder {shown}: stop it, or give this one a data folder of \
             its own"
        ))),
        Err(TryLockError::Error(error)) => {
            Err(io_error(&format!("locking {}", path.display()), &error))
        }
    }
}

/// Opens the store of a locked folder; makes it if the folder is new.
///
/// # Errors
/// [`LogError::Rejected`] for a folder of a newer foldhost or one that cannot be written,
/// [`LogError::Corrupt`], [`LogError::Unavailable`].
pub(super) fn open_store(folder: &Path) -> Result<(Database, Keyspace), LogError> {
    check_format(folder)?;
    mark_format(folder)?;
    let path = folder.join(STORE_FOLDER);
    let exists = path
        .try_exists()
        .map_err(|error| io_error(&format!("looking at {}", path.display()), &error))?;
    if exists {
        journal::mend(&path)?;
    } else {
        create_store(folder).map_err(|error| with_folder(folder, &error))?;
    }
    open_database(&path).map_err(|error| with_folder(folder, &error))
}

fn with_folder(folder: &Path, error: &fjall::Error) -> LogError {
    store_error(&format!("opening the log in {}", folder.display()), error)
}

/// Marks a folder that has no format yet.
fn mark_format(folder: &Path) -> Result<(), LogError> {
    let path = folder.join(FORMAT_FILE);
    if path.exists() {
        return Ok(());
    }
    write_format(folder).map_err(|error| io_error(&format!("writing {}", path.display()), &error))
}

/// Refuses what a newer foldhost wrote. Writes nothing.
///
/// # Errors
/// [`LogError::Rejected`], [`LogError::Corrupt`].
pub(super) fn check_format(folder: &Path) -> Result<(), LogError> {
    let path = folder.join(FORMAT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(&format!("reading {}", path.display()), &error)),
    };
    let version = text
        .strip_prefix(FORMAT_NAME)
        .and_then(|rest| rest.trim().parse::<u32>().ok())
        .ok_or_else(|| {
            LogError::Corrupt(format!(
                "{} does not say '{FORMAT_NAME} <version>': use another folder, or restore this \
                 one from a backup",
                path.display()
            ))
        })?;
    if version != FORMAT_VERSION {
        return Err(LogError::Rejected(format!(
            "the folder {} is in format {version}, and this foldhost reads format \
             {FORMAT_VERSION}: start the newer foldhost that wrote it, or use another folder",
            folder.display()
        )));
    }
    Ok(())
}

fn write_format(folder: &Path) -> io::Result<()> {
    let new = folder.join(format!("{FORMAT_FILE}.new"));
    let mut file = File::create(&new)?;
    writeln!(file, "{FORMAT_NAME} {FORMAT_VERSION}")?;
    file.sync_all()?;
    fs::rename(&new, folder.join(FORMAT_FILE))?;
    File::open(folder)?.sync_all()
}

fn create_store(folder: &Path) -> Result<(), fjall::Error> {
    let new = folder.join(STORE_FOLDER_NEW);
    if new.try_exists()? {
        fs::remove_dir_all(&new)?;
    }
    drop(open_database(&new)?);
    fs::rename(&new, folder.join(STORE_FOLDER))?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn open_database(path: &Path) -> Result<(Database, Keyspace), fjall::Error> {
    let database = Database::builder(path)
        .cache_size(limits::EMBEDDED_CACHE_BYTES)
        .max_journaling_size(limits::EMBEDDED_JOURNAL_BYTES_MAX)
        .journal_compression(CompressionType::None)
        // One thread flushes while the other compacts: with one, a long compaction would keep
        // memory from being flushed.
        .worker_threads(2)
        .manual_journal_persist(true)
        .open()?;
    let keyspace = database.keyspace(KEYSPACE, || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(limits::EMBEDDED_MEMTABLE_BYTES_MAX)
            .data_block_size_policy(BlockSizePolicy::all(16 * 1024))
            .manual_journal_persist(true)
    })?;
    Ok((database, keyspace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_host_is_kept_out_and_told_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let refused = lock(folder.path()).unwrap_err();
        assert!(matches!(refused, LogError::Rejected(_)));
        assert!(
            refused.to_string().contains("another host uses the folder"),
            "{refused}"
        );
        drop(held);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(open_store(folder.path()).unwrap());
        fs::write(folder.path().join(FORMAT_FILE), "foldhost-log 2\n").unwrap();
        let refused = open_store(folder.path()).err().unwrap();
        assert!(refused.to_string().contains("format 2"), "{refused}");
        fs::write(folder.path().join(FORMAT_FILE), "notes\n").unwrap();
        assert!(matches!(
            open_store(folder.path()).err(),
            Some(LogError::Corrupt(_))
        ));
    }

    #[test]
    fn a_store_that_was_not_finished_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join(STORE_FOLDER_NEW);
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("0.jnl"), b"half").unwrap();
        drop(open_store(folder.path()).unwrap());
        assert!(!new.exists());
        drop(open_store(folder.path()).unwrap());
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, b"a file").unwrap();
        let refused = lock(&path).unwrap_err();
        assert!(matches!(refused, LogError::Rejected(_)), "{refused:?}");
    }
}
