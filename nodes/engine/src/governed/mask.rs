//! Masks as functions over columns, and instants as numbers. What a mask shows is defined in `governance::policy::mask`,
//! and asked there for every value.
//!
//! INVARIANT: no value makes them fail, so that nothing can be learnt from an error.

use std::{any::Any, fmt, hash::Hash, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Date32Array, Int64Array, LargeStringArray, PrimitiveArray, StringArray,
        StringViewArray, new_null_array,
    },
    datatypes::{
        ArrowTimestampType, DataType, Date32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    },
};
use datafusion::{
    common::{Result, cast::as_string_view_array, internal_err},
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, expr::ScalarFunction,
    },
};
use greylag_governance::policy::mask;
use greylag_protocol::{filter::FilterValue, obligation::Mask};

const DAY_MS: i64 = 86_400_000;

/// One mask over columns of one type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct MaskFunction {
    mask: MaskKey,
    data_type: DataType,
    signature: Signature,
}

/// A mask and its salt. The salt is never shown.
#[derive(Clone, PartialEq, Eq)]
struct MaskKey {
    mask: Mask,
    salt: Arc<[u8]>,
}

impl Hash for MaskKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.mask.to_string().hash(state);
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mask)
    }
}

impl MaskFunction {
    /// `value`, which has this type, as the mask shows it.
    pub(super) fn call(mask: Mask, salt: &Arc<[u8]>, data_type: &DataType, value: Expr) -> Expr {
        let signature = Signature::any(1, Volatility::Immutable);
        let mask = MaskKey { mask, salt: Arc::clone(salt) };
        let function = ScalarUDF::new_from_impl(Self { mask, data_type: data_type.clone(), signature });
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![value]))
    }

    fn shown(&self, value: Option<FilterValue>) -> Option<FilterValue> {
        mask::apply(&self.mask.mask, value, &self.mask.salt)
    }

    fn text(&self, value: Option<&str>) -> Option<String> {
        match self.shown(value.map(|text| FilterValue::Text(text.to_owned()))) {
            Some(FilterValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// NULL has no type of its own: what is shown in its place, other than NULL, is text.
    fn integer(&self, value: Option<i64>) -> Option<i64> {
        match self.shown(Some(FilterValue::Integer(value?))) {
            Some(FilterValue::Integer(integer)) => Some(integer),
            _ => None,
        }
    }

    fn instant(&self, ms: i64) -> Option<i64> {
        match self.shown(Some(FilterValue::Instant(ms))) {
            Some(FilterValue::Instant(ms)) => Some(ms),
            _ => None,
        }
    }

    fn timestamps<T: ArrowTimestampType>(&self, array: &dyn Array, zone: &Option<Arc<str>>) -> ArrayRef {
        let ticks = array.as_primitive::<T>();
        let shown = ticks.iter().map(|tick| {
            let ms = self.instant(milliseconds(T::UNIT, tick?))?;
            ticks_of(T::UNIT, ms)
        });
        Arc::new(shown.collect::<PrimitiveArray<T>>().with_timezone_opt(zone.clone()))
    }

    fn array(&self, array: &dyn Array) -> Result<ArrayRef> {
        Ok(match array.data_type() {
            DataType::Utf8 => Arc::new(array.as_string::<i32>().iter().map(|t| self.text(t)).collect::<StringArray>()),
            DataType::LargeUtf8 => {
                Arc::new(array.as_string::<i64>().iter().map(|t| self.text(t)).collect::<LargeStringArray>())
            }
            DataType::Utf8View => {
                Arc::new(as_string_view_array(array)?.iter().map(|t| self.text(t)).collect::<StringViewArray>())
            }
            DataType::Int64 => {
                Arc::new(array.as_primitive::<Int64Type>().iter().map(|v| self.integer(v)).collect::<Int64Array>())
            }
            DataType::Date32 => {
                let days = array.as_primitive::<Date32Type>().iter();
                let shown = days.map(|day| {
                    let ms = self.instant(i64::from(day?) * DAY_MS)?;
                    i32::try_from(ms.div_euclid(DAY_MS)).ok()
                });
                Arc::new(shown.collect::<Date32Array>())
            }
            DataType::Timestamp(unit, zone) => match unit {
                TimeUnit::Second => self.timestamps::<TimestampSecondType>(array, zone),
                TimeUnit::Millisecond => self.timestamps::<TimestampMillisecondType>(array, zone),
                TimeUnit::Microsecond => self.timestamps::<TimestampMicrosecondType>(array, zone),
                TimeUnit::Nanosecond => self.timestamps::<TimestampNanosecondType>(array, zone),
            },
            // A mask that does not fit shows nothing.
            other => new_null_array(other, array.len()),
        })
    }
}

impl ScalarUDFImpl for MaskFunction {
    fn name(&self) -> &str {
        "mask"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        Ok(format!("mask[{}]({})", self.mask.mask, args.join(", ")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.first() else { return internal_err!("a mask has one argument") };
        let array = value.to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(self.array(array.as_ref())?))
    }
}

/// A date or timestamp as milliseconds since 1970 in UTC, rounded down.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct InstantFunction {
    signature: Signature,
}

impl InstantFunction {
    pub(super) fn call(value: Expr) -> Expr {
        let function = ScalarUDF::new_from_impl(Self { signature: Signature::any(1, Volatility::Immutable) });
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![value]))
    }
}

impl ScalarUDFImpl for InstantFunction {
    fn name(&self) -> &str {
        "instant_ms"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.first() else { return internal_err!("an instant has one argument") };
        let array = value.to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(Arc::new(instants(array.as_ref()))))
    }
}

fn instants(array: &dyn Array) -> Int64Array {
    fn of<T: ArrowTimestampType>(array: &dyn Array) -> Int64Array {
        array.as_primitive::<T>().iter().map(|tick| tick.map(|tick| milliseconds(T::UNIT, tick))).collect()
    }
    match array.data_type() {
        DataType::Date32 => {
            array.as_primitive::<Date32Type>().iter().map(|day| day.map(|day| i64::from(day) * DAY_MS)).collect()
        }
        DataType::Timestamp(TimeUnit::Second, _) => of::<TimestampSecondType>(array),
        DataType::Timestamp(TimeUnit::Millisecond, _) => of::<TimestampMillisecondType>(array),
        DataType::Timestamp(TimeUnit::Microsecond, _) => of::<TimestampMicrosecondType>(array),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => of::<TimestampNanosecondType>(array),
        _ => Int64Array::new_null(array.len()),
    }
}

fn milliseconds(unit: TimeUnit, ticks: i64) -> i64 {
    match unit {
        TimeUnit::Second => ticks.saturating_mul(1_000),
        TimeUnit::Millisecond => ticks,
        TimeUnit::Microsecond => ticks.div_euclid(1_000),
        TimeUnit::Nanosecond => ticks.div_euclid(1_000_000),
    }
}

/// `None` for what the unit cannot say.
fn ticks_of(unit: TimeUnit, ms: i64) -> Option<i64> {
    match unit {
        TimeUnit::Second => Some(ms.div_euclid(1_000)),
        TimeUnit::Millisecond => Some(ms),
        TimeUnit::Microsecond => ms.checked_mul(1_000),
        TimeUnit::Nanosecond => ms.checked_mul(1_000_000),
    }
}

/// Whether a function is one of these: it cannot fail.
pub(super) fn is_ours(function: &ScalarUDF) -> bool {
    let inner: &dyn Any = function.inner().as_ref();
    inner.is::<MaskFunction>() || inner.is::<InstantFunction>()
}
