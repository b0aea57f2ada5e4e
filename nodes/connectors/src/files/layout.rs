//! Which files there are, and which table each belongs to.
//!
//! | `path` | tables |
//! |---|---|
//! | a file | one, named after it without its extension |
//! | a folder | one for each file in it, named likewise, and one for each sub-folder, of all files below it |
//! | a pattern (`*`, `?`, `[`, `**`) | the same, counted from its last folder without such a mark |
//!
//! With the option `table` all files are one table of that name. Names that begin with `.` or `_` are passed over, and
//! with `format` = `auto` so are extensions that are not known. A link to a file is followed if that lies inside the
//! folder too; a link to a folder is not, since files might then come twice.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use glob::MatchOptions;
use greylag_protocol::{ErrorCode, MeshError, Result};

use super::Settings;

/// Files of one source.
const FILES_MAX: usize = 10_000;
/// Folders within folders.
const DEPTH_MAX: usize = 16;

/// How rows are written in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    Parquet,
    Csv,
    Ndjson,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }

    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "parquet" | "parq" => Some(Self::Parquet),
            "csv" => Some(Self::Csv),
            "ndjson" | "jsonl" | "json" => Some(Self::Ndjson),
            _ => None,
        }
    }
}

/// One file, as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileFacts {
    /// Without links.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
    /// Device and inode: another file put in its place is another file.
    identity: (u64, u64),
}

impl FileFacts {
    /// GL3002 if it is not there.
    pub(super) fn of(path: PathBuf) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let facts = fs::metadata(&path).map_err(|error| unreachable(&path, &error))?;
        let modified = facts.modified().map_err(|error| unreachable(&path, &error))?;
        Ok(Self { bytes: facts.len(), modified, identity: (facts.dev(), facts.ino()), path })
    }

    /// Whether it is still what it was; GL3002 if it is gone.
    pub(super) fn is_unchanged(&self) -> Result<bool> {
        Ok(Self::of(self.path.clone())? == *self)
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// The files of one table, in the order in which they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableFiles {
    pub(super) format: Format,
    pub(super) files: Vec<FileFacts>,
    /// One file that gave the table its name: no other may join it.
    alone: bool,
}

/// Looks at everything anew. Blocks.
pub(super) fn discover(settings: &Settings) -> Result<BTreeMap<String, TableFiles>> {
    let mut found = Found { settings, root: PathBuf::new(), tables: BTreeMap::new(), count: 0 };
    match root_of(&settings.path)? {
        Root::File(path) => {
            found.root = canonical(path.parent().unwrap_or(Path::new("/")))?;
            let name = stem(&path)?;
            found.add(&name, &path, true)?;
        }
        Root::Folder(path) => {
            found.root = canonical(&path)?;
            for path in entries(&path)? {
                if path.is_dir() {
                    found.refuse_link(&path)?;
                    found.folder(&file_name(&path)?, &path, 1)?;
                } else {
                    found.add(&stem(&path)?, &path, true)?;
                }
            }
        }
        Root::Pattern { root, pattern } => {
            found.root = canonical(&root)?;
            found.matches(&root, &pattern)?;
        }
    }
    Ok(found.tables)
}

enum Root {
    File(PathBuf),
    Folder(PathBuf),
    Pattern { root: PathBuf, pattern: String },
}

/// Whether the source is there at all: GL3002 if not. Blocks.
pub(super) fn reach(path: &str) -> Result<()> {
    root_of(path).map(|_| ())
}

fn root_of(path: &str) -> Result<Root> {
    let plain = PathBuf::from(path);
    match fs::metadata(&plain) {
        Ok(facts) if facts.is_dir() => return Ok(Root::Folder(plain)),
        Ok(_) => return Ok(Root::File(plain)),
        // A name with these marks in it may well exist; only if it does not is it a pattern.
        Err(error) if !is_pattern(path) => return Err(unreachable(&plain, &error)),
        Err(_) => {}
    }
    let root: PathBuf =
        plain.components().take_while(|part| !is_pattern(&part.as_os_str().to_string_lossy())).collect();
    fs::metadata(&root).map_err(|error| unreachable(&root, &error))?;
    Ok(Root::Pattern { root, pattern: path.to_owned() })
}

pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

struct Found<'a> {
    settings: &'a Settings,
    /// Without links.
    root: PathBuf,
    tables: BTreeMap<String, TableFiles>,
    count: usize,
}

