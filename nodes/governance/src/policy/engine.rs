//! The policies at one epoch, over one catalog: asked questions, it rules.
//!
//! Immutable; made anew when policies, tags or tables change. It holds no clock and no cache of decisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use cedar_policy::{Schema, ValidationMode, Validator};
use greylag_protocol::{
    Epoch, ErrorCode, MeshError, NodeId, Result,
    messages::control::{Action, DecideRequest, Decision, TableName, Verdict},
    obligation::{Notice, TableObligation},
    principal::Principal,
};

use super::{
    catalog::{Catalog, TableFacts},
    circumstances::{self, Circumstances},
    findings::{Asker, Finding, Resource, find},
    ruling,
    stored::Policy,
    vocabulary::{self, DeclaredAttributes, Target},
};

/// Most policies of a mesh.
pub const POLICIES_MAX: usize = 2_000;

/// May this principal do this?
#[derive(Debug, Clone)]
pub struct Question<'a> {
    pub principal: &'a Principal,
    pub action: Action,
    pub touched: &'a [Touched],
    pub circumstances: &'a Circumstances,
}

/// A table of a statement, with the columns that it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    pub table: TableName,
    /// `None`: not known; then columns that may not be read are obligations, instead of grounds to deny.
    pub columns: Option<BTreeSet<String>>,
}

/// A decision without the query that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    pub verdict: Verdict,
    pub obligations: Vec<TableObligation>,
    /// Ids of the policies that determined it, sorted.
    pub policies: Vec<String>,
    pub notices: Vec<Notice>,
}

impl Ruling {
    pub fn into_decision(self, request: DecideRequest, epoch: Epoch, decided_by: NodeId) -> Decision {
        let Ruling { verdict, obligations, policies, notices } = self;
        Decision { obligations, policies, notices, ..Decision::plain(request, verdict, epoch, decided_by) }
    }
}

/// See the module.
pub struct PolicyEngine {
    epoch: Epoch,
    policies: Arc<[Policy]>,
    /// Tells one catalog from another in the keys of rulings.
    catalog: [u8; 32],
    tables: BTreeMap<TableName, TableRules>,
    /// Where no table is: managing the mesh itself.
    mesh: TableRules,
    declared: DeclaredAttributes,
}

/// A table, and the policies about it.
pub(super) struct TableRules {
    pub facts: Arc<TableFacts>,
    is_mesh: bool,
    /// Made when first needed.
    schema: OnceLock<Result<Schema>>,
    /// Indexes of the policies about it.
    policies: Vec<usize>,
}

/// What policies say about a statement's tables.
pub(super) struct TableFindings<'e> {
    pub rules: &'e TableRules,
    /// About rows, for select and explain; about the table for the rest.
    pub rows: Vec<Finding>,
    /// About explaining it, beside selecting from it.
    pub explain: Option<Vec<Finding>>,
    /// About each column that is reached by a policy.
    pub columns: BTreeMap<String, Vec<Finding>>,
}

impl TableRules {
    fn new(facts: Arc<TableFacts>, policies: &[Policy]) -> Self {
        let about = policies.iter().enumerate().filter(|(_, p)| p.is_about(&facts.name)).map(|(at, _)| at).collect();
        Self { facts, is_mesh: false, schema: OnceLock::new(), policies: about }
    }

    fn schema(&self, declared: &DeclaredAttributes) -> Result<&Schema> {
        let facts = (!self.is_mesh).then_some(&*self.facts);
        self.schema.get_or_init(|| vocabulary::schema(facts, declared)).as_ref().map_err(Clone::clone)
    }
}

impl PolicyEngine {
    /// Policies that do not fit a table deny what is asked about it: they are not refused here.
    pub fn new(epoch: Epoch, mut policies: Vec<Policy>, catalog: &Catalog, declared: DeclaredAttributes) -> Self {
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        Self::over(epoch, policies.into(), catalog, [0; 32], declared)
    }

