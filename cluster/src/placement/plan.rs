//! Placement: from roles wanted and members to changes of roles held.

use greylag_protocol::state::{ControlState, RoleChange};

/// Changes that bring roles held to roles wanted, in a fixed order. Empty when there is nothing to do.
pub fn plan(_state: &ControlState) -> Vec<RoleChange> {
    todo!()
}
