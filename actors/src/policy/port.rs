//! How a decision is asked for, and the only place where one becomes a [`Permit`].
//!
//! INVARIANT: a `Permit` is made from a policy actor's own `Permit` verdict about exactly the query and the tables that
//! were asked about, at an epoch no older than the last change of policies that this node knows. No policy actor, no permit.

use std::{sync::Arc, time::Duration};

use greylag_protocol::{
    Epoch, ErrorCode, MeshError, NodeId, QueryId, Result,
    messages::control::{
        Action, AskedTable, CONTROL_BYTES_MAX, ControlReply, ControlRequest, DecideRequest, Decision, DiscernRequest,
        Discerned, TableName, Verdict,
    },
    principal::Principal,
    state::Role,
    wire,
};
use tokio::time::{Instant, sleep};

use crate::{
    NodeCtx,
    planner::port::{Grounds, Permit},
};

/// Longest time one policy actor is waited for before the next is asked.
pub const DECISION_TRY_MS_MAX: u64 = 1_000;
/// Policy actors asked about one statement.
pub const DECISION_TRIES_MAX: usize = 5;
/// Bytes of tables in one question: the rest of the message is the principal and the names of all tables.
const ASKED_BYTES_MAX: usize = CONTROL_BYTES_MAX / 2;
/// Until all are asked again: somebody's state was behind, or the role is on its way from one node to another.
const PAUSE: Duration = Duration::from_millis(10);

/// What is to be decided.
#[derive(Debug, Clone)]
pub struct Asking {
    pub query: QueryId,
    pub principal: Principal,
    pub action: Action,
    /// The door that it came by.
    pub origin: String,
    /// Sorted by name, each once.
    pub tables: Vec<AskedTable>,
}

impl Asking {
    /// One request for each part of the tables that fits into a message; one without tables if there are none.
    fn requests(&self) -> Result<Vec<DecideRequest>> {
        let tables: Vec<TableName> = self.tables.iter().map(|asked| asked.table.clone()).collect();
        let request = |asked| DecideRequest {
            query: self.query,
            principal: self.principal.clone(),
            action: self.action,
            origin: self.origin.clone(),
            tables: tables.clone(),
            asked,
        };
        let parts = parts(&self.tables)?;
        Ok(if parts.is_empty() { vec![request(Vec::new())] } else { parts.into_iter().map(request).collect() })
    }
}

/// Cuts a list of tables so that each part fits into a message. GL2005 for a table that never does.
fn parts(tables: &[AskedTable]) -> Result<Vec<Vec<AskedTable>>> {
    let mut parts: Vec<Vec<AskedTable>> = Vec::new();
    let mut room = 0;
    for asked in tables {
        let bytes = wire::encode(asked, ASKED_BYTES_MAX).map(|bytes| bytes.len()).map_err(|_| {
            let message = format!("table `{}` has too many columns to be decided about", asked.table);
            MeshError::new(ErrorCode::NoDecision, message)
        })?;
        match parts.last_mut().filter(|_| bytes <= room) {
            Some(part) => part.push(asked.clone()),
            None => {
                parts.push(vec![asked.clone()]);
                room = ASKED_BYTES_MAX;
            }
        }
        room -= bytes;
    }
    Ok(parts)
}

/// What was decided about a statement.
#[derive(Debug)]
pub enum Decided {
    Permitted(Permit),
    /// With the error that its caller gets.
    Denied(Box<Decision>, MeshError),
}

/// Turns the answers to all of a statement's requests into a permit. GL2003 with the reason if one was denied, GL2005 if
/// one is about anything else than what was asked.
pub fn permit(answers: Vec<(DecideRequest, Decision)>, salt: &Arc<[u8]>) -> Result<Permit> {
    match decided(answers, salt)? {
        Decided::Permitted(permit) => Ok(permit),
        Decided::Denied(_, error) => Err(error),
    }
}

