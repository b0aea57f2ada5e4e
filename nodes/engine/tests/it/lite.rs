//! An SQLite in memory as a source, filled and read like the connector does: decimals as SQLite stores them, dates as ISO
//! texts, every value checked when it is read.

use std::sync::{Arc, Mutex};

use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int32Builder,
        Int64Builder, RecordBatch, StringBuilder,
    },
    datatypes::{DataType, SchemaRef},
    util::display::{ArrayFormatter, FormatOptions},
};
use rusqlite::{Connection, params_from_iter, types::Value};

use crate::data::Table;

pub struct Lite(Mutex<Connection>);

impl Lite {
    pub fn load(tables: &[Table]) -> Self {
        let mut connection = Connection::open_in_memory().unwrap();
        let transaction = connection.transaction().unwrap();
        for table in tables {
            let schema = table.schema();
            let columns: Vec<String> =
                schema.fields().iter().map(|f| format!("\"{}\" {}", f.name(), native(f.data_type()))).collect();
            let key = table.key.iter().map(|k| format!("\"{k}\"")).collect::<Vec<_>>().join(", ");
            transaction
                .execute_batch(&format!(
                    "CREATE TABLE \"{}\" ({}, PRIMARY KEY ({key}))",
                    table.name,
                    columns.join(", ")
                ))
                .unwrap();
            let marks = vec!["?"; schema.fields().len()].join(", ");
            let mut insert = transaction.prepare(&format!("INSERT INTO \"{}\" VALUES ({marks})", table.name)).unwrap();
            for batch in &table.batches {
                let options = FormatOptions::default();
                let text: Vec<_> =
                    batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
                for row in 0..batch.num_rows() {
                    let values = batch.columns().iter().zip(&text).map(|(column, text)| {
                        if column.is_null(row) {
                            Value::Null
                        } else if let Some(flags) = column.as_any().downcast_ref::<BooleanArray>() {
                            Value::Integer(flags.value(row).into())
                        } else if let Some(doubles) = column.as_any().downcast_ref::<arrow::array::Float64Array>() {
                            Value::Real(doubles.value(row))
                        } else {
                            Value::Text(text.value(row).to_string())
                        }
                    });
                    insert.execute(params_from_iter(values)).unwrap();
                }
            }
        }
        transaction.commit().unwrap();
        Self(Mutex::new(connection))
    }

    pub fn query(&self, sql: &str, schema: &SchemaRef) -> Result<Vec<RecordBatch>, String> {
        let connection = self.0.lock().unwrap();
        let mut statement = connection.prepare(sql).map_err(|e| e.to_string())?;
        let mut columns: Vec<Vec<Value>> = vec![Vec::new(); schema.fields().len()];
        let mut rows = statement.query([]).map_err(|e| e.to_string())?;
        while let Some(row) = rows.next().map_err(|e| e.to_string())? {
            for (at, column) in columns.iter_mut().enumerate() {
                column.push(row.get(at).map_err(|e| e.to_string())?);
            }
        }
        let arrays: Vec<ArrayRef> =
            columns.into_iter().zip(schema.fields()).map(|(values, field)| array(values, field.data_type())).collect();
        Ok(vec![RecordBatch::try_new(Arc::clone(schema), arrays).map_err(|e| e.to_string())?])
    }
}

fn native(data_type: &DataType) -> String {
    match data_type {
        DataType::Int32 => "INTEGER".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Utf8 => "TEXT".into(),
        DataType::Float64 => "REAL".into(),
        DataType::Decimal128(p, s) => format!("DECIMAL({p},{s})"),
        DataType::Date32 => "DATE".into(),
        DataType::Boolean => "BOOLEAN".into(),
        other => panic!("{other}"),
    }
}

fn array(values: Vec<Value>, data_type: &DataType) -> ArrayRef {
    macro_rules! build {
        ($builder:expr, $value:ident => $convert:expr) => {{
            let mut builder = $builder;
            for $value in values {
                if matches!($value, Value::Null) { builder.append_null() } else { builder.append_value($convert) }
            }
            Arc::new(builder.finish())
        }};
    }
    match data_type {
        DataType::Int64 => build!(Int64Builder::new(), v => integer(&v)),
        DataType::Int32 => build!(Int32Builder::new(), v => i32::try_from(integer(&v)).unwrap()),
        DataType::Boolean => build!(BooleanBuilder::new(), v => integer(&v) == 1),
        DataType::Utf8 => build!(StringBuilder::new(), v => text(&v)),
        DataType::Float64 => build!(Float64Builder::new(), v => match v {
            Value::Real(v) => v,
            #[allow(clippy::cast_precision_loss)]
            Value::Integer(v) => v as f64,
            other => panic!("{other:?} is no double"),
        }),
        DataType::Date32 => build!(Date32Builder::new(), v => {
            use arrow::datatypes::{Date32Type};
            <Date32Type as arrow::compute::kernels::cast_utils::Parser>::parse(&text(&v)).unwrap()
        }),
        DataType::Decimal128(p, s) => {
            build!(Decimal128Builder::new().with_precision_and_scale(*p, *s).unwrap(), v => decimal(&v, *s))
        }
        other => panic!("{other}"),
    }
}

fn integer(value: &Value) -> i64 {
    let Value::Integer(v) = value else { panic!("{value:?} is no integer") };
    *v
}

fn text(value: &Value) -> String {
    let Value::Text(v) = value else { panic!("{value:?} is no text") };
    v.clone()
}

fn decimal(value: &Value, scale: i8) -> i128 {
    let power = 10_i128.pow(u32::try_from(scale).unwrap());
    match value {
        Value::Integer(v) => i128::from(*v) * power,
        Value::Real(v) => {
            // The one decimal of so many digits whose nearest double it is.
            let digits = format!("{v:.*}", usize::try_from(scale).unwrap());
            assert_eq!(digits.parse::<f64>().unwrap(), *v, "{v} is no decimal");
            digits.replace('.', "").parse().unwrap()
        }
        other => panic!("{other:?} is no decimal"),
    }
}
