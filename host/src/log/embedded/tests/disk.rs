//! A disk that is full or cannot be written: a small tmpfs, where this machine lets one be mounted.

use std::process::Command;

use super::*;

/// A small file system of its own; `None` where this user may not mount one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            Some(Self(folder))
        } else {
            eprintln!("skipped: this user may not mount a tmpfs");
            None
        }
    }

    fn remount(&self, options: &str) {
        let remounted = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(self.0.path())
            .status();
        assert!(remounted.unwrap().success());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what is still open goes when it is closed.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_stops_the_log_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::mount("4m") else {
        return;
    };
    let log = open(disk.path());
    create(&log, "t", 1, Cleanup::Default).await.unwrap();
    let value = "x".repeat(100_000);
    let mut acknowledged = 0;
    let failed = loop {
        match log.append(&name("t"), vec![record("k", &value)]).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100, "the disk holds 4 MiB");
    };
    assert!(matches!(failed, LogError::OutcomeUnknown(_)), "{failed:?}");
    assert!(failed.to_string().contains("free space"), "{failed}");
    // From now on everything is refused, and what was acknowledged can be read.
    let refused = log
        .append(&name("t"), vec![record("k", "v")])
        .await
        .unwrap_err();
    assert!(matches!(refused, LogError::Unavailable(_)), "{refused:?}");
    assert!(
        refused
            .to_string()
            .contains("until the host is started again"),
        "{refused}"
    );
    assert!(matches!(log.check().await, Err(LogError::Unavailable(_))));
    assert!(log.transactional("id").await.is_err());
    assert_eq!(
        log.range(&place("t", 0)).await.unwrap().end,
        Offset(acknowledged)
    );
    assert_eq!(
        read_all(&log, &place("t", 0), 0).await.len() as u64,
        acknowledged
    );
    drop(log);

    disk.remount("size=64m");
    let mut log = Err(LogError::Unavailable(String::new()));
    eventually(|| {
        log = try_open(disk.path());
        log.is_ok()
    })
    .await;
    let log = log.unwrap();
    let read = read_all(&log, &place("t", 0), 0).await;
    assert!(
        read.len() as u64 >= acknowledged,
        "{} of {acknowledged}",
        read.len()
    );
    log.append(&name("t"), vec![record("k", "v")])
        .await
        .unwrap();
    drop(log);
}

#[tokio::test]
async fn a_disk_that_is_full_or_read_only_from_the_start_is_an_error_that_says_so() {
    let Some(disk) = SmallDisk::mount("4m") else {
        return;
    };
    disk.remount("ro");
    let refused = try_open(&disk.path().join("data")).unwrap_err();
    assert!(matches!(refused, LogError::Rejected(_)), "{refused:?}");
    assert!(refused.to_string().contains("data folder"), "{refused}");
    disk.remount("rw,size=4k");
    let refused = try_open(&disk.path().join("data")).unwrap_err();
    assert!(matches!(refused, LogError::Unavailable(_)), "{refused:?}");
    assert!(refused.to_string().contains("free space"), "{refused}");
}
