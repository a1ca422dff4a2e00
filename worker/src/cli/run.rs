//! `postern run`: the worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{CliError, DONE};
use crate::broker::{self, SessionState};
use crate::config::Config;
use crate::health::Health;
use crate::pipeline::Pipeline;
use crate::postgres::Target;
use crate::telemetry::{self, Metrics};

const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// Consumes events until SIGTERM or SIGINT, then drains.
pub async fn run(config: Config) -> Result<u8, CliError> {
    telemetry::init(config.log.as_deref()).map_err(CliError::failed)?;
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone()).map_err(CliError::failed)?;

    let metrics = Metrics::new(config.integrations.keys());
    let health = Health::bind(config.worker.listen).await.map_err(CliError::failed)?;
    let (state, session) = watch::channel(SessionState::Connecting);
    // Answers until the very end, so that a draining worker is seen to drain.
    let stopped = CancellationToken::new();
    let serving = tokio::spawn(health.serve(metrics.clone(), session, stopped.clone()));

    let settings = config.broker.clone();
    let grace = config.worker.shutdown_grace;
    let pipeline = Arc::new(Pipeline::new(config, metrics, worker_name()));
    let housekeeping = tokio::spawn(close_idle_sessions(pipeline.targets()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");

    let ended = broker::run(settings, pipeline, state, shutdown, grace).await;
    housekeeping.abort();
    stopped.cancel();
    if let Ok(Err(error)) = serving.await {
        tracing::warn!(%error, "the health endpoints ended badly");
    }
    ended.map_err(CliError::failed)?;
    tracing::info!("drained");
    Ok(DONE)
}

/// The pod's name under Kubernetes, the host's elsewhere.
fn worker_name() -> String {
    let from_file = || std::fs::read_to_string("/etc/hostname").ok();
    let name = std::env::var("HOSTNAME").ok().or_else(from_file).unwrap_or_default();
    if name.trim().is_empty() { "postern".to_owned() } else { name.trim().to_owned() }
}

fn stop_on_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("draining");
        shutdown.cancel();
    });
    Ok(())
}

async fn close_idle_sessions(targets: Vec<Arc<Target>>) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    loop {
        ticks.tick().await;
        for target in &targets {
            target.close_idle();
        }
    }
}
