//! The data directory on a real disk.
//!
//! INVARIANT: a small file is either the old or the new content, whole, whatever moment the power fails at: it is
//! written beside its place, synced, renamed, and the directory is synced.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use redb::{StorageBackend, backends::FileBackend};

use super::Disk;

/// Held while a process uses the directory.
const LOCK_FILE: &str = "lock";
/// Written now and then to see how the disk does.
const TRIED_FILE: &str = "tried";
const TRIED_BYTES: usize = 4096;
/// Largest small file, bytes.
const SMALL_FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// One writer at a time, so that two writes of one name cannot share a temporary file.
    writing: Mutex<()>,
    /// The lock goes with the handle.
    _lock: File,
}

impl DataDir {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let lock =
            OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, writing: Mutex::new(()), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("the data directory `{}` is in use by another process", path.display()),
            )),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Names are constants of this program, never input: still, none may leave the directory.
    fn place(&self, name: &str) -> io::Result<PathBuf> {
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']);
        if plain { Ok(self.path.join(name)) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Disk for DataDir {
    fn database(&self, name: &str) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(self.place(name)?)?;
        sync_directory(&self.path)?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.place(name)?) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = Vec::new();
        file.take(SMALL_FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > SMALL_FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Some(content))
    }

    fn write(&self, name: &str, content: &[u8], secret: bool) -> io::Result<()> {
        let place = self.place(name)?;
        let beside = self.place(&format!("{name}.new"))?;
        let _one = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A left-over of a crash may have another mode: a fresh file has the one asked for.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mode = if secret { 0o600 } else { 0o644 };
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, &place)?;
        sync_directory(&self.path)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(self.path.join(TRIED_FILE))?;
        file.write_all(&[0; TRIED_BYTES])?;
        file.sync_data()?;
        let space = rustix::fs::statvfs(&self.path)?;
        Ok(Some(space.f_bavail.saturating_mul(space.f_frsize)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_is_private_locked_and_keeps_what_is_written() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let disk = DataDir::open(path.clone()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(DataDir::open(path.clone()).unwrap_err().kind(), io::ErrorKind::ResourceBusy);

        assert_eq!(disk.read("key").unwrap(), None);
        disk.write("key", b"one", true).unwrap();
        disk.write("key", b"two", true).unwrap();
        assert_eq!(disk.read("key").unwrap().unwrap(), b"two");
        assert_eq!(std::fs::metadata(path.join("key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!path.join("key.new").exists());

        drop(disk);
        assert_eq!(DataDir::open(path).unwrap().read("key").unwrap().unwrap(), b"two");
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let disk = DataDir::open(root.path().to_owned()).unwrap();
        for name in ["../x", "/etc/passwd", "", ".", "..", "a/b"] {
            assert!(disk.write(name, b"x", false).is_err(), "{name}");
            assert!(disk.read(name).is_err(), "{name}");
        }
    }
}
