//! Random values of every message. `each` yields one of every variant, so none can be forgotten in a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arrow::datatypes::Schema;
use greylag_protocol::{
    AttemptId, Epoch, ErrorCode, JobId, MeshError, MeshId, NodeId, NodeUuid, QueryId, SourceName, SubqueryId, TraceId,
    admin::*,
    filter::{Comparison, FilterNode, FilterValue, LikePart, RowFilter, Term},
    messages::{authority::*, control::*, edge::*, forward::*, health::*, join::*},
    obligation::{ColumnMask, DateUnit, HiddenColumn, Mask, MaskRule, Notice, NoticeMode, TableObligation},
    prefix::Prefix,
    principal::{Principal, PrincipalKind, Priority},
    schema::{Dialect, NativeColumn, SourceSchema, TableSchema, WireSchema},
    state::*,
    statement::{AdminCall, AdminReply, Delivery, JobState, JoinTokenInfo, Progress, SessionOptions},
    step::{Step, StepTimes},
};
use uuid::Uuid;

use super::{Dice, column_types};

pub trait Roll: Sized {
    fn roll(dice: &mut Dice) -> Self;
}

/// One of each variant.
pub trait Each: Sized {
    fn each(dice: &mut Dice) -> Vec<Self>;
}

impl<T: Each> Roll for T {
    fn roll(dice: &mut Dice) -> Self {
        let mut all = T::each(dice);
        all.swap_remove(dice.below(all.len()))
    }
}

macro_rules! structs {
    ($($name:ident { $($field:ident),* $(,)? })*) => {
        $(impl Each for $name {
            fn each(dice: &mut Dice) -> Vec<Self> {
                vec![Self { $($field: Roll::roll(dice)),* }]
            }
        })*
    };
}

macro_rules! enums {
    ($($name:ident { $($variant:ident $(($($item:tt),*))? $({ $($field:ident),* })?),* $(,)? })*) => {
        $(impl Each for $name {
            fn each(dice: &mut Dice) -> Vec<Self> {
                let _ = &dice;
                // Fails to compile when a variant is added and not listed.
                let _listed = |v: &Self| match v { $(Self::$variant { .. } => (),)* };
                vec![$(Self::$variant $(($({ stringify!($item); Roll::roll(dice) }),*))? $({ $($field: Roll::roll(dice)),* })?),*]
            }
        })*
    };
}

macro_rules! numbers {
    ($($t:ty)*) => {
        $(impl Each for $t {
            fn each(dice: &mut Dice) -> Vec<Self> {
                vec![0, 1, 250, <$t>::MAX, dice.roll() as $t]
            }
        })*
    };
}
numbers!(u16 u32 u64 u128 i32 i64);

macro_rules! newtypes {
    ($($t:ident)*) => { $(impl Each for $t { fn each(dice: &mut Dice) -> Vec<Self> { vec![Self(Roll::roll(dice))] } })* };
}
newtypes!(NodeId NodeUuid MeshId QueryId JobId Epoch TraceId);

