//! The worker's HTTP answers: `/healthz`, `/readyz`, `/metrics`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::SessionState;
use crate::telemetry::Metrics;

/// Content type of `OpenMetrics` 1.0 text (its specification, section "Text format").
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why there are no answers.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; set worker.listen or POSTERN_LISTEN")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("the health listener ended: {0}")]
    Serve(std::io::Error),
}

/// A listener that does not answer yet. Bound before anything else starts, so that a port in use is known at once.
#[derive(Debug)]
pub struct Health {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Told {
    metrics: Metrics,
    session: watch::Receiver<SessionState>,
}

impl Health {
    /// Binds `listen` and logs the address, in which port 0 has become the one that was free.
    pub async fn bind(listen: SocketAddr) -> Result<Self, HealthError> {
        let failed = |source| HealthError::Bind { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(addr = %address, "listening");
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`, which should come after the broker's session has drained: until then the process is
    /// alive, though not ready.
    pub async fn serve(
        self,
        metrics: Metrics,
        session: watch::Receiver<SessionState>,
        shutdown: CancellationToken,
    ) -> Result<(), HealthError> {
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(rendered))
            .with_state(Told { metrics, session });
        axum::serve(self.listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await.map_err(HealthError::Serve)
    }
}

async fn readyz(State(told): State<Told>) -> (StatusCode, &'static str) {
    match *told.session.borrow() {
        SessionState::Consuming => (StatusCode::OK, "consuming\n"),
        SessionState::Connecting => (StatusCode::SERVICE_UNAVAILABLE, "connecting\n"),
        SessionState::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn rendered(State(told): State<Told>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], told.metrics.render())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn ready_is_consuming_and_alive_is_always() {
        let health = Health::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = health.address();
        assert_ne!(address.port(), 0);
        let (state, session) = watch::channel(SessionState::Connecting);
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(health.serve(Metrics::new([]), session, shutdown.clone()));
        for (now, status, word) in [
            (SessionState::Connecting, "503", "connecting"),
            (SessionState::Consuming, "200", "consuming"),
            (SessionState::Draining, "503", "draining"),
        ] {
            state.send_replace(now);
            let answer = ask(address, "/readyz").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with(&format!("{word}\n")), "{answer}");
            assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        }
        let metrics = ask(address, "/metrics").await;
        assert!(metrics.contains("openmetrics-text") && metrics.contains("postern_broker_connected 0"), "{metrics}");
        assert!(ask(address, "/").await.starts_with("HTTP/1.1 404 "));
        shutdown.cancel();
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = Health::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let error = Health::bind(first.address()).await.unwrap_err();
        assert!(error.to_string().contains(&first.address().to_string()), "{error}");
    }
}
