//! DataFusion's errors as the mesh's: the right code, no row's value. An error of ours that has travelled through a plan
//! comes out as it went in.

use std::error::Error;

use datafusion::{
    arrow::error::ArrowError,
    common::{Column, SchemaError},
    error::DataFusionError,
};
use greylag_protocol::{ErrorCode, MeshError};

use crate::nearest::suggestion;

/// Longest message that is passed on, characters: DataFusion's list of valid columns can be a page.
const MESSAGE_CHARS_MAX: usize = 600;

/// The error as clients see it.
pub(crate) fn mesh_error(error: DataFusionError) -> MeshError {
    if let Some(ours) = find_ours(&error) {
        return ours.clone();
    }
    let (code, message) = classify(&error);
    MeshError::new(code, tidy(&message))
}

/// One of ours, to travel through a plan.
pub(crate) fn external(error: MeshError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The column that was not found, if that is what went wrong.
pub(crate) fn missing_column(error: &DataFusionError) -> Option<&Column> {
    match root(error) {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, .. } => Some(field),
            _ => None,
        },
        _ => None,
    }
}

fn find_ours<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a MeshError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<MeshError>() {
            return Some(ours);
        }
        if let Some(DataFusionError::Collection(all)) = error.downcast_ref::<DataFusionError>() {
            return all.iter().find_map(|e| find_ours(e));
        }
        // Boxed and shared errors are looked into here: their `source` would skip one level.
        next = match error.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::Context(_, inner)) | Some(DataFusionError::Diagnostic(_, inner)) => {
                Some(inner.as_ref())
            }
            Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::ArrowError(inner, _)) => Some(inner.as_ref()),
            _ => match error.downcast_ref::<ArrowError>() {
                Some(ArrowError::ExternalError(inner)) => Some(inner.as_ref()),
                _ => error.source(),
            },
        };
    }
    None
}

fn root(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root(inner),
        DataFusionError::Shared(inner) => root(inner),
        DataFusionError::Collection(all) => all.first().map_or(error, root),
        DataFusionError::External(inner) => inner.downcast_ref::<DataFusionError>().map_or(error, root),
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::ExternalError(inner) => inner.downcast_ref::<DataFusionError>().map_or(error, root),
            _ => error,
        },
        other => other,
    }
}

fn classify(error: &DataFusionError) -> (ErrorCode, String) {
    match root(error) {
        DataFusionError::SQL(parser, _) => (ErrorCode::Syntax, parser.to_string()),
        DataFusionError::SchemaError(schema, _) => schema_error(schema),
        DataFusionError::Plan(message) | DataFusionError::Configuration(message) => {
            (ErrorCode::InvalidStatement, message.clone())
        }
        DataFusionError::NotImplemented(message) => (ErrorCode::Unsupported, message.clone()),
        DataFusionError::ResourcesExhausted(message) if message.contains("disk") || message.contains("temp") => {
            (ErrorCode::DiskFull, message.clone())
        }
        DataFusionError::ResourcesExhausted(message) => (ErrorCode::Memory, message.clone()),
        DataFusionError::Execution(message) => (ErrorCode::Execution, without_values(message)),
        DataFusionError::ArrowError(arrow, _) => arrow_error(arrow),
        DataFusionError::IoError(io) if io.kind() == std::io::ErrorKind::StorageFull => {
            (ErrorCode::DiskFull, "no space is left for spilling".into())
        }
        other => (ErrorCode::Internal, other.strip_backtrace()),
    }
}

fn schema_error(error: &SchemaError) -> (ErrorCode, String) {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
            let near = suggestion(&field.name, &names);
            (ErrorCode::UnknownColumn, format!("column `{}` is not known{near}", field.flat_name()))
        }
        SchemaError::AmbiguousReference { field } => (
            ErrorCode::InvalidStatement,
            format!("column `{}` is ambiguous: write it with its table's name", field.flat_name()),
        ),
        other => (ErrorCode::InvalidStatement, other.to_string()),
    }
}

