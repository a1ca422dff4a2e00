//! Watches the server's half of the login, and breaks off before a password goes out in clear text.
//!
//! The driver answers `AuthenticationCleartextPassword` from any server, and has no switch against it. A server whose
//! identity is not proven may be an impostor that asks for just that. SCRAM gives an impostor nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// The server asked for the password in clear text, over a connection on which that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server asks for the password in clear text, which is only given to a server that has proven its name; use ssl_mode = \"verify-full\", or SCRAM on the server"
)]
pub struct CleartextRefused;

/// A connection, encrypted or not.
pub(in crate::postgres) enum Wire {
    /// As it is.
    Plain(Socket),
    /// Inside TLS.
    Tls(Box<Encrypted>),
}

/// A connection whose login may be watched.
pub(in crate::postgres) struct Guarded {
    wire: Wire,
    watch: Option<Watch>,
}

impl Guarded {
    pub(super) fn new(wire: Wire, watched: bool) -> Self {
        Self { wire, watch: watched.then(Watch::default) }
    }
}

/// Where in the server's messages we are: a type byte, four bytes of length that count themselves, the body
/// (PostgreSQL docs, "Message Formats"). An `Authentication…` message, type `R`, begins its body with a code.
#[derive(Debug, Default)]
struct Watch {
    head: [u8; 9],
    have: usize,
    skip: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The login goes on.
    Login,
    /// Nothing can be asked for any more.
    Over,
    /// The password in clear text was asked for.
    Cleartext,
}

impl Watch {
    fn see(&mut self, mut bytes: &[u8]) -> Seen {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            bytes = rest;
            self.head[self.have] = byte;
            self.have += 1;
            let [kind, a, b, c, d, code @ ..] = self.head;
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            match (kind, self.have) {
                (b'E', _) => return Seen::Over,
                (b'R', 9) => match u32::from_be_bytes(code) {
                    0 => return Seen::Over,
                    3 => return Seen::Cleartext,
                    _ => {
                        self.have = 0;
                        self.skip = length.saturating_sub(8);
                    }
                },
                (b'R', _) | (_, ..5) => {}
                _ => {
                    self.have = 0;
                    self.skip = length.saturating_sub(4);
                }
            }
        }
        Seen::Login
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(match &mut self.wire {
            Wire::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        })?;
        if let Some(watch) = &mut self.watch {
            match watch.see(&buf.filled()[before..]) {
                Seen::Login => {}
                Seen::Over => self.watch = None,
                // The message does not reach the driver, so it has nothing to answer.
                Seen::Cleartext => return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, CleartextRefused))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl TlsStream for Guarded {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.wire {
            Wire::Plain(_) => ChannelBinding::none(),
            Wire::Tls(stream) => stream.channel_binding(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = &[b'R', 0, 0, 0, 8, 0, 0, 0, 0];
    const CLEARTEXT: &[u8] = &[b'R', 0, 0, 0, 8, 0, 0, 0, 3];
    const SASL: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
    const NOTICE: &[u8] = b"N\0\0\0\x08SX\0\0";

    fn seen(chunks: &[&[u8]]) -> Seen {
        let mut watch = Watch::default();
        chunks.iter().map(|chunk| watch.see(chunk)).find(|seen| *seen != Seen::Login).unwrap_or(Seen::Login)
    }

    #[test]
    fn a_question_for_the_password_is_seen_however_it_is_cut() {
        for whole in [CLEARTEXT.to_vec(), [NOTICE, CLEARTEXT].concat(), [SASL, CLEARTEXT].concat(), [CLEARTEXT, OK].concat()] {
            for cut in 0..whole.len() {
                let (one, other) = whole.split_at(cut);
                assert_eq!(seen(&[one, other]), Seen::Cleartext, "{whole:?} cut at {cut}");
            }
            let single: Vec<&[u8]> = whole.chunks(1).collect();
            assert_eq!(seen(&single), Seen::Cleartext);
        }
    }

    #[test]
    fn other_logins_are_let_through_and_their_bodies_are_not_looked_into() {
        assert_eq!(seen(&[SASL]), Seen::Login);
        assert_eq!(seen(&[SASL, OK, CLEARTEXT]), Seen::Over);
        let disguised = [&[b'N', 0, 0, 0, 13], CLEARTEXT].concat();
        assert_eq!(seen(&[&disguised, SASL]), Seen::Login);
        assert_eq!(seen(&[b"E\0\0\0\x10"]), Seen::Over);
    }
}
