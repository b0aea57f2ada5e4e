//! Arrow columns filled value by value from a server's rows, whatever form `V` a value comes in: the bytes of a binary
//! format, or a driver's own type. What the value means is said by small readers and spellers of each connector.
//!
//! INVARIANT: a value that does not fit its column is an error that names the column; nothing is rounded or cut.

mod batch;
mod bytes;
mod primitive;

use arrow::array::ArrayRef;

#[cfg(test)]
pub(crate) use batch::BATCH_BYTES_MAX;
pub(crate) use batch::BatchBuilder;
pub(crate) use bytes::{Plain, Spell, bytes, text};
pub(crate) use primitive::{Booleans, Primitive, Read};

/// Why a value could not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// It is not what the server's protocol allows.
    Malformed,
    /// The Arrow type cannot hold it; says what it is.
    Range(&'static str),
}

/// One column being filled.
pub(crate) trait Column<V: ?Sized>: Send {
    fn value(&mut self, value: &V) -> Result<(), Misfit>;
    fn null(&mut self);
    /// What was collected since the last call.
    fn finish(&mut self) -> Result<ArrayRef, Misfit>;
}
