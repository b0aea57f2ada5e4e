//! From a test's file, and those that it names, to the policies over its tables. Files are read here and nowhere below.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use greylag_config::{parse_resources, with_suggestion};
use greylag_governance::policy::{
    Catalog, NamePattern, Policy, PolicyEngine, TableFacts, TablePattern, Tagging, parse_policies,
};
use greylag_protocol::{
    Epoch, ErrorCode, MeshError,
    admin::{ResourceContent, ResourceId},
    filter::FilterValue,
    messages::control::TableName,
    principal::{Principal, PrincipalKind, attribute},
    state::{GovernanceSettings, TagPlace},
};

use super::{
    document::{Case, Document, Kind, Person, Rows, Table},
    value,
};

/// Rows of one table.
const ROWS_MAX: usize = 100_000;

/// One row: a value for each column of its table, in the table's order.
pub type Row = Vec<Option<FilterValue>>;

/// Everything that cases are judged by.
pub struct Setup {
    pub engine: PolicyEngine,
    pub tables: BTreeMap<TableName, (TableFacts, Vec<Row>)>,
    pub settings: GovernanceSettings,
    pub principals: BTreeMap<String, Principal>,
    pub cases: Vec<Case>,
}

/// Reads it all. A policy that does not fit a table is an error, as it is when it is stored.
pub fn load(file: &Path) -> anyhow::Result<Setup> {
    let text = std::fs::read_to_string(file).with_context(|| format!("`{}`", file.display()))?;
    let options = serde_saphyr::options! { strict_booleans: true };
    let mut document: Document = serde_saphyr::from_str_with_options(&text, options)
        .map_err(|e| wrong(format!("`{}`: {}", file.display(), with_suggestion(&e.to_string()))))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut policies = Vec::new();
    for name in &document.policies {
        policies.extend(parse_policies(&read(folder, name)?).map_err(|e| in_file(name, e))?);
    }
    for name in std::mem::take(&mut document.resources) {
        let text = read(folder, &name)?;
        let beside = |file: &str| read(folder, file);
        for resource in parse_resources(&text, &beside).map_err(|e| in_file(&name, e))? {
            take(&mut document, &mut policies, resource.id, resource.content)?;
        }
    }
    let mut ids = BTreeSet::new();
    if let Some(twice) = policies.iter().find(|policy| !ids.insert(policy.id.clone())) {
        bail!("policy `{}` is there twice", twice.id);
    }
    let tags = taggings(&document.tags)?;
    let mut catalog = Catalog::default();
    let mut tables = BTreeMap::new();
    for (name, table) in &document.tables {
        let name = table_name(name)?;
        let (facts, rows) = read_table(folder, &name, table, &tags).with_context(|| format!("table `{name}`"))?;
        catalog.insert(facts.clone());
        tables.insert(name, (facts, rows));
    }
    let engine = PolicyEngine::new(Epoch(0), policies, &catalog, document.attributes);
    engine.policies().iter().try_for_each(|policy| engine.check(policy).map(drop))?;
    let principals = document.principals.into_iter().map(|(id, person)| (id.clone(), principal(id, person))).collect();
    Ok(Setup { engine, tables, settings: document.settings.unwrap_or_default(), principals, cases: document.cases })
}

/// `source.schema.table`.
pub fn table_name(text: &str) -> anyhow::Result<TableName> {
    match text.splitn(3, '.').collect::<Vec<_>>()[..] {
        [source, schema, table] if ![source, schema, table].contains(&"") => {
            Ok(TableName { source: source.into(), schema: schema.into(), table: table.into() })
        }
        _ => bail!("`{text}` is not a table: `source.schema.table`"),
    }
}

/// What a declared resource adds.
fn take(
    document: &mut Document,
    policies: &mut Vec<Policy>,
    id: ResourceId,
    content: ResourceContent,
) -> anyhow::Result<()> {
    match (id, content) {
        (ResourceId::Policy(id), ResourceContent::Policy(text)) => policies.push(Policy::parse(&id, &text)?),
        (ResourceId::Tag(tag), ResourceContent::Tag(places)) => {
            document.tags.insert(tag, places);
        }
        (ResourceId::Attribute(name), ResourceContent::Attribute(kind)) => {
            document.attributes.insert(name, kind);
        }
        (_, ResourceContent::Governance(settings)) => document.settings = Some(*settings),
        // Of sources and quotas no policy knows.
        _ => {}
    }
    Ok(())
}

