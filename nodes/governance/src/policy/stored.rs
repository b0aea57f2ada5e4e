//! A policy as it is stored: Cedar text with our annotations, parsed and checked once.
//!
//! | annotation | means |
//! |---|---|
//! | `@id("name")` | its id, in files of several policies |
//! | `@tables("clinic.*.patients, lab.main.*")` | it is about these tables only, as if the others did not exist for it |
//! | `@mode("enforce")`, `warn`, `log` | `warn` and `log` change nothing and report what they would have changed |
//! | `@mask("full")` | on a `forbid`: what it forbids is shown masked instead (see `mask.rs`) |
//! | `@columns("name, contact_*")` | with `@mask` and `resource is Row`: these columns are masked, in the rows it forbids |
//!
//! Any other annotation is refused, so that a misspelt `@maks` is not a policy without a mask.

use std::collections::BTreeSet;

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy as CedarPolicy, PolicyId, PolicySet, PrincipalConstraint,
    ResourceConstraint,
    pst::{Clause, Expr, Literal, Var},
};
use greylag_protocol::{ErrorCode, MeshError, Result, messages::control::TableName, obligation::Mask};
use miette::Diagnostic;
use serde::{Deserialize, Serialize};

use super::{
    mask,
    pattern::{NamePattern, TablePattern},
    residual,
    vocabulary::{READ, Target, action_name},
};

/// Longest text of a policy, bytes.
pub const POLICY_BYTES_MAX: usize = 16 << 10;

/// Deepest nesting of a policy's condition: of brackets in its text, and of operators. Cedar's evaluator makes an error
/// of what is too deep for the stack, and an erring `forbid` forbids nothing: so this must be far from any stack's end.
pub const POLICY_DEPTH_MAX: usize = 48;

const ANNOTATIONS: [&str; 5] = ["id", "tables", "mode", "mask", "columns"];

/// What a policy's word counts for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Enforce,
    Warn,
    Log,
}

impl Mode {
    /// As `@mode` says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Warn => "warn",
            Mode::Log => "log",
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Policy {
    pub id: String,
    /// Cedar text, as it was written.
    pub text: String,
    pub effect: Effect,
    pub mode: Mode,
    pub mask: Option<Mask>,
    columns: Option<Vec<NamePattern>>,
    tables: Option<Vec<TablePattern>>,
    cedar: CedarPolicy,
    /// It alone: partial evaluation is asked about one policy at a time, so that one that fails is known by name.
    alone: PolicySet,
    reads: ContextReads,
    /// It has no condition: where its scope admits, it holds.
    unconditional: bool,
}

/// Attributes of the context that a policy's condition may look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContextReads {
    pub attributes: BTreeSet<String>,
    /// It uses the context as a whole.
    pub whole: bool,
}

/// Refuses a policy with GL6003, naming it and the place.
fn refused(id: &str, text: &str, at: Option<usize>, why: &str) -> MeshError {
    let place = at.map(|at| {
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        format!(" at line {line}, column {column}")
    });
    MeshError::new(ErrorCode::InvalidPolicy, format!("policy `{id}`{}: {why}", place.unwrap_or_default()))
}

/// Where Cedar's error points, and what it says with its help.
fn diagnosed(error: &dyn Diagnostic) -> (Option<usize>, String) {
    let at = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let help = error.help().map(|help| format!(" ({help})")).unwrap_or_default();
    (at, format!("{error}{help}"))
}

impl Policy {
    /// Reads one policy and checks everything that does not need the catalog. GL6003 for what is not right.
    pub fn parse(id: &str, text: &str) -> Result<Self> {
        check_text(id, text)?;
        let cedar = CedarPolicy::parse(Some(PolicyId::new(id)), text).map_err(|errors| {
            let (at, why) = errors.iter().next().map_or_else(|| (None, errors.to_string()), |e| diagnosed(e));
            refused(id, text, at, &why)
        })?;
        Self::from_cedar(id, text, cedar)
    }

