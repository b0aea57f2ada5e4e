//! The schemas of all sources, kept fresh beside the statements. A linked child of the coordinator; if it breaks the
//! coordinator starts anew.

mod actor;
pub mod core;
#[cfg(test)]
mod core_test;

use std::{sync::Arc, time::Duration};

use greylag_protocol::{Epoch, ErrorClass, ErrorCode, MeshError, Result};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use self::{
    actor::{CatalogActor, CatalogMessage},
    core::CatalogView,
};
use crate::{
    NodeCtx,
    planner::port::{Catalog, Touched},
};

/// Longest time a statement waits for sources about which nothing is known yet, its own among them or not.
pub const SETTLE_MAX: Duration = Duration::from_millis(1_000);
/// Longest time a statement waits for a source that it cannot do without.
pub const NEEDED_MAX: Duration = Duration::from_millis(2_000);
/// Longest time that the leader is asked what has been declared lately.
const CATCH_UP_MAX: Duration = Duration::from_millis(500);

/// What statements hold of the catalog.
#[derive(Clone)]
pub struct CatalogHandle {
    ctx: Arc<NodeCtx>,
    actor: ActorRef<CatalogMessage>,
    views: watch::Receiver<Arc<CatalogView>>,
}

impl CatalogHandle {
    /// Starts the catalog as a child of `parent`.
    pub async fn spawn(ctx: &Arc<NodeCtx>, parent: ActorCell) -> Result<Self, ActorProcessingErr> {
        let (publish, views) = watch::channel(Arc::new(CatalogView::default()));
        let name = ctx.name("coordinator/catalog");
        let (actor, _) = Actor::spawn_linked(Some(name), CatalogActor, (ctx.clone(), publish), parent).await?;
        Ok(Self { ctx: ctx.clone(), actor, views })
    }

    pub fn is(&self, cell: &ActorCell) -> bool {
        self.actor.get_id() == cell.get_id()
    }

    pub fn view(&self) -> Arc<CatalogView> {
        self.views.borrow().clone()
    }

    /// What a statement touches, by the catalog as it is now; if that does not do, as it is after the sources that
    /// could help have been looked for once more.
    pub async fn touched(&self, sql: &str) -> Result<(Arc<Catalog>, Touched)> {
        let engine = &self.ctx.engine;
        let mut views = self.views.clone();
        let mut view = settled(&mut views, self.ctx.mesh.state().epoch, Instant::now() + SETTLE_MAX).await;
        let error = match engine.touched(sql, &view.catalog) {
            Ok(touched) => return Ok((view.catalog.clone(), touched)),
            Err(error) if !may_be_helped(&error) => return Err(error),
            Err(error) => error,
        };
        // Somebody may have declared the source at another node a moment ago. Without a leader nobody can have.
        let _ = timeout(CATCH_UP_MAX, self.ctx.mesh.catch_up()).await;
        if view.is_complete() && view.epoch == Some(self.ctx.mesh.state().epoch) {
            return Err(error);
        }
        let (asked, until) = (view.refreshes, Instant::now() + NEEDED_MAX);
        // If the catalog has gone the view will not change, and the time runs out.
        let _ = self.actor.cast(CatalogMessage::Refresh);
        loop {
            let changed = timeout_at(until, views.changed()).await;
            view = views.borrow_and_update().clone();
            match engine.touched(sql, &view.catalog) {
                Ok(touched) => return Ok((view.catalog.clone(), touched)),
                Err(error) if !may_be_helped(&error) || !matches!(changed, Ok(Ok(()))) => return Err(error),
                Err(error) if view.refreshes > asked && is_final(&view) => return Err(error),
                Err(_) => {}
            }
        }
    }
}

/// Whether another look at the sources could make a difference.
fn may_be_helped(error: &MeshError) -> bool {
    let unknown = matches!(error.code, ErrorCode::UnknownTable | ErrorCode::UnknownSource);
    unknown || error.class() != ErrorClass::Permanent
}

/// Whether nothing more is to be expected soon: no source is being read or waits for its edge.
fn is_final(view: &CatalogView) -> bool {
    let hopeful = |(source, error): (&_, &MeshError)| error.code == ErrorCode::NoEdge || view.reading.contains(source);
    view.pending.is_empty() && !view.catalog.unavailable.iter().any(hopeful)
}

async fn settled(views: &mut watch::Receiver<Arc<CatalogView>>, epoch: Epoch, until: Instant) -> Arc<CatalogView> {
    loop {
        let view = views.borrow_and_update().clone();
        let known = view.epoch >= Some(epoch) && view.pending.is_empty();
        if known || !matches!(timeout_at(until, views.changed()).await, Ok(Ok(()))) {
            return view;
        }
    }
}
