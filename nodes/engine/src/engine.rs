//! The engine behind the planner's port: the steps from a statement's text to a plan that can run.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::Schema};
use async_trait::async_trait;
use datafusion::{
    error::DataFusionError,
    execution::SessionState,
    logical_expr::LogicalPlan,
    sql::{parser::Statement, planner::SqlToRel, sqlparser::ast::Statement as SqlStatement},
};
use greylag_actors::planner::port::{Catalog, ExecutablePlan, PlanRequest, QueryEngine, Touched};
use greylag_protocol::{ErrorCode, MeshError, Result, messages::control::TableName, step::StepTimes};

use crate::{
    catalog::{SYSTEM_TABLES, StatementContext, resolve, system_table},
    describe,
    error::{mesh_error, missing_column},
    explain::{self, AnalyzePlan},
    governed,
    parameters::Parameters,
    plan::{Executable, QueryPlan, UnboundPlan},
    pushdown, reads,
    session::{EngineConfig, Sessions},
    statement::{Command, Parsed},
};

/// The query engine of a node. Cheap to clone; all clones share the node's memory.
#[derive(Clone)]
pub struct Engine {
    sessions: Arc<Sessions>,
}

impl Engine {
    /// Fails if the directory to spill to cannot be made.
    pub fn new(config: EngineConfig) -> Result<Self> {
        Ok(Self { sessions: Arc::new(Sessions::new(&config)?) })
    }

    /// Bytes that running queries hold together.
    pub fn memory_used(&self) -> usize {
        self.sessions.memory_used()
    }

    async fn query(&self, request: PlanRequest, query: &SqlStatement) -> Result<Arc<dyn ExecutablePlan>> {
        Ok(match self.planned(&request, query).await? {
            Planned::Bound(plan) => Arc::new(Executable(plan)),
            Planned::Unbound { schema, parameters } => Arc::new(UnboundPlan::new(&schema, parameters.schema())),
        })
    }

    async fn explained(
        &self,
        request: PlanRequest,
        query: &SqlStatement,
        analyze: bool,
        verbose: bool,
    ) -> Result<Arc<dyn ExecutablePlan>> {
        let (edges, delivery) = (request.edges.as_ref(), request.options.delivery);
        let filtered = request.permit.obligations().iter().any(|obligation| obligation.filter.is_some());
        Ok(match self.planned(&request, query).await? {
            Planned::Unbound { parameters, .. } => Arc::new(UnboundPlan::new(&explain::schema(), parameters.schema())),
            Planned::Bound(_) if analyze && filtered => {
                let message = "the statement's rows are filtered by policy: counts of its steps would tell of others";
                return Err(MeshError::new(ErrorCode::Denied, message));
            }
            Planned::Bound(plan) if analyze => Arc::new(AnalyzePlan::new(plan, edges, delivery, verbose)?),
            Planned::Bound(plan) => {
                let parameters = Executable(Arc::clone(&plan)).parameters();
                Arc::new(explain::explain(&plan, parameters, &request, verbose).await?)
            }
        })
    }

    async fn planned(&self, request: &PlanRequest, query: &SqlStatement) -> Result<Planned> {
        let state = self.sessions.statement(&request.options);
        let (logical, times) = logical(&state, request, query)?;
        let parameters = Parameters::of(&logical)?;
        let logical = match (&request.parameters, parameters.is_empty()) {
            (None, false) => {
                let schema = logical.schema().as_arrow().clone();
                return Ok(Planned::Unbound { schema, parameters });
            }
            (None, true) => logical,
            (Some(values), true) if values.num_columns() == 0 => logical,
            (Some(values), _) => parameters.bind(logical, values)?,
        };
        let optimized = state.optimize(&logical).map_err(mesh_error)?;
        let lowered = governed::lower(optimized).map_err(mesh_error)?;
        let reads = reads::of(&lowered).map_err(mesh_error)?;
        let cut = pushdown::cut(lowered).map_err(mesh_error)?;
        let plan = QueryPlan::new(Arc::clone(&self.sessions), state, cut, parameters.schema(), times, reads).await?;
        Ok(Planned::Bound(Arc::new(plan)))
    }
}

enum Planned {
    Bound(Arc<QueryPlan>),
    Unbound { schema: Schema, parameters: Parameters },
}

/// The statement as a plan, with every table behind the gate.
fn logical(state: &SessionState, request: &PlanRequest, query: &SqlStatement) -> Result<(LogicalPlan, StepTimes)> {
    let context = StatementContext::new(state, &request.catalog, &request.permit, &request.system);
    let planner = SqlToRel::new_with_options(&context, context.parser_options());
    let statement = Statement::Statement(Box::new(query.clone()));
    let plan = planner.statement_to_plan(statement).map_err(|error: DataFusionError| {
        let unsupported = missing_column(&error).and_then(|column| context.unsupported_column(&column.name));
        unsupported.unwrap_or_else(|| mesh_error(error))
    })?;
    Ok((plan, context.times()))
}

#[async_trait]
impl QueryEngine for Engine {
    fn touched(&self, sql: &str, catalog: &Catalog) -> Result<Touched> {
        let parsed = Parsed::parse(sql)?;
        let mut tables: Vec<TableName> =
            parsed.tables.iter().map(|name| resolve(catalog, name).map(|found| found.name())).collect::<Result<_>>()?;
        tables.sort();
        tables.dedup();
        Ok(Touched { action: parsed.action(), tables, redacted: parsed.redacted() })
    }

    async fn plan(&self, request: PlanRequest) -> Result<Arc<dyn ExecutablePlan>> {
        let parsed = Parsed::parse(&request.sql)?;
        match &parsed.command {
            Command::Query(query) => self.query(request, query).await,
            Command::Explain { query, analyze, verbose } => self.explained(request, query, *analyze, *verbose).await,
            Command::ShowTables => {
                covered(&request, &system_table(SYSTEM_TABLES))?;
                no_values(&request.parameters)?;
                Ok(Arc::new(describe::tables(request.system.as_ref()).await?))
            }
            Command::Describe(name) => {
                let table = resolve(&request.catalog, name)?;
                covered(&request, &table.name())?;
                no_values(&request.parameters)?;
                let obligation = request.permit.obligation(&table.name());
                Ok(Arc::new(describe::columns(&table, obligation, request.system.as_ref())?))
            }
        }
    }
}

/// GL2005 for a table that the permit leaves out.
fn covered(request: &PlanRequest, table: &TableName) -> Result<()> {
    if request.permit.covers(table) {
        return Ok(());
    }
    let message = format!("the decision about this statement does not cover `{table}`");
    Err(MeshError::new(ErrorCode::NoDecision, message))
}

fn no_values(parameters: &Option<RecordBatch>) -> Result<()> {
    match parameters {
        Some(values) if values.num_columns() > 0 => {
            Err(MeshError::new(ErrorCode::Parameters, "the statement has no placeholders, and values were given"))
        }
        _ => Ok(()),
    }
}
