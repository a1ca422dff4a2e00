//! `postern schema`: the contract as JSON Schemas, from the types that the worker itself decodes with.

use std::path::PathBuf;

use postern_schemas::schema;

use super::{CliError, DONE, output};

/// The AsyncAPI document, which is no schema but is printed like one.
const ASYNCAPI: &str = "asyncapi";

/// Arguments of `postern schema`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one; without a name they are listed.
    name: Option<String>,
    /// Write all of them, the AsyncAPI document and examples into this directory.
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    all: Option<PathBuf>,
}

/// Prints a schema, their names, or the files that were written.
pub fn run(args: &Args) -> Result<u8, CliError> {
    if let Some(dir) = &args.all {
        let written = schema::write_all(dir).map_err(|error| CliError::Failed(format!("cannot write into {}: {error}", dir.display())))?;
        for path in &written {
            output::line(path.display());
        }
        return Ok(DONE);
    }
    let names = || schema::names().into_iter().chain([ASYNCAPI]);
    match args.name.as_deref() {
        None => names().for_each(output::line),
        Some(ASYNCAPI) => output::json(&schema::asyncapi()),
        Some(name) => {
            let known = || names().collect::<Vec<_>>().join(", ");
            let unknown = || CliError::Usage(format!("there is no schema {name:?}; known: {}", known()));
            output::json(&schema::schema(name).ok_or_else(unknown)?);
        }
    }
    Ok(DONE)
}
