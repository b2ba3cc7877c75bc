//! Files that a process which died in the middle of writing an object has left in a local folder. The
//! object store writes under another name first and never lists these files. Used by `slate`.
//!
//! Invariant: only what no reader can see is removed. Whoever still writes such a file under a store
//! that is just being opened, or deleted, has lost that store anyway.

use std::io;
use std::path::Path;

/// Mark of a name under which something is being written, before its number.
const STAGED: char = '#';

/// Removes what was being written below `folder`; nothing happens where there is none.
pub(super) fn remove_staged(folder: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_staged(&entry.path())?;
        } else if is_staged(&entry.file_name().to_string_lossy()) {
            present(std::fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

/// Removes a folder whose objects were deleted, with all that was never one.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    present(std::fs::remove_dir_all(folder))
}

fn is_staged(name: &str) -> bool {
    let number = name.rsplit_once(STAGED).map(|(_, number)| number);
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Somebody else was faster: that is as good.
fn present(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_being_written_goes_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("compacted");
        std::fs::create_dir(&inner).unwrap();
        for name in ["a.sst", "a.sst#1", "b.sst#12", "c#d"] {
            std::fs::write(inner.join(name), b"x").unwrap();
        }
        remove_staged(folder.path()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(&inner)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["a.sst", "c#d"]);
        remove_folder(folder.path()).unwrap();
        remove_folder(folder.path()).unwrap();
        remove_staged(folder.path()).unwrap();
    }
}
