//! A part of a plan that one source can run: the `SELECT` so far, what DataFusion still has to check or compute over its
//! rows, and the schema of the plan node that it stands for. It grows node by node (`cutter`, `aggregate`, `join`) and
//! ends as a leaf of the plan, under a filter and a projection where something was left to do.
//!
//! INVARIANT: at every moment, `projection(filter(select))` gives the rows of the node it stands for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::{Field, Schema};
use datafusion::{
    common::{
        Column, DFSchema, DFSchemaRef, Result, ScalarValue, TableReference,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{Expr, Extension, Filter, LogicalPlan, Projection, TableScan, utils::conjunction},
};
use greylag_actors::planner::port::{KeysetPlan, RestAfter};
use greylag_protocol::schema::{Dialect, SourceSchema};

use super::{
    capability,
    convert::{self, BaseColumn, PARTS_MAX, Pushable, Scope},
    estimate::width,
    ir::{BinaryOp, JoinItem, OrderKey, OutputColumn, Scalar, Select, TableRef},
    write::{self, ROW_MARK},
};
use crate::{
    catalog::SourceTable,
    error::external,
    scan::{EdgeScan, EdgeScanNode},
};

/// A condition that goes to the source.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    /// Over base columns, to be checked again if only the loose form is sent.
    pub(crate) original: Expr,
    pub(crate) form: Pushable,
}

#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) source: Arc<SourceSchema>,
    pub(crate) from: TableRef,
    pub(crate) joins: Vec<JoinItem>,
    /// What expressions may refer to.
    pub(crate) base: Vec<BaseColumn>,
    pub(crate) pushed: Vec<Pushed>,
    /// Conditions that are exact and have no expression of their own: semi-joins.
    pub(crate) semi: Vec<Scalar>,
    pub(crate) group: Option<Vec<Scalar>>,
    pub(crate) having: Vec<Scalar>,
    pub(crate) order: Vec<OrderKey>,
    pub(crate) limit: Option<u64>,
    /// Base column of an integer key in whose ascending order the rows come.
    pub(crate) key: Option<Column>,
    /// Conditions that the source cannot check, over base columns.
    pub(crate) residual: Vec<Expr>,
    /// Columns of the node it stands for, over base columns.
    pub(crate) output: Vec<Expr>,
    pub(crate) schema: DFSchemaRef,
    /// Sets of source columns that no two rows share.
    pub(crate) unique: Vec<BTreeSet<(u32, String)>>,
    /// Estimate.
    pub(crate) rows: Option<f64>,
    /// Rows before any filter.
    pub(crate) rows_whole: Option<f64>,
}

impl Remote {
    /// A scan as the smallest part. `id` is the table's number in the plan.
    pub(crate) fn of_scan(scan: &TableScan, table: &SourceTable, id: u32) -> Self {
        let described = table.table();
        let relation = TableReference::bare(format!("t{id}"));
        let columns = &described.columns.0;
        let every: Vec<usize> = (0..columns.fields().len()).collect();
        let base: Vec<BaseColumn> = scan
            .projection
            .as_ref()
            .unwrap_or(&every)
            .iter()
            .map(|at| {
                let (field, native) = (&columns.fields()[*at], described.native.get(*at));
                BaseColumn {
                    column: Column::new(Some(relation.clone()), field.name()),
                    field: Arc::clone(field),
                    scalar: Scalar::Column { table: id, name: field.name().clone() },
                    traits: capability::column(table.source().dialect, field.data_type(), native),
                    distinct: native.and_then(|native| native.distinct),
                }
            })
            .collect();
        let keys = std::iter::once(&described.primary_key).chain(&described.unique).filter(|key| !key.is_empty());
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let rows = described.rows.map(|rows| rows as f64);
        Self {
            source: Arc::clone(table.source()),
            from: TableRef { id, schema: described.schema.clone(), name: described.name.clone() },
            joins: Vec::new(),
            output: base.iter().map(|base| Expr::Column(base.column.clone())).collect(),
            base,
            pushed: Vec::new(),
            semi: Vec::new(),
            group: None,
            having: Vec::new(),
            order: Vec::new(),
            limit: None,
            key: None,
            residual: Vec::new(),
            schema: Arc::clone(&scan.projected_schema),
            unique: keys.map(|key| key.iter().map(|name| (id, name.clone())).collect()).collect(),
            rows,
            rows_whole: rows,
        }
    }

