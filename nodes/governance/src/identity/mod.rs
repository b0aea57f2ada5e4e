//! Who stands behind a statement: credentials to one principal.
//!
//! Pure: time and keys come in as arguments.
