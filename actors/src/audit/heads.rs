//! Which heads this node has told and written down: what decides when it has to do so again. Pure.
//!
//! A node that has written nothing but heads does not commit its own, else the nodes of an idle mesh would answer each
//! other for ever.

use std::collections::BTreeMap;

use greylag_protocol::{ErrorCode, MeshError, NodeId, state::AuditHead};

#[derive(Debug, Default)]
pub(super) struct Told {
    /// The chain's last durable record.
    pub head: Option<AuditHead>,
    /// Something else than heads was written since the last commit that went through.
    news: bool,
    /// Others' heads, as they were written down last.
    written: BTreeMap<NodeId, AuditHead>,
}

impl Told {
    pub(super) fn opened(&mut self, head: AuditHead) {
        (self.head, self.news) = (Some(head), true);
    }

    pub(super) fn wrote(&mut self, head: AuditHead, says_more: bool) {
        self.head = Some(head);
        self.news |= says_more;
    }

    /// What is to be committed.
    pub(super) fn due(&mut self) -> Option<AuditHead> {
        let head = self.head.filter(|_| self.news)?;
        self.news = false;
        Some(head)
    }

    /// It could not be.
    pub(super) fn not_committed(&mut self) {
        self.news = true;
    }

    /// All heads, if others' have changed since they were written down last.
    pub(super) fn news(&mut self, heads: &BTreeMap<NodeId, AuditHead>) -> Vec<AuditHead> {
        let Some(own) = self.head.map(|head| head.node) else { return Vec::new() };
        let others = heads.iter().filter(|(node, _)| **node != own);
        let others: BTreeMap<NodeId, AuditHead> = others.map(|(node, head)| (*node, *head)).collect();
        if others == self.written {
            return Vec::new();
        }
        self.written = others;
        heads.values().copied().collect()
    }

    /// The replicated log knows a record of this chain that it does not have.
    pub(super) fn contradiction(&self, heads: &BTreeMap<NodeId, AuditHead>) -> Option<MeshError> {
        let own = self.head?;
        let known = heads.get(&own.node)?;
        let differs = known.sequence > own.sequence || (known.sequence == own.sequence && known.hash != own.hash);
        differs.then(|| {
            let message = format!(
                "the audit chain of this node ends with record {}, and another chain with record {} was committed for it",
                own.sequence, known.sequence
            );
            MeshError::new(ErrorCode::AuditUnavailable, message).at_node(own.node)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(node: u64, sequence: u64, hash: u8) -> AuditHead {
        AuditHead { node: NodeId(node), sequence, hash: [hash; 32] }
    }

    fn heads(all: &[AuditHead]) -> BTreeMap<NodeId, AuditHead> {
        all.iter().map(|head| (head.node, *head)).collect()
    }

    #[test]
    fn heads_are_told_once_and_an_answer_to_heads_is_not() {
        let mut told = Told::default();
        assert_eq!((told.due(), told.news(&heads(&[head(2, 1, 1)]))), (None, vec![]), "not open");
        told.opened(head(1, 2, 0));
        assert_eq!(told.due(), Some(head(1, 2, 0)));
        assert_eq!(told.due(), None);
        told.not_committed();
        assert_eq!(told.due(), Some(head(1, 2, 0)));
        let known = heads(&[head(1, 2, 0), head(2, 5, 0)]);
        assert_eq!(told.news(&known).len(), 2);
        told.wrote(head(1, 3, 0), false);
        assert_eq!((told.due(), told.news(&known)), (None, vec![]));
        assert_eq!(told.news(&heads(&[head(1, 3, 0), head(2, 5, 0)])), vec![], "its own is no news");
        told.wrote(head(1, 4, 0), true);
        told.wrote(head(1, 5, 0), false);
        assert_eq!(told.due(), Some(head(1, 5, 0)));
    }

    #[test]
    fn another_chain_in_the_log_is_a_contradiction_and_an_older_head_is_none() {
        let mut told = Told::default();
        told.opened(head(1, 5, 1));
        let contradicts = |known: AuditHead| told.contradiction(&heads(&[known])).is_some();
        assert!(contradicts(head(1, 6, 1)) && contradicts(head(1, 5, 2)));
        assert!(!contradicts(head(1, 5, 1)) && !contradicts(head(1, 4, 9)) && !contradicts(head(2, 9, 9)));
    }
}
