//! What happens to a connection whose statement is no longer wanted: the server is asked to stop, what it still sends is
//! read and thrown away, and if it is ready again soon the connection goes back to the pool. Otherwise it is closed.
//!
//! A server that is blocked on sending notices a cancel only when somebody reads, hence the reading.
//!
//! INVARIANT: a connection goes back only after an answer to a message that was sent when the cancel had been delivered,
//! so no later statement can be hit by it.

use std::{sync::Arc, time::Duration};

use greylag_protocol::Result;
use postgres_protocol::message::frontend;

use super::{session, session::Session, target::Target};
use crate::server::Lease;

/// Longest time that an unwanted connection is kept.
const ABANDON_MAX: Duration = Duration::from_secs(10);

/// Stops what `session` runs, if it is at work. Without a lease the connection is closed afterwards.
pub(super) async fn abandon(target: Arc<Target>, mut session: Session, lease: Option<Lease<Session>>, at_work: bool) {
    let stopped = tokio::time::timeout(ABANDON_MAX, async {
        if at_work {
            session::cancel(&target, session.key()).await?;
        }
        drain(&mut session).await
    });
    match (stopped.await, lease) {
        (Ok(Ok(())), Some(lease)) => {
            session.wire.shrink();
            lease.put_back(session);
        }
        (Ok(Ok(())), None) => {}
        (Ok(Err(error)), _) => tracing::debug!(%error, "an abandoned statement's connection was closed"),
        (Err(_), _) => tracing::debug!("an abandoned statement did not stop in time; its connection was closed"),
    }
}

/// Reads until the server has answered one more message.
async fn drain(session: &mut Session) -> Result<()> {
    frontend::sync(session.wire.outbox());
    // Marks the end: nothing else that was sent can be answered by an empty query's response.
    frontend::query("", session.wire.outbox()).map_err(|error| super::errors::lost(&error))?;
    session.wire.flush().await?;
    let mut marked = false;
    loop {
        let frame = session.wire.next().await?;
        match frame.tag {
            b'I' => marked = true,
            b'Z' if marked => return Ok(()),
            _ => {}
        }
    }
}
