//! `greylag status`: nodes, roles and sources, as the mesh's own tables have them.

use std::process::ExitCode;

use clap::Args;

use super::{
    connect::Target,
    render::{self, Format},
};

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    target: Target,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

const SECTIONS: [(&str, &str); 3] = [
    ("nodes", "SELECT * FROM system.nodes ORDER BY id"),
    ("roles", "SELECT * FROM system.roles ORDER BY role, node"),
    ("sources", "SELECT * FROM system.sources ORDER BY name"),
];

pub async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let connection = args.target.connect().await?;
    let mut out = std::io::stdout();
    for (title, sql) in SECTIONS {
        let (schema, batches) = connection.stream(sql).await?;
        if args.format == Format::Table {
            println!("{title}");
        }
        render::write(args.format, schema, batches, &mut out).await?;
    }
    Ok(ExitCode::SUCCESS)
}
