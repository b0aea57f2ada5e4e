//! Where a chain's files are. Calls block: a node makes them where blocking work goes.
//!
//! It knows nothing of records. What is durable when is said call by call; [`super::AuditLog`] relies on nothing else.

use std::{
    fmt::Debug,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Files of a folder, to be read.
pub trait AuditFiles: Debug + Send {
    /// Names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    fn bytes(&self, name: &str) -> io::Result<u64>;
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>>;
}

/// A folder that one log writes.
pub trait AuditStorage: AuditFiles {
    /// Makes an empty file, that is there after a power cut.
    fn create(&mut self, name: &str) -> io::Result<()>;
    /// Adds at the end. After an error any part of it may be there.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// On return everything appended is durable. After an error nothing is known of what was not yet.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Cuts a file to this length, durable on return.
    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()>;
    /// Removes a file, for good on return.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A folder on a disk. Its files are for the owner alone.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The file that was appended to last.
    open: Option<(String, File)>,
}

impl Folder {
    /// A folder to read from.
    pub fn at(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// A folder to write to: made if missing, mode 0700.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
        Ok(Self::at(path))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn appending(&mut self, name: &str) -> io::Result<&mut File> {
        if self.open.as_ref().is_none_or(|(open, _)| open != name) {
            let file = OpenOptions::new().append(true).open(self.path.join(name))?;
            self.open = Some((name.to_owned(), file));
        }
        self.open.as_mut().map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl AuditFiles for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn bytes(&self, name: &str) -> io::Result<u64> {
        Ok(std::fs::metadata(self.path.join(name))?.len())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }
}

impl AuditStorage for Folder {
    fn create(&mut self, name: &str) -> io::Result<()> {
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(self.path.join(name))?;
        sync_folder(&self.path)?;
        self.open = Some((name.to_owned(), file));
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.appending(name)?.write_all(bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.appending(name)?.sync_data()
    }

    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.set_len(bytes)?;
        file.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open = None;
        std::fs::remove_file(self.path.join(name))?;
        sync_folder(&self.path)
    }
}
