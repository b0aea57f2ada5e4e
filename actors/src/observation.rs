//! What every role actor answers alike: whether it is there, the supervision tree of its node and its bounds. Also
//! cuts observations down to what one control message can carry.

use greylag_protocol::{
    messages::control::{ActorRow, CONTROL_BYTES_MAX, ControlReply, ControlRequest, OBSERVED_ROWS_MAX},
    wire,
};
use ractor::RpcReplyPort;
use serde::Serialize;

use crate::{NodeCtx, Wire};

/// Room left in a control message for what surrounds the rows, bytes.
const ENVELOPE_BYTES: usize = 1 << 10;

/// Rows that fit into one control message, and whether others had to be left out. The first ones win.
pub fn fitting<T: Serialize>(rows: Vec<T>) -> (Vec<T>, bool) {
    let all = rows.len();
    let mut room = CONTROL_BYTES_MAX - ENVELOPE_BYTES;
    let mut fit = Vec::new();
    for row in rows.into_iter().take(OBSERVED_ROWS_MAX) {
        let Ok(bytes) = wire::encode(&row, room) else { break };
        room -= bytes.len();
        fit.push(row);
    }
    let truncated = fit.len() < all;
    (fit, truncated)
}

/// The answer to a request that any role actor can answer.
pub fn answer(ctx: &NodeCtx, request: &ControlRequest) -> Option<ControlReply> {
    match request {
        ControlRequest::Probe => Some(ControlReply::Alive),
        ControlRequest::ObserveActors => {
            let (rows, truncated) = fitting::<ActorRow>(ctx.tree().snapshot());
            Some(ControlReply::Actors { rows, truncated })
        }
        ControlRequest::ObserveBounds => {
            let (rows, truncated) = fitting(ctx.bounds.rows(ctx.node));
            Some(ControlReply::Bounds { rows, truncated })
        }
        ControlRequest::ObserveAudit => {
            let (rows, truncated) = fitting(crate::coordinator::system::recorded(ctx));
            Some(ControlReply::Audit { rows, truncated })
        }
        _ => None,
    }
}

/// Sends a reply. A caller that no longer waits is no error.
pub fn reply(port: RpcReplyPort<Wire<ControlReply>>, reply: ControlReply) {
    if !port.is_closed() {
        let _ = port.send(Wire::ok(reply));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn observations_fit_into_a_message() {
        let (fit, truncated) = fitting(vec!["x".repeat(1_000); 150]);
        assert!(truncated && fit.len() > 50, "{}", fit.len());
        assert!(wire::encode(&fit, CONTROL_BYTES_MAX).is_ok());
        let (fit, truncated) = fitting(vec![7u64; 10]);
        assert_eq!((fit.len(), truncated), (10, false));
        let (fit, truncated) = fitting(vec![7u64; OBSERVED_ROWS_MAX + 1]);
        assert_eq!((fit.len(), truncated), (OBSERVED_ROWS_MAX, true));
    }
}