    pub(crate) fn scope(&self) -> Scope<'_> {
        Scope { dialect: self.source.dialect, columns: &self.base }
    }

    /// Whether it is rows of tables still, with nothing that would have to come after a join.
    pub(crate) fn is_rows(&self) -> bool {
        self.group.is_none() && self.limit.is_none() && self.order.is_empty()
    }

    /// Whether the source alone gives exactly the rows, if asked for the exact form of all conditions.
    pub(crate) fn is_exact(&self) -> bool {
        self.residual.is_empty() && self.pushed.iter().all(|pushed| pushed.form.exact.is_some())
    }

    /// An expression over the node it stands for, as one over base columns.
    pub(crate) fn to_base(&self, expr: &Expr) -> Result<Expr> {
        let replaced = expr.clone().transform_up(|expr| match &expr {
            Expr::Column(column) => {
                let at = self.schema.index_of_column(column)?;
                Ok(Transformed::yes(self.output[at].clone()))
            }
            _ => Ok(Transformed::no(expr)),
        });
        Ok(replaced?.data)
    }

    /// Adds a condition over base columns: to the source if it can, else to what is left to do.
    pub(crate) fn add_condition(&mut self, condition: Expr) {
        let full = self.pushed.len() + self.having.len() >= PARTS_MAX;
        let form = if full { None } else { convert::condition(self.scope(), &condition) };
        match form {
            Some(form) if self.group.is_some() => match form.exact {
                Some(exact) => {
                    self.scale_rows(form.selectivity);
                    self.having.push(exact);
                }
                None => self.residual.push(condition),
            },
            Some(form) => {
                self.scale_rows(form.selectivity);
                self.pushed.push(Pushed { original: condition, form });
            }
            None => self.residual.push(condition),
        }
    }

    pub(crate) fn scale_rows(&mut self, selectivity: f64) {
        self.rows = self.rows.map(|rows| (rows * selectivity).max(1.0));
    }

    /// Bytes of a row of base columns.
    pub(crate) fn row_bytes(&self) -> usize {
        self.base.iter().map(|base| width(base.field.data_type())).sum()
    }

    /// The `SELECT` of some base columns. Exact where something depends on it, else as cheap as it may be.
    pub(crate) fn select(&self, columns: Vec<OutputColumn>) -> Select {
        let strict = self.is_strict();
        let mut filters = Vec::new();
        for pushed in &self.pushed {
            match &pushed.form.exact {
                Some(exact) if strict => filters.push(exact.clone()),
                _ => filters.push(pushed.form.loose.clone()),
            }
        }
        filters.extend(self.semi.iter().cloned());
        Select {
            from: self.from.clone(),
            joins: self.joins.clone(),
            filters: Scalar::all(filters).map(split_all).unwrap_or_default(),
            group: self.group.clone(),
            having: self.having.clone(),
            order: self.order.clone(),
            limit: self.limit,
            columns,
        }
    }

    /// Whether the source's rows are used in a way that no later check could mend.
    fn is_strict(&self) -> bool {
        self.group.is_some() || self.limit.is_some()
    }

    /// What DataFusion has to check over the rows that come.
    fn rechecks(&self) -> Vec<Expr> {
        let loose = self.pushed.iter().filter(|p| !self.is_strict() && !p.form.loose_is_exact());
        self.residual.iter().cloned().chain(loose.map(|pushed| pushed.original.clone())).collect()
    }

    /// The leaf, with what is left to do above it.
    pub(crate) fn into_plan(self, ordinal: u32) -> Result<(LogicalPlan, Arc<EdgeScan>)> {
        let rechecks = self.rechecks();
        let plain: Option<Vec<usize>> = self.output.iter().map(|expr| self.base_index(expr)).collect();
        let direct = plain
            .filter(|columns| rechecks.is_empty() && columns.iter().collect::<BTreeSet<_>>().len() == columns.len());
        if let Some(columns) = direct {
            let scan = self.scan(ordinal, &columns)?;
            return Ok((leaf(Arc::clone(&scan), Arc::clone(&self.schema)), scan));
        }
        let used: BTreeSet<usize> = self
            .output
            .iter()
            .chain(&rechecks)
            .flat_map(|expr| expr.column_refs().into_iter().filter_map(|column| self.index_of(column)))
            .collect();
        let columns: Vec<usize> = used.into_iter().collect();
        let fields = columns.iter().map(|at| (self.base[*at].column.relation.clone(), self.base[*at].field.clone()));
        let schema = DFSchema::new_with_metadata(fields.collect(), Default::default())?;
        let scan = self.scan(ordinal, &columns)?;
        let mut plan = leaf(Arc::clone(&scan), Arc::new(schema));
        if let Some(predicate) = conjunction(rechecks) {
            plan = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?);
        }
        let names = self.schema.iter();
        let exprs: Vec<Expr> = names
            .zip(self.output)
            .map(|((qualifier, field), expr)| expr.alias_qualified(qualifier.cloned(), field.name()))
            .collect();
        let projection = Projection::try_new_with_schema(exprs, Arc::new(plan), self.schema)?;
        Ok((LogicalPlan::Projection(projection), scan))
    }

    fn scan(&self, ordinal: u32, columns: &[usize]) -> Result<Arc<EdgeScan>> {
        let names = self.names(columns);
        let outputs = columns.iter().zip(&names);
        let select = self.select(
            outputs
                .map(|(at, name)| OutputColumn { scalar: self.base[*at].scalar.clone(), name: name.clone() })
                .collect(),
        );
        let sql = write::sql(self.source.dialect, &select).map_err(external)?;
        let key = self.key.as_ref().and_then(|key| columns.iter().position(|at| self.base[*at].column == *key));
        let mut fields: Vec<Field> = columns
            .iter()
            .zip(&names)
            .map(|(at, name)| {
                let field = &self.base[*at].field;
                Field::new(name, field.data_type().clone(), field.is_nullable())
            })
            .collect();
        if fields.is_empty() {
            fields.push(Field::new(ROW_MARK, arrow::datatypes::DataType::Int64, false));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate of at least 0")]
        let rows = self.rows.map(|rows| rows as usize);
        let limit = self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Arc::new(EdgeScan {
            ordinal,
            source: self.source.source.clone(),
            sql,
            key,
            keyset: key.and_then(|key| self.keyset(key, columns, &select)),
            row_bytes: fields.iter().map(|field| width(field.data_type())).sum(),
            wire: Arc::new(Schema::new(fields)),
            rows: match (rows, limit) {
                (Some(rows), Some(limit)) => Some(rows.min(limit)),
                (rows, limit) => rows.or(limit),
            },
            distinct: columns
                .iter()
                .map(|at| self.base[*at].distinct.and_then(|distinct| usize::try_from(distinct).ok()))
                .collect(),
        }))
    }

    /// How it goes on after a key, which is in this column; nothing for a source that cannot tell whether its content is
    /// the same as before.
    fn keyset(&self, column: usize, columns: &[usize], select: &Select) -> Option<KeysetPlan> {
        let dialect = self.source.dialect;
        if !capability::names_content(dialect) {
            return None;
        }
        let key = self.base.get(*columns.get(column)?)?.scalar.clone();
        let TableRef { schema, name, .. } = self.from.clone();
        Some(KeysetPlan { column, schema, table: name, rest: Arc::new(Rest { dialect, key, select: select.clone() }) })
    }

    /// A name for each column: its own where that is free.
    fn names(&self, columns: &[usize]) -> Vec<String> {
        let own: BTreeSet<&str> = self.base.iter().map(|base| base.column.name.as_str()).collect();
        let mut given: BTreeMap<String, usize> = BTreeMap::new();
        let mut names = Vec::with_capacity(columns.len());
        for at in columns {
            let name = &self.base[*at].column.name;
            let count = given.entry(name.clone()).or_default();
            *count += 1;
            let mut candidate = if *count == 1 { name.clone() } else { format!("{name}_{count}") };
            while *count > 1 && (own.contains(candidate.as_str()) || names.contains(&candidate)) {
                candidate.push('_');
            }
            names.push(candidate);
        }
        names
    }

    fn base_index(&self, expr: &Expr) -> Option<usize> {
        match expr {
            Expr::Column(column) => self.index_of(column),
            _ => None,
        }
    }

    pub(crate) fn index_of(&self, column: &Column) -> Option<usize> {
        self.base.iter().position(|base| base.column == *column)
    }
}

/// A `SELECT` in the order of a key, to be written for the rows after one.
#[derive(Debug)]
struct Rest {
    dialect: Dialect,
    key: Scalar,
    select: Select,
}

impl RestAfter for Rest {
    fn sql(&self, key: i64) -> greylag_protocol::Result<String> {
        let last = Scalar::Literal(ScalarValue::Int64(Some(key)));
        let mut select = self.select.clone();
        select.filters.push(Scalar::binary(BinaryOp::Gt, self.key.clone(), last));
        write::sql(self.dialect, &select)
    }
}

fn split_all(scalar: Scalar) -> Vec<Scalar> {
    match scalar {
        Scalar::And(all) => all,
        one => vec![one],
    }
}

fn leaf(scan: Arc<EdgeScan>, schema: DFSchemaRef) -> LogicalPlan {
    LogicalPlan::Extension(Extension { node: Arc::new(EdgeScanNode { scan, schema }) })
}
