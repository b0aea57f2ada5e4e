//! One error model for every door, stream and log line: a stable code `GL####`, an SQLSTATE, a class that says
//! whether a retry can help, a message with user input in backticks, and a hint.
//!
//! INVARIANT: a code's number, SQLSTATE and class never change once released; `docs/errors.md` has each of them
//! (checked by `tests/tidy`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, SourceName};

pub type Result<T, E = MeshError> = std::result::Result<T, E>;

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The same thing may succeed elsewhere or a moment later.
    Transient,
    /// Asked too much at once: retry after backing off.
    Overload,
    /// It will fail the same way again.
    Permanent,
}

macro_rules! codes {
    ($($name:ident $num:literal $state:literal $class:ident $what:literal $hint:literal;)*) => {
        /// Every error that can leave a process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $(#[doc = $what] $name,)* }

        impl ErrorCode {
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];
            /// The digits of `GL####`.
            pub const fn number(self) -> u16 { match self { $(ErrorCode::$name => $num,)* } }
            /// Five characters as PostgreSQL and ODBC clients know them.
            pub const fn sqlstate(self) -> &'static str { match self { $(ErrorCode::$name => $state,)* } }
            pub const fn class(self) -> ErrorClass { match self { $(ErrorCode::$name => ErrorClass::$class,)* } }
            /// What happened, in one line without particulars.
            pub const fn summary(self) -> &'static str { match self { $(ErrorCode::$name => $what,)* } }
            /// What the reader can do.
            pub const fn hint(self) -> &'static str { match self { $(ErrorCode::$name => $hint,)* } }
        }
    };
}

codes! {
    // 1xxx: the statement itself.
    Syntax 1001 "42601" Permanent "the statement could not be parsed" "check the statement near the position named";
    UnknownTable 1002 "42P01" Permanent "a table is not known" "`SELECT * FROM system.tables` lists what there is; write it as source.schema.table";
    UnknownColumn 1003 "42703" Permanent "a column is not known" "check the spelling; names fold to lower case unless quoted";
    InvalidStatement 1004 "42804" Permanent "the statement cannot be planned" "check types and functions";
    Unsupported 1005 "0A000" Permanent "the statement uses something that is not supported" "rewrite it without the named construct";
    ReadOnly 1006 "25006" Permanent "sources are opened read-only" "only queries can be run";
    Parameters 1007 "07001" Permanent "parameters do not match the statement" "bind one value for each placeholder";
    Execution 1008 "22000" Permanent "a value could not be computed" "check casts, divisions and ranges in the statement";
    AmbiguousTable 1009 "42P09" Permanent "a table name fits several sources" "write it as source.schema.table";
    // 2xxx: who may.
    Unauthenticated 2001 "28000" Permanent "no valid credential" "pass a token that this mesh or an issuer that it trusts has signed, an API key, or a client certificate";
    TokenExpired 2002 "28000" Permanent "the credential has expired" "ask for a new one";
    Denied 2003 "42501" Permanent "policy does not permit the statement" "ask for access to the named tables";
    NoPolicy 2004 "57P03" Transient "no policy actor is alive, so nothing is answered" "wait until the policy role runs again; see system.roles";
    NoDecision 2005 "42501" Permanent "a plan carries no policy decision" "this is a defect: please report it";
    AddressRefused 2006 "28000" Permanent "the credential may not be used from this address" "connect from a network on the key's allow-list";
    ScopeMissing 2007 "42501" Permanent "the credential's scopes do not cover this" "use a credential with the named scope";
    IssuerKeysMissing 2008 "57P03" Transient "the issuer's keys cannot be fetched, so its tokens cannot be checked" "see whether the issuer's key set can be reached from the node";
    StaleDecision 2009 "40001" Transient "policies have changed since the statement was decided" "run the statement again";
    BudgetExceeded 2010 "53400" Permanent "the statement would read more than its principal's budget" "narrow it as the message says, or ask for a larger budget";
    // 3xxx: sources and edges.
    NoEdge 3001 "57P03" Transient "no live edge serves the source" "see system.roles and system.sources";
    SourceUnreachable 3002 "08006" Transient "the source cannot be reached from its edge" "check the database and the source's options";
    SourceRefused 3003 "58000" Permanent "the source refused the sub-query" "see the source's own message";
    SubqueryLost 3004 "40001" Transient "a sub-query was lost after rows had been used" "run the statement again";
    BadSignature 3005 "28000" Permanent "a sub-query's signature was refused" "the signer must be a member holding the coordinator role";
    UnsupportedType 3006 "0A000" Permanent "a type of the source is not supported" "leave the named column out, or cast it in a view at the source";
    TruncatedStream 3007 "08006" Transient "a stream ended without its trailer" "run the statement again";
    DigestMismatch 3008 "XX001" Transient "a stream's digest does not match its trailer" "run the statement again; if it repeats, check the network hardware";
    UnknownSource 3009 "3D000" Permanent "a source is not known" "`SELECT * FROM system.sources` lists what there is";
    SourceBusy 3010 "53300" Overload "the source takes no more connections" "run the statement again later";
    ValueOutOfRange 3011 "22003" Permanent "a value of the source does not fit its type" "cast or filter the named column at the source";
    ReplayDiffers 3012 "40001" Transient "another run of the same work gave other rows than those already used" "run the statement again from its beginning";
    CircuitOpen 3013 "08006" Overload "the source has failed too often in a row and is left alone for a moment" "see system.circuits; run the statement again once the source answers";
    // 4xxx: the mesh.
    NotAMember 4001 "28000" Permanent "the node is not a current member" "it was removed, or belongs to another mesh; join again with a token";
    ForeignCertificate 4002 "28000" Permanent "the certificate is not from this mesh's authority" "check that the node's data directory belongs to this mesh";
    NoCertificate 4003 "28000" Permanent "the mesh protocol needs a client certificate" "join with a token first";
    JoinTokenWrong 4004 "28P01" Permanent "the join token is not known or its secret is wrong" "`greylag token create` makes a new one";
    JoinTokenExpired 4005 "28P01" Permanent "the join token has expired" "`greylag token create` makes a new one";
    JoinTokenSpent 4006 "28P01" Permanent "the join token has been used up" "`greylag token create` makes a new one";
    NoLeader 4007 "57P03" Transient "the mesh has no leader that this node can reach" "a majority of voters must be up; see `greylag status`";
    VersionConflict 4008 "40001" Transient "the resource has changed since it was read" "read it again and repeat the change";
    ProtocolVersion 4009 "08P01" Permanent "the peer speaks another version of the protocol" "run the same release on every node, or one release apart";
    FormationMismatch 4010 "08P01" Permanent "nodes disagree on how to form the mesh" "mesh name, `expect` and `seeds` must be the same on every node";
    MalformedFrame 4011 "08P01" Permanent "a frame could not be read" "the peer is faulty or hostile: see its log";
    FrameTooLarge 4012 "08P01" Permanent "a frame is over its limit" "lower the batch size, or split the value";
    PeerUnreachable 4013 "08006" Transient "a node cannot be reached" "see system.nodes";
    ProposalRefused 4014 "55000" Permanent "the mesh refused the change" "see the message";
    ClockSkew 4015 "08P01" Transient "the clocks of two nodes are too far apart" "connect to another node, and set the named node's clock or the one it was asked from";
    // 5xxx: resources.
    QueueFull 5001 "53300" Overload "the admission queue is full" "run the statement again later, or raise `limits.queue_statements_max`";
    Deadline 5002 "57014" Permanent "the deadline has passed" "raise the time limit or narrow the statement";
    Cancelled 5003 "57014" Permanent "the statement was cancelled" "run it again if that was not meant";
    Memory 5004 "53200" Overload "the query needs more memory than its share" "narrow the statement or raise `limits.query_memory_bytes_max`";
    ShuttingDown 5005 "57P01" Transient "the node is shutting down" "connect to another node";
    DiskFull 5006 "53100" Overload "the disk is full" "free space in the node's data directory";
    QuotaExceeded 5007 "53400" Permanent "the quota is spent (QUOTA_EXCEEDED)" "wait for the next period, or have the quota raised; see system.quotas";
    AuditUnavailable 5008 "58030" Transient "the audit log cannot be written, so nothing is answered" "see the node's log; `greylag audit verify` checks the files";
    DoorFull 5009 "53300" Overload "the door has as many clients as it takes" "close connections that are not needed, use another door, or raise `limits.door_connections_max`";
    // 6xxx: configuration and resources.
    InvalidConfig 6001 "F0000" Permanent "the configuration is not valid" "see the named key";
    InvalidResource 6002 "22023" Permanent "a resource is not valid" "see the named field";
    InvalidPolicy 6003 "22023" Permanent "a policy is not valid" "see the named policy and position";
    // 9xxx: ours.
    Internal 9001 "XX000" Transient "something broke inside the mesh" "please report it with the log lines of the trace id";
}

