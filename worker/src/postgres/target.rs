//! One target server: its sessions, its circuit, its credential.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult, Timeouts};
use postern_schemas::{Identifier, Reason};
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::config::Integration;
use crate::config::integration::HostPort;
use crate::postgres::connect::{Purpose, connect};
use crate::postgres::ledger::{self, Ledger};
use crate::postgres::locate::{Located, Locator};
use crate::postgres::{Rounds, TargetError};
use crate::secrets::{Credential, Stores};

/// How long an event waits for one of the integration's sessions.
const SESSION_WAIT: Duration = Duration::from_secs(10);
/// Sessions that nobody used for this long are closed.
const IDLE: Duration = Duration::from_secs(30);
/// A session that rested for this long is asked for a sign of life first: a firewall between may have forgotten it without
/// telling anybody.
const RESTED: Duration = Duration::from_millis(500);
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How long a circuit stays open after the first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One target server. Cheap to share; sessions are opened when needed and closed when idle.
#[derive(Debug)]
pub struct Target {
    integration: Arc<Integration>,
    locator: Arc<Locator>,
    purpose: Purpose,
    pools: Mutex<HashMap<Identifier, managed::Pool<Manager>>>,
    ledger: tokio::sync::Mutex<Option<Ledger>>,
    circuit: Mutex<Circuit>,
    heavy: tokio::sync::Mutex<()>,
    /// Its read replicas, each with sessions and a circuit of its own.
    replicas: Vec<Target>,
    /// For a replica: it had not replayed everything when it was last looked at.
    pub(super) lags: AtomicBool,
    retries: Mutex<BTreeMap<String, u64>>,
}

#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    open_until: Option<Instant>,
    why: Option<Reason>,
}

impl Target {
    /// A target that no session was opened with yet.
    pub fn new(integration: Arc<Integration>, stores: &Stores) -> Self {
        let replicas = integration.replicas.iter().flatten().map(|at| Self::replica(&integration, at, stores)).collect();
        Self::with(integration, stores, Purpose::Changing, replicas)
    }

    /// A read replica: the same login, database and encryption at another address.
    fn replica(primary: &Integration, at: &HostPort, stores: &Stores) -> Self {
        let integration = Integration { instance: None, ..primary.at(at) };
        Self::with(Arc::new(integration), stores, Purpose::Looking, Vec::new())
    }

    fn with(integration: Arc<Integration>, stores: &Stores, purpose: Purpose, replicas: Vec<Self>) -> Self {
        Self {
            locator: Arc::new(Locator::new(Arc::clone(&integration), stores)),
            integration,
            purpose,
            replicas,
            lags: AtomicBool::new(false),
            pools: Mutex::default(),
            ledger: tokio::sync::Mutex::default(),
            circuit: Mutex::default(),
            heavy: tokio::sync::Mutex::default(),
            retries: Mutex::default(),
        }
    }

    /// Its configuration.
    pub fn integration(&self) -> &Integration {
        &self.integration
    }

    /// The same with the address where the target was last found.
    pub fn located(&self) -> Arc<Integration> {
        Arc::clone(&self.locator.last().integration)
    }

    /// Its read replicas: for [`Target::session`], never for [`Target::maintenance`].
    pub fn replicas(&self) -> &[Self] {
        &self.replicas
    }

    /// A session with the maintenance database, and the ledger in it, which is made if it is not there.
    pub async fn maintenance(&self) -> Result<(Session, Ledger), TargetError> {
        let mut rounds = Rounds::of(self);
        loop {
            // Several workers that start at once may all make the ledger: one succeeds, the others find it.
            match self.opened().await {
                Err(error) => rounds.after(error).await?,
                opened => return opened,
            }
        }
    }

    async fn opened(&self) -> Result<(Session, Ledger), TargetError> {
        let mut session = self.session(&self.integration().database).await.map_err(TargetError::of_maintenance)?;
        let mut known = self.ledger.lock().await;
        if let Some(ledger) = known.as_ref() {
            return Ok((session, ledger.clone()));
        }
        let ledger = ledger::open(session.begin()).await?;
        session.ended();
        *known = Some(ledger.clone());
        Ok((session, ledger))
    }

    /// Counts a round that is repeated, by its SQLSTATE. A connection that broke counts as 08006
    /// (`connection_failure`), what is not the server's answer as 00000.
    pub fn note_retry(&self, error: &TargetError) {
        let state = error.sqlstate().unwrap_or(if error.lost_session() { "08006" } else { "00000" });
        *self.retries.lock().unwrap_or_else(PoisonError::into_inner).entry(state.to_owned()).or_default() += 1;
    }

