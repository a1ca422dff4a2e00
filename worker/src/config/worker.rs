//! `[worker]`: the worker's limits.

use std::net::SocketAddr;
use std::time::Duration;

use postern_schemas::fields::Fields;
use serde_json::{Map, Value};

use super::{Env, read};

/// The worker's limits. All have defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Where `/healthz`, `/readyz` and `/metrics` answer; port 0: a free one. Default `0.0.0.0:8080`.
    pub listen: SocketAddr,
    /// How long running events may take to finish after SIGTERM; 25 s by default, below the 30 s that Kubernetes gives.
    pub shutdown_grace: Duration,
    /// Tries of one event, 1 to 1000; default 12. Waiting for an unreachable target is none. The bound is the work
    /// queue's `x-delivery-limit`.
    pub max_attempts: u32,
    /// Grants and rotations older than this are refused; default 24 h.
    pub max_event_age: Duration,
    /// How long an unknown integration or `type` version is tried again (a rolling upgrade); default 60 s.
    pub unknown_grace: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            shutdown_grace: Duration::from_secs(25),
            max_attempts: 12,
            max_event_age: Duration::from_hours(24),
            unknown_grace: Duration::from_mins(1),
        }
    }
}

impl WorkerConfig {
    /// Reads the section out of the document; `POSTERN_LISTEN` wins over its `listen`.
    pub(super) fn read(document: &Fields<'_>, env: Env<'_>) -> Option<Self> {
        let empty = Value::Object(Map::new());
        let fields = if document.has("worker") {
            document.object("worker")?
        } else {
            Fields::new(&empty, document.path("worker"), document.problems())?
        };
        let default = Self::default();
        let in_file = read::parsed(&fields, "listen", address);
        let listen = match read::variable(env, "POSTERN_LISTEN") {
            Some(text) => address(&text).map_err(|message| fields.problems().add("POSTERN_LISTEN", message)).ok(),
            None => in_file,
        };
        let hours = read::number(&fields, "max_event_age_hours", 1, 8760);
        let config = Self {
            listen: listen.unwrap_or(default.listen),
            shutdown_grace: read::seconds(&fields, "shutdown_grace_seconds", 1, 3600).unwrap_or(default.shutdown_grace),
            max_attempts: read::number(&fields, "max_attempts", 1, 1000).unwrap_or(default.max_attempts),
            max_event_age: hours.map_or(default.max_event_age, |hours| Duration::from_hours(hours.into())),
            unknown_grace: read::seconds(&fields, "unknown_grace_seconds", 0, 86_400).unwrap_or(default.unknown_grace),
        };
        fields.finish();
        Some(config)
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address and port; expected such as 0.0.0.0:8080, [::]:8080 or 127.0.0.1:0"))
}
