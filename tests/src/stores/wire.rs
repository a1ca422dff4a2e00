//! A TCP relay in front of a server, which can fall silent or go away.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::process;

/// What the wire does with every connection, old and new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Passes everything on.
    Open,
    /// Takes connections and passes nothing on.
    Silent,
    /// Nobody listens.
    Cut,
}

/// A relay. It ends with its value.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    state: watch::Sender<State>,
}

impl Wire {
    /// An open wire to `port` on this machine.
    pub async fn to(port: u16) -> Result<Self> {
        let own = process::free_port()?;
        let (state, states) = watch::channel(State::Open);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, own)).await?;
        tokio::spawn(relay(listener, own, port, states));
        Ok(Self { port: own, state })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what it does, and waits until nobody listens where it is cut, or somebody where it is not.
    pub async fn set(&self, state: State) -> Result<()> {
        self.state.send_replace(state);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok() == (state == State::Cut) {
            tokio::time::sleep(process::POLL).await;
        }
        Ok(())
    }
}

/// Until the sender of states is gone.
async fn relay(listener: TcpListener, own: u16, server: u16, mut states: watch::Receiver<State>) {
    let mut listener = Some(listener);
    loop {
        let state = *states.borrow_and_update();
        match (&listener, state) {
            (Some(_), State::Cut) => listener = None,
            (None, State::Open | State::Silent) => {
                let Ok(again) = TcpListener::bind((Ipv4Addr::LOCALHOST, own)).await else {
                    tokio::time::sleep(process::POLL).await;
                    continue;
                };
                listener = Some(again);
            }
            _ => {}
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            Ok((stream, _)) = accepted => { tokio::spawn(pass(stream, server, states.clone())); }
        }
    }
}

async fn pass(mut client: TcpStream, server: u16, mut states: watch::Receiver<State>) {
    let mut other = None;
    loop {
        let state = *states.borrow_and_update();
        match state {
            State::Cut => return,
            State::Silent => {
                if states.changed().await.is_err() {
                    return;
                }
            }
            State::Open => {
                let server = match other.as_mut() {
                    Some(server) => server,
                    None => match TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await {
                        Ok(stream) => other.insert(stream),
                        Err(_) => return,
                    },
                };
                tokio::select! {
                    changed = states.changed() => if changed.is_err() { return },
                    _ = tokio::io::copy_bidirectional(&mut client, server) => return,
                }
            }
        }
    }
}
