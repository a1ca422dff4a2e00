//! AWS as the tests need it: an imitation of its services, its own library, and the gate in front of an RDS server.
//!
//! | module | holds |
//! |---|---|
//! | [`gate`] | ends TLS for a server's fictitious name and asks for login tokens, as RDS does |
//! | [`signature`] | what a token says, and whether its signature is right; written from the specification of SigV4 |

pub mod gate;
pub mod signature;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::postgres::cache_dir;
use crate::process::{self, Signal};
use crate::scratch::Scratch;

/// The access key of every test.
pub const ACCESS_KEY: &str = "AKIDPOSTERNTEST";
/// Its secret key: must not be found in anything written.
pub const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYpostern";
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// A program of the Python that `scripts/setup.sh test` prepares.
fn program(name: &str) -> Result<PathBuf> {
    let python = cache_dir()?.join("aws");
    let program = python.join("bin").join(name);
    ensure!(python.join("stamp").exists() && program.exists(), "{} is missing: run scripts/setup.sh test", program.display());
    Ok(program)
}

/// What a process needs to use [`ACCESS_KEY`], and nothing of whoever runs the tests.
pub fn credentials() -> Vec<(&'static str, &'static str)> {
    vec![
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
}

/// The tokens that AWS's own library makes. Each login has host, port, user, region, `session_token` or null, and `time`.
pub fn library_tokens(logins: &[Value]) -> Result<Vec<String>> {
    const SCRIPT: &str = include_str!("../../fixtures/aws/tokens.py");
    let mut logins = logins.to_vec();
    for login in &mut logins {
        login["access_key"] = json!(ACCESS_KEY);
        login["secret_key"] = json!(SECRET_KEY);
    }
    let mut child = Command::new(program("python")?)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no stdin")?.write_all(serde_json::to_string(&logins)?.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "botocore: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// `moto_server`: AWS's services in memory.
#[derive(Debug)]
pub struct Services {
    scratch: Scratch,
    child: Child,
    port: u16,
}

impl Services {
    /// Starts the services, with variables of moto's own, and waits until they answer.
    pub async fn start(env: &[(&str, &str)]) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let scratch = Scratch::new("aws")?;
        let port = process::free_port()?;
        let log = std::fs::File::create(scratch.join("log"))?;
        let mut command = Command::new(program("moto_server")?);
        for (name, value) in credentials() {
            command.env(name, value);
        }
        let child = command
            .envs(env.iter().copied())
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        scratch.record("moto", child.id())?;
        let mut services = Self { scratch, child, port };
        let deadline = Instant::now() + START_TIMEOUT;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let log = process::tail(&services.scratch.join("log"), 20);
            ensure!(services.child.try_wait()?.is_none(), "moto_server ended while starting:\n{log}");
            ensure!(Instant::now() < deadline, "moto_server did not answer within {START_TIMEOUT:?}:\n{log}");
            tokio::time::sleep(process::POLL).await;
        }
        // The first question loads the service, which takes longer than Postern waits; a refusal is an answer, too.
        let _ = services.rds("us-east-1", "rds.describe_db_instances()");
        Ok(services)
    }

    /// For `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Makes a DB instance; returns its endpoint's fictitious name.
    pub fn create_instance(&self, region: &str, id: &str, port: u16) -> Result<String> {
        let call = format!(
            "rds.create_db_instance(DBInstanceIdentifier={id:?}, Engine='postgres', DBInstanceClass='db.t3.micro', \
             AllocatedStorage=20, MasterUsername='postgres', MasterUserPassword='only-for-moto', Port={port})"
        );
        let host = self.rds(region, &call)?["DBInstance"]["Endpoint"]["Address"].as_str().map(ToOwned::to_owned);
        host.context("moto gives the instance no endpoint")
    }

    /// Deletes a DB instance.
    pub fn delete_instance(&self, region: &str, id: &str) -> Result<()> {
        self.rds(region, &format!("rds.delete_db_instance(DBInstanceIdentifier={id:?}, SkipFinalSnapshot=True)")).map(|_| ())
    }

    fn rds(&self, region: &str, call: &str) -> Result<Value> {
        let script = format!(
            "import json, botocore.session\n\
             rds = botocore.session.Session().create_client('rds', region_name={region:?}, endpoint_url={:?})\n\
             print(json.dumps({call}, default=str))",
            self.url()
        );
        let output = Command::new(program("python")?).args(["-c", &script]).envs(credentials()).env_remove("AWS_SESSION_TOKEN").output()?;
        if !output.status.success() {
            bail!("{call}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        process::end(&mut self.child, Signal::TERM);
        self.scratch.forget("moto");
    }
}
