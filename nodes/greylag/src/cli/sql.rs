//! `greylag sql`: one statement with `-c`, statements from standard input, or a prompt with history, statements over
//! several lines, and timing.

use std::{
    io::{IsTerminal, Read, Write},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use clap::Args;
use rustyline::{DefaultEditor, error::ReadlineError};

use super::{
    connect::{Connection, Target},
    describe,
    render::{self, Format},
};

#[derive(Debug, Args)]
pub struct SqlArgs {
    /// Statement to run; without it statements are read from the prompt or from standard input
    #[arg(short, long)]
    command: Option<String>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Say how long each statement took
    #[arg(long)]
    timing: bool,
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: SqlArgs) -> anyhow::Result<ExitCode> {
    let connection = args.target.connect().await?;
    if let Some(sql) = &args.command {
        statement(&connection, sql, args.format, args.timing).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if std::io::stdin().is_terminal() {
        prompt(&connection, args.format).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    for sql in complete_statements(&mut text, true) {
        statement(&connection, &sql, args.format, args.timing).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn statement(connection: &Connection, sql: &str, format: Format, timing: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut out = std::io::stdout();
    let (schema, batches) = connection.stream(sql).await?;
    let rows = render::write(format, schema, batches, &mut out).await?;
    out.flush()?;
    if timing {
        eprintln!("{rows} rows in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

const HELP: &str = "\
Statements end with `;`. Ctrl-C stops a running one.
  \\d           tables          \\n   nodes          \\s   sources
  \\f FORMAT    table, csv, json          \\timing   on or off
  \\q           quit";

/// Reads and runs statements until the end of input. An error is shown and the prompt goes on.
pub async fn prompt(connection: &Connection, format: Format) -> anyhow::Result<()> {
    let mut editor = DefaultEditor::new()?;
    let history = history_file();
    if let Some(file) = &history {
        let _ = editor.load_history(file);
    }
    let (mut format, mut timing, mut pending) = (format, true, String::new());
    println!("{HELP}");
    loop {
        let mark = if pending.is_empty() { "greylag> " } else { "     ...> " };
        let (returned, line) = tokio::task::spawn_blocking(move || {
            let line = editor.readline(mark);
            (editor, line)
        })
        .await?;
        editor = returned;
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                pending.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        let _ = editor.add_history_entry(&line);
        if pending.is_empty() && line.trim_start().starts_with('\\') {
            match meta(line.trim(), &mut format, &mut timing) {
                Meta::Quit => break,
                Meta::Run(sql) => run_at_prompt(connection, sql, format, timing).await,
                Meta::Done => {}
            }
            continue;
        }
        pending.push_str(&line);
        pending.push('\n');
        for sql in complete_statements(&mut pending, false) {
            run_at_prompt(connection, &sql, format, timing).await;
        }
    }
    if let Some(file) = &history {
        let _ = editor.save_history(file);
    }
    Ok(())
}

async fn run_at_prompt(connection: &Connection, sql: &str, format: Format, timing: bool) {
    tokio::select! {
        done = statement(connection, sql, format, timing) => {
            if let Err(error) = done {
                eprintln!("{}", describe(&error));
            }
        }
        // Dropping the stream cancels the query in the mesh and in the sources.
        _ = tokio::signal::ctrl_c() => eprintln!("stopped"),
    }
}

enum Meta {
    Quit,
    Run(&'static str),
    Done,
}

fn meta(line: &str, format: &mut Format, timing: &mut bool) -> Meta {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["\\q"] => return Meta::Quit,
        ["\\d"] => return Meta::Run("SELECT source, schema, name, rows FROM system.tables ORDER BY 1, 2, 3"),
        ["\\n"] => return Meta::Run("SELECT * FROM system.nodes ORDER BY id"),
        ["\\s"] => return Meta::Run("SELECT * FROM system.sources ORDER BY name"),
        ["\\timing"] => {
            *timing = !*timing;
            println!("timing {}", if *timing { "on" } else { "off" });
        }
        ["\\f", "table"] => *format = Format::Table,
        ["\\f", "csv"] => *format = Format::Csv,
        ["\\f", "json"] => *format = Format::Json,
        _ => println!("{HELP}"),
    }
    Meta::Done
}

fn history_file() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".greylag_history"))
}

/// Takes the statements that are complete (ended by `;` outside quotes and comments) off the front of `text`. With
/// `end` the rest counts as complete too.
fn complete_statements(text: &mut String, end: bool) -> Vec<String> {
    let mut found = Vec::new();
    let (mut start, mut inside) = (0, Inside::Plain);
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let two = &bytes[at..bytes.len().min(at + 2)];
        match (inside, bytes[at]) {
            (Inside::Plain, b'\'') => inside = Inside::Single,
            (Inside::Plain, b'"') => inside = Inside::Double,
            (Inside::Plain, b'-') if two == b"--" => inside = Inside::Line,
            (Inside::Plain, b'/') if two == b"/*" => inside = Inside::Block,
            (Inside::Plain, b';') => {
                found.push(text[start..at].trim().to_owned());
                start = at + 1;
            }
            (Inside::Single, b'\'') | (Inside::Double, b'"') | (Inside::Line, b'\n') => inside = Inside::Plain,
            (Inside::Block, b'*') if two == b"*/" => inside = Inside::Plain,
            _ => {}
        }
        at += 1;
    }
    let rest = text[start..].to_owned();
    if end {
        found.push(rest.trim().to_owned());
        text.clear();
    } else {
        *text = if rest.trim().is_empty() { String::new() } else { rest };
    }
    found.retain(|s| !s.is_empty());
    found
}

#[derive(Clone, Copy)]
enum Inside {
    Plain,
    Single,
    Double,
    Line,
    Block,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_that_mean_it() {
        let mut text = "select ';' as a; -- not ; here\nselect \"x;y\" /* ; */ from t;\nselect 3".to_owned();
        let found = complete_statements(&mut text, false);
        assert_eq!(found, ["select ';' as a", "-- not ; here\nselect \"x;y\" /* ; */ from t"]);
        assert_eq!(text.trim(), "select 3");
        assert_eq!(complete_statements(&mut text, true), ["select 3"]);
        assert!(text.is_empty());
    }
}
