//! Newtypes for everything that is named on the wire or in the log. An id of one kind never stands for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{ErrorCode, MeshError};

/// Number of a member, allocated by the replicated log and never reused. Starts at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// Identity of a data directory, minted before the node has a number. A wiped disk is a new uuid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeUuid(pub Uuid);

/// Identity of a mesh, minted by its founder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MeshId(pub Uuid);

/// One statement's run at one coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueryId(pub Uuid);

/// A statement that runs in the background, by the name that its client was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub Uuid);

/// Version of the replicated control state: the number of commands that have changed it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// Follows a statement through every node it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TraceId(pub u128);

/// One SQL text for one source within a query. `ordinal` counts from 0 in plan order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubqueryId {
    pub query: QueryId,
    pub ordinal: u32,
}

/// One try of one partition of a sub-query. `attempt` counts from 1 and is raised before anything else is done,
/// so frames of an older attempt can be told and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    pub subquery: SubqueryId,
    pub partition: u32,
    pub attempt: u32,
}

/// Name of a source: the first part of `source.schema.table`. Lower-case letters, digits and `_`, at most 63,
/// not starting with a digit, and none of the names the mesh keeps for itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

/// Longest source name, bytes: PostgreSQL's identifier limit, so that a name survives every door.
pub const SOURCE_NAME_BYTES_MAX: usize = 63;

/// Catalog and schema names that no source may take.
pub const RESERVED_NAMES: [&str; 3] = ["greylag", "system", "information_schema"];

impl SourceName {
    pub fn new(name: impl Into<String>) -> Result<Self, MeshError> {
        let name = name.into();
        let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let all_well = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !starts_well || !all_well || name.len() > SOURCE_NAME_BYTES_MAX {
            return Err(MeshError::new(
                ErrorCode::InvalidResource,
                format!(
                    "source name `{name}` must be 1-{SOURCE_NAME_BYTES_MAX} lower-case letters, digits or `_`, not starting with a digit"
                ),
            ));
        }
        if RESERVED_NAMES.contains(&name.as_str()) {
            return Err(MeshError::new(ErrorCode::InvalidResource, format!("source name `{name}` is reserved")));
        }
        Ok(Self(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SourceName {
    type Error = MeshError;
    fn try_from(name: String) -> Result<Self, MeshError> {
        Self::new(name)
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> String {
        name.0
    }
}

impl FromStr for SourceName {
    type Err = MeshError;
    fn from_str(name: &str) -> Result<Self, MeshError> {
        Self::new(name)
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

macro_rules! display_uuid {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
        impl FromStr for $t {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, uuid::Error> { Uuid::from_str(s).map(Self) }
        }
    )*};
}
display_uuid!(NodeUuid, MeshId, QueryId);

impl fmt::Display for SubqueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.query, self.ordinal)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.subquery, self.partition, self.attempt)
    }
}
