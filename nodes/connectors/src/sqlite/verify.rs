//! The check behind the option `verify`: no sub-query uses SQLite's order of a column unless every value stored in that
//! column has been seen to fit its type, in the very state of the file that the sub-query reads.
//!
//! A column is checked by reading it through once. The result holds until the file changes, which SQLite tells by
//! `PRAGMA data_version`, comparable within one connection only. So one connection, the watch, keeps the version, and a
//! sub-query's snapshot is tied to it: if the watch sees the same version before the snapshot is taken and after, the
//! snapshot is that version. Otherwise the columns are checked within the snapshot itself, and nothing is remembered.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
};

use arrow::datatypes::{DataType, Field};
use greylag_protocol::Result;

use super::{
    Settings,
    estimate::quoted,
    fault::fault,
    schema::{SCHEMA, promised},
    session::{FileIdentity, Read, Session},
    stop::held,
    value::Column,
};

/// Rows between two clearings of what the check has built.
const CHECKED_ROWS: usize = 8192;

/// One state of the file. Equal versions mean equal content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    identity: FileIdentity,
    /// Counts the connections that the watch has used.
    watch: u64,
    data: i64,
}

/// What is known about the latest state of the file.
struct Known {
    version: Version,
    session: Session,
    promised: Arc<BTreeMap<Read, DataType>>,
    checked: BTreeSet<Read>,
}

#[derive(Default)]
pub(super) struct Verifier {
    known: Mutex<(u64, Option<Known>)>,
}

impl Verifier {
    /// The file's version now. Blocks.
    pub(super) fn version(&self, path: &Path, settings: &Settings) -> Result<Version> {
        let mut state = held(&self.known);
        let (watches, known) = &mut *state;
        let identity = FileIdentity::of(path)?;
        if let Some(known) = known.as_mut().filter(|known| known.version.identity == identity) {
            let data = data_version(&known.session)?;
            if data != known.version.data {
                known.promised = Arc::new(promised(&known.session, settings)?);
                known.checked.clear();
                known.version.data = data;
            }
            return Ok(known.version);
        }
        let session = Session::open(path)?;
        *watches += 1;
        let version = Version { identity: session.identity(), watch: *watches, data: data_version(&session)? };
        let promised = Arc::new(promised(&session, settings)?);
        *known = Some(Known { version, session, promised, checked: BTreeSet::new() });
        Ok(version)
    }

    /// Sees to it that every column in `reads` that needs it is checked in the snapshot that `session` has open, which
    /// was taken after the file had version `before`. GL3011 naming the first column that holds a value that does not
    /// fit. Blocks, and stops when the session is told to.
    pub(super) fn ensure(
        &self,
        session: &Session,
        settings: &Settings,
        path: &Path,
        before: Version,
        reads: &BTreeSet<Read>,
    ) -> Result<()> {
        let same = self.version(path, settings)? == before && session.identity() == before.identity;
        let (promised, checked) = match self.remembered(before).filter(|_| same) {
            Some(remembered) => remembered,
            None => (Arc::new(promised(session, settings)?), BTreeSet::new()),
        };
        for (table, columns) in pending(&promised, &checked, reads) {
            check(session, table, &columns)?;
            if same {
                self.remember(before, table, &columns);
            }
        }
        Ok(())
    }

    /// Columns checked in the latest version, as `table.column`.
    #[cfg(test)]
    pub(super) fn checked(&self) -> Vec<String> {
        let state = held(&self.known);
        let checked = state.1.iter().flat_map(|known| &known.checked);
        checked.map(|(table, column)| format!("{table}.{column}")).collect()
    }

    #[expect(clippy::type_complexity, reason = "a pair, taken apart at once")]
    fn remembered(&self, version: Version) -> Option<(Arc<BTreeMap<Read, DataType>>, BTreeSet<Read>)> {
        let state = held(&self.known);
        let known = state.1.as_ref().filter(|known| known.version == version)?;
        Some((known.promised.clone(), known.checked.clone()))
    }

    fn remember(&self, version: Version, table: &str, columns: &[(&str, &DataType)]) {
        let mut state = held(&self.known);
        if let Some(known) = state.1.as_mut().filter(|known| known.version == version) {
            known.checked.extend(columns.iter().map(|(column, _)| (table.to_owned(), (*column).to_owned())));
        }
    }
}

/// By table, the columns among `reads` that are promised and not yet checked.
fn pending<'a>(
    promised: &'a BTreeMap<Read, DataType>,
    checked: &BTreeSet<Read>,
    reads: &BTreeSet<Read>,
) -> BTreeMap<&'a str, Vec<(&'a str, &'a DataType)>> {
    let mut pending: BTreeMap<&str, Vec<(&str, &DataType)>> = BTreeMap::new();
    for (read, data_type) in promised {
        if reads.contains(read) && !checked.contains(read) {
            pending.entry(&read.0).or_default().push((&read.1, data_type));
        }
    }
    pending
}

/// Reads columns of a table through. Values are converted exactly as they are when they are delivered.
fn check(session: &Session, table: &str, columns: &[(&str, &DataType)]) -> Result<()> {
    let mut checks = Vec::with_capacity(columns.len());
    let mut names = Vec::with_capacity(columns.len());
    for (name, data_type) in columns {
        // A NULL betrays no order, so it is let through here whatever the column says.
        checks.push(Column::new(&Field::new(*name, (*data_type).clone(), true))?);
        names.push(quoted(name));
    }
    let sql = format!("SELECT {} FROM {SCHEMA}.{}", names.join(", "), quoted(table));
    let mut statement = session.connection().prepare(&sql).map_err(fault)?;
    let mut rows = statement.raw_query();
    let mut built = 0;
    while let Some(row) = rows.next().map_err(fault)? {
        for (at, check) in checks.iter_mut().enumerate() {
            check.append_in_order(row.get_ref(at).map_err(fault)?)?;
        }
        built += 1;
        if built % CHECKED_ROWS == 0 {
            checks.iter_mut().for_each(Column::clear);
        }
    }
    Ok(())
}

fn data_version(session: &Session) -> Result<i64> {
    session.connection().query_row("PRAGMA data_version", [], |row| row.get(0)).map_err(fault)
}
