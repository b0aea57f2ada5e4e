//! Room on the data directory's disk for rows that wait. A scratch file has no name, so nothing of it is left behind,
//! whatever ends the process.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::PathBuf,
};

use super::{Scratch, ScratchFile};

/// Folder within the data directory.
pub(super) const FOLDER: &str = "scratch";

#[derive(Debug)]
pub(super) struct ScratchDir(pub(super) PathBuf);

impl Scratch for ScratchDir {
    fn file(&self) -> io::Result<Box<dyn ScratchFile>> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        Ok(Box::new(Unnamed(tempfile::tempfile_in(&self.0)?)))
    }
}

#[derive(Debug)]
struct Unnamed(File);

impl ScratchFile for Unnamed {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }
}

/// Scratch files in memory: for simulation and tests.
#[derive(Debug)]
pub struct MemoryScratch;

impl Scratch for MemoryScratch {
    fn file(&self) -> io::Result<Box<dyn ScratchFile>> {
        Ok(Box::new(InMemory(Vec::new())))
    }
}

#[derive(Debug)]
struct InMemory(Vec<u8>);

impl ScratchFile for InMemory {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = from.checked_add(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        self.0.resize(end.max(self.0.len()), 0);
        self.0[from..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.0.get(from..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_written_is_read_and_no_name_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let kinds: [&dyn Scratch; 2] = [&ScratchDir(dir.path().join(FOLDER)), &MemoryScratch];
        for kind in kinds {
            let mut file = kind.file().unwrap();
            file.write_at(0, b"grey").unwrap();
            file.write_at(4, b"lag").unwrap();
            let mut read = [0; 5];
            file.read_at(2, &mut read).unwrap();
            assert_eq!(&read, b"eylag", "{kind:?}");
            assert!(file.read_at(3, &mut read).is_err(), "past the end of {kind:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 0);
    }
}
