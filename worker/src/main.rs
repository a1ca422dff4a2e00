//! The binary: parse, wire, run.

use std::process::ExitCode;

use clap::Parser as _;
use postern::cli::{Cli, output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One provider for every TLS connection of the process, before the first is made.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        output::error("a TLS provider was installed before");
        return ExitCode::FAILURE;
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli.run());
            // What still runs has had its grace; a blocking look-up of a name must not hold the exit up.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            output::error(format_args!("the runtime does not start: {error}"));
            ExitCode::FAILURE
        }
    }
}
