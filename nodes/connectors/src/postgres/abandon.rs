//! What happens to a connection whose statement is no longer wanted: the server is asked to stop, what it still sends is
//! read and thrown away, and if it is ready again soon the connection goes back to the pool. Otherwise it is closed.
//!
//! A server that is blocked on sending notices a cancel only when somebody reads, hence the reading. A cancel that finds
//! the server between two messages (it has planned the statement, and not yet begun to run it) does nothing at all, so
//! it is repeated until the server is ready.
//!
//! INVARIANT: a connection goes back only after an answer to a message that was sent when the last cancel had been
//! delivered, so no later statement can be hit by it.

use std::{sync::Arc, time::Duration};

use greylag_protocol::Result;

use super::{session, session::Session, target::Target};
use crate::server::Lease;

/// Longest time that an unwanted connection is kept.
const ABANDON_MAX: Duration = Duration::from_secs(10);
/// How long the first cancel gets before the next; each then gets twice as long.
const REPEAT_AFTER: Duration = Duration::from_millis(50);

/// Stops what `session` runs, if it is at work. Without a lease the connection is closed afterwards.
pub(super) async fn abandon(target: Arc<Target>, mut session: Session, lease: Option<Lease<Session>>, at_work: bool) {
    match (tokio::time::timeout(ABANDON_MAX, stop(&target, &mut session, at_work)).await, lease) {
        (Ok(Ok(())), Some(lease)) => {
            session.wire.shrink();
            lease.put_back(session);
        }
        (Ok(Ok(())), None) => {}
        (Ok(Err(error)), _) => tracing::debug!(%error, "an abandoned statement's connection was closed"),
        (Err(_), _) => tracing::debug!("an abandoned statement did not stop in time; its connection was closed"),
    }
}

async fn stop(target: &Target, session: &mut Session, at_work: bool) -> Result<()> {
    let mut patience = REPEAT_AFTER;
    loop {
        if at_work {
            session::cancel(target, session.key()).await?;
        }
        session.wire.put_sync();
        session.wire.flush().await?;
        if let Ok(drained) = tokio::time::timeout(patience, drain(session)).await {
            drained?;
            return if session.in_transaction { session.end_transaction().await } else { Ok(()) };
        }
        patience *= 2;
    }
}

/// Reads until the server has answered everything.
async fn drain(session: &mut Session) -> Result<()> {
    while session.wire.is_owed() {
        session.wire.next().await?;
    }
    Ok(())
}