    fn from_cedar(id: &str, text: &str, cedar: CedarPolicy) -> Result<Self> {
        let refuse = |why: &str| refused(id, text, None, why);
        if let Some((unknown, _)) = cedar.annotations().find(|(name, _)| !ANNOTATIONS.contains(name)) {
            return Err(refuse(&format!("`@{unknown}` is not an annotation: {}", ANNOTATIONS.join(", "))));
        }
        let mode = match cedar.annotation("mode") {
            None | Some("enforce") => Mode::Enforce,
            Some("warn") => Mode::Warn,
            Some("log") => Mode::Log,
            Some(other) => return Err(refuse(&format!("`{other}` is not a mode: enforce, warn, log"))),
        };
        let mask = cedar.annotation("mask").map(mask::parse).transpose().map_err(|why| refuse(&why))?;
        let columns = cedar.annotation("columns").map(|list| listed(list).map(NamePattern::new).collect::<Vec<_>>());
        let tables = cedar
            .annotation("tables")
            .map(|list| listed(list).map(|t| TablePattern::parse(t).ok_or(t)).collect::<Result<Vec<_>, &str>>())
            .transpose()
            .map_err(|wrong| refuse(&format!("`{wrong}` is not a table pattern such as `source.schema.*`")))?;
        if columns.as_ref().is_some_and(Vec::is_empty) || tables.as_ref().is_some_and(Vec::is_empty) {
            return Err(refuse("an empty list of tables or columns"));
        }
        let alone = PolicySet::from_policies([cedar.clone()]).map_err(|e| refuse(&e.to_string()))?;
        let mut policy = Self {
            id: id.to_owned(),
            text: text.to_owned(),
            effect: cedar.effect(),
            mode,
            mask,
            columns,
            tables,
            cedar,
            alone,
            reads: ContextReads::default(),
            unconditional: false,
        };
        policy.check_scope().map_err(|why| refuse(&why))?;
        policy.check_condition().map_err(|why| refuse(&why))?;
        Ok(policy)
    }

    fn check_scope(&self) -> Result<(), String> {
        let only =
            |resource_type: &str| Target::ALL.iter().all(|t| t.resource_type() == resource_type || !self.may_be(*t));
        if !Target::ALL.iter().any(|target| self.may_be(*target)) {
            return Err(
                "its scope admits nothing: rows and columns are selected, tables and columns described, tables \
                        explained, tables and the mesh managed"
                    .into(),
            );
        }
        let masks = self.mask.is_some();
        if masks && self.effect == Effect::Permit {
            return Err("`@mask` belongs on a forbid: what it forbids is shown masked".into());
        }
        if self.columns.is_some() && !(masks && only("Row")) {
            return Err("`@columns` belongs to `@mask` on a forbid whose scope says `resource is Row`".into());
        }
        if masks && !only("Column") && !(only("Row") && self.columns.is_some()) {
            return Err("a mask's scope says `resource is Column`, or `resource is Row` with `@columns`".into());
        }
        if self.effect == Effect::Permit && only("Column") {
            return Err("columns are permitted with their rows: forbid the others, `unless` they are these".into());
        }
        if self.cedar.entity_literals().iter().any(|uid| uid.type_name().to_string() == "Row") {
            return Err("a row has no name: use its columns".into());
        }
        Ok(())
    }

    /// Depth, what it reads of the context, and whether what it says of rows can become a filter.
    fn check_condition(&mut self) -> Result<(), String> {
        let pst = self.cedar.to_pst().map_err(|e| e.to_string())?;
        self.unconditional = pst.body().clauses().is_empty();
        for clause in pst.body().clauses() {
            let (Clause::When(condition) | Clause::Unless(condition)) = clause;
            if depth(condition) > POLICY_DEPTH_MAX {
                return Err(format!(
                    "its condition is nested deeper than {POLICY_DEPTH_MAX}: use sets instead of chains, or more policies"
                ));
            }
            if let Some(stranger) = stranger(condition) {
                return Err(format!(
                    "`{stranger}`: of entities, only principal, resource and action can be looked into"
                ));
            }
            read_of_context(condition, &mut self.reads);
            if self.may_be(Target::SelectRow) {
                residual::check(condition).map_err(|u| u.0)?;
            }
        }
        Ok(())
    }

