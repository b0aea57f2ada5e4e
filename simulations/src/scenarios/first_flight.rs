//! Three nodes form a mesh, answer a federated query, lose the leader to a power cut with torn writes, answer again
//! without it, get it back, and it answers too.
//!
//! Invariants: every answer is the rows of single-process DataFusion; the mesh forms, notices, elects and heals within
//! named virtual times; nothing that was acknowledged before the cut is gone after it; the audit chains of all nodes hold
//! together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::{
    array::{Decimal128Array, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::datasource::MemTable;
use greylag_governance::audit::verify::{Copy, Knowledge, verify};
use greylag_protocol::{SourceName, state::SourceSpec, statement::AdminCall};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::world::{Hosts, MemoryConnectors, MemoryTable, Task, TaskResult, trace};

/// Longest virtual time for any one thing to come about.
const PATIENCE: Duration = Duration::from_secs(60);
/// Virtual time between two tries of a statement.
const RETRY: Duration = Duration::from_millis(100);
/// Most bytes of an audit record that a power cut leaves of those that were not synced.
const TORN_AUDIT_BYTES_MAX: f64 = 400.0;
const CUSTOMERS: i64 = 500;
const ORDERS: i64 = 20_000;

const QUERY: &str = "SELECT c_name, count(*) AS n, sum(o_price) AS total FROM orders JOIN customers ON o_customer = c_id \
    WHERE o_price > 5.00 GROUP BY c_name ORDER BY total DESC, c_name LIMIT 20";

/// What a flight came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    pub formed_ms: u128,
    pub answered_after_cut_ms: u128,
    pub healed_ms: u128,
    pub torn_sectors: u64,
    pub rows: usize,
    pub disks: u64,
}

/// Flies it. Errors name the invariant that did not hold.
pub fn first_flight(seed: u64) -> anyhow::Result<Flight> {
    let sources = MemoryConnectors { tables: Arc::new(tables()?) };
    let expected = expected(&sources)?;
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(seed)
        .epoch(std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(4))
        .udp_capacity(1 << 16)
        .enable_random_order();
    let mut sim = builder.build();
    let hosts = Hosts::add(&mut sim, 3, seed, &sources);
    let mut flight = Pilot { sim, hosts, chance: ChaCha8Rng::seed_from_u64(seed ^ 0x5eed) };
    let outcome = flight.fly(&expected);
    // Handles of a world must not outlive it in destructors that expect a runtime.
    std::mem::forget(flight);
    outcome
}

struct Pilot<'a> {
    sim: turmoil::Sim<'a>,
    hosts: Hosts,
    chance: ChaCha8Rng,
}

impl Pilot<'_> {
    fn fly(&mut self, expected: &[String]) -> anyhow::Result<Flight> {
        self.until("three nodes form a mesh", |h| {
            let up = &h.board.borrow().up;
            (up.len() == 3 && up.values().all(|(_, leader)| leader.is_some())).then_some(())
        })?;
        let formed_ms = self.sim.elapsed().as_millis();
        self.note("formed");
        for (name, tables) in [("sales", "orders"), ("people", "customers")] {
            let spec = SourceSpec {
                name: SourceName::new(name)?,
                kind: "memory".into(),
                options: [("tables".to_owned(), tables.to_owned())].into(),
                labels: BTreeMap::new(),
                replicas: 2,
            };
            self.retry(
                "n1",
                &Task::Admin(AdminCall::ApplySource { spec, expect_version: None }),
                "a source is applied",
            )?;
        }
        self.answer("n2", expected, "the first answer")?;

        let leader = self.leader()?;
        self.note(format!("power cut at {leader}"));
        self.hosts.disks[&leader].power_off();
        self.sim.crash(leader.as_str());
        self.hosts.board.borrow_mut().up.remove(&leader);
        let cut = self.sim.elapsed();
        let survivor = self.hosts.names.iter().find(|n| **n != leader).cloned().unwrap_or_default();
        self.answer(&survivor, expected, "an answer without the leader")?;
        let answered_after_cut_ms = (self.sim.elapsed() - cut).as_millis();

        let survive = f64::from(self.chance.random_range(0..=4)) / 4.0;
        let torn_sectors = self.hosts.disks[&leader].power_on(survive);
        self.hosts.audits[&leader].0.cut_power((survive * TORN_AUDIT_BYTES_MAX) as usize);
        self.sim.bounce(leader.as_str());
        let back = self.sim.elapsed();
        self.note(format!("power returns at {leader}, {torn_sectors} sectors torn"));
        self.until("the node is back", |h| h.board.borrow().up.contains_key(&leader).then_some(()))?;
        let rows = self.answer(&leader, expected, "an answer from the node that was cut off")?;
        self.holds("people", &leader)?;
        let healed_ms = (self.sim.elapsed() - back).as_millis();
        self.chains_hold()?;
        self.note("healed");
        let disks = self.hosts.disks.values().fold(0, |h, d| trace::fold(h, &d.hash().to_le_bytes()));
        Ok(Flight { formed_ms, answered_after_cut_ms, healed_ms, torn_sectors, rows, disks })
    }

    /// What every node has recorded is whole, and fits what the others say of it.
    fn chains_hold(&self) -> anyhow::Result<()> {
        let copies: Vec<Copy<'_>> =
            self.hosts.audits.iter().map(|(name, place)| Copy { label: name.clone(), files: &place.0 }).collect();
        let report = verify(&copies, &Knowledge::default())?;
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        anyhow::ensure!(findings.is_empty(), "the audit chains do not hold: {}", findings.join("; "));
        let records: Vec<u64> = report.chains.iter().map(|chain| chain.records).collect();
        self.note(format!("audit chains of {records:?} records hold"));
        Ok(())
    }

    fn note(&self, text: impl Into<String>) {
        trace::note_at(self.sim.elapsed(), text);
    }

    /// Steps the world until something is there.
    fn until<T>(&mut self, what: &str, mut seen: impl FnMut(&Hosts) -> Option<T>) -> anyhow::Result<T> {
        let start = self.sim.elapsed();
        loop {
            if let Some(found) = seen(&self.hosts) {
                return Ok(found);
            }
            let late = self.sim.elapsed() - start > PATIENCE;
            anyhow::ensure!(!late, "{what}: not within {} s of virtual time", PATIENCE.as_secs());
            if let Err(error) = self.sim.step() {
                anyhow::bail!("{what}: the world ended: {error}");
            }
        }
    }

    fn once(&mut self, host: &str, task: &Task, what: &str) -> anyhow::Result<TaskResult> {
        let number = self.hosts.board.borrow_mut().post(host, task.clone());
        self.until(what, |h| h.board.borrow_mut().results.remove(&number))
    }

    /// Repeats a task while its error says that a repetition may help.
    fn retry(&mut self, host: &str, task: &Task, what: &str) -> anyhow::Result<Vec<RecordBatch>> {
        let start = self.sim.elapsed();
        loop {
            match self.once(host, task, what)? {
                Ok(rows) => return Ok(rows),
                Err(error) => {
                    // A table of a source whose schema has not been seen yet is unknown for a moment.
                    let unknown = error.code == greylag_protocol::ErrorCode::UnknownTable;
                    anyhow::ensure!(error.is_retryable() || unknown, "{what}: {error}");
                    self.note(format!("{what}: {error}"));
                    anyhow::ensure!(self.sim.elapsed() - start < PATIENCE, "{what}: {error}");
                    let again = self.sim.elapsed() + RETRY;
                    while self.sim.elapsed() < again {
                        self.sim.step().map_err(|e| anyhow::anyhow!("{e}"))?;
                    }
                }
            }
        }
    }

    fn answer(&mut self, host: &str, expected: &[String], what: &str) -> anyhow::Result<usize> {
        let rows = lines(&self.retry(host, &Task::Query(QUERY.into()), what)?)?;
        self.note(format!("{what} from {host}: {} rows", rows.len()));
        anyhow::ensure!(rows == expected, "{what} from {host} differs: {rows:?}, expected {expected:?}");
        Ok(rows.len())
    }

    /// What was acknowledged before the cut is known to the node that came back.
    fn holds(&mut self, source: &str, host: &str) -> anyhow::Result<()> {
        let sql = format!("SELECT name FROM system.sources WHERE name = '{source}'");
        let rows = self.retry(host, &Task::Query(sql), "the sources are known")?;
        anyhow::ensure!(lines(&rows)?.len() == 1, "source `{source}` is lost on {host}");
        Ok(())
    }

    fn leader(&mut self) -> anyhow::Result<String> {
        self.until("there is a leader", |h| {
            let board = h.board.borrow();
            let leader = board.up.values().find_map(|(_, leader)| *leader)?;
            board.up.iter().find(|(_, (id, _))| *id == leader).map(|(name, _)| name.clone())
        })
    }
}

