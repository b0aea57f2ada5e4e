//! One connection to the database file: read-only, hardened, and watched while it runs a sub-query.
//!
//! INVARIANT: nothing that a sub-query says can write, open another file, change a setting, or see more than tables and
//! views of `main`. Four things stand for it: the file is opened read-only, `query_only` is on, the authorizer refuses
//! everything but reading, and a statement that is not one `SELECT` is not run.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use greylag_protocol::{ErrorCode, MeshError, Result};
use rusqlite::{
    Connection, OpenFlags, Statement,
    config::DbConfig,
    hooks::{AuthAction, AuthContext, Authorization},
};

use super::{
    fault::fault,
    stop::{Stop, held},
};

/// How long a statement waits for a writer's lock before the source counts as busy.
const BUSY_WAIT: Duration = Duration::from_millis(500);
/// Page cache of one connection, KiB.
const CACHE_KIB: u32 = 8 << 10;
/// Instructions of SQLite's machine between two looks at the wish to stop: some tens of microseconds.
const PROGRESS_OPS: i32 = 4096;
/// Functions that do more than compute.
const REFUSED_FUNCTIONS: [&str; 3] = ["load_extension", "fts3_tokenizer", "sqlite_log"];

/// A column that a statement reads: table and column as the schema writes them.
pub(super) type Read = (String, String);

/// Which file a path named when it was opened: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity(u64, u64);

impl FileIdentity {
    /// GL3002 if there is no such file.
    pub(super) fn of(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        match std::fs::metadata(path) {
            Ok(facts) if facts.is_file() => Ok(Self(facts.dev(), facts.ino())),
            Ok(_) => Err(unreachable_file(path, "is not a file")),
            Err(error) => Err(unreachable_file(path, &error.kind().to_string())),
        }
    }
}

fn unreachable_file(path: &Path, why: &str) -> MeshError {
    MeshError::new(ErrorCode::SourceUnreachable, format!("database file `{}`: {why}", path.display()))
}

/// What the connection's hooks look at.
#[derive(Default)]
struct Watched {
    /// Whether what is being prepared or run is a sub-query and not our own statement.
    foreign: AtomicBool,
    reads: Mutex<BTreeSet<Read>>,
    stop: Mutex<Option<Arc<Stop>>>,
}

/// A connection.
pub(super) struct Session {
    connection: Connection,
    watched: Arc<Watched>,
    identity: FileIdentity,
}

impl Session {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let identity = FileIdentity::of(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(fault)?;
        let session = Self { connection, watched: Arc::default(), identity };
        session.harden().map_err(fault)?;
        session.watch();
        Ok(session)
    }

    fn harden(&self) -> rusqlite::Result<()> {
        let c = &self.connection;
        c.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        c.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        // Otherwise a quoted name that is no column is silently taken for a text.
        c.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        c.busy_timeout(BUSY_WAIT)?;
        c.execute_batch(&format!(
            "PRAGMA query_only = ON; PRAGMA cell_size_check = ON; PRAGMA cache_size = -{CACHE_KIB}"
        ))
    }

    fn watch(&self) {
        let watched = self.watched.clone();
        self.connection.authorizer(Some(move |context: AuthContext<'_>| authorize(&watched, &context)));
        let watched = self.watched.clone();
        let halt = move || held(&watched.stop).as_ref().is_some_and(|stop| stop.wish().is_some());
        self.connection.progress_handler(PROGRESS_OPS, Some(halt));
    }

    /// For our own statements.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// From now on the statement that runs here stops when `stop` says so.
    pub(super) fn arm(&self, stop: &Arc<Stop>) {
        stop.attach(self.connection.get_interrupt_handle());
        *held(&self.watched.stop) = Some(stop.clone());
    }

    pub(super) fn disarm(&self) {
        self.guard(false);
        if let Some(stop) = held(&self.watched.stop).take() {
            stop.detach();
        }
    }

    /// Whether what runs now is a sub-query. SQLite may prepare it again while it runs, so this stays on as long.
    pub(super) fn guard(&self, foreign: bool) {
        self.watched.foreign.store(foreign, Ordering::Release);
    }

    /// Prepares a sub-query under guard, and tells which columns it reads. The guard stays on if it succeeds.
    pub(super) fn prepare(&self, sql: &str) -> Result<(Statement<'_>, BTreeSet<Read>)> {
        held(&self.watched.reads).clear();
        self.guard(true);
        let prepared = self.accepted(sql);
        if prepared.is_err() {
            self.guard(false);
        }
        Ok((prepared?, std::mem::take(&mut *held(&self.watched.reads))))
    }

    fn accepted(&self, sql: &str) -> Result<Statement<'_>> {
        let statement = self.connection.prepare(sql).map_err(fault)?;
        if !statement.readonly() || statement.is_explain() != 0 || statement.column_count() == 0 {
            return Err(MeshError::new(ErrorCode::ReadOnly, "a sub-query must be one `SELECT`"));
        }
        if statement.parameter_count() > 0 {
            return Err(MeshError::new(ErrorCode::SourceRefused, "a sub-query must not have parameters"));
        }
        Ok(statement)
    }
}

fn authorize(watched: &Watched, context: &AuthContext<'_>) -> Authorization {
    if !watched.foreign.load(Ordering::Acquire) {
        return Authorization::Allow;
    }
    match context.action {
        AuthAction::Select | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } => {
            let refused = REFUSED_FUNCTIONS.iter().any(|name| name.eq_ignore_ascii_case(function_name));
            if refused { Authorization::Deny } else { Authorization::Allow }
        }
        AuthAction::Read { table_name, column_name } => {
            let own = table_name.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case("sqlite_"));
            if own || context.database_name.is_some_and(|name| name != "main") {
                return Authorization::Deny;
            }
            held(&watched.reads).insert((table_name.to_owned(), column_name.to_owned()));
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}
