//! Questions about the catalog. What there is in the mesh is asked of the mesh, in SQL, by the caller's own session,
//! so that policy sees it like any other statement; what the door knows about itself comes from `info`.

use std::sync::Arc;

use arrow::{
    array::{AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Schema, SchemaRef},
};
use arrow_flight::sql::{
    Command, CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo,
};
use futures::{StreamExt, TryStreamExt};
use greylag_protocol::{
    ErrorClass, ErrorCode, MeshError, Result,
    statement::{Session, StatementService},
};

use super::{info, keys, types::client_schema};

/// Most rows of the catalog that one answer lists.
pub const LISTED_MAX: usize = 100_000;
/// Tables described at the same time, for a listing with schemas.
const DESCRIBED_AT_ONCE: usize = 8;
/// What clients call `table` in `system.tables`.
const TABLE: &str = "TABLE";

/// A question about the catalog, as clients ask it.
#[derive(Debug, Clone)]
pub(super) enum Question {
    Catalogs(CommandGetCatalogs),
    Schemas(CommandGetDbSchemas),
    Tables(CommandGetTables),
    TableTypes,
    SqlInfo(CommandGetSqlInfo),
    TypeInfo(CommandGetXdbcTypeInfo),
    PrimaryKeys(CommandGetPrimaryKeys),
    /// Exported keys, imported keys, cross references.
    ForeignKeys,
}

macro_rules! asked_by {
    ($($command:ident => |$c:pat_param| $question:expr;)*) => {
        $(impl From<$command> for Question {
            fn from($c: $command) -> Self { $question }
        })*

        impl Question {
            /// The question that a command asks, if it is one.
            pub(super) fn of(command: Command) -> Option<Self> {
                Some(match command {
                    $(Command::$command(command) => command.into(),)*
                    _ => return None,
                })
            }
        }
    };
}

asked_by! {
    CommandGetCatalogs => |c| Self::Catalogs(c);
    CommandGetDbSchemas => |c| Self::Schemas(c);
    CommandGetTables => |c| Self::Tables(c);
    CommandGetTableTypes => |_| Self::TableTypes;
    CommandGetSqlInfo => |c| Self::SqlInfo(c);
    CommandGetXdbcTypeInfo => |c| Self::TypeInfo(c);
    CommandGetPrimaryKeys => |c| Self::PrimaryKeys(c);
    CommandGetExportedKeys => |_| Self::ForeignKeys;
    CommandGetImportedKeys => |_| Self::ForeignKeys;
    CommandGetCrossReference => |_| Self::ForeignKeys;
}

impl Question {
    /// Schema of the answer.
    pub(super) fn schema(&self) -> SchemaRef {
        match self {
            Self::Catalogs(command) => command.into_builder().schema(),
            Self::Schemas(command) => command.clone().into_builder().schema(),
            Self::Tables(command) => command.clone().into_builder().schema(),
            Self::TableTypes => CommandGetTableTypes {}.into_builder().schema(),
            Self::SqlInfo(_) => info::sql_info_schema(),
            Self::TypeInfo(_) => info::type_info_schema(),
            Self::PrimaryKeys(_) => keys::primary_key_schema(),
            Self::ForeignKeys => keys::foreign_key_schema(),
        }
    }
}

/// The answer, in one batch.
pub(super) async fn answer(
    service: &dyn StatementService,
    session: &Session,
    question: Question,
) -> Result<RecordBatch> {
    match question {
        Question::Catalogs(command) => {
            let mut catalogs = command.into_builder();
            let sql = "SELECT DISTINCT source FROM greylag.system.tables ORDER BY source";
            for [source] in list(service, session, sql).await? {
                catalogs.append(source);
            }
            catalogs.build().map_err(cannot_build)
        }
        Question::Schemas(command) => {
            let mut schemas = command.into_builder();
            let sql = "SELECT DISTINCT source, schema FROM greylag.system.tables WHERE error IS NULL \
                       ORDER BY source, schema";
            for [source, schema] in list(service, session, sql).await? {
                schemas.append(source, schema);
            }
            schemas.build().map_err(cannot_build)
        }
        Question::Tables(command) => tables(service, session, command).await,
        Question::TableTypes => {
            let mut types = CommandGetTableTypes {}.into_builder();
            types.append(TABLE);
            types.build().map_err(cannot_build)
        }
        Question::SqlInfo(command) => info::sql_info(command),
        Question::TypeInfo(command) => info::type_info(command),
        Question::PrimaryKeys(command) => keys::primary_keys(service, session, &command).await,
        Question::ForeignKeys => Ok(RecordBatch::new_empty(keys::foreign_key_schema())),
    }
}