impl Each for u8 {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![dice.roll() as u8]
    }
}
impl Each for bool {
    fn each(_: &mut Dice) -> Vec<Self> {
        vec![false, true]
    }
}
impl Each for Uuid {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![Uuid::from_u128(Roll::roll(dice))]
    }
}
impl Each for String {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![String::new(), "gås".into(), "x".repeat(dice.below(60)), format!("{:x}", dice.roll())]
    }
}
impl Each for Duration {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![Duration::from_micros(dice.roll() >> 20)]
    }
}
impl<T: Each> Each for Option<T> {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![None, Some(T::roll(dice))]
    }
}
impl<T: Each> Each for Box<T> {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![Box::new(T::roll(dice))]
    }
}
impl<T: Each> Each for Vec<T> {
    fn each(dice: &mut Dice) -> Vec<Self> {
        let len = dice.below(4);
        vec![(0..len).map(|_| T::roll(dice)).collect()]
    }
}
impl<T: Each + Ord> Each for BTreeSet<T> {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![Vec::<T>::roll(dice).into_iter().collect()]
    }
}
impl<K: Each + Ord, V: Each> Each for BTreeMap<K, V> {
    fn each(dice: &mut Dice) -> Vec<Self> {
        let len = dice.below(4);
        vec![(0..len).map(|_| (K::roll(dice), V::roll(dice))).collect()]
    }
}
impl<A: Each, B: Each> Each for (A, B) {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![(A::roll(dice), B::roll(dice))]
    }
}
impl Each for [u8; 32] {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![std::array::from_fn(|_| dice.roll() as u8)]
    }
}
impl Each for SourceName {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![SourceName::new(format!("s{}", dice.below(1000))).unwrap()]
    }
}
impl<T: Each> Each for Versioned<T> {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![Versioned { version: Roll::roll(dice), value: Roll::roll(dice) }]
    }
}
impl Each for StepTimes {
    fn each(dice: &mut Dice) -> Vec<Self> {
        let mut times = StepTimes::default();
        Step::ALL.iter().for_each(|step| times.add(*step, Roll::roll(dice)));
        vec![times]
    }
}
impl Each for MaskSalt {
    fn each(dice: &mut Dice) -> Vec<Self> {
        vec![MaskSalt(Roll::roll(dice))]
    }
}
impl Each for Network {
    fn each(dice: &mut Dice) -> Vec<Self> {
        let v4 = format!("10.{}.0.0/16", dice.below(256));
        vec![v4.parse().unwrap(), "2001:db8::/32".parse().unwrap()]
    }
}
impl Each for ErrorCode {
    fn each(_: &mut Dice) -> Vec<Self> {
        ErrorCode::ALL.to_vec()
    }
}
impl Each for WireSchema {
    fn each(dice: &mut Dice) -> Vec<Self> {
        let types = column_types(dice);
        vec![WireSchema(Arc::new(Schema::new(types)))]
    }
}
impl Each for char {
    fn each(_: &mut Dice) -> Vec<Self> {
        vec!['*', 'å', '\u{1f986}']
    }
}
impl Each for RowFilter {
    fn each(dice: &mut Dice) -> Vec<Self> {
        let mut nodes = vec![
            FilterNode::Constant(Roll::roll(dice)),
            FilterNode::IsNull(Roll::roll(dice)),
            FilterNode::IsNotNull(Roll::roll(dice)),
            FilterNode::Compare { op: Roll::roll(dice), left: Roll::roll(dice), right: Roll::roll(dice) },
            FilterNode::In { column: Roll::roll(dice), values: Roll::roll(dice) },
            FilterNode::Like { column: Roll::roll(dice), pattern: Roll::roll(dice) },
        ];
        let leaves = nodes.len() as u32;
        let some: Vec<u32> = (0..leaves / 2).collect();
        nodes.extend([FilterNode::Or(some), FilterNode::Not(leaves)]);
        nodes.push(FilterNode::And((leaves / 2..leaves).chain([leaves + 1]).collect()));
        vec![RowFilter::nothing(), RowFilter::try_from(nodes).unwrap()]
    }
}

