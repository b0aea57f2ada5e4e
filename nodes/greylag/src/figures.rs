//! Figures for Prometheus: the process's recorder, and the page that shows what it has. Only where the configuration
//! says so; else no recorder is there and nothing is counted.
//!
//! INVARIANT: one recorder for each process, there before the first node of it counts anything.

use std::{net::SocketAddr, sync::Arc, sync::OnceLock, time::Duration};

use greylag_actors::{Node, measure};
use greylag_gateways::metrics::serve;
use greylag_protocol::{ErrorCode, MeshError, Result};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// What was measured since the last time is put into its buckets this often, so that it takes no memory where nobody
/// reads the page.
const UPKEEP: Duration = Duration::from_secs(5);

/// A page that is about to open: its address is taken.
pub struct Page {
    listener: TcpListener,
    recorder: PrometheusHandle,
}

impl Page {
    /// Takes the address, and counts from now on.
    pub async fn take(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let message = format!("`metrics` = `{address}` cannot be listened on: {error}");
            MeshError::new(ErrorCode::InvalidConfig, message)
        })?;
        Ok(Self { listener, recorder: recorder()? })
    }

    /// Shows the figures of this process and the bounds of this node, until it is cancelled.
    pub fn open(self, node: Arc<Node>, closing: CancellationToken) -> JoinHandle<()> {
        let Self { listener, recorder } = self;
        let upkeep = recorder.clone();
        tokio::spawn(closing.clone().run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                upkeep.run_upkeep();
            }
        }));
        let render = move || {
            let ctx = node.ctx();
            measure::bounds(&ctx.bounds.rows(ctx.node));
            recorder.render()
        };
        tokio::spawn(serve(listener, Arc::new(render), closing))
    }
}

fn recorder() -> Result<PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let made = RECORDER.get_or_init(|| {
        let seconds = Matcher::Suffix("_seconds".to_owned());
        let builder = PrometheusBuilder::new().set_buckets_for_metric(seconds, &measure::SECONDS_BUCKETS).ok()?;
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        measure::describe();
        Some(handle)
    });
    made.clone().ok_or_else(|| MeshError::internal("this process counts its figures elsewhere already"))
}
