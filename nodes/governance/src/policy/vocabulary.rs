//! The words of policies: entity types, actions, attributes, and the Cedar schema of one table in them.
//!
//! Every table has a schema of its own, in which the type `Row` has that table's columns as attributes; all else is
//! the same in each. So a policy is checked against each table that it can reach, and only against those.
//!
//! | entity | is in | attributes |
//! |---|---|---|
//! | `User`, `Agent`, `Machine` | `Role`, `Group`, `Organisation` | [`PRINCIPAL`], the declared ones; all others are tags |
//! | `Row` | `Table`, `Schema`, `Source`, `Tag` | the table's columns |
//! | `Column` | `Table`, `Schema`, `Source`, `Tag` | `name`, `table`, `type` |
//! | `Table` | `Schema`, `Source`, `Tag` | `name`, `schema`, `source` |
//! | `Mesh::"mesh"` | | |

use std::collections::BTreeMap;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema};
use greylag_protocol::{
    ErrorCode, MeshError, Result,
    messages::control::{Action, TableName},
    principal::{Principal, PrincipalKind},
    state::AttributeKind,
};
use serde_json::{Map, Value, json};

use super::catalog::{TableFacts, ValueKind};

/// Attributes of principals that policies may use by name, besides the built-in ones. A value that is not of its kind
/// counts as missing.
pub type DeclaredAttributes = BTreeMap<String, AttributeKind>;

/// What a policy decides about: an action on a kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    SelectRow,
    SelectColumn,
    DescribeTable,
    DescribeColumn,
    ExplainTable,
    ManageTable,
    ManageMesh,
}

impl Target {
    pub const ALL: [Target; 7] = [
        Target::SelectRow,
        Target::SelectColumn,
        Target::DescribeTable,
        Target::DescribeColumn,
        Target::ExplainTable,
        Target::ManageTable,
        Target::ManageMesh,
    ];

    pub const fn action(self) -> Action {
        match self {
            Target::SelectRow | Target::SelectColumn => Action::Select,
            Target::DescribeTable | Target::DescribeColumn => Action::Describe,
            Target::ExplainTable => Action::Explain,
            Target::ManageTable | Target::ManageMesh => Action::Manage,
        }
    }

    /// Cedar type of the resource.
    pub const fn resource_type(self) -> &'static str {
        match self {
            Target::SelectRow => "Row",
            Target::SelectColumn | Target::DescribeColumn => "Column",
            Target::DescribeTable | Target::ExplainTable | Target::ManageTable => "Table",
            Target::ManageMesh => "Mesh",
        }
    }
}

pub const fn action_name(action: Action) -> &'static str {
    action.as_str()
}

/// Group of `select`, `describe` and `explain`.
pub const READ: &str = "read";

/// Built-in attributes of principals: name, Cedar type, whether always there.
pub const PRINCIPAL: [(&str, &str, bool); 5] = [
    ("id", "String", true),
    ("organisation", "String", false),
    ("agent_id", "String", false),
    ("framework", "String", false),
    ("request_id", "String", false),
];

/// Cedar type of the person for whom an agent or machine acts, as attribute `acts_for`.
pub const ACTS_FOR: &str = "acts_for";

/// Whether an attribute of principals has this name without being declared.
pub fn is_built_in(name: &str) -> bool {
    name == ACTS_FOR || PRINCIPAL.iter().any(|(built_in, _, _)| *built_in == name)
}

pub const fn principal_type(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::Person => "User",
        PrincipalKind::Agent => "Agent",
        PrincipalKind::Service => "Machine",
    }
}

/// A Cedar entity. The type's name is one of ours, so it parses.
pub fn uid(type_name: &str, id: &str) -> Result<EntityUid> {
    let type_name: EntityTypeName = type_name.parse().map_err(|_| MeshError::internal("an entity type has no name"))?;
    Ok(EntityUid::from_type_name_and_id(type_name, EntityId::new(id)))
}

pub fn principal_uid(principal: &Principal) -> Result<EntityUid> {
    uid(principal_type(principal.kind), &principal.id)
}

/// Everything that the resource of a target is in.
pub fn ancestors(target: Target, table: &TableFacts, column: Option<&str>) -> Result<Vec<EntityUid>> {
    let TableName { source, schema, .. } = &table.name;
    if target == Target::ManageMesh {
        return Ok(vec![]);
    }
    let mut found = vec![uid("Source", source)?, uid("Schema", &format!("{source}.{schema}"))?];
    if matches!(target, Target::SelectRow | Target::SelectColumn | Target::DescribeColumn) {
        found.push(uid("Table", &table.name.to_string())?);
    }
    let of_column = column.and_then(|name| table.column(name)).map(|c| &c.tags);
    let mut tags: Vec<&String> = table.tags.iter().chain(of_column.into_iter().flatten()).collect();
    tags.sort_unstable();
    tags.dedup();
    for tag in tags {
        found.push(uid("Tag", tag)?);
    }
    Ok(found)
}

