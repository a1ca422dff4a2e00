//! A relay in front of a server, for networks that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Relays TCP connections to a port on 127.0.0.1 until it is dropped. Before [`Proxy::relay_to`] they are closed at once.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    server: Arc<AtomicU16>,
    /// Connections that came before this one are forgotten.
    forgotten: watch::Sender<usize>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts a relay to nowhere yet.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let own = listener.local_addr()?.port();
        let (forgotten, watching) = watch::channel(0);
        let accepted = Arc::new(AtomicUsize::new(0));
        let server = Arc::new(AtomicU16::new(0));
        let (count, to) = (Arc::clone(&accepted), Arc::clone(&server));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", to.load(Ordering::SeqCst))).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(relay(from_client, to_server, number, watching.clone()));
                tokio::spawn(relay(from_server, to_client, number, watching.clone()));
            }
        });
        Ok(Self { port: own, server, forgotten, accepted, task })
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections from now on go to this port.
    pub fn relay_to(&self, port: u16) {
        self.server.store(port, Ordering::SeqCst);
    }

    /// Forgets every connection there is, as a firewall does: neither side hears of the other any more, and neither is
    /// told. New ones are relayed.
    pub fn forget(&self) {
        self.forgotten.send_replace(self.accepted());
    }

    /// How many connections came so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    number: usize,
    mut forgotten: watch::Receiver<usize>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => Some(read),
            forgotten = forgotten.wait_for(|first| number < *first) => forgotten.err().map(|_| Ok(0)),
        };
        match read {
            Some(Ok(length)) if length > 0 => {
                if to.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            Some(_) => return,
            // Both ends stay open, and silent, as long as the test runs.
            None => std::future::pending().await,
        }
    }
}