    /// The rounds that were repeated since this was last asked, by SQLSTATE.
    pub fn take_retries(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.retries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The ledger is not what it was, such as dropped by hand: it is looked for anew.
    pub async fn forget_ledger(&self) {
        *self.ledger.lock().await = None;
    }

    /// A session with a database of the server.
    pub async fn session(&self, database: &Identifier) -> Result<Session, TargetError> {
        let pool = self.pool(database);
        match pool.get().await {
            Ok(connection) => Ok(Session { connection }),
            Err(PoolError::Backend(error)) => Err(error),
            Err(_) => Err(TargetError::Busy(SESSION_WAIT.as_secs())),
        }
    }

    /// Work that needs two sessions at once is done by one event at a time, or they could all wait for a second one.
    pub async fn heavy(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.heavy.lock().await
    }

    fn pool(&self, database: &Identifier) -> managed::Pool<Manager> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let size = usize::try_from(self.integration().max_sessions).unwrap_or(1).max(2);
        let make = || {
            let manager = Manager { locator: Arc::clone(&self.locator), purpose: self.purpose, database: database.clone() };
            // Only a wait without a runtime can fail to build, and a runtime is named.
            managed::Pool::builder(manager)
                .max_size(size)
                .runtime(deadpool::Runtime::Tokio1)
                .timeouts(Timeouts { wait: Some(SESSION_WAIT), create: None, recycle: None })
                .build()
        };
        if let Some(pool) = pools.get(database) {
            return pool.clone();
        }
        match make() {
            Ok(pool) => {
                pools.insert(database.clone(), pool.clone());
                pool
            }
            Err(error) => unreachable!("a pool with a runtime: {error}"),
        }
    }

    /// Closes sessions that nobody used for a while, and forgets pools without any. Called now and then.
    pub fn close_idle(&self) {
        self.replicas.iter().for_each(Self::close_idle);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, pool| {
            pool.retain(|_, metrics: Metrics| metrics.last_used() < IDLE);
            pool.status().size > 0
        });
    }

    /// How long the circuit stays open: until then nobody should try.
    pub fn pause(&self) -> Option<Duration> {
        let circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        circuit.open_until.and_then(|until| until.checked_duration_since(Instant::now()))
    }

    /// Why nobody should try now; `None` while the circuit is closed.
    pub fn open_because(&self) -> Option<Reason> {
        let circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        circuit.open_until.filter(|until| *until > Instant::now()).and(circuit.why.clone())
    }

    /// Notes how a try went: why the target could not be reached, if it was not. That opens the circuit, for twice as long
    /// each time.
    pub fn note(&self, unreachable: Option<Reason>) {
        let mut circuit = self.circuit.lock().unwrap_or_else(PoisonError::into_inner);
        if unreachable.is_none() {
            *circuit = Circuit::default();
            return;
        }
        circuit.why = unreachable;
        let now = Instant::now();
        // Many events fail at once when a server goes away: they are one failure.
        if circuit.open_until.is_none_or(|until| until <= now) {
            let pause = FIRST_PAUSE.saturating_mul(1 << circuit.failures.min(6)).min(LONGEST_PAUSE);
            circuit.failures = circuit.failures.saturating_add(1);
            circuit.open_until = Some(now + pause);
        }
    }
}

/// Opens and checks sessions for the pool of one database.
#[derive(Debug)]
struct Manager {
    locator: Arc<Locator>,
    purpose: Purpose,
    database: Identifier,
}

/// A client, whose it is, and whether it is inside a transaction that nobody ended.
#[derive(Debug)]
struct Connection {
    client: Client,
    username: String,
    clean: bool,
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = TargetError;

    async fn create(&self) -> Result<Connection, TargetError> {
        let located = self.locator.locate().await?;
        let Located { integration, credential } = &*located;
        // The secret may have been rotated since it was read, or is just being rotated.
        let attempt = |credential: Credential| {
            Box::pin(async move {
                let (client, _task) = connect(integration, self.purpose, &self.database, &credential, "postern").await?;
                Ok(Connection { client, username: credential.username, clean: true })
            })
        };
        let connected = credential.login(attempt, TargetError::is_refused_login).await;
        if connected.as_ref().is_err_and(TargetError::may_be_elsewhere) {
            self.locator.doubt().await;
        }
        connected
    }

    async fn recycle(&self, connection: &mut Connection, metrics: &Metrics) -> RecycleResult<TargetError> {
        if !connection.clean || connection.client.is_closed() {
            return Err(RecycleError::message("the session is closed or was left inside a transaction"));
        }
        // Work that takes several sessions is done as one account.
        if self.locator.last().credential.names_another(&connection.username) {
            return Err(RecycleError::message("another account has taken the connector's place"));
        }
        if metrics.last_used() < RESTED {
            return Ok(());
        }
        match tokio::time::timeout(SIGN_OF_LIFE, connection.client.check_connection()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(RecycleError::message("the session gives no sign of life")),
        }
    }
}

/// A session on loan from the pool. One that is dropped inside a transaction is closed, not reused.
#[derive(Debug)]
pub struct Session {
    connection: Object<Manager>,
}

impl Session {
    /// For statements outside a transaction.
    pub fn client(&self) -> &Client {
        &self.connection.client
    }

    /// For a transaction: until [`Session::ended`] is called the session is not reused.
    pub fn begin(&mut self) -> &Client {
        self.connection.clean = false;
        &self.connection.client
    }

    /// The transaction was committed or rolled back, and the server said so.
    pub fn ended(&mut self) {
        self.connection.clean = true;
    }

    /// Whether a transaction was begun that nobody ended.
    pub fn is_open(&self) -> bool {
        !self.connection.clean
    }
}
