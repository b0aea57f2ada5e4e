//! The decision engine: Cedar policies over the catalog's tables, to a verdict with row filters and masks.
//!
//! Pure: no clock, no async, no randomness.
