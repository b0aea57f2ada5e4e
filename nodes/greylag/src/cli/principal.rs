//! Who is meant on the command line: `user:ada`, `agent:planner`, `machine:backup`, with roles and attributes.

use std::{collections::BTreeMap, str::FromStr};

use clap::Args;
use greylag_protocol::principal::{Principal, PrincipalKind, attribute};

/// A name with what kind of principal has it. Without a kind it is a user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub kind: PrincipalKind,
    pub id: String,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, id) = match text.split_once(':') {
            Some(("user" | "person", id)) => (PrincipalKind::Person, id),
            Some(("agent", id)) => (PrincipalKind::Agent, id),
            Some(("machine" | "service", id)) => (PrincipalKind::Service, id),
            Some((other, _)) => return Err(format!("`{other}` is no kind of principal: user, agent or machine")),
            None => (PrincipalKind::Person, text),
        };
        if id.trim().is_empty() {
            return Err("the principal needs a name, such as `user:ada`".into());
        }
        Ok(Self { kind, id: id.to_owned() })
    }
}

impl Named {
    /// `user:ada`
    pub fn show(principal: &Principal) -> String {
        let kind = match principal.kind {
            PrincipalKind::Person => "user",
            PrincipalKind::Agent => "agent",
            PrincipalKind::Service => "machine",
        };
        format!("{kind}:{}", principal.id)
    }
}

/// What else is said of a principal.
#[derive(Debug, Clone, Default, Args)]
pub struct Traits {
    /// A role, such as `admin`; several times for several
    #[arg(long = "role")]
    pub roles: Vec<String>,
    /// A group; several times for several
    #[arg(long = "group")]
    pub groups: Vec<String>,
    /// The organisation, whose quota is spent
    #[arg(long = "org")]
    pub organisation: Option<String>,
    /// The person for whom an agent or machine acts
    #[arg(long)]
    pub acts_for: Option<String>,
    /// An attribute as `NAME=VALUE`; several times for several
    #[arg(long = "attr", value_parser = pair)]
    pub attributes: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not `NAME=VALUE`")),
    }
}

impl Traits {
    pub fn principal(self, named: Named) -> Principal {
        let mut attributes: BTreeMap<String, String> = self.attributes.into_iter().collect();
        let also = [(attribute::ORGANISATION, self.organisation), (attribute::ACTS_FOR, self.acts_for)];
        attributes.extend(also.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        let mut principal = Principal { id: named.id, kind: named.kind, roles: self.roles, attributes };
        self.groups.iter().for_each(|group| principal.join_group(group));
        principal
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_named_with_their_kind() {
        let kind = |text: &str| text.parse::<Named>().map(|named| (named.kind, named.id));
        assert_eq!(kind("ada"), Ok((PrincipalKind::Person, "ada".into())));
        assert_eq!(kind("agent:x:y"), Ok((PrincipalKind::Agent, "x:y".into())));
        assert_eq!(kind("machine:b"), Ok((PrincipalKind::Service, "b".into())));
        for wrong in ["", "agent:", "robot:x"] {
            assert!(kind(wrong).is_err(), "{wrong}");
        }
        let traits = Traits {
            groups: vec!["night".into()],
            organisation: Some("clinic".into()),
            acts_for: Some("ada".into()),
            attributes: vec![pair("ward=a=b").unwrap()],
            ..Traits::default()
        };
        let principal = traits.principal("agent:scribe".parse().unwrap());
        assert_eq!(principal.attribute("ward"), Some("a=b"));
        assert_eq!((principal.organisation(), principal.person()), (Some("clinic"), Some("ada")));
        assert_eq!(principal.groups().collect::<Vec<_>>(), ["night"]);
        assert_eq!(Named::show(&principal), "agent:scribe");
        assert!(pair("ward").is_err() && pair("=x").is_err());
    }
}
