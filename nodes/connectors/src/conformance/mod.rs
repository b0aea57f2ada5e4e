//! The suite that every connector passes. It knows no source: a [`Subject`] stands for one, loads the suite's tables into
//! it and answers a few questions about it; the checks then see nothing but the port.
//!
//! `conformance!(fixture)` makes one test of each check. `fixture` is an `async fn() -> Option<impl Subject>`; a source
//! that is not there (no database to test against) says so on standard error and returns `None`.
//!
//! Memory is counted over the whole process, so run it with one process for each test (`cargo nextest run`).

pub(crate) mod checks;
pub(crate) mod fixture;
mod memory;

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::Field};
use async_trait::async_trait;
use greylag_actors::edge::port::Connector;

pub(crate) use fixture::Fixture;

/// A source under test, and what the suite has to know about it.
#[async_trait]
pub(crate) trait Subject: Send + Sync {
    /// Kind, as in a resource.
    fn kind(&self) -> &'static str;

    /// Puts a table into the source, under the fixture's name. Called before anything is opened.
    async fn load(&self, fixture: Fixture);

    /// A connector that nobody has used.
    async fn open(&self) -> Arc<dyn Connector>;

    /// A table's name in a sub-query, quoted and with its schema.
    fn table(&self, name: &str) -> String;

    /// A name in a sub-query, quoted.
    fn quote(&self, name: &str) -> String {
        format!("\"{name}\"")
    }

    /// What comes out of a fixture that went in: the batch itself, or as near as this source's types get.
    fn delivered(&self, batch: RecordBatch) -> RecordBatch {
        batch
    }

    /// Whether it knows primary keys.
    fn has_keys(&self) -> bool {
        true
    }

    /// Sub-queries with one column, named by the field, in which a value does not fit the field's type. The digits 4242
    /// are in every such value, and must not be in a message.
    fn misfits(&self) -> Vec<(String, Field)>;

    /// A sub-query that computes for minutes before its one row, an `Int64` named `n`. [`Fixture::Many`] is loaded.
    fn endless(&self) -> String;

    /// A sub-query for one row with one `Utf8` named `words`: so many times `x`. [`Fixture::Everything`] is loaded.
    fn huge(&self, bytes: usize) -> String;

    /// Statements that would change something. [`Fixture::Everything`] is loaded.
    fn writes(&self) -> Vec<String>;

    /// Sub-queries of this connector that the source itself is working on now.
    async fn running(&self) -> usize;

    /// Takes the source away from under an open connector.
    async fn lose(&self) -> Loss;
}

/// What a lost source means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The sub-query that is running has been cut off.
    Running,
    /// The next one cannot begin.
    Next,
}

/// One test for each check.
macro_rules! conformance {
    ($fixture:path) => {
        $crate::conformance::conformance!(@ $fixture;
            the_schema_is_true
            every_value_comes_as_it_went_in
            an_empty_table_has_columns_and_no_rows
            a_wide_table_comes_whole
            many_rows_come_once_each
            several_sub_queries_run_at_once
            a_value_that_does_not_fit_is_refused_by_name
            a_type_that_cannot_be_had_is_refused_by_name
            cancelling_stops_the_source
            dropping_stops_the_source
            dropping_halfway_stops_the_source
            the_deadline_stops_the_source
            nothing_can_be_written
            what_cannot_work_fails_for_good
            a_huge_value_passes
            a_slow_reader_holds_memory_down
            a_lost_source_is_a_transient_error
            a_source_that_is_there_answers_a_ping
        );
    };
    (@ $fixture:path; $($check:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                if let Some(subject) = $fixture().await {
                    $crate::conformance::checks::$check(&subject).await;
                }
            }
        )*
    };
}
pub(crate) use conformance;
