//! Whether a sub-query may run here. The edge checks who signed it, for whom, until when and at which epoch; it makes
//! no decision about the principal. Pure.

use greylag_protocol::{Epoch, ErrorCode, MeshError, NodeId, SourceName, messages::edge::Subquery};

/// Longest time an edge waits for its own state to reach a sub-query's epoch, milliseconds.
pub const EPOCH_WAIT_MS_MAX: u64 = 2_000;
/// How far a sub-query's expiry may lie ahead, milliseconds: longer than any statement may sensibly take.
pub const EXPIRY_AHEAD_MS_MAX: u64 = 24 * 3_600_000;

/// What the edge's node knows when a sub-query comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub node: NodeId,
    /// The source this edge serves.
    pub source: SourceName,
    /// Epoch of the replicated state as far as it has been applied here.
    pub epoch: Epoch,
    /// Epoch of the last change of policies in it.
    pub decided_since: Epoch,
    pub now_unix_ms: u64,
    /// Whether the signer holds the coordinator role in that state.
    pub signer_coordinates: bool,
    /// Whether the signature is the signer's, as a current member, over the payload.
    pub signature_holds: bool,
    /// The edge has waited for its state as long as it may.
    pub waited: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Run,
    /// The state here is older than the one the sub-query was decided at: look again when it has moved on.
    WaitForEpoch(Epoch),
    Refuse(MeshError),
}

/// Checks one sub-query. What only the signature can vouch for is looked at after it, except the epoch: a signer that
/// this node has not heard of yet may be one of a state that it has not applied yet.
pub fn check(subquery: &Subquery, signer: NodeId, facts: &Facts) -> Check {
    let refuse = |code, message: String| Check::Refuse(MeshError::new(code, message).at_node(facts.node));
    if subquery.edge != facts.node || subquery.source != facts.source {
        return refuse(
            ErrorCode::BadSignature,
            format!("a sub-query for `{}` at {} came to `{}`", subquery.source, subquery.edge, facts.source),
        );
    }
    // The signer's clock against this node's: what is kept back for long and sent again comes to the same.
    if subquery.expires_unix_ms <= facts.now_unix_ms {
        return refuse(ErrorCode::ClockSkew, "a sub-query came after its expiry".into());
    }
    if subquery.expires_unix_ms - facts.now_unix_ms > EXPIRY_AHEAD_MS_MAX {
        return refuse(ErrorCode::ClockSkew, "a sub-query's expiry lies too far ahead".into());
    }
    if subquery.batch_rows == 0 {
        return refuse(ErrorCode::MalformedFrame, "a sub-query asks for batches of no rows".into());
    }
    if subquery.epoch > facts.epoch {
        if facts.waited {
            let lag = format!("this node has applied epoch {} and not yet {}", facts.epoch, subquery.epoch);
            return refuse(ErrorCode::NoLeader, lag);
        }
        return Check::WaitForEpoch(subquery.epoch);
    }
    if subquery.epoch < facts.decided_since {
        return Check::Refuse(stale(subquery.epoch, facts.decided_since).at_node(facts.node));
    }
    if !facts.signature_holds {
        return refuse(ErrorCode::BadSignature, format!("the signature of {signer} does not hold"));
    }
    if !facts.signer_coordinates {
        return refuse(ErrorCode::BadSignature, format!("{signer} does not hold the coordinator role"));
    }
    Check::Run
}

/// GL2009.
pub fn stale(decided: Epoch, since: Epoch) -> MeshError {
    let message = format!("the statement was decided at epoch {decided}, and policies have changed at {since}");
    MeshError::new(ErrorCode::StaleDecision, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use greylag_protocol::ErrorClass;
    use std::sync::Arc;

    use arrow::datatypes::Schema;
    use greylag_protocol::{AttemptId, QueryId, SubqueryId, messages::edge::Compression, schema::WireSchema};

    use super::*;

    fn subquery() -> Subquery {
        let query = QueryId(uuid::Uuid::from_u128(1));
        Subquery {
            attempt: AttemptId { subquery: SubqueryId { query, ordinal: 0 }, partition: 0, attempt: 1 },
            edge: NodeId(2),
            source: SourceName::new("orders").unwrap(),
            sql: "SELECT 1".into(),
            schema: WireSchema(Arc::new(Schema::empty())),
            principal: "ada".into(),
            epoch: Epoch(5),
            expires_unix_ms: 2_000,
            batch_rows: 8,
            compression: Compression::None,
            resume: Default::default(),
            reattach: None,
            keyset: None,
        }
    }

    fn facts() -> Facts {
        Facts {
            node: NodeId(2),
            source: SourceName::new("orders").unwrap(),
            epoch: Epoch(5),
            decided_since: Epoch(5),
            now_unix_ms: 1_000,
            signer_coordinates: true,
            signature_holds: true,
            waited: false,
        }
    }

    fn code(subquery: &Subquery, facts: &Facts) -> Option<ErrorCode> {
        match check(subquery, NodeId(1), facts) {
            Check::Refuse(error) => Some(error.code),
            Check::Run | Check::WaitForEpoch(_) => None,
        }
    }

    #[test]
    fn a_good_one_runs_and_each_wrong_thing_is_refused() {
        assert_eq!(check(&subquery(), NodeId(1), &facts()), Check::Run);
        let other_source = SourceName::new("other").unwrap();
        let wrong = [
            (Subquery { edge: NodeId(3), ..subquery() }, facts()),
            (Subquery { source: other_source, ..subquery() }, facts()),
            (subquery(), Facts { signature_holds: false, ..facts() }),
            (subquery(), Facts { signer_coordinates: false, ..facts() }),
        ];
        for (subquery, facts) in wrong {
            assert_eq!(code(&subquery, &facts), Some(ErrorCode::BadSignature), "{subquery:?} {facts:?}");
        }
        assert_eq!(code(&Subquery { batch_rows: 0, ..subquery() }, &facts()), Some(ErrorCode::MalformedFrame));
        // Nobody is to blame for these but a clock: another coordinator or edge may agree better.
        for expires_unix_ms in [1_000, u64::MAX] {
            let skewed = Subquery { expires_unix_ms, ..subquery() };
            assert_eq!(code(&skewed, &facts()), Some(ErrorCode::ClockSkew));
            assert!(ErrorCode::ClockSkew.class() == ErrorClass::Transient);
        }
    }

    #[test]
    fn what_was_decided_before_the_last_change_of_policies_is_refused() {
        let later = Facts { epoch: Epoch(9), decided_since: Epoch(6), ..facts() };
        assert_eq!(code(&subquery(), &later), Some(ErrorCode::StaleDecision));
        assert_eq!(code(&Subquery { epoch: Epoch(6), ..subquery() }, &later), None);
        assert_eq!(code(&subquery(), &Facts { epoch: Epoch(9), ..facts() }), None, "other things have changed");
    }

    #[test]
    fn a_newer_epoch_is_waited_for_once_and_then_refused_for_now() {
        let newer = Subquery { epoch: Epoch(6), ..subquery() };
        // Even with a signer that is not known yet.
        let stranger = Facts { signature_holds: false, signer_coordinates: false, ..facts() };
        assert_eq!(check(&newer, NodeId(1), &stranger), Check::WaitForEpoch(Epoch(6)));
        let Check::Refuse(error) = check(&newer, NodeId(1), &Facts { waited: true, ..facts() }) else {
            unreachable!("a state that lags cannot be run on")
        };
        assert!(error.is_retryable(), "{error}");
        assert_eq!(check(&newer, NodeId(1), &Facts { epoch: Epoch(7), waited: true, ..facts() }), Check::Run);
    }
}
