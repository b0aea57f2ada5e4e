//! Which columns of which tables an optimised plan reads, before it is cut: what the audit says of a statement.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::{
    common::{Result, tree_node::TreeNodeRecursion},
    logical_expr::{LogicalPlan, TableScan},
};
use greylag_actors::planner::port::ColumnsRead;
use greylag_protocol::messages::control::TableName;

use crate::catalog::{SYSTEM_SCHEMA, SourceTable, system_table};

/// Each table once, by name. What has no table of a source or of the mesh behind it is left out.
pub(crate) fn of(plan: &LogicalPlan) -> Result<Vec<ColumnsRead>> {
    // Positions in the table's schema, and the names there.
    let mut found: BTreeMap<TableName, BTreeSet<(usize, String)>> = BTreeMap::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(table) = table_of(scan)
        {
            let schema = scan.source.schema();
            let columns = found.entry(table).or_default();
            let filtered = scan.filters.iter().flat_map(|filter| filter.column_refs());
            let filtered = filtered.filter_map(|column| schema.index_of(column.name()).ok());
            let projected = scan.projection.clone().unwrap_or_else(|| (0..schema.fields().len()).collect());
            columns.extend(projected.into_iter().chain(filtered).map(|at| (at, schema.field(at).name().clone())));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let reads = found
        .into_iter()
        .map(|(table, columns)| ColumnsRead { table, columns: columns.into_iter().map(|(_, name)| name).collect() });
    Ok(reads.collect())
}

fn table_of(scan: &TableScan) -> Option<TableName> {
    if let Some(table) = SourceTable::of(scan.source.as_ref()) {
        return Some(TableName {
            source: table.source().source.to_string(),
            schema: table.table().schema.clone(),
            table: table.table().name.clone(),
        });
    }
    (scan.table_name.schema() == Some(SYSTEM_SCHEMA)).then(|| system_table(scan.table_name.table()))
}