fn decided(answers: Vec<(DecideRequest, Decision)>, salt: &Arc<[u8]>) -> Result<Decided> {
    let (mut permit, mut obligations): (Option<Permit>, Vec<_>) = (None, Vec::new());
    let mut grounds = Grounds::default();
    for (asked, decision) in answers {
        let of = asked.asked.iter().map(|a| &a.table);
        if decision.query != asked.query || decision.tables != asked.tables || !decision.asked.iter().eq(of) {
            let message = format!("a decision of {} is about another statement", decision.decided_by);
            return Err(MeshError::new(ErrorCode::NoDecision, message).at_node(decision.decided_by));
        }
        grounds.add(&decision);
        if let Verdict::Deny { reason } = &decision.verdict {
            let error = denied(reason, &decision.policies);
            return Ok(Decided::Denied(Box::new(decision), error));
        }
        // The oldest of the epochs holds for all.
        let epoch = permit.as_ref().map_or(decision.epoch, |p: &Permit| p.epoch().min(decision.epoch));
        permit = Some(Permit::new(decision.query, epoch, decision.tables));
        obligations.extend(decision.obligations);
    }
    obligations.sort_by(|a, b| a.table.cmp(&b.table));
    let permit = permit.ok_or_else(|| MeshError::new(ErrorCode::NoDecision, "nothing was decided"))?;
    Ok(Decided::Permitted(permit.with_obligations(obligations, Arc::clone(salt)).on(grounds)))
}

/// The reason names the policies, unless there is none.
fn denied(reason: &str, policies: &[String]) -> MeshError {
    let unnamed = policies.iter().any(|policy| !reason.contains(&format!("`{policy}`")));
    let message = if unnamed { format!("{reason} (policy `{}`)", policies.join("`, `")) } else { reason.to_owned() };
    MeshError::new(ErrorCode::Denied, message)
}

/// Asks for a permit. GL2003 if there is none, GL2004 if no policy actor answers.
pub async fn ask(ctx: &Arc<NodeCtx>, asking: &Asking) -> Result<Permit> {
    match decide(ctx, asking).await? {
        Decided::Permitted(permit) => Ok(permit),
        Decided::Denied(_, error) => Err(error),
    }
}

/// Asks this node's policy actor, then the others, until one answers. GL2004 if none does.
pub async fn decide(ctx: &Arc<NodeCtx>, asking: &Asking) -> Result<Decided> {
    let mut answers = Vec::new();
    for request in asking.requests()? {
        let decision = first_answer(ctx, ControlRequest::Decide(request.clone()), |node, reply, since| match reply {
            ControlReply::Decision(decision) if decision.decided_by != node => Err(Unfit::Other),
            ControlReply::Decision(decision) if decision.epoch < since => Err(Unfit::Behind),
            ControlReply::Decision(decision) => Ok(decision),
            _ => Err(Unfit::Other),
        });
        answers.push((request, decision.await?));
    }
    let salt = ctx.mesh.state().mesh.as_ref().map(|facts| facts.mask_salt.0.clone()).unwrap_or_default();
    decided(answers, &Arc::from(salt))
}

/// What the principal may know of each of these tables, in order. GL2004 if no policy actor answers.
pub async fn discern(
    ctx: &Arc<NodeCtx>,
    principal: &Principal,
    origin: &str,
    tables: &[AskedTable],
) -> Result<Vec<Discerned>> {
    let mut all = Vec::with_capacity(tables.len());
    for asked in parts(tables)? {
        let expected = asked.len();
        let request = DiscernRequest { principal: principal.clone(), origin: origin.to_owned(), asked };
        let found = first_answer(ctx, ControlRequest::Discern(request), |_, reply, _| match reply {
            ControlReply::Discerned(found) if found.len() == expected => Ok(found),
            _ => Err(Unfit::Other),
        });
        all.extend(found.await?);
    }
    Ok(all)
}

/// Why an answer is of no use.
enum Unfit {
    /// Its node has not applied yet what this one has.
    Behind,
    Other,
}

