//! What the door says about itself: `GetSqlInfo` and `GetXdbcTypeInfo`. Fixed facts, the same for every caller.

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use arrow_flight::{
    error::FlightError,
    sql::{
        CommandGetSqlInfo, CommandGetXdbcTypeInfo, Nullable, Searchable, SqlInfo, SqlSupportedCaseSensitivity,
        SqlSupportedTransaction, XdbcDataType,
        metadata::{SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder},
    },
};
use greylag_protocol::{MeshError, Result};

/// Arrow that the door is built on.
const ARROW_VERSION: &str = "59";

fn server() -> Result<SqlInfoData> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Greylag");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, ARROW_VERSION);
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, false);
    info.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32,
    );
    info.append(SqlInfo::SqlAllTablesAreSelectable, false);
    info.append(SqlInfo::SqlTransactionsSupported, false);
    info.append(SqlInfo::SqlBatchUpdatesSupported, false);
    info.append(SqlInfo::SqlSavepointsSupported, false);
    info.append(SqlInfo::SqlNamedParametersSupported, false);
    info.append(SqlInfo::SqlCatalogTerm, "source");
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.build().map_err(cannot_build)
}

pub(super) fn sql_info(command: CommandGetSqlInfo) -> Result<RecordBatch> {
    command.into_builder(&server()?).build().map_err(cannot_build)
}

pub(super) fn sql_info_schema() -> SchemaRef {
    SchemaRef::new(SqlInfoDataBuilder::schema().clone())
}

/// Name, type, digits or bytes (`None` where there is no such bound), what goes around a literal, parameters.
type TypeRow = (&'static str, XdbcDataType, Option<i32>, Option<&'static str>, &'static [&'static str]);

const TYPES: [TypeRow; 15] = [
    ("BOOLEAN", XdbcDataType::XdbcBit, Some(1), None, &[]),
    ("TINYINT", XdbcDataType::XdbcTinyint, Some(3), None, &[]),
    ("SMALLINT", XdbcDataType::XdbcSmallint, Some(5), None, &[]),
    ("INTEGER", XdbcDataType::XdbcInteger, Some(10), None, &[]),
    ("BIGINT", XdbcDataType::XdbcBigint, Some(19), None, &[]),
    ("REAL", XdbcDataType::XdbcReal, Some(7), None, &[]),
    ("DOUBLE", XdbcDataType::XdbcDouble, Some(15), None, &[]),
    ("DECIMAL", XdbcDataType::XdbcDecimal, Some(38), None, &["precision", "scale"]),
    ("VARCHAR", XdbcDataType::XdbcVarchar, None, Some("'"), &[]),
    ("TEXT", XdbcDataType::XdbcLongvarchar, None, Some("'"), &[]),
    ("BYTEA", XdbcDataType::XdbcVarbinary, None, Some("'"), &[]),
    ("DATE", XdbcDataType::XdbcDate, Some(10), Some("'"), &[]),
    ("TIME", XdbcDataType::XdbcTime, Some(18), Some("'"), &[]),
    ("TIMESTAMP", XdbcDataType::XdbcTimestamp, Some(29), Some("'"), &[]),
    ("INTERVAL", XdbcDataType::XdbcInterval, None, Some("'"), &[]),
];

fn types() -> Result<XdbcTypeInfoData> {
    let mut types = XdbcTypeInfoDataBuilder::new();
    for (name, data_type, size, quote, parameters) in TYPES {
        let is_text = matches!(data_type, XdbcDataType::XdbcVarchar | XdbcDataType::XdbcLongvarchar);
        let is_number = quote.is_none() && data_type != XdbcDataType::XdbcBit;
        types.append(XdbcTypeInfo {
            type_name: name.into(),
            data_type,
            column_size: size,
            literal_prefix: quote.map(str::to_owned),
            literal_suffix: quote.map(str::to_owned),
            create_params: (!parameters.is_empty()).then(|| parameters.iter().map(|&p| p.to_owned()).collect()),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: is_text,
            searchable: if is_text { Searchable::Full } else { Searchable::Basic },
            unsigned_attribute: is_number.then_some(false),
            fixed_prec_scale: false,
            auto_increment: Some(false),
            local_type_name: Some(name.into()),
            sql_data_type: data_type,
            num_prec_radix: is_number.then_some(10),
            ..XdbcTypeInfo::default()
        });
    }
    types.build().map_err(cannot_build)
}

pub(super) fn type_info(command: CommandGetXdbcTypeInfo) -> Result<RecordBatch> {
    command.into_builder(&types()?).build().map_err(cannot_build)
}

pub(super) fn type_info_schema() -> SchemaRef {
    XdbcTypeInfoDataBuilder::new().schema()
}

fn cannot_build(error: FlightError) -> MeshError {
    MeshError::internal(format!("what the door says about itself could not be built: {error}"))
}
