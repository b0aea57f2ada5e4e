//! `greylag apply -f FILE`: declares sources, policies, tags, attributes, settings and quotas. Applying the same files twice
//! changes nothing the second time. What others are about goes first, whatever the order in the files.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use greylag_config::{Resource, parse_resources};
use greylag_governance::policy::parse_policies;
use greylag_protocol::{
    ErrorCode, MeshError,
    admin::{CheckBeside, ResourceContent, ResourceId},
    statement::{AdminCall, AdminReply},
};

use super::connect::{Connection, Target};

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// YAML file, `.cedar` file of policies with `@id`, or `-` for YAML on standard input; several times for several
    #[arg(short, long, required = true)]
    file: Vec<PathBuf>,
    /// Only check, and show what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: ApplyArgs) -> anyhow::Result<ExitCode> {
    let mut resources = Vec::new();
    for file in &args.file {
        resources.extend(read(file)?);
    }
    resources.sort_by_key(Resource::turn);
    let mut seen = BTreeMap::new();
    for resource in &resources {
        if seen.insert(resource.id.clone(), ()).is_some() {
            bail!("{} is declared twice", resource.id);
        }
    }
    let connection = args.target.connect().await?;
    let beside = beside(&resources);
    for resource in resources {
        let name = resource.id.to_string();
        let applied = if args.dry_run {
            try_one(&connection, resource, &beside).await
        } else {
            apply(&connection, resource).await
        };
        // The code and its hint are the first thing to be read, so the resource is named beside them.
        applied.inspect_err(|_| eprintln!("{name}: not applied"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> anyhow::Result<Vec<Resource>> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("`{}`", file.display()))?;
    }
    if file.extension().is_some_and(|extension| extension == "cedar") {
        let policy = |policy: greylag_governance::policy::Policy| Resource {
            id: ResourceId::Policy(policy.id),
            content: ResourceContent::Policy(policy.text),
        };
        return Ok(parse_policies(&text)?.into_iter().map(policy).collect());
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    let beside = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).map_err(|e| {
            MeshError::new(ErrorCode::InvalidResource, format!("`{}` cannot be read: {e}", path.display()))
        })
    };
    Ok(parse_resources(&text, &beside)?)
}

/// What policies of the same files may count on.
fn beside(resources: &[Resource]) -> CheckBeside {
    let mut beside = CheckBeside::default();
    for resource in resources {
        match (&resource.id, &resource.content) {
            (ResourceId::Attribute(name), ResourceContent::Attribute(kind)) => {
                beside.attributes.insert(name.clone(), *kind);
            }
            (ResourceId::Tag(tag), ResourceContent::Tag(places)) => {
                beside.tags.insert(tag.clone(), places.clone());
            }
            _ => {}
        }
    }
    beside
}

async fn shown(connection: &Connection, of: ResourceId) -> anyhow::Result<Option<ResourceContent>> {
    match connection.admin(&AdminCall::ShowResource { of }).await? {
        AdminReply::Resource(content) => Ok(content),
        other => bail!("an unexpected answer: {other:?}"),
    }
}

async fn apply(connection: &Connection, resource: Resource) -> anyhow::Result<()> {
    let name = resource.id.to_string();
    match connection.admin(&declaring(resource)?).await? {
        AdminReply::Applied { changed: false, .. } => println!("{name}: unchanged"),
        AdminReply::Applied { version: 0, .. } => println!("{name}: applied"),
        AdminReply::Applied { version, .. } => println!("{name}: applied, version {version}"),
        other => bail!("an unexpected answer: {other:?}"),
    }
    Ok(())
}

/// Says what applying would change. Of a policy it is also checked whether it could be stored.
async fn try_one(connection: &Connection, resource: Resource, beside: &CheckBeside) -> anyhow::Result<()> {
    let name = resource.id.to_string();
    let is = shown(connection, resource.id.clone()).await?;
    let mut reach = String::new();
    if let (ResourceId::Policy(id), ResourceContent::Policy(text)) = (&resource.id, &resource.content) {
        let check = AdminCall::CheckPolicy { id: id.clone(), text: text.clone(), beside: beside.clone() };
        match connection.admin(&check).await? {
            AdminReply::Fits { tables: 0 } => reach = ", reaches no table yet".into(),
            AdminReply::Fits { tables: 1 } => reach = ", reaches 1 table".into(),
            AdminReply::Fits { tables } => reach = format!(", reaches {tables} tables"),
            other => bail!("an unexpected answer: {other:?}"),
        }
    }
    match is {
        Some(is) if is == resource.content => println!("{name}: unchanged{reach}"),
        is => {
            let word = if is.is_some() { "would be changed" } else { "would be made" };
            println!("{name}: {word}{reach}");
            let before = is.as_ref().map(lines).transpose()?.unwrap_or_default();
            difference(&before, &lines(&resource.content)?).iter().for_each(|line| println!("  {line}"));
        }
    }
    Ok(())
}

/// The call that makes a resource what it is to be.
pub(crate) fn declaring(resource: Resource) -> anyhow::Result<AdminCall> {
    let expect_version = None;
    Ok(match (resource.id, resource.content) {
        (_, ResourceContent::Source(spec)) => AdminCall::ApplySource { spec, expect_version },
        (ResourceId::Policy(id), ResourceContent::Policy(text)) => AdminCall::PutPolicy { id, text, expect_version },
        (ResourceId::Tag(tag), ResourceContent::Tag(places)) => AdminCall::PutTag { tag, places, expect_version },
        (ResourceId::Attribute(name), ResourceContent::Attribute(kind)) => {
            AdminCall::DeclareAttribute { name, kind: Some(kind) }
        }
        (_, ResourceContent::Governance(settings)) => AdminCall::PutSettings { settings, expect_version },
        (ResourceId::Quota(key), ResourceContent::Quota(limit)) => AdminCall::SetQuota { key, limit: Some(limit) },
        (id, _) => bail!("{id} holds something else than it should"),
    })
}

/// A resource as lines that can be compared.
fn lines(content: &ResourceContent) -> anyhow::Result<Vec<String>> {
    let text = match content {
        ResourceContent::Policy(text) => text.clone(),
        ResourceContent::Source(spec) => serde_json::to_string_pretty(spec)?,
        ResourceContent::Tag(places) => serde_json::to_string_pretty(places)?,
        ResourceContent::Attribute(kind) => serde_json::to_string(kind)?,
        ResourceContent::Governance(settings) => serde_json::to_string_pretty(settings)?,
        ResourceContent::Quota(limit) => format!("{limit} micro-credits"),
    };
    Ok(text.lines().map(str::to_owned).collect())
}

/// What is gone and what is new between the first and the last line that differ.
fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let same_first = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (before, after) = (&before[same_first..], &after[same_first..]);
    let same_last = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
    let gone = before[..before.len() - same_last].iter().map(|line| format!("- {line}"));
    gone.chain(after[..after.len() - same_last].iter().map(|line| format!("+ {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn only_what_differs_is_shown() {
        let lines = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (before, after, expected) in [
            ("a b c", "a b c", vec![]),
            ("", "a b", vec!["+ a", "+ b"]),
            ("a b c", "a x c", vec!["- b", "+ x"]),
            ("a", "a a", vec!["+ a"]),
            ("a b a", "a", vec!["- b", "- a"]),
        ] {
            assert_eq!(difference(&lines(before), &lines(after)), expected, "{before} -> {after}");
        }
    }
}
