//! Looks at fjall's journals before fjall opens them. Called by `folder`.
//!
//! fjall 3.1 takes a journal's first unreadable place for its end, and refuses to open at all when a
//! batch is whole but for its checksum. Neither is right for a log that must not lose what it
//! acknowledged: damage in front of whole batches would drop them silently, and a power cut can leave
//! the last batch with its end on the disk and a page of its middle missing, which must not keep the
//! log from opening. Since every batch is synced before the next is written, only the last batch of
//! the last journal can be torn, and it was never acknowledged.
//!
//! Invariant: a journal is cut only behind its last whole batch, and only when no whole batch lies
//! behind the cut.
//!
//! A journal is a row of batches; a batch is a start (`1`, count u32, number u64), as many items
//! (`2`, type u8, compression u8, keyspace u64, key length u16, length u32, stored length u32, key,
//! value; or `4`, keyspace u64) and an end (`3`, XXH3 of the items u64, `FJL` `3`), all little-endian;
//! behind the last one there may be zeros.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::store::io_error;
use crate::limits;
use crate::log::LogError;

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";
const START_BYTES: usize = 1 + 4 + 8;
/// Larger items are not written: a record and what surrounds it.
const VALUE_BYTES_MAX: u64 = 2 * limits::RECORD_BYTES_MAX as u64;
/// Batches of one journal have numbers that lie closer together than this.
const NUMBER_DISTANCE_MAX: u64 = 1 << 32;

/// Checks all journals in fjall's folder, and cuts a torn batch off the last one.
///
/// # Errors
/// [`LogError::Corrupt`] when a journal is damaged in front of whole batches;
/// [`LogError::Unavailable`], [`LogError::Rejected`] when it cannot be read or cut.
pub(super) fn mend(store: &Path) -> Result<(), LogError> {
    let doing = |path: &Path| format!("checking {}", path.display());
    let journals = journals(store).map_err(|error| io_error(&doing(store), &error))?;
    for (index, path) in journals.iter().enumerate() {
        let found = inspect(path).map_err(|error| io_error(&doing(path), &error))?;
        let is_last = index + 1 == journals.len();
        match found {
            Found::Whole => {}
            Found::Torn {
                whole_bytes,
                lost_bytes,
            } if is_last => {
                tracing::warn!(
                    journal = %path.display(), lost_bytes,
                    "the last write was interrupted before it was acknowledged; it is cut off"
                );
                cut(path, whole_bytes).map_err(|error| io_error(&doing(path), &error))?;
            }
            Found::Torn { whole_bytes, .. } | Found::Damaged { whole_bytes } => {
                return Err(LogError::Corrupt(format!(
                    "{} cannot be read at byte {whole_bytes}, and there are records behind it: \
                     restore the folder from a backup",
                    path.display()
                )));
            }
        }
    }
    Ok(())
}

/// Journals, oldest first.
fn journals(store: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".jnl"))
            .and_then(|number| number.parse::<u64>().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// How a journal is.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Whole batches, and at most zeros behind them.
    Whole,
    /// Something that is no batch lies behind the whole ones, and nothing whole behind that.
    Torn { whole_bytes: u64, lost_bytes: u64 },
    /// There is a whole batch behind something that is none.
    Damaged { whole_bytes: u64 },
}

fn inspect(path: &Path) -> io::Result<Found> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut whole_bytes, mut last_number) = (0, 0);
    while let Some(batch) = read_batch(&mut file)? {
        whole_bytes += batch.bytes;
        last_number = batch.number;
    }
    file.seek(SeekFrom::Start(whole_bytes))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    let used = rest
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    rest.truncate(used);
    if rest.is_empty() {
        return Ok(Found::Whole);
    }
    if holds_batch(&rest, last_number)? {
        return Ok(Found::Damaged { whole_bytes });
    }
    Ok(Found::Torn {
        whole_bytes,
        lost_bytes: used as u64,
    })
}