enums! {
    Comparison { Equal, NotEqual, Less, LessOrEqual }
    FilterValue { Bool(0), Integer(0), Text(0), Decimal(0), Instant(0) }
    Term { Column(0), Value(0) }
    LikePart { Text(0), Any }
    DateUnit { Hour, Day, Month, Quarter, Year }
    Mask { Truncate(0), Partial { first, last, fill }, Hash, Full, Redact(0), Null }
    NoticeMode { Warn, Log }
    PrincipalKind { Person, Agent, Service }
    Priority { Low, Normal, High, Critical }
    Action { Select, Describe, Explain, Manage }
    Verdict { Permit, Deny { reason } }
    Compression { None, Lz4, Zstd }
    Dialect { DataFusion, Sqlite, Postgres, MySql }
    Delivery { Streamed, Spooled }
    MemberStatus { Up, Down, Draining }
    Role { Coordinator, Planner, Policy, Edge(0) }
    Allowed { Coordinator, Policy, AnyEdge, Edge(0), Voter }
    RoleCount { All, AtMost(0) }
    ControlRequest {
        IssueBearer(0), Decide(0), Discern(0), Probe, Cancel { query, principal }, JobProgress { job, principal },
        CancelJob { job, principal }, ObserveQueries, ObserveSubqueries, ObserveActors, ObserveBounds, ObserveCircuits, ObserveAudit,
        ObserveUsage,
    }
    ControlReply {
        Bearer(0), Decision(0), Discerned(0), Alive, Cancelled(0), Progress(0), Queries { rows, truncated },
        Subqueries { rows, truncated },
        Actors { rows, truncated }, Bounds { rows, truncated }, Circuits { rows, truncated },
        Usage { rows, truncated }, Audit { rows, truncated }, Error(0),
    }
    JobState { Running, Done, Failed(0) }
    EdgeRequest { Query(0), GetSchema { source }, Ping { source } }
    EdgeReply { Schema(0), Began { snapshot, after_key }, Pong { source_ms } }
    JoinBody { Hello(0), Enrol { candidate, csr } }
    JoinReplyBody { Fresh { me, others }, Formed { mesh, members }, Enrolled(0), AskOthers(0), Refused(0) }
    ForwardBody { Propose(0), ReadIndex }
    ForwardReply { Committed(0), ReadIndex(0), NotLeader(0), Failed(0) }
    AuthorityBody { Renew { csr }, Keys, Keep { keys, ca_certificate }, Rotate { overlap_ms } }
    AuthorityReply { Certificate(0), Keys(0), Kept, Rotated, NotKept, Refused(0) }
    HealthReply { Report(0), Unknown }
    PeerSight { Linked, Heard { ago_ms }, Silent }
    Outcome { Done { epoch }, Admitted { node, epoch }, Applied { version, changed }, Register { version, value }, Quota(0), Refused(0) }
    Period { Hour, Day, Month }
    QuotaCommand { SetLimit { key, limit, now_unix_ms }, Lease { key, lease, need, want, now_unix_ms }, Report { key, lease, spent, closed } }
    QuotaOutcome {
        Granted { amount, period_end_unix_ms }, Exhausted { limit, left, period_end_unix_ms }, Unlimited, Done, Repeated,
        Stale,
    }
    AttributeKind { Text, Integer, Bool, Texts }
    Scope { Query, Describe, Manage, Metrics }
    GovernCommand {
        PutPolicy { id, text, by, now_unix_ms, expect_version }, DropPolicy { id },
        PutTag { tag, places, expect_version }, DeclareAttribute { name, kind },
        PutSettings { settings, expect_version }, PutKey { key }, RevokeKey { id, now_unix_ms }, KeysUsed { uses },
        AuditHead { head },
    }
    RegisterExpect { Version(0), Value(0) }
    RegisterOp { Write { value }, CompareAndSet { expect, value }, Add { delta }, Remove }
    Command {
        Form { facts, members, wanted, grants }, Restore { state }, Admit { grant, member, now_unix_ms },
        Describe { node, uuid, name, address, door, labels, outbound_only },
        SetStatus { node, from, to, now_unix_ms }, SetVoter { node, voter }, Remove { node },
        ApplySource { spec, expect_version }, DropSource { name }, Want { role, wanted }, Assign { at, changes },
        PutGrant { grant }, RevokeGrant { id }, SetDraining { node, draining, now_unix_ms },
        Reach { node, source, version, reached, now_unix_ms }, Forgive { node, source, tries },
        RotateAuthority { ca_certificate, rotation }, Certified { node, authority }, EndRotation { former_ca },
        Register { name, op, request }, Govern(0), Quota(0), Rest { node, roles },
    }
    AdminCall {
        ApplySource { spec, expect_version }, DropSource { name }, CreateJoinToken { uses, ttl_secs, allowed }, ListJoinTokens,
        RevokeJoinToken { id }, RemoveNode { node }, IssueBearer { principal, ttl_secs },
        DrainNode { node }, UndrainNode { node }, SaveSnapshot { from }, RotateAuthority { overlap_secs },
        ReadRegister { name }, ChangeRegister { name, op, request }, PutPolicy { id, text, expect_version },
        CheckPolicy { id, text, beside }, DropPolicy { id }, PutTag { tag, places, expect_version },
        DeclareAttribute { name, kind }, PutSettings { settings, expect_version }, SetQuota { key, limit },
        CreateKey { principal, scopes, networks, ttl_secs }, ListKeys { after }, RevokeKey { id }, ShowResource { of },
        Why(0),
    }
    AdminReply { Applied { version, changed }, Token { token }, Tokens(0), Snapshot { hex, bytes, digest },
        Register { version, value }, Key { id, key }, Keys { keys, more }, Fits { tables }, Resource(0), Why(0), Done,
    }
    ResourceId { Source(0), Policy(0), Tag(0), Attribute(0), Governance, Quota(0) }
    ResourceContent { Source(0), Policy(0), Tag(0), Attribute(0), Governance(0), Quota(0) }
    WordOutcome { OfOthers, Holds, Fails, Errs, Depends { filter, residual }, Unusable(0) }
}

