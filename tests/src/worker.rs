//! One `postern run`, and `postern` as a command.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::process::{self, Signal};
use crate::scratch::Scratch;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_mins(1);

/// A worker process. Its log stays readable after its end.
#[derive(Debug)]
pub struct Worker {
    scratch: Scratch,
    child: Option<Child>,
    pid: u32,
}

/// The binary under test: `POSTERN_BIN`, or what cargo built beside the tests.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("POSTERN_BIN") {
        return Ok(path.into());
    }
    // This is <target>/debug/deps/e2e-<hash>.
    let tests = std::env::current_exe()?;
    let found = tests.ancestors().skip(1).take(2).map(|dir| dir.join("postern")).find(|path| path.is_file());
    found.with_context(|| format!("no `postern` near {}: run `cargo build -p postern` first", tests.display()))
}

/// Runs `postern` with a configuration file and waits for its end.
pub async fn run_cli(config: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<Output> {
    let mut command = tokio::process::Command::from(command(&binary()?, config, env));
    let output = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let Ok(output) = tokio::time::timeout(END_TIMEOUT, output).await else {
        bail!("postern {} did not end within {END_TIMEOUT:?}", args.join(" "));
    };
    Ok(output?)
}

/// The variables of whoever runs the tests must not configure the program under test.
fn command(binary: &Path, config: &Path, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if ["POSTERN_", "AWS_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.env("POSTERN_CONFIG", config).envs(env.iter().copied());
    command
}

impl Worker {
    /// Starts `postern run` with this configuration, whose `listen` is to be `127.0.0.1:0`. It may not be ready yet.
    pub fn spawn(binary: &Path, config: &str, env: &[(&str, &str)]) -> Result<Self> {
        let scratch = Scratch::new("worker")?;
        let config = scratch.write_private("postern.toml", config)?;
        let log = fs::File::create(scratch.join("log"))?;
        let child = command(binary, &config, env)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let pid = child.id();
        scratch.record("postern", pid)?;
        Ok(Self { scratch, child: Some(child), pid })
    }

    /// Waits until `/readyz` answers 200.
    pub async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(address) = self.address()
                && get(address, "/readyz").await.is_ok_and(|(status, _)| status == 200)
            {
                return Ok(());
            }
            let child = self.child.as_mut().context("the worker was stopped")?;
            if let Some(status) = child.try_wait()? {
                bail!("the worker ended while starting ({status}):\n{}", self.tail());
            }
            if Instant::now() > deadline {
                bail!("the worker was not ready within {START_TIMEOUT:?}:\n{}", self.tail());
            }
            tokio::time::sleep(process::POLL).await;
        }
    }

    /// Where it serves `/healthz`, `/readyz` and `/metrics`: it logs the port that it was given, with `listening`.
    pub fn address(&self) -> Option<SocketAddr> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("listening"))?;
        let (_, rest) = line.split_once("127.0.0.1:")?;
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?)))
    }

    /// Asks its HTTP server: status and body.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        get(self.address().context("the worker does not listen yet")?, path).await
    }

    /// Whether it was started and not yet stopped or waited for.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// SIGTERM: it drains. Returns its exit status.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait().await
    }

    /// SIGKILL: it ends at whatever instruction it is.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait().await
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.child.is_none() {
            bail!("the worker has ended");
        }
        process::signal(self.pid, signal)
    }

    /// Waits for an end that comes by itself, at a fault point for example.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the worker has ended")?;
        let Some(status) = process::wait(child, END_TIMEOUT).await? else {
            bail!("the worker did not end within {END_TIMEOUT:?}:\n{}", self.tail());
        };
        self.child = None;
        self.scratch.forget("postern");
        Ok(status)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// All that it printed so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.scratch.join("log")).unwrap_or_default()).into_owned()
    }

    /// The end of its log, for error messages.
    pub fn tail(&self) -> String {
        process::tail(&self.scratch.join("log"), 40)
    }

    /// Its resident memory now.
    pub fn rss_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, Signal::KILL);
        }
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no HTTP status")?.parse()?;
    Ok((status, body.to_owned()))
}
