//! What leaves the door: views, dictionaries and run-end encodings become plain arrays, since not every Flight
//! client can read them. Everything else passes as it is.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions},
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef},
};
use greylag_protocol::{MeshError, Result};

/// The schema as clients see it; the same `Arc` where nothing changes.
pub(super) fn client_schema(schema: &SchemaRef) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(client_field).collect();
    if &fields == schema.fields() {
        return Arc::clone(schema);
    }
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn client_field(field: &FieldRef) -> FieldRef {
    let data_type = client_type(field.data_type());
    if &data_type == field.data_type() {
        return Arc::clone(field);
    }
    let plain = Field::new(field.name(), data_type, field.is_nullable());
    Arc::new(plain.with_metadata(field.metadata().clone()))
}

fn client_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => client_type(values),
        DataType::RunEndEncoded(_, values) => client_type(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(client_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => DataType::LargeList(client_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(client_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(client_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(client_field(entries), *sorted),
        other => other.clone(),
    }
}

/// The batch under the schema that `client_schema` gave. Fails if it was of another one.
pub(super) fn client_batch(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| plain(column, field.data_type())).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|e| MeshError::internal(format!("a batch does not fit its statement's schema: {e}")))
}

fn plain(column: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if column.data_type() == data_type {
        return Ok(Arc::clone(column));
    }
    if client_type(column.data_type()) != *data_type {
        return Err(MeshError::internal(format!(
            "a column of type `{}` came in place of one of type `{data_type}`",
            column.data_type()
        )));
    }
    cast(column, data_type).map_err(|e| MeshError::internal(format!("a column could not be made plain: {e}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::{
        array::{
            AsArray, BinaryViewArray, DictionaryArray, Int64Array, ListBuilder, RunArray, StringArray, StringViewArray,
            StringViewBuilder, StructArray,
        },
        datatypes::{Int32Type, Int64Type},
    };

    use super::*;

    #[test]
    fn nothing_odd_leaves_the_door() {
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        lists.append_value([Some("a rather long string, kept outside of its view"), None]);
        lists.append_null();
        let views: ArrayRef = Arc::new(StringViewArray::from(vec![Some("grågås"), None]));
        let dictionary: DictionaryArray<Int32Type> = [Some("x"), Some("x")].into_iter().collect();
        let runs: RunArray<Int32Type> = ["r", "r"].into_iter().collect();
        let inner = Arc::new(Field::new("v", DataType::Utf8View, true));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![1, 2]))),
            ("s", Arc::clone(&views)),
            ("b", Arc::new(BinaryViewArray::from_iter_values([b"b1", b"b2"]))),
            ("d", Arc::new(dictionary)),
            ("l", Arc::new(lists.finish())),
            ("t", Arc::new(StructArray::from(vec![(inner, views)]))),
            ("r", Arc::new(runs)),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let schema = client_schema(&batch.schema());
        let types: Vec<String> = schema.fields().iter().map(|f| f.data_type().to_string()).collect();
        for odd in ["View", "Dictionary", "RunEnd"] {
            assert!(types.iter().all(|t| !t.contains(odd)), "{types:?}");
        }
        let plain = client_batch(&schema, &batch).unwrap();
        assert_eq!(plain.column(1).as_ref(), &StringArray::from(vec![Some("grågås"), None]));
        assert_eq!(plain.column(3).as_string::<i32>().value(1), "x");
        assert_eq!(plain.column(6).as_string::<i32>().value(1), "r");
        assert_eq!(plain.column(0).as_primitive::<Int64Type>().value(1), 2);
        assert_eq!(client_schema(&schema), schema);
    }

    #[test]
    fn a_batch_of_another_schema_is_not_sent() {
        let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Utf8, true)]));
        assert!(client_batch(&schema, &batch).is_err());
    }
}
