//! Other people at work on the same server while events run.

mod conflicts;
mod hostile;
mod meddlers;
mod storm;

use anyhow::{Result, ensure};
use postern_tests::stage::Stage;
use tokio_postgres::Client;

/// Rounds that the workers repeated at once after this SQLSTATE, by their metrics.
async fn retries(stage: &Stage, sqlstate: &str) -> Result<u64> {
    let label = format!("sqlstate=\"{sqlstate}\"}} ");
    let mut count = 0;
    for worker in stage.workers.iter().filter(|worker| worker.is_running()) {
        let (_, text) = worker.get("/metrics").await?;
        let lines = text.lines().filter(|line| line.starts_with("postern_retries_total{"));
        count += lines.filter_map(|line| line.split_once(label.as_str())?.1.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(count)
}

/// Waits until one of the connector's sessions waits for a lock, and returns its process id.
async fn blocked_connector(superuser: &Client) -> Result<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE usename = 'postern_connector' AND wait_event_type = 'Lock'";
    let deadline = std::time::Instant::now() + postern_tests::audit::TIMEOUT;
    loop {
        if let Some(row) = superuser.query_opt(sql, &[]).await? {
            return Ok(row.get(0));
        }
        ensure!(std::time::Instant::now() < deadline, "the connector waits for nobody");
        tokio::time::sleep(postern_tests::process::POLL).await;
    }
}