    /// The same over policies that are sorted by id and shared, with a digest that tells this catalog from others.
    pub fn over(
        epoch: Epoch,
        policies: Arc<[Policy]>,
        catalog: &Catalog,
        digest: [u8; 32],
        declared: DeclaredAttributes,
    ) -> Self {
        let tables =
            catalog.tables().map(|facts| (facts.name.clone(), TableRules::new(facts.clone(), &policies))).collect();
        let nothing = TableName { source: String::new(), schema: String::new(), table: String::new() };
        let nowhere = Arc::new(TableFacts::new(nothing, std::iter::empty(), &[]));
        let mesh =
            TableRules { is_mesh: true, policies: (0..policies.len()).collect(), ..TableRules::new(nowhere, &[]) };
        Self { epoch, policies, catalog: digest, tables, mesh, declared }
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    pub(super) fn catalog_digest(&self) -> [u8; 32] {
        self.catalog
    }

    /// Whether a policy may be stored: it must fit every table that it reaches. Gives how many those are; one that
    /// reaches none yet is accepted, and what it will reach is denied until it fits.
    pub fn check(&self, policy: &Policy) -> Result<usize> {
        if self.policies.len() >= POLICIES_MAX && self.policies.iter().all(|p| p.id != policy.id) {
            return Err(MeshError::new(
                ErrorCode::InvalidPolicy,
                format!("policy `{}`: there are {POLICIES_MAX} already", policy.id),
            ));
        }
        let mut reached = 0;
        let tables = self.tables.values().filter(|rules| policy.is_about(&rules.facts.name));
        for rules in tables.chain([&self.mesh]) {
            if !self.reaches_any(policy, rules)? {
                continue;
            }
            reached += usize::from(!rules.is_mesh);
            let validator = Validator::new(rules.schema(&self.declared)?.clone());
            let result = validator.validate(policy.alone(), ValidationMode::Strict);
            if let Some(error) = result.validation_errors().next() {
                return Err(policy.invalid((!rules.is_mesh).then_some(&rules.facts.name), error));
            }
        }
        Ok(reached)
    }

    /// Whether the policy's scope admits the table, its rows, or one of its columns.
    fn reaches_any(&self, policy: &Policy, rules: &TableRules) -> Result<bool> {
        let facts = &*rules.facts;
        let of_it = |target: &Target| (*target == Target::ManageMesh) == rules.is_mesh && policy.may_be(*target);
        for target in Target::ALL.into_iter().filter(of_it) {
            let columns: Vec<Option<&str>> = match target.resource_type() {
                "Column" => facts.columns.iter().map(|c| Some(c.name.as_str())).collect(),
                _ => vec![None],
            };
            for column in columns {
                let uid = vocabulary::resource_uid(target, &facts.name, column)?;
                if policy.reaches(&uid, &vocabulary::ancestors(target, facts, column)?) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Rules. Whatever goes wrong on the way denies.
    pub fn decide(&self, question: &Question<'_>) -> Ruling {
        if let Some(ruling) = self.decided_without_policies(question) {
            return ruling;
        }
        match self.findings(question) {
            Ok(findings) => ruling::rule(self, question, &findings),
            Err(error) => ruling::deny(error.message, vec![]),
        }
    }

    /// Administrators manage, whatever policies say, so that a policy cannot lock everybody out; a statement that
    /// touches no table gives away nothing; a table that nobody knows has no policies.
    fn decided_without_policies(&self, question: &Question<'_>) -> Option<Ruling> {
        let manage = question.action == Action::Manage;
        if question.principal.id.trim().is_empty() {
            return Some(ruling::deny("the principal has no name".into(), vec![]));
        }
        if (manage && question.principal.is_admin()) || (!manage && question.touched.is_empty()) {
            return Some(ruling::permit());
        }
        let stranger = question.touched.iter().find(|t| !self.tables.contains_key(&t.table))?;
        Some(ruling::deny(format!("table `{}` is not known to the policies", stranger.table), vec![]))
    }

    pub(super) fn findings(&self, question: &Question<'_>) -> Result<Vec<TableFindings<'_>>> {
        let tables: Vec<TableName> = question.touched.iter().map(|t| t.table.clone()).collect();
        let asker = Asker {
            principal: question.principal,
            uid: vocabulary::principal_uid(question.principal)?,
            parents: circumstances::principal_parents(question.principal)?,
            context: question.circumstances.context(question.principal, &tables)?,
            declared: &self.declared,
        };
        if question.touched.is_empty() {
            return Ok(vec![self.table_findings(&self.mesh, question.action, None, &asker)?]);
        }
        question
            .touched
            .iter()
            .map(|touched| match self.tables.get(&touched.table) {
                Some(rules) => self.table_findings(rules, question.action, touched.columns.as_ref(), &asker),
                None => Err(MeshError::internal(format!("table `{}` has gone", touched.table))),
            })
            .collect()
    }

    fn table_findings<'e>(
        &'e self,
        rules: &'e TableRules,
        action: Action,
        columns: Option<&BTreeSet<String>>,
        asker: &Asker<'_>,
    ) -> Result<TableFindings<'e>> {
        let find = |target, column: Option<&str>| {
            let schema = rules.schema(&self.declared)?;
            let candidates = rules.policies.iter().filter_map(|at| Some((*at, self.policies.get(*at)?)));
            find(&Resource { target, table: &rules.facts, column, schema }, asker, candidates)
        };
        let (of_rows, of_columns, of_explain) = match action {
            Action::Select => (Target::SelectRow, Some(Target::SelectColumn), None),
            Action::Explain => (Target::SelectRow, Some(Target::SelectColumn), Some(Target::ExplainTable)),
            Action::Describe => (Target::DescribeTable, Some(Target::DescribeColumn), None),
            Action::Manage if rules.is_mesh => (Target::ManageMesh, None, None),
            Action::Manage => (Target::ManageTable, None, None),
        };
        let mut by_column = BTreeMap::new();
        let asked = rules.facts.columns.iter().filter(|c| columns.is_none_or(|asked| asked.contains(&c.name)));
        for (column, target) in asked.filter_map(|c| Some((c, of_columns?))) {
            let found = find(target, Some(&column.name))?;
            if !found.is_empty() {
                by_column.insert(column.name.clone(), found);
            }
        }
        let explain = of_explain.map(|target| find(target, None)).transpose()?;
        Ok(TableFindings { rules, rows: find(of_rows, None)?, explain, columns: by_column })
    }

    /// What the policies about these tables may read of the context; `None` where it is all of it.
    pub(super) fn context_reads(&self, touched: &[Touched]) -> Option<BTreeSet<&str>> {
        let mut reads = BTreeSet::new();
        let of_mesh = touched.is_empty().then_some(&self.mesh);
        let rules = touched.iter().filter_map(|t| self.tables.get(&t.table)).chain(of_mesh);
        for policy in rules.flat_map(|rules| &rules.policies).filter_map(|at| self.policies.get(*at)) {
            if policy.reads().whole {
                return None;
            }
            reads.extend(policy.reads().attributes.iter().map(String::as_str));
        }
        Some(reads)
    }
}