structs! {
    MeshError { code, message, node, source }
    Principal { id, kind, roles, attributes }
    BearerRequest { claim, signature }
    BearerClaim { asker, keeper, asked_unix_ms, principal, ttl_secs }
    SubqueryId { query, ordinal }
    AttemptId { subquery, partition, attempt }
    TableName { source, schema, table }
    DecideRequest { query, principal, action, origin, tables, asked }
    AskedTable { table, columns }
    DiscernRequest { principal, origin, asked }
    Discerned { described, hidden, whole }
    Decision { query, verdict, epoch, decided_by, tables, asked, obligations, policies, notices }
    TableObligation { table, filter, masks, hidden, policies }
    HiddenColumn { column, policies }
    ColumnMask { column, rules }
    MaskRule { mask, when, policies }
    Notice { mode, policies, change }
    QueryRow {
        query, coordinator, principal, organisation, agent, priority, door, state, sql, started_unix_ms,
        queue_position, epoch, times, rows, bytes, cost, restarts, error,
    }
    SubqueryRow { query, ordinal, attempt, source, edge, rule, state, sql, rows, bytes, elapsed_us, error }
    ActorRow { node, name, supervisor, state, restarts, last_failure }
    Progress { node, rows, state }
    BoundRow { node, name, of, max, used, peak, refused }
    AuditRow {
        node, sequence, at_unix_ms, kind, query, principal, organisation, acts_for, agent, credential, door, client,
        action, statement, tables, columns, decision, epochs, rows, bytes, attempts, cost, duration_us, outcome, code,
    }
    DecisionRow { permitted, reason, policies, epoch, decided_by, row_filters, masks, hidden, notices }
    CircuitRow { coordinator, source, edge, state, failures, failing_ms, next_try_ms, error }
    UsageRow {
        coordinator, since_unix_ms, organisation, agent, statements, refused, rows_returned, bytes_returned,
        rows_scanned, bytes_scanned, source_ms, cpu_ms, microcredits,
    }
    EdgeCall { version, trace, deadline_ms, request }
    SignedSubquery { payload, signer, signature }
    Subquery { attempt, edge, source, sql, schema, principal, epoch, expires_unix_ms, batch_rows, compression, resume, reattach, keyset }
    Keyset { schema, table, after }
    AfterKey { sql, snapshot }
    Prefix { batches, rows, digest }
    Trailer { attempt, batches, rows, digest, reattached }
    SourceSchema { source, kind, dialect, version, default_schema, tables }
    TableSchema { schema, name, columns, native, primary_key, unique, rows, bytes, unsupported }
    NativeColumn { type_name, order_is_binary, distinct }
    JoinRequest { version, token_id, proof, body }
    JoinReply { version, proof, body }
    ForwardRequest { version, body }
    AuthorityRequest { version, node, body }
    HealthRequest { version, of }
    HealthReport { node, peers, stall, disk }
    Stall { lasted_ms, ended_ago_ms }
    DiskReport { slow, slowest_ms, full, free_bytes, refused }
    Candidate { mesh_name, expect, uuid, name, address, labels, door, outbound_only, knows }
    Enrolment { mesh, node, certificate, ca_certificate, authority, members, rotation, epoch }
    Authority { ca_key, bearer_key }
    ControlState { mesh, epoch, members, removed, next_node, wanted, held, sources, grants, draining, resting, rotation, unreached, registers, governance }
    Governance { decided_since, policies, tags, attributes, settings, keys, quotas, audit_heads }
    StoredPolicy { text, version, changed_by, changed_unix_ms }
    TagPlace { tables, columns }
    GovernanceSettings { environment, utc_offset_minutes, prices, budgets, weights }
    Prices { statement, row_returned, kib_returned, row_scanned, kib_scanned, source_ms, cpu_ms }
    Budget { organisation, role, agent, rows_max, bytes_max }
    ApiKey {
        id, secret_hash, principal, scopes, networks, created_unix_ms, expires_unix_ms, revoked_unix_ms,
        last_used_unix_ms,
    }
    AuditHead { node, sequence, hash }
    QuotaKey { organisation, agent, period }
    LeaseId { node, incarnation, sequence }
    Lease { amount, spent, granted_unix_ms }
    PeriodUse { start_unix_ms, end_unix_ms, settled, open, starved }
    Quota { limit, current, past, asked }
    QuotaLedger { quotas }
    Rotation { former_ca, new_by_former, former_by_new, until_unix_ms }
    Unreached { since_unix_ms, tries, barred }
    Registers { changes, values, recent }
    Register { value, version }
    RecentChange { request, sum }
    RegisterRequest { id, after }
    MeshFacts { id, name, ca_certificate, bearer_public_key, founded_unix_ms, mask_salt }
    Member {
        id, uuid, name, address, door, labels, outbound_only, voter, status, status_since_unix_ms, public_key,
        allowed, certified_by,
    }
    RoleWanted { count, labels }
    RoleChange { role, node, held }
    SourceSpec { name, kind, options, labels, replicas }
    Source { spec, version }
    Grant { id, secret, uses_left, expires_unix_ms, allowed }
    JoinTokenInfo { id, uses_left, expires_unix_ms, allowed }
    SessionOptions { delivery, timeout, batch_rows, resumable, resume }
    KeyInfo {
        id, principal, scopes, networks, created_unix_ms, expires_unix_ms, revoked_unix_ms, last_used_unix_ms,
    }
    CheckBeside { attributes, tags }
    WhyRequest { principal, sql, origin, at_unix_ms }
    Explanation { action, verdict, epoch, at_unix_ms, policies, tables, notices }
    TableExplanation { table, filter, masks, hidden, words }
    PolicyWord { policy, mode, deed, about, outcome }
}