fn taggings(tags: &BTreeMap<String, Vec<TagPlace>>) -> anyhow::Result<Vec<Tagging>> {
    let mut taggings = Vec::new();
    for (tag, place) in tags.iter().flat_map(|(tag, places)| places.iter().map(move |place| (tag, place))) {
        let tables = TablePattern::parse(&place.tables)
            .with_context(|| format!("tag `{tag}`: `{}` is not a table pattern", place.tables))?;
        taggings.push(Tagging { tag: tag.clone(), tables, columns: place.columns.as_deref().map(NamePattern::new) });
    }
    Ok(taggings)
}

fn read_table(
    folder: &Path,
    name: &TableName,
    table: &Table,
    tags: &[Tagging],
) -> anyhow::Result<(TableFacts, Vec<Row>)> {
    let fields = table.columns.iter().map(|(name, words)| value::field(name, words));
    let fields = fields.collect::<anyhow::Result<Vec<_>>>()?;
    let facts = TableFacts::new(name.clone(), fields.iter(), tags);
    let named = match &table.rows {
        Rows::Here(rows) => rows.clone(),
        Rows::File(file) => csv(&folder.join(file)).with_context(|| format!("`{file}`"))?,
    };
    if named.len() > ROWS_MAX {
        bail!("{} rows are over the limit of {ROWS_MAX}", named.len());
    }
    let mut rows = Vec::new();
    for (at, named) in named.iter().enumerate() {
        if let Some(stranger) = named.keys().find(|column| facts.column(column).is_none()) {
            bail!("row {}: there is no column `{stranger}`", at + 1);
        }
        let mut row = Row::new();
        for column in &facts.columns {
            let given = named.get(&column.name).unwrap_or(&serde_json::Value::Null);
            let read = value::read(column.kind, given).with_context(|| format!("row {}, `{}`", at + 1, column.name))?;
            if read.is_none() && !column.nullable {
                bail!("row {}: `{}` must not be NULL", at + 1, column.name);
            }
            row.push(read);
        }
        rows.push(row);
    }
    Ok((facts, rows))
}

/// Rows of a CSV file, all values as texts.
fn csv(file: &Path) -> anyhow::Result<Vec<BTreeMap<String, serde_json::Value>>> {
    use arrow::{
        array::AsArray,
        csv::{ReaderBuilder, reader::Format},
        datatypes::{DataType, Field, Schema},
    };
    let (inferred, _) = Format::default().with_header(true).infer_schema(std::fs::File::open(file)?, Some(0))?;
    let texts = inferred.fields().iter().map(|field| Field::new(field.name(), DataType::Utf8, true));
    let schema = std::sync::Arc::new(Schema::new(texts.collect::<Vec<_>>()));
    let reader = ReaderBuilder::new(schema.clone()).with_header(true).build(std::fs::File::open(file)?)?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            let values = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
                let value = column.as_string::<i32>().iter().nth(row).flatten();
                (field.name().clone(), value.map_or(serde_json::Value::Null, |text| text.into()))
            });
            rows.push(values.collect());
        }
    }
    Ok(rows)
}

fn principal(id: String, person: Person) -> Principal {
    let kind = match person.kind {
        Kind::Person => PrincipalKind::Person,
        Kind::Agent => PrincipalKind::Agent,
        Kind::Service => PrincipalKind::Service,
    };
    let mut principal = Principal { id, kind, roles: person.roles, attributes: person.attributes };
    let named = [(attribute::ORGANISATION, person.organisation), (attribute::ACTS_FOR, person.acts_for)];
    let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    principal.attributes.extend(named);
    person.groups.iter().for_each(|group| principal.join_group(group));
    principal
}

fn read(folder: &Path, name: &str) -> greylag_protocol::Result<String> {
    let path: PathBuf = folder.join(name);
    std::fs::read_to_string(&path).map_err(|e| wrong(format!("`{}` cannot be read: {e}", path.display())))
}

fn in_file(name: &str, error: MeshError) -> MeshError {
    MeshError { message: format!("`{name}`: {}", error.message), ..error }
}

fn wrong(message: String) -> MeshError {
    MeshError::new(ErrorCode::InvalidResource, message)
}
