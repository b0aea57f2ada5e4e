//! What a member may be asked to do, by the token that admitted it: `coordinator`, `policy`, `edge`, `edge:orders`, `voter`.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Member, Role};
use crate::{
    error::{ErrorCode, MeshError},
    ids::SourceName,
};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Allowed {
    /// And the planner, which goes with it.
    Coordinator,
    Policy,
    /// Of any source.
    AnyEdge,
    Edge(SourceName),
    /// To vote, and so to keep the mesh's authority.
    Voter,
}

/// `None` is everything.
pub type AllowedRoles = Option<BTreeSet<Allowed>>;

impl Member {
    pub fn may_hold(&self, role: &Role) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        match role {
            Role::Coordinator | Role::Planner => allowed.contains(&Allowed::Coordinator),
            Role::Policy => allowed.contains(&Allowed::Policy),
            Role::Edge(source) => {
                allowed.contains(&Allowed::AnyEdge) || allowed.contains(&Allowed::Edge(source.clone()))
            }
        }
    }

    pub fn may_vote(&self) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&Allowed::Voter))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("coordinator"),
            Self::Policy => f.write_str("policy"),
            Self::AnyEdge => f.write_str("edge"),
            Self::Edge(source) => write!(f, "edge:{source}"),
            Self::Voter => f.write_str("voter"),
        }
    }
}

impl FromStr for Allowed {
    type Err = MeshError;
    fn from_str(text: &str) -> Result<Self, MeshError> {
        match text {
            "coordinator" => Ok(Self::Coordinator),
            "policy" => Ok(Self::Policy),
            "edge" => Ok(Self::AnyEdge),
            "voter" => Ok(Self::Voter),
            other => match other.strip_prefix("edge:") {
                Some(source) => SourceName::new(source).map(Self::Edge),
                None => Err(MeshError::new(
                    ErrorCode::InvalidResource,
                    format!("`{other}` is none of `coordinator`, `policy`, `edge`, `edge:SOURCE`, `voter`"),
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_is_read_as_it_is_written() {
        for text in ["coordinator", "policy", "edge", "edge:orders", "voter"] {
            assert_eq!(text.parse::<Allowed>().unwrap().to_string(), text);
        }
        for wrong in ["", "edges", "edge:", "edge:System", "planner"] {
            assert_eq!(wrong.parse::<Allowed>().unwrap_err().code, ErrorCode::InvalidResource, "{wrong}");
        }
    }
}
