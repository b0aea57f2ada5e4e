//! The one function that changes the replicated state: the same commands in the same order give the same state on every
//! node. It reads no clock, draws no random number and iterates only ordered maps.

use greylag_protocol::state::{Command, ControlState, Outcome};

/// Applies one committed command.
pub fn apply(_state: &mut ControlState, _command: &Command, _log_index: u64) -> Outcome {
    todo!()
}
