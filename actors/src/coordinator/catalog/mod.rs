//! The schemas of all sources, kept fresh beside the statements. A linked child of the coordinator; if it breaks the
//! coordinator starts anew.

mod actor;
pub mod core;
#[cfg(test)]
mod core_test;

use std::{sync::Arc, time::Duration};

use greylag_protocol::{ErrorClass, ErrorCode, Result};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use self::{
    actor::{CatalogActor, CatalogMessage},
    core::CatalogView,
};
use crate::{
    NodeCtx,
    planner::port::{Catalog, QueryEngine, Touched},
};

/// Longest time a statement waits for sources about which nothing is known yet, its own among them or not.
pub const SETTLE_MAX: Duration = Duration::from_millis(1_000);
/// Longest time a statement waits for a source that it cannot do without.
pub const NEEDED_MAX: Duration = Duration::from_millis(2_000);

/// What statements hold of the catalog.
#[derive(Clone)]
pub struct CatalogHandle {
    actor: ActorRef<CatalogMessage>,
    views: watch::Receiver<Arc<CatalogView>>,
}

impl CatalogHandle {
    /// Starts the catalog as a child of `parent`.
    pub async fn spawn(ctx: &Arc<NodeCtx>, parent: ActorCell) -> Result<Self, ActorProcessingErr> {
        let (publish, views) = watch::channel(Arc::new(CatalogView::default()));
        let name = ctx.name("coordinator/catalog");
        let (actor, _) = Actor::spawn_linked(Some(name), CatalogActor, (ctx.clone(), publish), parent).await?;
        Ok(Self { actor, views })
    }

    pub fn is(&self, cell: &ActorCell) -> bool {
        self.actor.get_id() == cell.get_id()
    }

    pub fn view(&self) -> Arc<CatalogView> {
        self.views.borrow().clone()
    }

    /// What a statement touches, by the catalog as it is now; if that does not do, as it is after the sources that
    /// could help have been read once more.
    pub async fn touched(&self, engine: &Arc<dyn QueryEngine>, sql: &str) -> Result<(Arc<Catalog>, Touched)> {
        let mut views = self.views.clone();
        let mut view = settled(&mut views, Instant::now() + SETTLE_MAX).await;
        let mut outcome = engine.touched(sql, &view.catalog);
        let until = Instant::now() + NEEDED_MAX;
        let mut asked = None;
        loop {
            let error = match outcome {
                Ok(touched) => return Ok((view.catalog.clone(), touched)),
                Err(error) => error,
            };
            let unknown = matches!(error.code, ErrorCode::UnknownTable | ErrorCode::UnknownSource);
            let may_help = unknown || error.class() != ErrorClass::Permanent;
            let all_known = view.catalog.unavailable.is_empty() && view.pending.is_empty();
            let tried = asked.is_some_and(|before| view.refreshes > before) && is_final(&view);
            if !may_help || all_known || tried {
                return Err(error);
            }
            if asked.is_none() {
                asked = Some(view.refreshes);
                // If the catalog has gone the view will not change, and the time runs out.
                let _ = self.actor.cast(CatalogMessage::Refresh);
            }
            if !matches!(timeout_at(until, views.changed()).await, Ok(Ok(()))) {
                return Err(error);
            }
            view = views.borrow_and_update().clone();
            outcome = engine.touched(sql, &view.catalog);
        }
    }
}

/// Whether nothing more is to be expected soon: no source is being read or waits for its edge.
fn is_final(view: &CatalogView) -> bool {
    let hopeful = |(source, error): (&_, &greylag_protocol::MeshError)| {
        error.code == ErrorCode::NoEdge || view.reading.contains(source)
    };
    view.pending.is_empty() && !view.catalog.unavailable.iter().any(hopeful)
}

async fn settled(views: &mut watch::Receiver<Arc<CatalogView>>, until: Instant) -> Arc<CatalogView> {
    loop {
        let view = views.borrow_and_update().clone();
        let known = view.started && view.pending.is_empty();
        if known || !matches!(timeout_at(until, views.changed()).await, Ok(Ok(()))) {
            return view;
        }
    }
}
