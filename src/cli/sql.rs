//! `stanby sql init` and `stanby sql check`: makes the tables of an SQL store, or looks at them.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use super::output;
use crate::store::sql::dialect::{Dialect, Driver};
use crate::store::sql::dsn::Source;
use crate::store::sql::{self, durability, schema};

/// Making an index on a large table takes a while.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(name = "stanby sql", about = "Makes or checks the tables of an SQL store")]
struct Args {
    #[command(subcommand)]
    command: Which,
}

#[derive(Subcommand)]
enum Which {
    /// Makes the tables that are missing; those that are there stay as they are
    Init(SourceArgs),
    /// Says what is missing or wrong (exit code 1), and warns of settings that lose commits
    Check(SourceArgs),
}

#[derive(clap::Args)]
struct SourceArgs {
    /// postgres, mysql or sqlite
    #[arg(long = "sql_driver", alias = "driver")]
    driver: String,
    /// Where the database is, as the server takes it
    #[arg(long = "sql_source", alias = "source")]
    source: String,
}

/// As shells and manuals want it.
#[must_use]
pub fn describe() -> clap::Command {
    Args::command()
}

/// Runs the command.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    // As the server's flags, these may have one dash.
    let long = |arg: OsString| match arg.to_str() {
        Some(text) if text.starts_with("-sql_") => OsString::from(format!("-{text}")),
        _ => arg,
    };
    let args = std::iter::once(OsString::from("stanby sql")).chain(args.into_iter().map(long));
    match Args::parse_from(args).command {
        Which::Init(source) => finish(init(&source)),
        Which::Check(source) => finish(check(&source)),
    }
}

/// The lines of a good end, or of a bad one.
type Ended = Result<String, String>;

fn source(args: &SourceArgs) -> Result<Source, String> {
    let driver = Driver::named(&args.driver)
        .ok_or_else(|| format!("unknown driver {:?}: postgres, mysql or sqlite", args.driver))?;
    let source = Source::parse(driver, &args.source, &|name| env::var(name).ok());
    source.map_err(|error| error.to_string())
}

fn connect(source: &Source) -> Result<Box<dyn Dialect>, String> {
    sql::connect(source, CALL_TIMEOUT).map_err(|error| error.to_string())
}

fn init(args: &SourceArgs) -> Ended {
    let source = source(args)?;
    sql::make(&source).map_err(|error| error.to_string())?;
    let mut dialect = connect(&source)?;
    schema::init(dialect.as_mut()).map_err(|error| error.to_string())?;
    match schema::check(dialect.as_mut()).map_err(|error| error.to_string())? {
        wrong if wrong.is_empty() => Ok(format!("{source}: all tables are there")),
        wrong => Err(wrong.join("\n")),
    }
}

fn check(args: &SourceArgs) -> Ended {
    let source = source(args)?;
    let mut dialect = connect(&source)?;
    let warnings = durability::warnings(&source, dialect.as_mut());
    for warning in warnings.map_err(|error| error.to_string())? {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
    match schema::check(dialect.as_mut()).map_err(|error| error.to_string())? {
        wrong if wrong.is_empty() => Ok(format!("{source}: all tables are as they should be")),
        wrong => Err(wrong.join("\n")),
    }
}

fn finish(ended: Ended) -> ExitCode {
    match ended {
        Ok(text) => output::end_line(&text, ExitCode::SUCCESS),
        Err(text) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}