fn tables() -> anyhow::Result<BTreeMap<String, MemoryTable>> {
    let customers = RecordBatch::try_new(
        Arc::new(Schema::new(vec![
            Field::new("c_id", DataType::Int64, false),
            Field::new("c_name", DataType::Utf8, true),
        ])),
        vec![
            Arc::new(Int64Array::from_iter_values(0..CUSTOMERS)),
            Arc::new(StringArray::from_iter(
                (0..CUSTOMERS).map(|i| (i % 50 != 0).then(|| format!("customer {}", i % 97))),
            )),
        ],
    )?;
    let schema = Arc::new(Schema::new(vec![
        Field::new("o_id", DataType::Int64, false),
        Field::new("o_customer", DataType::Int64, true),
        Field::new("o_price", DataType::Decimal128(12, 2), false),
    ]));
    let orders = (0..ORDERS / 1000).map(|batch| {
        let ids = batch * 1000..(batch + 1) * 1000;
        let customers = ids.clone().map(|i| (i % 13 != 0).then_some(i * 7919 % (CUSTOMERS + 20)));
        let prices = ids.clone().map(|i| i128::from(i * 104_729 % 10_000));
        RecordBatch::try_new(
            schema.clone(),
            vec![
                Arc::new(Int64Array::from_iter_values(ids)),
                Arc::new(Int64Array::from_iter(customers)),
                Arc::new(Decimal128Array::from_iter_values(prices).with_precision_and_scale(12, 2)?),
            ],
        )
    });
    let orders: Vec<RecordBatch> = orders.collect::<Result<_, _>>()?;
    let all = [("customers", vec![customers]), ("orders", orders)];
    Ok(all.into_iter().map(|(n, batches)| (n.to_owned(), MemoryTable { name: n.into(), batches })).collect())
}

/// What single-process DataFusion says, on a thread of its own: this one's clock and entropy are the simulation's.
fn expected(sources: &MemoryConnectors) -> anyhow::Result<Vec<String>> {
    let tables = sources.tables.clone();
    let asked = std::thread::spawn(move || -> anyhow::Result<Vec<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let session = greylag_engine::session::reference();
            for table in tables.values() {
                let provider = MemTable::try_new(table.batches[0].schema(), vec![table.batches.clone()])?;
                session.register_table(table.name.as_str(), Arc::new(provider))?;
            }
            lines(&session.sql(QUERY).await?.collect().await?)
        })
    });
    asked.join().map_err(|_| anyhow::anyhow!("the reference panicked"))?
}

fn lines(batches: &[RecordBatch]) -> anyhow::Result<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options)).collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            lines.push(columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    Ok(lines)
}
