//! A RabbitMQ node of its own: own data, own ports, own epmd, listening on 127.0.0.1 only.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lapin::{Connection, ConnectionProperties};

use crate::process::{self, Signal};
use crate::scratch::Scratch;

/// Debian's `rabbitmq-server` in PATH changes user through `su`; this is the script behind it.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// A running node.
#[derive(Debug)]
pub struct Rabbit {
    scratch: Scratch,
    server: PathBuf,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    epmd: Child,
    /// The start script, which stays as the parent of the Erlang machine.
    script: Option<Child>,
}

impl Rabbit {
    /// Starts a node and waits until it takes connections. `POSTERN_TEST_RABBITMQ_SERVER` names another start script
    /// than Debian's.
    pub async fn start() -> Result<Self> {
        let server = std::env::var_os("POSTERN_TEST_RABBITMQ_SERVER").map_or_else(|| SERVER.into(), PathBuf::from);
        if !server.exists() {
            bail!("{} is missing: run scripts/setup.sh test", server.display());
        }
        let scratch = Scratch::new("mq")?;
        fs::create_dir(scratch.join("home"))?;
        fs::write(scratch.join("plugins"), "[].\n")?;
        fs::write(scratch.join("env.conf"), "")?;
        fs::write(
            scratch.join("rabbitmq.conf"),
            "log.console = false\n\
             log.file.level = info\n\
             disk_free_limit.absolute = 50MB\n\
             vm_memory_high_watermark.absolute = 2GB\n\
             collect_statistics_interval = 60000\n",
        )?;
        let epmd_port = process::free_port()?;
        // Started here and not by the node, so that its process id is known.
        let epmd = Command::new("epmd")
            .args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start epmd, which comes with Erlang: run scripts/setup.sh test")?;
        scratch.record("epmd", epmd.id())?;
        let mut rabbit =
            Self { scratch, server, port: process::free_port()?, dist_port: process::free_port()?, epmd_port, epmd, script: None };
        rabbit.start_again().await?;
        Ok(rabbit)
    }

    /// Where clients connect, as the user `guest`.
    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Starts the node on the data it had, after [`Rabbit::stop`] or [`Rabbit::kill`].
    pub async fn start_again(&mut self) -> Result<()> {
        let dir = |name: &str| self.scratch.join(name);
        let output = fs::File::create(dir("output"))?;
        let _ = fs::remove_file(dir("beam.pid"));
        let script = Command::new(&self.server)
            .env("HOME", dir("home"))
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", format!("postern-{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", dir("data"))
            .env("RABBITMQ_LOG_BASE", dir("log"))
            .env("RABBITMQ_SCHEMA_DIR", dir("schema"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", dir("config"))
            // Named so that the reaper finds it.
            .env("RABBITMQ_PID_FILE", dir("beam.pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir("plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", dir("env.conf"))
            .env("RABBITMQ_CONFIG_FILE", dir("rabbitmq.conf"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.server.display()))?;
        self.script = Some(script);
        self.wait_until_up().await
    }

    async fn wait_until_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let url = self.amqp_url();
        loop {
            let script = self.script.as_mut().context("the node was not started")?;
            if let Some(status) = script.try_wait()? {
                bail!("RabbitMQ ended while starting ({status}):\n{}", self.log());
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
                && let Ok(connection) = Connection::connect(&url, ConnectionProperties::default()).await
            {
                connection.close(200, "up".into()).await?;
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("RabbitMQ took no connection within {START_TIMEOUT:?}:\n{}", self.log());
            }
            tokio::time::sleep(process::POLL).await;
        }
    }

    /// Stops the node cleanly; its data stay.
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM).await
    }

    /// Kills the node as a power cut would; its data stay.
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL).await
    }

    /// Stops the node cleanly and starts it again.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        process::signal(self.beam_pid().context("the node has written no process id")?, signal)?;
        let mut script = self.script.take().context("the node does not run")?;
        if process::wait(&mut script, Duration::from_secs(30)).await?.is_none() {
            self.script = Some(script);
            bail!("RabbitMQ did not end on {signal:?}:\n{}", self.log());
        }
        self.scratch.forget("beam");
        Ok(())
    }

    /// The Erlang machine's process id: a signal to the start script would be late or lost.
    fn beam_pid(&self) -> Option<u32> {
        fs::read_to_string(self.scratch.join("beam.pid")).ok()?.trim().parse().ok()
    }

    /// The last lines that the node printed and logged.
    pub fn log(&self) -> String {
        let log = self.scratch.join("log").join(format!("postern-{}@localhost.log", self.port));
        format!("{}\n{}", process::tail(&self.scratch.join("output"), 20), process::tail(&log, 40))
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        // The data go too, so there is nothing to stop cleanly.
        if let Some(mut script) = self.script.take() {
            // The script ends when the machine has; the group is for a machine that has not said yet which one it is.
            match self.beam_pid() {
                Some(pid) if process::signal(pid, Signal::KILL).is_ok() => process::end(&mut script, Signal::CONT),
                _ => process::kill_group(&mut script),
            }
        }
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}