    /// Whether its scope, by types alone, admits the target.
    pub fn may_be(&self, target: Target) -> bool {
        let of_type = |type_name: &cedar_policy::EntityTypeName| type_name.to_string() == target.resource_type();
        let resource = match self.cedar.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::In(_) => true,
            ResourceConstraint::Eq(uid) => of_type(uid.type_name()),
            ResourceConstraint::Is(type_name) | ResourceConstraint::IsIn(type_name, _) => of_type(&type_name),
        };
        let is_action = |uid: &EntityUid| {
            let name: &str = uid.id().as_ref();
            name == action_name(target.action())
                || (name == READ && !matches!(target, Target::ManageMesh | Target::ManageTable))
        };
        let action = match self.cedar.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::In(uids) => uids.iter().any(is_action),
            ActionConstraint::Eq(uid) => is_action(&uid),
        };
        resource && action
    }

    /// Whether `@tables` includes it.
    pub fn is_about(&self, table: &TableName) -> bool {
        self.tables.as_ref().is_none_or(|patterns| patterns.iter().any(|p| p.matches(table)))
    }

    /// Whether its scope admits this resource, which is in these.
    pub fn reaches(&self, resource: &EntityUid, ancestors: &[EntityUid]) -> bool {
        let inside = |uid: &EntityUid| uid == resource || ancestors.contains(uid);
        match self.cedar.resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::Eq(uid) => uid == *resource,
            ResourceConstraint::In(uid) => inside(&uid),
            ResourceConstraint::Is(type_name) => type_name == *resource.type_name(),
            ResourceConstraint::IsIn(type_name, uid) => type_name == *resource.type_name() && inside(&uid),
        }
    }

    /// Whether its scope admits this principal, which is in these.
    pub fn concerns(&self, principal: &EntityUid, parents: &std::collections::HashSet<EntityUid>) -> bool {
        let inside = |uid: &EntityUid| uid == principal || parents.contains(uid);
        match self.cedar.principal_constraint() {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Eq(uid) => uid == *principal,
            PrincipalConstraint::In(uid) => inside(&uid),
            PrincipalConstraint::Is(type_name) => type_name == *principal.type_name(),
            PrincipalConstraint::IsIn(type_name, uid) => type_name == *principal.type_name() && inside(&uid),
        }
    }

    /// Whether its mask is for this column. Without `@columns`, its scope says so.
    pub fn names_column(&self, column: &str) -> bool {
        self.columns.as_ref().is_some_and(|patterns| patterns.iter().any(|p| p.matches(column)))
    }

    /// The name that the text gives itself by `@id`.
    pub fn named(&self) -> Option<&str> {
        self.cedar.annotation("id")
    }

    /// Patterns of `@tables`; `None`: any table.
    pub fn tables(&self) -> Option<String> {
        self.cedar.annotation("tables").map(|list| listed(list).collect::<Vec<_>>().join(", "))
    }

    pub(super) fn alone(&self) -> &PolicySet {
        &self.alone
    }

    pub fn is_unconditional(&self) -> bool {
        self.unconditional
    }

    pub fn reads(&self) -> &ContextReads {
        &self.reads
    }

    /// GL6003 for an error of Cedar's validator, on a table or the mesh.
    pub(super) fn invalid(&self, table: Option<&TableName>, error: &dyn Diagnostic) -> MeshError {
        let (at, why) = diagnosed(error);
        let advice = if why.contains("not found") {
            "; where it is about rows only, its scope says `resource is Row`, and so for columns"
        } else {
            ""
        };
        let place = table.map_or_else(|| "on the mesh".to_owned(), |table| format!("on table `{table}`"));
        refused(&self.id, &self.text, at, &format!("{place}: {why}{advice}"))
    }
}

/// Reads a file of policies, each with its `@id`.
pub fn parse_policies(text: &str) -> Result<Vec<Policy>> {
    check_brackets("of this file", text)?;
    let set: PolicySet = text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        let (at, why) = errors.iter().next().map_or_else(|| (None, errors.to_string()), |e| diagnosed(e));
        refused("of this file", text, at, &why)
    })?;
    let mut policies = Vec::new();
    let mut ids = BTreeSet::new();
    let mut in_order: Vec<&CedarPolicy> = set.policies().collect();
    in_order.sort_by_key(|p| p.id().to_string().trim_start_matches("policy").parse::<u64>().unwrap_or(u64::MAX));
    for cedar in in_order {
        let Some(id) = cedar.annotation("id").filter(|id| !id.is_empty()) else {
            return Err(refused("of this file", text, None, "every policy of a file needs an `@id`"));
        };
        if !ids.insert(id.to_owned()) {
            return Err(refused(id, text, None, "its `@id` is there twice"));
        }
        policies.push(Policy::parse(id, &cedar.to_string())?);
    }
    Ok(policies)
}

