//! Random policies, end to end: statements over a table are answered as if it held nothing but the rows that Cedar's own
//! authorizer permits, masked where it says so, with and without push-down. The reference is plain DataFusion over that
//! table; which rows it holds is asked of `governance::policy::reference`, row by row, and of no row filter.
//!
//! How policies become row filters is proven in `governance/tests/rows_as_cedar`, where the policies here are drawn.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions},
    compute::{filter_record_batch, nullif},
    datatypes::{DataType, Field, Schema},
};
use greylag_actors::planner::port::Catalog;
use greylag_governance::policy::{
    self, Mode, Policy, PolicyEngine, Question, TableFacts, Touched, mask,
    reference::{Reference, Row, Subject},
};
use greylag_protocol::{
    Epoch,
    filter::FilterValue,
    messages::control::{Action, Verdict},
    obligation::{Mask, TableObligation},
    schema::Dialect::{self, Sqlite},
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    compare::{same_order, same_rows},
    data::odd,
    governed::{any_statement, array, name, value},
    random::Statement,
    random_policies::{
        dice::Dice,
        policy::policies,
        principal::{circumstances, declared, principal},
    },
    world::{SALT, World},
};

/// Statements that are answered, over one source.
const STATEMENTS: usize = 720;
/// Of them over one set of policies.
const OF_ONE_SET: usize = 4;
const SEED: u64 = 4;

/// What was met.
#[derive(Debug, Default)]
struct Tally {
    sets: usize,
    statements: usize,
    denied: usize,
    filtered: usize,
    masked: usize,
    rows: usize,
    rows_hidden: usize,
    /// Statements about columns that are hidden.
    refused: usize,
    /// Sub-queries with a condition, when there is push-down.
    conditions_pushed: usize,
}

