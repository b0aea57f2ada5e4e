//! The one place where DataFusion sessions are made (law 5): the session that plans and runs statements, the one that
//! reads files on an edge, and the plain one that answers are compared with.
//!
//! Nothing is left to the machine: partitions, planning concurrency and batch sizes are what the caller says, so the
//! same statement is planned alike everywhere, also in simulation.

use std::{path::PathBuf, sync::Arc};

use datafusion::{
    execution::{
        SessionState, SessionStateBuilder, TaskContext,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{FairSpillPool, MemoryPool},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    prelude::{SessionConfig, SessionContext},
};
use greylag_protocol::{MeshError, Result, statement::SessionOptions};

use crate::{
    error::mesh_error,
    memory::{NodeBudget, QueryPool},
    scan::EdgePlanner,
};

/// Most bytes that all queries of a node spill to disk at a time.
pub const SPILL_BYTES_MAX: u64 = 64 << 30;

/// Memory that a sort keeps back to merge what it has spilled: a part of the query's, and never more than this.
const SPILL_RESERVE_PART: usize = 16;
const SPILL_RESERVE_BYTES_MAX: usize = 10 << 20;

/// What an engine may use.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Partitions of a plan; 1 or more.
    pub target_partitions: usize,
    /// Memory of one query before it spills or fails, bytes.
    pub query_memory_bytes_max: u64,
    /// Memory of all queries together, bytes.
    pub node_memory_bytes_max: u64,
    /// Where to spill; without it nothing is spilled and a query over its memory fails.
    pub spill_dir: Option<PathBuf>,
    /// Rows of a batch inside a plan, where a statement does not say otherwise.
    pub batch_rows: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            target_partitions: 2,
            query_memory_bytes_max: 1 << 30,
            node_memory_bytes_max: 4 << 30,
            spill_dir: None,
            batch_rows: 8192,
        }
    }
}

/// What reading files may use on an edge.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// Partitions of a plan; 1 or more.
    pub target_partitions: usize,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Memory of all reads of this session together, bytes.
    pub memory_bytes_max: usize,
}

/// The session state that all statements of an engine start from.
pub(crate) struct Sessions {
    state: SessionState,
    runtime: Arc<RuntimeEnv>,
    node: Arc<NodeBudget>,
    query_memory_bytes_max: usize,
}

impl Sessions {
    pub(crate) fn new(config: &EngineConfig) -> Result<Self> {
        let disk = match &config.spill_dir {
            Some(dir) => DiskManagerMode::Directories(vec![dir.clone()]),
            None => DiskManagerMode::Disabled,
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_disk_manager_builder(
                DiskManagerBuilder::default().with_mode(disk).with_max_temp_directory_size(SPILL_BYTES_MAX),
            )
            .build_arc()
            .map_err(mesh_error)?;
        let memory = to_usize(config.query_memory_bytes_max)?;
        let reserve = (memory / SPILL_RESERVE_PART).min(SPILL_RESERVE_BYTES_MAX);
        let state = SessionStateBuilder::new()
            .with_config(
                fixed(config.target_partitions, config.batch_rows)
                    .with_create_default_catalog_and_schema(false)
                    .with_sort_spill_reservation_bytes(reserve),
            )
            .with_runtime_env(Arc::clone(&runtime))
            .with_query_planner(Arc::new(EdgePlanner))
            .with_default_features()
            .build();
        Ok(Self {
            state,
            runtime,
            node: Arc::new(NodeBudget::new(to_usize(config.node_memory_bytes_max)?)),
            query_memory_bytes_max: memory,
        })
    }

    /// A state of a statement's own, with the time that `now()` is. One that is to be resumable is planned without
    /// parallel parts: where they meet again, rows come in the order in which threads are ready.
    pub(crate) fn statement(&self, options: &SessionOptions) -> SessionState {
        let mut state = self.state.clone();
        let batch_rows = usize::try_from(options.batch_rows).unwrap_or(usize::MAX).max(1);
        let mut config = state.config().clone().with_batch_size(batch_rows);
        if options.resumable {
            config = config.with_target_partitions(1);
        }
        *state.config_mut() = config;
        state.mark_start_execution();
        state
    }

    /// What one run of a plan gets: memory of its own, and `extension` for its leaves.
    pub(crate) fn task<T: Send + Sync + 'static>(&self, state: &SessionState, extension: Arc<T>) -> Arc<TaskContext> {
        let pool: Arc<dyn MemoryPool> = Arc::new(QueryPool::new(self.query_memory_bytes_max, Arc::clone(&self.node)));
        let runtime = RuntimeEnv { memory_pool: pool, ..RuntimeEnv::clone(&self.runtime) };
        let context = TaskContext::from(state).with_runtime(Arc::new(runtime));
        let config = context.session_config().clone().with_extension(extension);
        Arc::new(context.with_session_config(config))
    }

    /// Bytes that running queries hold together.
    pub(crate) fn memory_used(&self) -> usize {
        self.node.used()
    }
}

/// A session for reading files on an edge: listing tables and object stores can be registered in it. Its catalog is
/// `datafusion`; whoever registers tables makes the schemas.
pub fn for_files(config: &FilesConfig) -> Result<SessionContext> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(config.memory_bytes_max)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()
        .map_err(mesh_error)?;
    let mut session = fixed(config.target_partitions, config.batch_rows);
    // Which files a partition reads is settled by the plan and not by which thread is faster: rows keep their order.
    session.options_mut().execution.enable_file_stream_work_stealing = false;
    let state =
        SessionStateBuilder::new().with_config(session).with_runtime_env(runtime).with_default_features().build();
    Ok(SessionContext::new_with_state(state))
}

/// A plain session without anything of ours: what the mesh's answers are compared with.
pub fn reference() -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2))
}

fn fixed(target_partitions: usize, batch_rows: usize) -> SessionConfig {
    let partitions = target_partitions.max(1);
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_batch_size(batch_rows.max(1))
        .with_information_schema(false);
    config.options_mut().execution.planning_concurrency = partitions;
    config
}

fn to_usize(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| MeshError::internal("a memory limit does not fit this machine"))
}