async fn first_answer<T>(
    ctx: &Arc<NodeCtx>,
    request: ControlRequest,
    fit: impl Fn(NodeId, ControlReply, Epoch) -> Result<T, Unfit>,
) -> Result<T> {
    let peers = ctx.peers()?;
    let patience = Duration::from_millis(ctx.timing.call_timeout_ms.min(DECISION_TRY_MS_MAX));
    let until = Instant::now() + patience;
    loop {
        let mut reasons = Vec::new();
        for node in in_order(ctx.node, peers.members(&Role::Policy)) {
            let since = ctx.mesh.state().governance.decided_since;
            match peers.call(node, &Role::Policy, request.clone(), patience).await {
                Ok(ControlReply::Error(error)) | Err(error) => reasons.push(format!("{node}: {}", error.code)),
                Ok(reply) => match fit(node, reply, since) {
                    Ok(answer) => return Ok(answer),
                    Err(Unfit::Behind) => reasons.push(format!("{node} is behind")),
                    Err(Unfit::Other) => reasons.push(format!("{node} gave another kind of answer")),
                },
            }
        }
        if Instant::now() >= until {
            let why = if reasons.is_empty() { "none is known".to_owned() } else { reasons.join(", ") };
            return Err(MeshError::new(ErrorCode::NoPolicy, format!("no policy actor answered ({why})")));
        }
        sleep(PAUSE).await;
    }
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
    use std::{collections::BTreeMap, sync::Arc};

    use arrow::datatypes::{DataType, Field, Schema};
    use greylag_protocol::{obligation::TableObligation, principal::PrincipalKind, schema::WireSchema};

    use super::*;

    fn table(name: &str, columns: usize) -> AskedTable {
        let fields: Vec<Field> =
            (0..columns).map(|n| Field::new(format!("column_with_a_long_name_{n}"), DataType::Utf8, true)).collect();
        let table = TableName { source: "a".into(), schema: "main".into(), table: name.into() };
        AskedTable { table, columns: WireSchema(Arc::new(Schema::new(fields))) }
    }

    fn asking(tables: Vec<AskedTable>) -> Asking {
        Asking {
            query: QueryId(uuid::Uuid::from_u128(7)),
            principal: Principal {
                id: "ada".into(),
                kind: PrincipalKind::Person,
                roles: vec![],
                attributes: BTreeMap::new(),
            },
            action: Action::Select,
            origin: "flight".into(),
            tables,
        }
    }

    fn answer(request: &DecideRequest, epoch: u64) -> Decision {
        let mut decision = Decision::plain(request.clone(), Verdict::Permit, Epoch(epoch), NodeId(2));
        let of = |asked: &AskedTable| TableObligation {
            table: asked.table.clone(),
            filter: None,
            masks: vec![],
            hidden: vec![],
            policies: vec!["p".into()],
        };
        decision.obligations = request.asked.iter().map(of).collect();
        decision.policies = vec!["p".into()];
        decision
    }

    #[test]
    fn many_tables_are_asked_about_in_parts_and_permitted_together_at_the_oldest_epoch() {
        let asking = asking((0..40).map(|n| table(&format!("t{n:02}"), 60)).collect());
        let requests = asking.requests().unwrap();
        assert!(requests.len() > 1);
        assert!(requests.iter().all(|r| wire::encode(r, CONTROL_BYTES_MAX).is_ok() && r.tables.len() == 40));
        let answers = requests.iter().zip(5..).map(|(r, epoch)| (r.clone(), answer(r, epoch))).collect();
        let permit = permit(answers, &Arc::from([])).unwrap();
        assert_eq!((permit.query(), permit.epoch()), (asking.query, Epoch(5)));
        assert!(asking.tables.iter().all(|t| permit.covers(&t.table) && permit.obligation(&t.table).is_some()));
        assert_eq!(permit.grounds().policies, ["p"]);
        let error = self::asking(vec![table("wide", 5_000)]).requests().unwrap_err();
        assert_eq!(error.code, ErrorCode::NoDecision);
    }

    #[test]
    fn one_denial_denies_all_and_names_the_policy() {
        let requests = asking(vec![table("t", 1)]).requests().unwrap();
        let deny = Verdict::Deny { reason: "not at night".into() };
        let decision = Decision { verdict: deny, ..answer(&requests[0], 5) };
        let error = permit(vec![(requests[0].clone(), decision)], &Arc::from([])).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::Denied, "not at night (policy `p`)"));
    }

    #[test]
    fn a_decision_about_anything_else_permits_nothing() {
        let request = asking(vec![table("t", 1), table("u", 1)]).requests().unwrap().remove(0);
        let decision = answer(&request, 9);
        let other_query = Decision { query: QueryId(uuid::Uuid::from_u128(8)), ..decision.clone() };
        let fewer_tables = Decision { tables: decision.tables[..1].to_vec(), ..decision.clone() };
        let fewer_asked = Decision { asked: decision.asked[..1].to_vec(), ..decision };
        for wrong in [other_query, fewer_tables, fewer_asked] {
            let error = permit(vec![(request.clone(), wrong)], &Arc::from([])).unwrap_err();
            assert_eq!(error.code, ErrorCode::NoDecision);
        }
        assert_eq!(permit(vec![], &Arc::from([])).unwrap_err().code, ErrorCode::NoDecision);
    }

    #[test]
    fn the_own_node_is_asked_first() {
        let nodes = [5, 3, 1, 3].map(NodeId).to_vec();
        assert_eq!(in_order(NodeId(3), nodes), [3, 1, 5].map(NodeId));
    }
}
