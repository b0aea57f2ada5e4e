//! What the policy decides. For now: whoever is somebody may read, and only an admin may manage. Pure.

use greylag_protocol::{
    Epoch, NodeId,
    messages::control::{Action, DecideRequest, Decision, Verdict},
};

/// Decides one request at one epoch.
pub fn decide(node: NodeId, epoch: Epoch, request: DecideRequest) -> Decision {
    let verdict = if request.principal.id.trim().is_empty() {
        Verdict::Deny { reason: "the principal has no name".into() }
    } else if request.action == Action::Manage && !request.principal.is_admin() {
        Verdict::Deny { reason: format!("principal `{}` does not hold the role `admin`", request.principal.id) }
    } else {
        Verdict::Permit
    };
    Decision::plain(request, verdict, epoch, node)
}