/// The resource of a target: `Row::"row"` stands for any row.
pub fn resource_uid(target: Target, table: &TableName, column: Option<&str>) -> Result<EntityUid> {
    match target {
        Target::SelectRow => uid("Row", "row"),
        Target::SelectColumn | Target::DescribeColumn => {
            uid("Column", &format!("{table}.{}", column.unwrap_or_default()))
        }
        Target::DescribeTable | Target::ExplainTable | Target::ManageTable => uid("Table", &table.to_string()),
        Target::ManageMesh => uid("Mesh", "mesh"),
    }
}

/// The Cedar schema in which policies about this table are checked; `None`: about the mesh itself. There nothing is done
/// to rows, columns and tables, so that what policies say of them is not checked against one that has no columns.
pub fn schema(table: Option<&TableFacts>, declared: &DeclaredAttributes) -> Result<Schema> {
    let mut row = Map::new();
    for column in table.iter().flat_map(|table| &table.columns) {
        if let Some(kind) = column.kind {
            row.insert(column.name.clone(), attribute(column_type(kind), !column.nullable));
        }
    }
    let text = || attribute(json!({ "type": "String" }), true);
    let resource = |inside: Value, attributes: Value| json!({ "memberOfTypes": inside, "shape": { "type": "Record", "attributes": attributes } });
    let mut types = json!({
        "Role": {}, "Group": {}, "Organisation": {}, "Source": {}, "Tag": {}, "Mesh": {},
        "Schema": { "memberOfTypes": ["Source"] },
        "Table": resource(json!(["Schema", "Source", "Tag"]), json!({ "name": text(), "schema": text(), "source": text() })),
        "Column": resource(
            json!(["Table", "Schema", "Source", "Tag"]),
            json!({ "name": text(), "table": text(), "type": text() })
        ),
        "Row": resource(json!(["Table", "Schema", "Source", "Tag"]), Value::Object(row)),
    });
    for kind in [PrincipalKind::Person, PrincipalKind::Agent, PrincipalKind::Service] {
        types[principal_type(kind)] = principal_schema(declared);
    }
    let principals = json!(["User", "Agent", "Machine"]);
    let action = |of_read: bool, resources: &[&str]| {
        let groups = if of_read { json!([{ "id": READ }]) } else { json!([]) };
        let applies = json!({ "principalTypes": principals, "resourceTypes": resources, "context": context_type() });
        json!({ "memberOf": groups, "appliesTo": applies })
    };
    let of_table = |resources: &'static [&'static str]| if table.is_some() { resources } else { &[] };
    let actions = json!({
        READ: {},
        "select": action(true, of_table(&["Row", "Column"])),
        "describe": action(true, of_table(&["Table", "Column"])),
        "explain": action(true, of_table(&["Table"])),
        "manage": action(false, if table.is_some() { &["Table"] } else { &["Mesh"] }),
    });
    Schema::from_json_value(json!({ "": { "entityTypes": types, "actions": actions } })).map_err(|e| {
        let name = table.map_or_else(|| "the mesh".to_owned(), |table| format!("table `{}`", table.name));
        MeshError::new(ErrorCode::InvalidPolicy, format!("{name} has no schema for policies: {e}"))
    })
}

fn attribute(mut of_type: Value, required: bool) -> Value {
    of_type["required"] = json!(required);
    of_type
}

fn column_type(kind: ValueKind) -> Value {
    match kind {
        ValueKind::Bool => json!({ "type": "Boolean" }),
        ValueKind::Integer => json!({ "type": "Long" }),
        ValueKind::Text => json!({ "type": "String" }),
        ValueKind::Decimal => json!({ "type": "Extension", "name": "decimal" }),
        ValueKind::Instant => json!({ "type": "Extension", "name": "datetime" }),
    }
}

fn principal_schema(declared: &DeclaredAttributes) -> Value {
    let mut attributes = Map::new();
    for (name, kind) in declared {
        let of_type = match kind {
            AttributeKind::Text => json!({ "type": "String" }),
            AttributeKind::Integer => json!({ "type": "Long" }),
            AttributeKind::Bool => json!({ "type": "Boolean" }),
            AttributeKind::Texts => json!({ "type": "Set", "element": { "type": "String" } }),
        };
        attributes.insert(name.clone(), attribute(of_type, false));
    }
    for (name, of_type, always) in PRINCIPAL {
        attributes.insert(name.into(), attribute(json!({ "type": of_type }), always));
    }
    attributes.insert(ACTS_FOR.into(), attribute(json!({ "type": "Entity", "name": "User" }), false));
    json!({
        "memberOfTypes": ["Role", "Group", "Organisation"],
        "shape": { "type": "Record", "attributes": attributes },
        "tags": { "type": "String" },
    })
}

fn context_type() -> Value {
    let always = |of_type: Value| attribute(of_type, true);
    json!({
        "type": "Record",
        "attributes": {
            "origin": always(json!({ "type": "String" })),
            "environment": always(json!({ "type": "String" })),
            "framework": attribute(json!({ "type": "String" }), false),
            "priority": always(json!({ "type": "Long" })),
            "now": always(json!({ "type": "Extension", "name": "datetime" })),
            "hour": always(json!({ "type": "Long" })),
            "minute": always(json!({ "type": "Long" })),
            "weekday": always(json!({ "type": "Long" })),
            "tables": always(json!({ "type": "Set", "element": { "type": "String" } })),
        },
    })
}
