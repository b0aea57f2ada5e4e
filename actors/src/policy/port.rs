//! How a decision is asked for, and the only place where one becomes a [`Permit`].
//!
//! INVARIANT: a `Permit` is made from a policy actor's own `Permit` verdict about exactly the query and the tables that
//! were asked about. No policy actor, no permit.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    ErrorCode, MeshError, NodeId, Result,
    messages::control::{ControlReply, ControlRequest, DecideRequest, Decision, Verdict},
    state::Role,
};

use crate::{NodeCtx, planner::port::Permit};

/// Longest time one policy actor is waited for before the next is asked.
pub const DECISION_TRY_MS_MAX: u64 = 1_000;
/// Policy actors asked about one statement.
pub const DECISION_TRIES_MAX: usize = 5;

/// Turns the answer to a request into a permit. GL2003 with the reason if it was denied, GL2005 if the answer is about
/// anything else than what was asked.
pub fn permit(asked: &DecideRequest, decision: Decision, salt: &Arc<[u8]>) -> Result<Permit> {
    if decision.query != asked.query || decision.tables != asked.tables {
        let message = format!("a decision of {} is about another statement", decision.decided_by);
        return Err(MeshError::new(ErrorCode::NoDecision, message).at_node(decision.decided_by));
    }
    match decision.verdict {
        Verdict::Permit => {
            let permit = Permit::new(decision.query, decision.epoch, decision.tables);
            Ok(permit.with_obligations(decision.obligations, Arc::clone(salt)))
        }
        Verdict::Deny { reason } => Err(MeshError::new(ErrorCode::Denied, reason)),
    }
}

/// Asks this node's policy actor, then the others, until one answers. GL2004 if none does.
pub async fn ask(ctx: &Arc<NodeCtx>, asked: DecideRequest) -> Result<Permit> {
    let peers = ctx.peers()?;
    let patience = Duration::from_millis(ctx.timing.call_timeout_ms.min(DECISION_TRY_MS_MAX));
    let mut reasons = Vec::new();
    for node in in_order(ctx.node, peers.members(&Role::Policy)) {
        match peers.call(node, &Role::Policy, ControlRequest::Decide(asked.clone()), patience).await {
            Ok(ControlReply::Decision(decision)) if decision.decided_by == node => {
                return permit(&asked, decision, &Arc::from([]));
            }
            Ok(_) => reasons.push(format!("{node} gave another kind of answer")),
            Err(error) => reasons.push(format!("{node}: {}", error.code)),
        }
    }
    let why = if reasons.is_empty() { "none is known".to_owned() } else { reasons.join(", ") };
    Err(MeshError::new(ErrorCode::NoPolicy, format!("no policy actor answered ({why})")))
}

/// The own node first, then the others in order of id.
fn in_order(own: NodeId, mut members: Vec<NodeId>) -> Vec<NodeId> {
    members.sort();
    members.dedup();
    members.sort_by_key(|node| *node != own);
    members.truncate(DECISION_TRIES_MAX);
    members
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use greylag_protocol::{
        Epoch, QueryId,
        messages::control::{Action, TableName},
        principal::{Principal, PrincipalKind},
    };

    use super::*;
    use crate::policy::core::decide;

    fn salt() -> Arc<[u8]> {
        Arc::from([])
    }

    fn asked(principal: &str, action: Action, roles: &[&str]) -> DecideRequest {
        DecideRequest {
            query: QueryId(uuid::Uuid::from_u128(7)),
            principal: Principal {
                id: principal.into(),
                kind: PrincipalKind::Person,
                roles: roles.iter().map(|r| r.to_string()).collect(),
                attributes: BTreeMap::new(),
            },
            action,
            tables: vec![TableName { source: "a".into(), schema: "main".into(), table: "t".into() }],
        }
    }

    #[test]
    fn what_the_policy_decides() {
        let cases = [
            (asked("ada", Action::Select, &[]), None),
            (asked("ada", Action::Explain, &[]), None),
            (asked("", Action::Select, &[]), Some(ErrorCode::Denied)),
            (asked(" ", Action::Describe, &["admin"]), Some(ErrorCode::Denied)),
            (asked("ada", Action::Manage, &[]), Some(ErrorCode::Denied)),
            (asked("ada", Action::Manage, &["admin"]), None),
        ];
        for (request, refused) in cases {
            let decision = decide(NodeId(2), Epoch(9), request.clone());
            assert_eq!((decision.epoch, decision.decided_by), (Epoch(9), NodeId(2)));
            let outcome = permit(&request, decision, &salt());
            assert_eq!(outcome.as_ref().err().map(|e| e.code), refused, "{request:?}");
            if let Ok(permit) = outcome {
                assert_eq!((permit.query(), permit.epoch()), (request.query, Epoch(9)));
                assert!(permit.covers(&request.tables[0]));
            }
        }
    }

    #[test]
    fn a_decision_about_anything_else_permits_nothing() {
        let request = asked("ada", Action::Select, &[]);
        let decision = decide(NodeId(2), Epoch(9), request.clone());
        let other_query = Decision { query: QueryId(uuid::Uuid::from_u128(8)), ..decision.clone() };
        let more_tables = Decision {
            tables: vec![request.tables[0].clone(), TableName { table: "u".into(), ..request.tables[0].clone() }],
            ..decision.clone()
        };
        let fewer_tables = Decision { tables: Vec::new(), ..decision };
        for wrong in [other_query, more_tables, fewer_tables] {
            assert_eq!(permit(&request, wrong, &salt()).unwrap_err().code, ErrorCode::NoDecision);
        }
    }

    #[test]
    fn the_own_node_is_asked_first() {
        let nodes = [5, 3, 1, 3].map(NodeId).to_vec();
        assert_eq!(in_order(NodeId(3), nodes), [3, 1, 5].map(NodeId));
    }
}