impl ErrorCode {
    /// The code with this number, if there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.number() == number)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GL{:04}", self.number())
    }
}

/// An error as every part of the mesh passes it on. It can cross the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshError {
    pub code: ErrorCode,
    /// Lower case, user input in backticks, no trailing stop, never a row's value or a secret.
    pub message: String,
    /// Node on which it happened, where that says something.
    pub node: Option<NodeId>,
    /// Source it concerns.
    pub source: Option<SourceName>,
}

impl MeshError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), node: None, source: None }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// Names the node, unless one nearer to the cause has been named already.
    pub fn at_node(mut self, node: NodeId) -> Self {
        self.node.get_or_insert(node);
        self
    }

    /// Names the source, unless one has been named already.
    pub fn of_source(mut self, source: SourceName) -> Self {
        self.source.get_or_insert(source);
        self
    }

    pub fn class(&self) -> ErrorClass {
        self.code.class()
    }

    /// Whether the very same call may succeed later or elsewhere.
    pub fn is_retryable(&self) -> bool {
        self.class() != ErrorClass::Permanent
    }
}

impl fmt::Display for MeshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        match (&self.source, &self.node) {
            (Some(s), Some(n)) => write!(f, " (source `{s}`, node {n})"),
            (Some(s), None) => write!(f, " (source `{s}`)"),
            (None, Some(n)) => write!(f, " (node {n})"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for MeshError {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_are_unique_and_states_are_five_characters() {
        let numbers: BTreeSet<u16> = ErrorCode::ALL.iter().map(|c| c.number()).collect();
        assert_eq!(numbers.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(code.sqlstate().len(), 5, "{code}");
            assert!(!code.summary().is_empty() && !code.hint().is_empty(), "{code}");
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
        }
    }

    #[test]
    fn display_names_source_and_node() {
        let e = MeshError::new(ErrorCode::NoEdge, "nobody serves it")
            .of_source(SourceName::new("orders").unwrap())
            .at_node(NodeId(3));
        assert_eq!(e.to_string(), "GL3001: nobody serves it (source `orders`, node n3)");
    }
}
