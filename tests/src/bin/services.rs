//! `postern-services -- COMMAND…`: starts the broker that the end-to-end tests share, runs the command with
//! `POSTERN_TEST_AMQP` set, stops the broker and exits as the command did.

use std::io::Write as _;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context, Result};
use postern_tests::process::{self, Signal};
use postern_tests::rabbit::Rabbit;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "postern-services: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<ExitStatus> {
    let mut arguments = std::env::args_os().skip(1).skip_while(|argument| argument == "--");
    let program = arguments.next().context("usage: postern-services -- COMMAND…")?;
    let rabbit = Rabbit::start().await?;
    let mut command = Command::new(&program)
        .args(arguments)
        .env("POSTERN_TEST_AMQP", rabbit.amqp_url())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    wait(&mut command).await
}

/// Waits for the command. A signal to us is for it too; the broker stays until the command has ended.
async fn wait(command: &mut Child) -> Result<ExitStatus> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let received = tokio::select! {
            status = command.wait() => return Ok(status?),
            _ = terminate.recv() => Signal::TERM,
            _ = interrupt.recv() => Signal::INT,
        };
        if let Some(pid) = command.id() {
            process::signal(pid, received)?;
        }
    }
}
