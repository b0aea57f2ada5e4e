//! Row by row comparison of two answers.

use arrow::{
    array::{Array, ArrayRef, Float64Array, RecordBatch},
    util::display::{ArrayFormatter, FormatOptions},
};

use crate::world::World;

/// Rows as texts, floats apart to twelve digits.
pub fn rows(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let cells: Vec<Cells<'_>> = batch.columns().iter().map(|column| Cells::new(column, &options)).collect();
        for row in 0..batch.num_rows() {
            rows.push(cells.iter().map(|cell| cell.text(row)).collect());
        }
    }
    rows
}

enum Cells<'a> {
    Float(&'a Float64Array),
    Other(&'a ArrayRef, ArrayFormatter<'a>),
}

impl<'a> Cells<'a> {
    fn new(column: &'a ArrayRef, options: &FormatOptions<'a>) -> Self {
        match column.as_any().downcast_ref::<Float64Array>() {
            Some(floats) => Self::Float(floats),
            None => Self::Other(column, ArrayFormatter::try_new(column, options).unwrap()),
        }
    }

    fn text(&self, row: usize) -> String {
        match self {
            Self::Float(floats) if floats.is_null(row) => "NULL".into(),
            Self::Float(floats) => format!("{:.11e}", floats.value(row) + 0.0),
            Self::Other(column, _) if column.is_null(row) => "NULL".into(),
            Self::Other(_, formatter) => format!("`{}`", formatter.value(row)),
        }
    }
}

/// The mesh and plain DataFusion agree on the rows, in any order.
pub async fn same_rows(world: &World, sql: &str) {
    let (expected, answer) = both(world, sql).await;
    let (mut expected, mut answer) = (rows(&expected), rows(&answer));
    expected.sort();
    answer.sort();
    show_difference(world, sql, &expected, &answer).await;
}

/// They agree on the rows and their order.
pub async fn same_order(world: &World, sql: &str) {
    let (expected, answer) = both(world, sql).await;
    show_difference(world, sql, &rows(&expected), &rows(&answer)).await;
}

async fn both(world: &World, sql: &str) -> (Vec<RecordBatch>, Vec<RecordBatch>) {
    let expected = world.expected(sql).await.unwrap_or_else(|e| panic!("reference: {e}\n{sql}"));
    let answer = world.answer(sql).await;
    match answer {
        Ok(answer) => (expected, answer),
        Err(error) => {
            let pushed = world.pushed(sql).await.join("\n  ");
            panic!("{error}\n{sql}\n  {pushed}")
        }
    }
}

async fn show_difference(world: &World, sql: &str, expected: &[Vec<String>], answer: &[Vec<String>]) {
    if expected == answer {
        return;
    }
    let lost: Vec<_> = expected.iter().filter(|row| !answer.contains(row)).take(5).collect();
    let extra: Vec<_> = answer.iter().filter(|row| !expected.contains(row)).take(5).collect();
    let pushed = world.pushed(sql).await.join("\n  ");
    panic!(
        "answers differ: {} rows expected, {} came\n{sql}\n  {pushed}\nexpected only {lost:?}\nanswer only {extra:?}",
        expected.len(),
        answer.len()
    );
}