/// Whether a whole batch newer than `last_number` starts anywhere in `bytes`.
fn holds_batch(bytes: &[u8], last_number: u64) -> io::Result<bool> {
    for (at, start) in bytes.windows(START_BYTES).enumerate() {
        if start[0] != TAG_START {
            continue;
        }
        // Most ones are no starts: look at the number before the checksum.
        let number = u64::from_le_bytes(start[5..].try_into().expect("8 of 13 bytes"));
        let is_near = number > last_number && number - last_number < NUMBER_DISTANCE_MAX;
        if is_near && read_batch(&mut &bytes[at..])?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn cut(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes)?;
    file.sync_all()
}

/// A whole batch.
struct Batch {
    bytes: u64,
    number: u64,
}

/// The next batch, or `None` where there is no whole one.
fn read_batch(input: &mut impl Read) -> io::Result<Option<Batch>> {
    match parse_batch(input) {
        Ok(batch) => Ok(batch),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_batch(input: &mut impl Read) -> io::Result<Option<Batch>> {
    let mut input = Counted { input, bytes: 0 };
    let [TAG_START] = input.take::<1>()? else {
        return Ok(None);
    };
    let count = u32::from_le_bytes(input.take()?);
    let number = u64::from_le_bytes(input.take()?);
    let mut hasher = Xxh3::new();
    let mut item = Vec::new();
    for _ in 0..count {
        item.clear();
        if !take_item(&mut input, &mut item)? {
            return Ok(None);
        }
        hasher.update(&item);
    }
    let [TAG_END] = input.take::<1>()? else {
        return Ok(None);
    };
    let checksum = u64::from_le_bytes(input.take()?);
    let is_whole = input.take()? == TRAILER && checksum == hasher.digest();
    Ok(is_whole.then_some(Batch {
        bytes: input.bytes,
        number,
    }))
}

/// Reads one item into `item`; false when it is none.
fn take_item(input: &mut Counted<'_, impl Read>, item: &mut Vec<u8>) -> io::Result<bool> {
    let tag = input.take::<1>()?;
    item.extend_from_slice(&tag);
    match tag[0] {
        TAG_CLEAR => item.extend_from_slice(&input.take::<8>()?),
        TAG_ITEM => {
            item.extend_from_slice(&input.take::<{ 1 + 1 + 8 }>()?);
            let key_bytes = input.take()?;
            item.extend_from_slice(&key_bytes);
            item.extend_from_slice(&input.take::<4>()?);
            let value_bytes = input.take()?;
            item.extend_from_slice(&value_bytes);
            let value_bytes = u64::from(u32::from_le_bytes(value_bytes));
            if value_bytes > VALUE_BYTES_MAX {
                return Ok(false);
            }
            input.append(u64::from(u16::from_le_bytes(key_bytes)) + value_bytes, item)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Counts what is read.
struct Counted<'a, R> {
    input: &'a mut R,
    bytes: u64,
}

impl<R: Read> Counted<'_, R> {
    fn take<const BYTES: usize>(&mut self) -> io::Result<[u8; BYTES]> {
        let mut taken = [0; BYTES];
        self.input.read_exact(&mut taken)?;
        self.bytes += BYTES as u64;
        Ok(taken)
    }

    fn append(&mut self, bytes: u64, into: &mut Vec<u8>) -> io::Result<()> {
        let read = self.input.by_ref().take(bytes).read_to_end(into)?;
        self.bytes += read as u64;
        if read as u64 == bytes {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};
    use tempfile::TempDir;

    use super::*;

    const BATCHES: u8 = 5;

    /// A store whose journal holds some batches, each of three pages, and how many bytes each took.
    fn store() -> (TempDir, PathBuf, u64) {
        let folder = TempDir::new().unwrap();
        let store = folder.path().join("store");
        let database = Database::builder(&store).open().unwrap();
        let keyspace = database
            .keyspace("k", KeyspaceCreateOptions::default)
            .unwrap();
        for index in 0..BATCHES {
            let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(&keyspace, [index, 0], [index + 1; 6_000]);
            batch.insert(&keyspace, [index, 1], [index + 1; 6_000]);
            batch.remove(&keyspace, [index, 2]);
            batch.commit().unwrap();
        }
        drop((keyspace, database));
        let journal = journals(&store).unwrap().pop().unwrap();
        let used = fs::read(&journal)
            .unwrap()
            .iter()
            .rposition(|byte| *byte != 0)
            .unwrap()
            + 1;
        assert_eq!(
            used % usize::from(BATCHES),
            0,
            "all batches have the same size"
        );
        (folder, journal, used as u64 / u64::from(BATCHES))
    }

    fn change(journal: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(journal).unwrap();
        change(&mut bytes);
        fs::write(journal, bytes).unwrap();
    }

    fn keys(journal: &Path) -> usize {
        let database = Database::builder(journal.parent().unwrap()).open().unwrap();
        let keyspace = database
            .keyspace("k", KeyspaceCreateOptions::default)
            .unwrap();
        keyspace.len().unwrap()
    }

    #[test]
    fn a_whole_journal_stays_as_it_is() {
        let (_folder, journal, _) = store();
        let before = fs::read(&journal).unwrap();
        assert_eq!(inspect(&journal).unwrap(), Found::Whole);
        mend(journal.parent().unwrap()).unwrap();
        assert_eq!(fs::read(&journal).unwrap(), before);
        assert_eq!(keys(&journal), 2 * usize::from(BATCHES));
    }

    #[test]
    fn a_last_batch_that_lacks_a_page_is_cut_off() {
        let (_folder, journal, batch_bytes) = store();
        let last = batch_bytes as usize * usize::from(BATCHES - 1);
        change(&journal, |bytes| bytes[last + 4_096..last + 8_192].fill(0));
        mend(journal.parent().unwrap()).unwrap();
        assert_eq!(fs::metadata(&journal).unwrap().len(), last as u64);
        assert_eq!(keys(&journal), 2 * usize::from(BATCHES - 1));
    }

    #[test]
    fn a_last_batch_that_ends_anywhere_is_cut_off() {
        let (_folder, journal, batch_bytes) = store();
        let whole = batch_bytes * u64::from(BATCHES - 1);
        let full = fs::read(&journal).unwrap();
        for bytes in (1..batch_bytes).step_by(501) {
            fs::write(&journal, &full[..(whole + bytes) as usize]).unwrap();
            mend(journal.parent().unwrap()).unwrap();
            assert_eq!(
                fs::metadata(&journal).unwrap().len(),
                whole,
                "{bytes} bytes of it"
            );
        }
        assert_eq!(keys(&journal), 2 * usize::from(BATCHES - 1));
    }

    #[test]
    fn damage_in_front_of_whole_batches_is_refused_and_nothing_is_cut() {
        let (_folder, journal, batch_bytes) = store();
        let full = fs::read(&journal).unwrap();
        let second = batch_bytes as usize;
        // In a value, in the start, in a length, in the count.
        for at in [
            second + 2_000,
            second,
            second + START_BYTES + 12,
            second + 1,
        ] {
            let mut damaged = full.clone();
            damaged[at] ^= 0x55;
            fs::write(&journal, &damaged).unwrap();
            let refused = mend(journal.parent().unwrap()).unwrap_err();
            assert!(matches!(refused, LogError::Corrupt(_)), "{refused:?}");
            assert!(
                refused.to_string().contains(&format!("at byte {second}")),
                "{refused}"
            );
            assert_eq!(fs::read(&journal).unwrap(), damaged);
        }
    }

    #[test]
    fn only_the_last_journal_may_be_torn() {
        let (_folder, journal, batch_bytes) = store();
        let later = journal.with_file_name("7.jnl");
        fs::copy(&journal, &later).unwrap();
        change(&journal, |bytes| bytes.truncate(batch_bytes as usize + 100));
        let refused = mend(journal.parent().unwrap()).unwrap_err();
        assert!(
            refused.to_string().contains(&journal.display().to_string()),
            "{refused}"
        );
        fs::remove_file(&later).unwrap();
        mend(journal.parent().unwrap()).unwrap();
    }
}
