//! What DataFusion's SQL planner asks while it plans one statement: tables from the statement's catalog, functions and
//! options from the session.
//!
//! INVARIANT: a table that the permit does not cover cannot be planned (GL2005), whatever the statement's parse said.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::{
    catalog::TableFunctionArgs,
    common::{DFSchema, Result, TableReference, plan_err},
    config::ConfigOptions,
    datasource::{cte_worktable::CteWorkTable, provider_as_source},
    execution::SessionState,
    logical_expr::{
        AggregateUDF, Expr, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF,
        planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner},
        simplify::SimplifyContext,
    },
    optimizer::simplify_expressions::ExprSimplifier,
    sql::planner::ParserOptions,
};
use greylag_actors::planner::port::{Catalog, Permit, SystemTables};
use greylag_protocol::{ErrorCode, MeshError, schema::TableSchema, step::StepTimes};

use super::{
    resolve::{Resolved, resolve},
    system::SystemTable,
    table::SourceTable,
};
use crate::{
    error::{external, mesh_error},
    governed::GovernedTable,
    nearest::suggestion,
};

/// The planner's view of one statement's world.
pub(crate) struct StatementContext<'a> {
    state: &'a SessionState,
    catalog: &'a Catalog,
    permit: &'a Permit,
    system: &'a Arc<dyn SystemTables>,
    /// Tables of sources that were planned, for errors about columns.
    planned: Mutex<Vec<Resolved>>,
    /// Time that row filters and masks have taken.
    times: Mutex<StepTimes>,
}

impl<'a> StatementContext<'a> {
    pub(crate) fn new(
        state: &'a SessionState,
        catalog: &'a Catalog,
        permit: &'a Permit,
        system: &'a Arc<dyn SystemTables>,
    ) -> Self {
        Self { state, catalog, permit, system, planned: Mutex::new(Vec::new()), times: Mutex::default() }
    }

    pub(crate) fn times(&self) -> StepTimes {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// DataFusion's own defaults, as the session has them.
    pub(crate) fn parser_options(&self) -> ParserOptions {
        let options = &self.state.config_options().sql_parser;
        ParserOptions {
            parse_float_as_decimal: options.parse_float_as_decimal,
            enable_ident_normalization: options.enable_ident_normalization,
            support_varchar_with_length: options.support_varchar_with_length,
            enable_options_value_normalization: options.enable_options_value_normalization,
            collect_spans: options.collect_spans,
            map_string_types_to_utf8view: options.map_string_types_to_utf8view,
            default_null_ordering: options.default_null_ordering.as_str().into(),
        }
    }

    /// GL3006, if a column of this name was left out of one of the planned tables because of its type.
    pub(crate) fn unsupported_column(&self, column: &str) -> Option<MeshError> {
        let planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        planned.iter().find_map(|resolved| {
            let Resolved::Source { source, index } = resolved else { return None };
            let table: &TableSchema = &source.tables[*index];
            let hidden =
                self.permit.obligation(&resolved.name()).is_some_and(|o| o.hidden.iter().any(|h| h.column == column));
            let unsupported = table.unsupported.iter().filter(|_| !hidden);
            let (name, kind) = unsupported.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(column))?;
            let message =
                format!("column `{name}` of `{}` has the type `{kind}`, which is not supported", resolved.name());
            Some(MeshError::new(ErrorCode::UnsupportedType, message).of_source(source.source.clone()))
        })
    }

    fn find(&self, name: &TableReference) -> greylag_protocol::Result<Arc<dyn TableSource>> {
        let resolved = resolve(self.catalog, name)?;
        let full = resolved.name();
        if !self.permit.covers(&full) {
            let message = format!("the decision about this statement does not cover `{full}`");
            return Err(MeshError::new(ErrorCode::NoDecision, message));
        }
        let table: Arc<dyn TableSource> = match &resolved {
            Resolved::Source { source, index } => {
                let table = SourceTable::new(Arc::clone(source), *index);
                self.planned.lock().unwrap_or_else(PoisonError::into_inner).push(resolved);
                Arc::new(table)
            }
            Resolved::System(table) => match SystemTable::find(table, self.system) {
                Some(table) => provider_as_source(Arc::new(table)),
                None => {
                    let known: Vec<&str> = self.system.schemas().into_iter().map(|(name, _)| name).collect();
                    let near = suggestion(table, &known);
                    let message = format!("table `{full}` is not known{near}");
                    return Err(MeshError::new(ErrorCode::UnknownTable, message));
                }
            },
        };
        match self.permit.obligation(&full) {
            Some(obligation) => {
                let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
                let governed = GovernedTable::new(&full, table, obligation, self.permit.salt(), &mut times);
                Ok(Arc::new(governed.map_err(mesh_error)?))
            }
            None => Ok(table),
        }
    }
}

impl ContextProvider for StatementContext<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        self.find(&name).map_err(external)
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> Result<Arc<dyn TableSource>> {
        let Some(function) = self.state.table_functions().get(name) else {
            let known = sorted(self.state.table_functions().keys());
            return plan_err!("table function `{name}` is not known; there is {}", known.join(", "));
        };
        let context = SimplifyContext::builder()
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_query_execution_start_time(self.state.execution_props().query_execution_start_time)
            .build();
        let simplifier = ExprSimplifier::new(context);
        let schema = DFSchema::empty();
        let args: Vec<Expr> =
            args.into_iter().map(|arg| simplifier.simplify(simplifier.coerce(arg, &schema)?)).collect::<Result<_>>()?;
        let arguments = TableFunctionArgs::new(&args, self.state);
        Ok(provider_as_source(function.create_table_provider_with_args(arguments)?))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        None
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        sorted(self.state.scalar_functions().keys())
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        sorted(self.state.higher_order_functions().keys())
    }

    fn udaf_names(&self) -> Vec<String> {
        sorted(self.state.aggregate_functions().keys())
    }

    fn udwf_names(&self) -> Vec<String> {
        sorted(self.state.window_functions().keys())
    }
}

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = names.cloned().collect();
    names.sort();
    names
}
