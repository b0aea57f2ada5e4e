//! Placeholders: which there are, of what types, and binding one row of values to them.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::{
    common::{ParamValues, ScalarValue},
    logical_expr::LogicalPlan,
};
use greylag_protocol::{ErrorCode, MeshError, Result};

use crate::error::mesh_error;

/// Most placeholders in one statement.
const PARAMETERS_MAX: usize = 4096;

/// The placeholders of a plan, `$1` first. Where the statement does not say a type, it is text.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    types: Vec<Option<DataType>>,
}

impl Parameters {
    /// GL1007 for names that are not numbers, or numbers that are too large.
    pub(crate) fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut numbered = BTreeMap::new();
        let types: BTreeMap<_, _> = plan.get_parameter_types().map_err(mesh_error)?.into_iter().collect();
        for (name, data_type) in types {
            let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
            match number {
                Some(number @ 1..=PARAMETERS_MAX) => drop(numbered.insert(number, data_type)),
                _ => {
                    return Err(wrong(format!(
                        "placeholder `{name}` is not `?` or one of `$1` to `${PARAMETERS_MAX}`"
                    )));
                }
            }
        }
        let count = numbered.last_key_value().map_or(0, |(last, _)| *last);
        Ok(Self { types: (1..=count).map(|number| numbered.remove(&number).flatten()).collect() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// One field for each placeholder.
    pub(crate) fn schema(&self) -> SchemaRef {
        let fields = self.types.iter().enumerate().map(|(at, data_type)| {
            let data_type = match data_type {
                None | Some(DataType::Null) => DataType::Utf8,
                Some(known) => known.clone(),
            };
            Field::new(format!("${}", at + 1), data_type, true)
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The plan with the values of the batch's one row in place of its placeholders. GL1007 if they do not fit.
    pub(crate) fn bind(&self, plan: LogicalPlan, values: &RecordBatch) -> Result<LogicalPlan> {
        if values.num_columns() != self.types.len() || values.num_rows() != 1 {
            return Err(wrong(format!(
                "the statement has {} placeholders, and {} rows of {} values were given",
                self.types.len(),
                values.num_rows(),
                values.num_columns()
            )));
        }
        let bound: Result<Vec<ScalarValue>> = values
            .columns()
            .iter()
            .zip(&self.types)
            .enumerate()
            .map(|(at, (column, data_type))| {
                let value = ScalarValue::try_from_array(column, 0).map_err(mesh_error)?;
                match data_type {
                    None | Some(DataType::Null) => Ok(value),
                    Some(wanted) if value.data_type() == *wanted => Ok(value),
                    Some(wanted) => value
                        .cast_to(wanted)
                        .map_err(|_| wrong(format!("the value for `${}` cannot be taken as {wanted}", at + 1))),
                }
            })
            .collect();
        plan.with_param_values(ParamValues::from(bound?)).map_err(mesh_error)
    }
}

pub(crate) fn missing(count: usize) -> MeshError {
    wrong(format!("the statement has {count} placeholders, and no values were given"))
}

fn wrong(message: String) -> MeshError {
    MeshError::new(ErrorCode::Parameters, message)
}