/// Calls `$check::<T>(name, value, limit, kind)` with one value of every variant of every message that has a frame.
#[macro_export]
macro_rules! for_each_message {
    ($dice:expr, $check:ident) => {{
        use greylag_protocol::{
            MeshError,
            frame::FrameKind,
            messages::{authority::*, control::*, edge::*, forward::*, health::*, join::*},
            state::{Command, ControlState, Outcome},
        };
        use $crate::generate::messages::Each;
        let dice = &mut *$dice;
        EdgeCall::each(dice).iter().for_each(|m| $check(FrameKind::Request, m));
        EdgeRequest::each(dice).iter().for_each(|m| $check(FrameKind::Request, m));
        Subquery::each(dice).iter().for_each(|m| $check(FrameKind::Request, m));
        EdgeReply::each(dice).iter().for_each(|m| $check(FrameKind::Reply, m));
        Trailer::each(dice).iter().for_each(|m| $check(FrameKind::Trailer, m));
        MeshError::each(dice).iter().for_each(|m| $check(FrameKind::Error, m));
        JoinRequest::each(dice).iter().for_each(|m| $check(FrameKind::Join, m));
        JoinBody::each(dice).iter().for_each(|m| $check(FrameKind::Join, m));
        JoinReply::each(dice).iter().for_each(|m| $check(FrameKind::Join, m));
        JoinReplyBody::each(dice).iter().for_each(|m| $check(FrameKind::Join, m));
        ControlRequest::each(dice).iter().for_each(|m| $check(FrameKind::Control, m));
        ControlReply::each(dice).iter().for_each(|m| $check(FrameKind::Control, m));
        ForwardRequest::each(dice).iter().for_each(|m| $check(FrameKind::Forward, m));
        ForwardBody::each(dice).iter().for_each(|m| $check(FrameKind::Forward, m));
        ForwardReply::each(dice).iter().for_each(|m| $check(FrameKind::Forward, m));
        HealthRequest::each(dice).iter().for_each(|m| $check(FrameKind::Control, m));
        HealthReply::each(dice).iter().for_each(|m| $check(FrameKind::Control, m));
        AuthorityRequest::each(dice).iter().for_each(|m| $check(FrameKind::Authority, m));
        AuthorityReply::each(dice).iter().for_each(|m| $check(FrameKind::Authority, m));
        Command::each(dice).iter().for_each(|m| $check(FrameKind::Forward, m));
        Outcome::each(dice).iter().for_each(|m| $check(FrameKind::Forward, m));
        ControlState::each(dice).iter().for_each(|m| $check(FrameKind::Forward, m));
    }};
}