/// What policies make of `odd` for a principal.
struct Case {
    /// The policies and the principal, for people.
    text: String,
    /// What may be seen; and what the ruling asks for so that nothing else is.
    visible: RecordBatch,
    obligations: Vec<TableObligation>,
    /// Whether the key still tells all rows apart.
    key_shown: bool,
}

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`")))
}

/// Statements over the governed table are answered like those over what may be seen of it.
pub fn agree(runtime: &tokio::runtime::Runtime, world: &mut World, dialect: Dialect) {
    let seed = variable("GREYLAG_TEST_SEED", SEED);
    let statements = variable("GREYLAG_TEST_CASES", STATEMENTS as u64) as usize;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &Dice::of(seed, 0).roll().to_le_bytes().repeat(4));
    let mut runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng);
    let pushing = Arc::clone(&world.catalog);
    let blind = Arc::new(blind(&pushing));
    let mut tally = Tally::default();
    let mut number = 0;
    while tally.statements < statements {
        number += 1;
        let Some(case) = case(&mut Dice::of(seed, number), dialect, &mut tally) else { continue };
        world.govern("odd", &case.visible, case.obligations.clone());
        println!("set {number} of seed {seed}:\n{}", case.text);
        for _ in 0..OF_ONE_SET {
            let statement = any_statement().new_tree(&mut runner).unwrap().current();
            for catalog in [&pushing, &blind] {
                world.catalog = Arc::clone(catalog);
                let pushes = Arc::ptr_eq(catalog, &pushing);
                runtime.block_on(answer(world, &statement, case.key_shown, &mut tally, pushes));
            }
        }
    }
    println!("{dialect:?}: {tally:?}");
    assert!(tally.filtered * 3 > tally.sets && tally.masked * 20 > tally.sets, "{tally:?}");
    assert!(tally.rows * 10 > tally.rows_hidden && tally.rows_hidden * 10 > tally.rows, "{tally:?}");
    assert!(tally.conditions_pushed * 4 > tally.statements && tally.refused > 0, "{tally:?}");
}

/// One statement, one way; counted once, where there is push-down.
async fn answer(world: &World, statement: &Statement, key_shown: bool, tally: &mut Tally, pushing: bool) {
    if let Err(refusal) = world.expected(&statement.sql).await {
        // For it asks for a column that is hidden; what fails in plain DataFusion for another reason says nothing.
        if refusal.contains("No field named") {
            tally.refused += 1;
            assert!(world.answer(&statement.sql).await.is_err(), "a hidden column was read: {}", statement.sql);
        }
        return;
    }
    world.take_opened();
    // Statements order by the key, last of all. Where it is masked, rows tie, and a limit has more than one answer.
    match statement.ordered && !key_shown {
        true if statement.sql.contains(" limit ") => return,
        false if statement.ordered => same_order(world, &statement.sql).await,
        _ => same_rows(world, &statement.sql).await,
    }
    let conditions = world.take_opened().iter().filter(|sql| sql.contains(" WHERE ")).count();
    if pushing {
        tally.statements += 1;
        tally.conditions_pushed += usize::from(conditions > 0);
    } else {
        assert_eq!(conditions, 0, "a source that is not known to compare alike was asked to: {}", statement.sql);
    }
}

/// The same tables, but nothing is known of how their sources compare: so nothing is compared there.
fn blind(catalog: &Catalog) -> Catalog {
    let mut blind = catalog.clone();
    for source in blind.sources.values_mut() {
        for table in &mut Arc::make_mut(source).tables {
            (table.native, table.primary_key) = (vec![], vec![]);
        }
    }
    blind
}

/// Policies about `odd`, as one principal meets them. None where nothing at all may be seen: then nothing is planned.
fn case(dice: &mut Dice, dialect: Dialect, tally: &mut Tally) -> Option<Case> {
    let batch = odd().batches.remove(0);
    let fields = batch.schema();
    let facts = TableFacts::new(name(dialect), fields.fields().iter().map(AsRef::as_ref), &[]);
    let mut catalog = policy::Catalog::default();
    catalog.insert(facts.clone());
    let empty = PolicyEngine::new(Epoch(1), vec![], &catalog, declared());
    let drafts = policies(dice, std::slice::from_ref(&facts), Action::Select);
    let parsed = drafts.iter().filter_map(|draft| Policy::parse(&draft.id, &draft.to_string()).ok());
    let policies: Vec<Policy> = parsed.filter(|policy| empty.check(policy).is_ok()).collect();
    let (principal, circumstances) = (principal(dice), circumstances(dice));
    let engine = PolicyEngine::new(Epoch(1), policies.clone(), &catalog, declared());
    let touched = [Touched { table: facts.name.clone(), columns: None }];
    let question =
        Question { principal: &principal, action: Action::Select, touched: &touched, circumstances: &circumstances };
    let ruling = engine.decide(&question);
    let tables = std::slice::from_ref(&facts.name);
    let reference = Reference::new(&policies, &principal, &circumstances, tables, &declared()).unwrap();
    let visible = visible(&batch, &facts, &reference);
    let text =
        policies.iter().map(|p| p.text.as_str()).chain([&*format!("{principal:?}")]).collect::<Vec<_>>().join("\n");
    if let Verdict::Deny { reason } = ruling.verdict {
        assert_eq!(visible.num_rows(), 0, "{reason}\n{text}");
        tally.denied += 1;
        return None;
    }
    tally.sets += 1;
    tally.filtered += usize::from(ruling.obligations.iter().any(|o| o.filter.is_some()));
    tally.masked += usize::from(ruling.obligations.iter().any(|o| !o.masks.is_empty()));
    tally.rows += visible.num_rows();
    tally.rows_hidden += batch.num_rows() - visible.num_rows();
    let keys: BTreeSet<Option<FilterValue>> = match visible.column_by_name("id") {
        Some(_) => (0..visible.num_rows()).map(|row| value(&visible, row, "id")).collect(),
        None => BTreeSet::new(),
    };
    let key_shown = keys.len() == visible.num_rows();
    Some(Case { key_shown, text, visible, obligations: ruling.obligations })
}

/// What Cedar lets through.
fn visible(batch: &RecordBatch, facts: &TableFacts, reference: &Reference<'_>) -> RecordBatch {
    let rows: Vec<Row> = (0..batch.num_rows()).map(|row| attributes(batch, facts, row)).collect();
    let permits = |row: &Row| reference.permits(Action::Select, Subject::Row(facts, row), Mode::Enforce).unwrap();
    let keep: BooleanArray = rows.iter().map(|row| Some(permits(row))).collect();
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if reference.hides(Action::Select, facts, field.name(), Mode::Enforce).unwrap() {
            continue;
        }
        let mask = |row| reference.mask(facts, field.name(), row, Mode::Enforce).unwrap();
        fields.push(Field::new(field.name(), field.data_type().clone(), true));
        columns.push(shown(batch, column, field, &rows.iter().map(mask).collect::<Vec<_>>()));
    }
    // All columns may be hidden, and there are rows still.
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let visible = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).unwrap();
    filter_record_batch(&visible, &keep).unwrap()
}

fn attributes(batch: &RecordBatch, facts: &TableFacts, row: usize) -> Row {
    let columns = facts.columns.iter().filter(|column| column.kind.is_some());
    columns.filter_map(|c| Some((c.name.clone(), value(batch, row, &c.name)?))).collect::<BTreeMap<_, _>>()
}

/// A column under the masks of its rows.
fn shown(batch: &RecordBatch, column: &ArrayRef, field: &Field, masks: &[Option<Mask>]) -> ArrayRef {
    if *field.data_type() == DataType::Float64 {
        // Of this type there is no value that a mask could show.
        let gone: BooleanArray = masks.iter().map(|mask| Some(mask.is_some())).collect();
        return nullif(column, &gone).unwrap();
    }
    let seen = masks.iter().enumerate().map(|(row, of_row)| {
        let value = value(batch, row, field.name());
        match of_row {
            Some(of_row) => mask::apply(of_row, value, SALT),
            None => value,
        }
    });
    array(field.data_type(), seen.collect())
}

#[test]
fn sqlite_shows_what_cedar_permits() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    agree(&runtime, &mut World::new(&[("one", Sqlite, &[odd()])]), Sqlite);
}