async fn tables(service: &dyn StatementService, session: &Session, command: CommandGetTables) -> Result<RecordBatch> {
    let sql = "SELECT source, schema, name, kind FROM greylag.system.tables WHERE error IS NULL \
               ORDER BY source, schema, name";
    let mut found = CommandGetTables { include_schema: false, ..command.clone() }.into_builder();
    let nothing = Schema::empty();
    for [source, schema, name, kind] in list(service, session, sql).await? {
        found.append(source, schema, name, kind.to_uppercase(), &nothing).map_err(cannot_build)?;
    }
    let found = found.build().map_err(cannot_build)?;
    if !command.include_schema {
        return Ok(found);
    }
    // Only tables that match the client's patterns are described.
    let columns: Vec<_> = found.columns().iter().map(|column| column.as_string::<i32>()).collect();
    let [sources, schemas, names, kinds] = columns[..] else {
        return Err(MeshError::internal("a listing of tables has not four columns"));
    };
    let described: Vec<Option<SchemaRef>> = futures::stream::iter(0..found.num_rows())
        .map(|row| columns_of(service, session, [sources.value(row), schemas.value(row), names.value(row)]))
        .buffered(DESCRIBED_AT_ONCE)
        .try_collect()
        .await?;
    let mut listing = command.into_builder();
    for (row, columns) in described.into_iter().enumerate() {
        let Some(columns) = columns else { continue };
        let (source, schema, name) = (sources.value(row), schemas.value(row), names.value(row));
        listing.append(source, schema, name, kinds.value(row), &columns).map_err(cannot_build)?;
    }
    listing.build().map_err(cannot_build)
}

/// Columns of one table. `None` for a table that the caller may not read; no columns for one that cannot be read.
pub(super) async fn columns_of(
    service: &dyn StatementService,
    session: &Session,
    [source, schema, table]: [&str; 3],
) -> Result<Option<SchemaRef>> {
    let sql = format!("SELECT * FROM {}.{}.{}", quoted(source), quoted(schema), quoted(table));
    match service.describe(session, &sql).await {
        Ok(described) => Ok(Some(client_schema(&described.schema))),
        Err(error) if error.code == ErrorCode::Denied => Ok(None),
        Err(error) if error.class() == ErrorClass::Permanent && is_about_the_table(error.code) => {
            Ok(Some(Arc::new(Schema::empty())))
        }
        Err(error) => Err(error),
    }
}

/// Whether another table may do better: the rest of a listing should not fail with this one.
fn is_about_the_table(code: ErrorCode) -> bool {
    use ErrorCode::*;
    matches!(code, UnknownTable | UnknownColumn | InvalidStatement | Unsupported | UnsupportedType | UnknownSource)
}

/// An identifier that stands for exactly this name.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Runs a statement whose columns are all text, and keeps its rows.
pub(super) async fn list<const N: usize>(
    service: &dyn StatementService,
    session: &Session,
    sql: &str,
) -> Result<Vec<[String; N]>> {
    let mut running = service.execute(session, sql, None).await?;
    let mut rows = Vec::new();
    while let Some(batch) = running.batches.try_next().await? {
        if rows.len() + batch.num_rows() > LISTED_MAX {
            return Err(MeshError::new(
                ErrorCode::FrameTooLarge,
                format!("the catalog has more than {LISTED_MAX} entries: ask for it in SQL, from system.tables"),
            ));
        }
        let columns = batch.columns().iter().map(|column| cast(column, &DataType::Utf8));
        let columns = columns.collect::<Result<Vec<_>, _>>();
        let columns = columns.map_err(|e| MeshError::internal(format!("a listing is not text: {e}")))?;
        let columns = <[_; N]>::try_from(columns).map_err(|_| MeshError::internal("a listing lacks columns"))?;
        let texts = columns.each_ref().map(|column| column.as_string::<i32>());
        rows.extend((0..batch.num_rows()).map(|row| texts.map(|text| text.value(row).to_owned())));
    }
    Ok(rows)
}

fn cannot_build(error: arrow_flight::error::FlightError) -> MeshError {
    MeshError::internal(format!("an answer about the catalog could not be built: {error}"))
}
