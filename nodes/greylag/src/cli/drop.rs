//! `greylag drop KIND NAME`: takes away what `greylag apply` has declared.

use std::{process::ExitCode, str::FromStr};

use anyhow::bail;
use clap::{Args, ValueEnum};
use greylag_protocol::{
    SourceName,
    state::{Period, QuotaKey},
    statement::{AdminCall, AdminReply},
};

use super::connect::Target;

#[derive(Debug, Args)]
pub struct DropArgs {
    #[arg(value_enum)]
    kind: Kind,
    /// Its name; of a quota `ORGANISATION/PERIOD` or `ORGANISATION/AGENT/PERIOD`
    name: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Source,
    Policy,
    Tag,
    Attribute,
    Quota,
}

pub async fn run(args: DropArgs) -> anyhow::Result<ExitCode> {
    let name = args.name.clone();
    let call = match args.kind {
        Kind::Source => AdminCall::DropSource { name: SourceName::new(name)? },
        Kind::Policy => AdminCall::DropPolicy { id: name },
        Kind::Tag => AdminCall::PutTag { tag: name, places: Vec::new(), expect_version: None },
        Kind::Attribute => AdminCall::DeclareAttribute { name, kind: None },
        Kind::Quota => AdminCall::SetQuota { key: name.parse::<Named>()?.0, limit: None },
    };
    match args.target.connect().await?.admin(&call).await? {
        AdminReply::Applied { changed: false, .. } => {
            let kind = args.kind.to_possible_value().map(|kind| kind.get_name().to_owned()).unwrap_or_default();
            bail!("no {kind} is called `{}`", args.name)
        }
        _ => println!("dropped"),
    }
    Ok(ExitCode::SUCCESS)
}

struct Named(QuotaKey);

impl FromStr for Named {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (whose, period) = text.rsplit_once('/').unwrap_or((text, ""));
        let period = match period {
            "hour" => Period::Hour,
            "day" => Period::Day,
            "month" => Period::Month,
            _ => bail!("`{text}` is not `ORGANISATION/PERIOD` with a period of hour, day or month"),
        };
        let (organisation, agent) = whose.split_once('/').map_or((whose, None), |(o, agent)| (o, Some(agent)));
        if organisation.is_empty() || agent == Some("") {
            bail!("`{text}` names no organisation or no agent");
        }
        Ok(Self(QuotaKey { organisation: organisation.to_owned(), agent: agent.map(str::to_owned), period }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_named_by_whose_and_how_long() {
        let shown = |text: &str| text.parse::<Named>().map(|named| named.0.to_string());
        assert_eq!(shown("clinic/day").unwrap(), "clinic per day");
        assert_eq!(shown("clinic/planner/hour").unwrap(), "clinic/planner per hour");
        for wrong in ["", "clinic", "clinic/week", "/day", "clinic//day"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }
}
