//! The main job of Postern, told as a story on real servers; see `scripts/demo.sh`.
//!
//! Every sentence is checked: what does not go as told ends the demo with exit code 1, the step's name and the worker's
//! log.

mod person;
mod servers;
mod stage;
mod story;
mod teller;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use self::servers::Servers;
use self::stage::Stage;
use self::teller::Teller;

/// What a shell reports of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let told = tokio::select! {
        told = tell() => told,
        // The other branch is dropped then, and with it every server and directory.
        interrupted = interruption() => interrupted.map(|()| INTERRUPTED),
    };
    match told {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "\nThe demo failed. {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C, a closed terminal, or a polite kill.
async fn interruption() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn tell() -> Result<u8> {
    let teller = Teller::new();
    teller.title("Postern gives people access to PostgreSQL for as long as they need it, and takes it away again.");
    teller.say("Everything below is real: a RabbitMQ, a PostgreSQL, and a worker between them. Starting them …");
    let servers = Servers::start().await.context("the servers do not start")?;
    let mut stage = Stage::start(&servers).await?;
    let told = story::tell(&teller, &servers, &mut stage).await;
    told.map(|()| 0).map_err(|error| {
        let step = teller.step();
        anyhow!("Step {step} did not go as told: {error:#}\nThe worker's log ends with:\n{}", stage.last_words())
    })
}