impl Found<'_> {
    fn matches(&mut self, root: &Path, pattern: &str) -> Result<()> {
        let options =
            MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
        let paths = glob::glob_with(pattern, options)
            .map_err(|error| MeshError::new(ErrorCode::InvalidResource, format!("option `path`: {error}")))?;
        let mut paths = paths
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| unreachable(error.path(), error.error()))?;
        paths.sort();
        for path in paths.iter().filter(|path| !path.is_dir()) {
            let below = path.strip_prefix(root).unwrap_or(path);
            let mut parts = below.components();
            let first = parts.next().map(|part| PathBuf::from(part.as_os_str())).unwrap_or_default();
            let alone = parts.next().is_none();
            let name = if alone { stem(&first)? } else { file_name(&first)? };
            if !below.components().any(|part| is_hidden(&part.as_os_str().to_string_lossy())) {
                self.add(&name, path, alone)?;
            }
        }
        Ok(())
    }

    /// All files below a folder, as one table.
    fn folder(&mut self, table: &str, folder: &Path, depth: usize) -> Result<()> {
        let name = file_name(folder)?;
        if depth > DEPTH_MAX {
            return Err(refused(format!("folder `{}` is more than {DEPTH_MAX} folders deep", folder.display())));
        }
        if depth > 1 && name.contains('=') {
            return Err(refused(format!(
                "folder `{}` looks like a Hive partition; its column would be lost, so it is not read",
                folder.display()
            )));
        }
        for path in entries(folder)? {
            if path.is_dir() {
                self.refuse_link(&path)?;
                self.folder(table, &path, depth + 1)?;
            } else {
                self.add(table, &path, false)?;
            }
        }
        Ok(())
    }

    fn refuse_link(&self, path: &Path) -> Result<()> {
        if path.is_symlink() {
            return Err(refused(format!(
                "folder `{}` is a link, and links to folders are not followed",
                path.display()
            )));
        }
        Ok(())
    }

    fn add(&mut self, table: &str, path: &Path, alone: bool) -> Result<()> {
        let Some(format) = self.settings.format.or_else(|| Format::of(path)) else { return Ok(()) };
        let real = canonical(path)?;
        if !real.starts_with(&self.root) {
            return Err(refused(format!("file `{}` is a link that leads out of the folder", path.display())));
        }
        self.count += 1;
        if self.count > FILES_MAX {
            return Err(refused(format!("there are more than {FILES_MAX} files")));
        }
        let facts = FileFacts::of(real)?;
        let (table, alone) = self.settings.table.as_deref().map_or((table, alone), |name| (name, false));
        match self.tables.get_mut(table) {
            None => {
                self.tables.insert(table.to_owned(), TableFiles { format, files: vec![facts], alone });
                Ok(())
            }
            Some(known) if alone || known.alone => Err(refused(format!(
                "both `{}` and `{}` would be the table `{table}`",
                known.files[0].name(),
                facts.name()
            ))),
            Some(known) if known.format != format => Err(refused(format!(
                "table `{table}` would be of files in two formats, `{}` and `{}`",
                known.format.name(),
                format.name()
            ))),
            Some(known) => {
                known.files.push(facts);
                Ok(())
            }
        }
    }
}

/// Names in a folder, sorted, without hidden ones.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).map_err(|error| unreachable(folder, &error))?;
    let mut paths = Vec::new();
    for entry in read {
        let entry = entry.map_err(|error| unreachable(folder, &error))?;
        if !is_hidden(&entry.file_name().to_string_lossy()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

fn stem(path: &Path) -> Result<String> {
    text(path.file_stem(), path)
}

fn file_name(path: &Path) -> Result<String> {
    text(path.file_name(), path)
}

fn text(name: Option<&std::ffi::OsStr>, path: &Path) -> Result<String> {
    name.and_then(|name| name.to_str())
        .map(str::to_owned)
        .ok_or_else(|| refused(format!("the name of `{}` is not valid UTF-8", path.display())))
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|error| unreachable(path, &error))
}

/// A file that is not there or cannot be read may be so later, or elsewhere.
pub(super) fn unreachable(path: &Path, error: &io::Error) -> MeshError {
    MeshError::new(ErrorCode::SourceUnreachable, format!("`{}`: {}", path.display(), error.kind()))
}

pub(super) fn refused(message: impl Into<String>) -> MeshError {
    MeshError::new(ErrorCode::SourceRefused, message)
}
