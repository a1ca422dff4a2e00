//! OpenBao in development mode, with TLS by an issuer of its own; `scripts/stores.sh` builds it. Its own command writes
//! and deletes. One server serves all tests of a process.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::wire::Wire;
use super::{Env, Store};
use crate::process;
use crate::scratch::Scratch;

const ROOT: &str = "root-token-of-the-tests";
const START_TIMEOUT: Duration = Duration::from_mins(1);
const MARK: &str = "apono-connector-read";

/// What the documentation says that a token needs, for all that Postern does.
const POLICY: &str = r#"
path "secret/data/postern/*"     { capabilities = ["create", "read", "update"] }
path "secret/metadata/postern/*" { capabilities = ["create", "read", "update", "delete"] }
path "legacy/postern/*"          { capabilities = ["create", "read", "update", "delete"] }
"#;

/// A running server. The process that recorded it in its scratch directory is ended with the tests.
#[derive(Debug)]
struct Server {
    scratch: Scratch,
    port: u16,
    token: String,
    stranger: String,
}

/// A key/value engine of one version.
#[derive(Debug)]
pub struct Vault {
    server: &'static Server,
    engine: &'static str,
    wire: Wire,
}

fn program() -> Result<PathBuf> {
    let program = match std::env::var_os("POSTERN_TEST_OPENBAO") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache/postern/openbao/bao"),
    };
    ensure!(program.exists(), "{} is missing: run scripts/stores.sh build", program.display());
    Ok(program)
}

impl Server {
    async fn shared() -> Result<&'static Self> {
        static SERVER: OnceCell<Server> = OnceCell::const_new();
        SERVER.get_or_try_init(Self::start).await
    }

    async fn start() -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let scratch = Scratch::new("openbao")?;
        let port = process::free_port()?;
        let log = std::fs::File::create(scratch.join("log"))?;
        let mut child = Command::new(program()?)
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-tls-cert-dir={}", scratch.path().display()))
            .arg(format!("-dev-root-token-id={ROOT}"))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .env("HOME", scratch.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        scratch.record("openbao", child.id())?;
        let mut server = Self { scratch, port, token: String::new(), stranger: String::new() };
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = server.bao(&["secrets", "list"], "") {
            ensure!(child.try_wait()?.is_none() && Instant::now() < deadline, "OpenBao did not start: {error}\n{}", server.log());
            tokio::time::sleep(process::POLL).await;
        }
        server.bao(&["secrets", "enable", "-path=legacy", "-version=1", "kv"], "")?;
        server.bao(&["policy", "write", "postern", "-"], POLICY)?;
        server.token = server.bao(&["token", "create", "-policy=postern", "-field=token"], "")?;
        server.stranger = server.bao(&["token", "create", "-policy=default", "-field=token"], "")?;
        Ok(server)
    }

    fn log(&self) -> String {
        process::tail(&self.scratch.join("log"), 20)
    }

    /// Runs the server's own command.
    fn bao(&self, args: &[&str], input: &str) -> Result<String> {
        use std::io::Write as _;
        let mut child = Command::new(program()?)
            .args(args)
            .env("HOME", self.scratch.path())
            .env("BAO_ADDR", format!("https://127.0.0.1:{}", self.port))
            .env("BAO_TOKEN", ROOT)
            .env("BAO_CACERT", self.scratch.join("vault-ca.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // A command that reads nothing may have ended already.
        let _ = child.stdin.take().context("no stdin")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "bao {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Vault {
    /// An engine of version 2.
    pub async fn versioned() -> Result<Self> {
        Self::new("secret").await
    }

    /// An engine of version 1.
    pub async fn legacy() -> Result<Self> {
        Self::new("legacy").await
    }

    async fn new(engine: &'static str) -> Result<Self> {
        let server = Server::shared().await?;
        Ok(Self { server, engine, wire: Wire::to(server.port).await? })
    }

    /// The issuer of the server's certificate, as `ca_cert_base64` wants it.
    pub fn issuer(&self) -> Result<String> {
        use base64::Engine as _;
        Ok(base64::engine::general_purpose::STANDARD.encode(std::fs::read(self.server.scratch.join("vault-ca.pem"))?))
    }

    /// An entry of the list of servers: this one.
    pub fn entry(&self) -> Value {
        let address = format!("https://127.0.0.1:{}", self.wire.port());
        json!({ "address": address, "token": self.server.token, "ca_cert_base64": self.issuer().unwrap_or_default() })
    }

    /// `HASHICORP_VAULT_CONFIG` with this list.
    pub fn config(list: &Value) -> Env {
        vec![("HASHICORP_VAULT_CONFIG".to_owned(), list.to_string())]
    }

    fn mount(&self) -> String {
        format!("-mount={}", self.engine)
    }
}

impl Store for Vault {
    fn place(&self, name: &str) -> Value {
        json!({ "hashicorp_vault": { "secret_engine": self.engine, "path": format!("postern/{name}") } })
    }

    fn env(&self) -> Env {
        Self::config(&json!([self.entry()]))
    }

    fn stranger(&self) -> Result<Env> {
        let mut entry = self.entry();
        entry["token"] = json!(self.server.stranger);
        Ok(Self::config(&json!([entry])))
    }

    fn put(&self, name: &str, body: &str, marked: bool) -> Result<()> {
        let path = format!("postern/{name}");
        self.server.bao(&["kv", "put", &self.mount(), &path, "-"], body)?;
        if self.has_marks() {
            let value = format!("-custom-metadata={MARK}={marked}");
            self.server.bao(&["kv", "metadata", "put", &self.mount(), &value, &path], "")?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = format!("postern/{name}");
        if self.has_marks() {
            self.server.bao(&["kv", "metadata", "delete", &self.mount(), &path], "")?;
        } else {
            self.server.bao(&["kv", "delete", &self.mount(), &path], "")?;
        }
        Ok(())
    }

    fn has_marks(&self) -> bool {
        self.engine == "secret"
    }

    fn holds_any_text(&self) -> bool {
        false
    }

    fn tells_rights(&self) -> bool {
        true
    }

    fn run(&self, command: &str) -> Result<()> {
        let words: Vec<&str> = command.strip_prefix("vault ").context("no command of Vault")?.split(' ').collect();
        self.server.bao(&words, "").map(|_| ())
    }

    fn wire(&self) -> &Wire {
        &self.wire
    }
}