fn arrow_error(error: &ArrowError) -> (ErrorCode, String) {
    let message = match error {
        ArrowError::DivideByZero => "division by zero".into(),
        ArrowError::ArithmeticOverflow(_) => "a number is out of range".into(),
        ArrowError::CastError(message) | ArrowError::ParseError(message) => without_values(message),
        ArrowError::ComputeError(message) | ArrowError::InvalidArgumentError(message) => without_values(message),
        ArrowError::MemoryError(message) => return (ErrorCode::Memory, message.clone()),
        ArrowError::NotYetImplemented(message) => return (ErrorCode::Unsupported, message.clone()),
        ArrowError::IoError(_, io) if io.kind() == std::io::ErrorKind::StorageFull => {
            return (ErrorCode::DiskFull, "no space is left for spilling".into());
        }
        ArrowError::IoError(message, _) | ArrowError::IpcError(message) => {
            return (ErrorCode::Internal, message.clone());
        }
        other => return (ErrorCode::Internal, other.to_string()),
    };
    (ErrorCode::Execution, message)
}

/// Messages about values quote them. What remains says the kind of trouble and the type asked for.
fn without_values(message: &str) -> String {
    let message = message.to_lowercase();
    let after =
        |mark: &str| message.rsplit_once(mark).map(|(_, rest)| rest.trim_end_matches([' ', '.', '\n']).to_owned());
    if message.contains("division by zero") || message.contains("divide by zero") {
        "division by zero".into()
    } else if message.contains("overflow") || message.contains("out of range") || message.contains("too large") {
        "a number is out of range".into()
    } else if message.contains("returned more than one row") || message.contains("more than one row") {
        "a scalar sub-query gave more than one row".into()
    } else if let Some(to) = after(" to value of ") {
        format!("a value cannot be cast to {to}")
    } else if message.contains("cast") || message.contains("pars") {
        "a value cannot be cast to the type asked for".into()
    } else {
        "a value could not be computed".into()
    }
}

/// Lower case first, no trailing stop, one line, not too long.
fn tidy(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.trim_end_matches('.');
    let mut chars = line.chars();
    let mut tidy: String = match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => line.to_owned(),
    };
    if tidy.chars().count() > MESSAGE_CHARS_MAX {
        tidy = tidy.chars().take(MESSAGE_CHARS_MAX).collect::<String>() + "…";
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn ours_come_out_as_they_went_in() {
        let ours = MeshError::new(ErrorCode::SubqueryLost, "gone");
        let wraps: [fn(DataFusionError) -> DataFusionError; 5] = [
            |e| e.context("while joining"),
            |e| DataFusionError::Shared(Arc::new(e)),
            |e| DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(e))), None),
            |e| DataFusionError::External(Box::new(e)),
            |e| DataFusionError::Collection(vec![DataFusionError::Plan("other".into()), e]),
        ];
        for outer in wraps {
            for inner in wraps {
                assert_eq!(mesh_error(outer(inner(external(ours.clone())))), ours);
            }
        }
    }

    #[test]
    fn codes_fit_and_values_stay_inside() {
        let cast = ArrowError::CastError("Cannot cast string 'secret' to value of Int32 type".into());
        let cases = [
            (DataFusionError::Execution("Cannot cast 'secret' to value of Date32 type".into()), ErrorCode::Execution),
            (DataFusionError::ArrowError(Box::new(cast), None), ErrorCode::Execution),
            (
                DataFusionError::ArrowError(Box::new(ArrowError::ArithmeticOverflow("secret + 1".into())), None),
                ErrorCode::Execution,
            ),
            (DataFusionError::ResourcesExhausted("too much".into()), ErrorCode::Memory),
            (DataFusionError::NotImplemented("that".into()), ErrorCode::Unsupported),
            (DataFusionError::Plan("Invalid function 'foo'".into()), ErrorCode::InvalidStatement),
        ];
        for (error, code) in cases {
            let mesh = mesh_error(error);
            assert_eq!(mesh.code, code, "{mesh}");
            assert!(!mesh.message.contains("secret"), "{mesh}");
            assert!(!mesh.message.ends_with('.'));
        }
        assert_eq!(
            mesh_error(DataFusionError::Execution("cannot cast x to value of Date32 type".into())).message,
            "a value cannot be cast to date32 type"
        );
    }
}
