//! The 22 queries with the specification's validation parameters, as `tests/sql/tpch` has them.

/// One query of the benchmark.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// 1 to 22.
    pub number: u32,
    pub sql: &'static str,
}

macro_rules! texts {
    ($($number:literal $file:literal),* $(,)?) => {
        [$(Query { number: $number, sql: include_str!(concat!("../../../../tests/sql/tpch/", $file, ".sql")) }),*]
    };
}

const QUERIES: [Query; 22] = texts!(
    1 "q01", 2 "q02", 3 "q03", 4 "q04", 5 "q05", 6 "q06", 7 "q07", 8 "q08", 9 "q09", 10 "q10", 11 "q11",
    12 "q12", 13 "q13", 14 "q14", 15 "q15", 16 "q16", 17 "q17", 18 "q18", 19 "q19", 20 "q20", 21 "q21", 22 "q22",
);

/// All queries, in order.
pub fn queries() -> &'static [Query] {
    &QUERIES
}