fn listed(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Length, and the nesting of brackets: before a parser sees it.
fn check_text(id: &str, text: &str) -> Result<()> {
    if id.is_empty() || id.len() > 128 {
        return Err(refused(id, text, None, "an id has 1 to 128 characters"));
    }
    if text.len() > POLICY_BYTES_MAX {
        return Err(refused(id, text, None, &format!("it is longer than {POLICY_BYTES_MAX} bytes")));
    }
    check_brackets(id, text)
}

/// Brackets outside of texts and comments.
fn check_brackets(id: &str, text: &str) -> Result<()> {
    let (mut open, mut in_text, mut in_comment, mut last) = (0usize, false, false, b' ');
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\n' => in_comment = false,
            _ if in_comment => {}
            // A backslash that is itself escaped escapes nothing.
            b'\\' if in_text && last == b'\\' => {
                last = b' ';
                continue;
            }
            b'"' if !(in_text && last == b'\\') => in_text = !in_text,
            _ if in_text => {}
            b'/' if last == b'/' => in_comment = true,
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        last = byte;
        if open > POLICY_DEPTH_MAX {
            return Err(refused(id, text, Some(at), &format!("brackets are nested deeper than {POLICY_DEPTH_MAX}")));
        }
    }
    Ok(())
}

/// Direct operands of an expression.
fn parts(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::UnaryOp { expr, .. } | Expr::GetAttr { expr, .. } | Expr::HasAttr { expr, .. } => vec![expr],
        Expr::Like { expr, .. } => vec![expr],
        Expr::BinaryOp { left, right, .. } => vec![left, right],
        Expr::Is { expr, in_expr, .. } => std::iter::once(expr).chain(in_expr).map(|e| &**e).collect(),
        Expr::IfThenElse { cond, then_expr, else_expr } => vec![cond, then_expr, else_expr],
        Expr::Set(all) => all.iter().map(|e| &**e).collect(),
        Expr::Record(all) => all.values().map(|e| &**e).collect(),
        _ => vec![],
    }
}

fn depth(expr: &Expr) -> usize {
    1 + parts(expr).into_iter().map(depth).max().unwrap_or(0)
}

/// An entity named in the text of which something is asked that only its own record could answer.
fn stranger(expr: &Expr) -> Option<&Expr> {
    use cedar_policy::pst::BinaryOp as B;
    let named = |e: &Expr| match e {
        Expr::Literal(Literal::EntityUID(uid)) => uid.ty.0.id.as_str() != "Action",
        Expr::IfThenElse { .. } => parts(e).into_iter().any(|p| matches!(p, Expr::Literal(Literal::EntityUID(_)))),
        _ => false,
    };
    let here = match expr {
        Expr::GetAttr { expr: of, .. } | Expr::HasAttr { expr: of, .. } => named(of),
        Expr::Is { expr: of, in_expr: Some(_), .. } => named(of),
        Expr::BinaryOp { op: B::In | B::HasTag | B::GetTag, left, .. } => named(left),
        _ => false,
    };
    if here { Some(expr) } else { parts(expr).into_iter().find_map(stranger) }
}

fn read_of_context(expr: &Expr, reads: &mut ContextReads) {
    match expr {
        Expr::GetAttr { expr: of, attr } if matches!(**of, Expr::Var(Var::Context)) => {
            reads.attributes.insert(attr.to_string());
        }
        Expr::HasAttr { expr: of, attrs } if matches!(**of, Expr::Var(Var::Context)) => {
            reads.attributes.insert(attrs.head.to_string());
        }
        Expr::Var(Var::Context) => reads.whole = true,
        other => parts(other).into_iter().for_each(|part| read_of_context(part, reads)),
    }
}
