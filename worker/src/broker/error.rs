//! What can go wrong between Postern and the broker. Each message names the thing, what was met, and how to mend it.
//! AMQP reply codes decide which it is; the broker's text is only shown.

use std::{path::PathBuf, time::Duration};

/// Where an error came from; kept opaque so that no type of the client library leaks.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Errors of the broker boundary. None of them ever holds the password of `broker.url`.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL is not one.
    #[error("broker.url cannot be read: {problem}; write amqp://user:password@host:5672/%2f or amqps://…")]
    Url {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A certificate or key cannot be used.
    #[error("cannot use {} as {purpose}: {problem}", path.display())]
    File {
        /// Which setting it is.
        purpose: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// AMQP's short strings end at 255 bytes.
    #[error("{what} {name:?} has {} bytes, AMQP allows 255: shorten it", name.len())]
    TooLong {
        /// What it would have been: an exchange, a queue, a routing key, a message id.
        what: &'static str,
        /// The name that does not fit.
        name: String,
    },
    /// No connection: DNS, TCP, TLS or the handshake.
    #[error(
        "cannot connect to the broker at {address}: {source}; check broker.url, that the broker runs, and for amqps \
         broker.ca"
    )]
    Unreachable {
        /// `host:port`.
        address: String,
        /// What the connection ended with.
        source: Source,
    },
    /// 403 while logging in.
    #[error(
        "the broker at {address} refuses the login of {user:?} (403 ACCESS_REFUSED); check user and password in broker.url \
         (try `rabbitmqctl authenticate_user {user}`); `guest` may log in from the broker's own host only"
    )]
    Login {
        /// `host:port`.
        address: String,
        /// The user name.
        user: String,
    },
    /// 530 while opening the virtual host.
    #[error(
        "the broker at {address} does not let {user:?} into virtual host {vhost:?} (530 NOT_ALLOWED); create it \
         (`rabbitmqctl add_vhost {vhost}`) or give permissions \
         (`rabbitmqctl set_permissions -p {vhost} {user} '^postern\\.' '.*' '.*'`)"
    )]
    Vhost {
        /// `host:port`.
        address: String,
        /// The user name.
        user: String,
        /// The virtual host.
        vhost: String,
    },
    /// 403 on an exchange or queue.
    #[error(
        "the broker's user lacks a permission on {name} (403 {reply}); \
         `rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ` gives it"
    )]
    Forbidden {
        /// The exchange or queue.
        name: String,
        /// The broker's text.
        reply: String,
    },
    /// 404: an exchange or queue is not there.
    #[error("{name} does not exist (404 NOT_FOUND); `postern run` declares it when it starts")]
    Missing {
        /// The exchange or queue.
        name: String,
    },
    /// 406 while declaring: somebody else declared it otherwise.
    #[error(
        "{name} exists, but otherwise than Postern declares it (406 {reply}); expected {expected}; \
         delete it once it is empty (`rabbitmqctl delete_queue {name} --if-empty`, for an exchange in the management \
         page), or choose another broker.prefix"
    )]
    Different {
        /// The exchange or queue.
        name: String,
        /// Kind and arguments Postern wants.
        expected: String,
        /// The broker's text: which argument, what was met.
        reply: String,
    },
    /// A mandatory message had no queue to go to.
    #[error("no queue took the message for {routing_key:?} at exchange {exchange:?}; `postern run` declares the queue it needs")]
    Unroutable {
        /// The exchange, empty for the default one.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// The broker answered a publish with `basic.nack`.
    #[error("the broker did not take the message for {routing_key:?} (basic.nack): the queue is full or has lost its leader")]
    Nacked {
        /// The routing key.
        routing_key: String,
    },
    /// Nothing came in time.
    #[error("the broker did not answer within {} s while {doing}", after.as_secs())]
    Timeout {
        /// What was under way.
        doing: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// `connection.blocked`, and it stayed so.
    #[error("the broker takes no messages (connection.blocked: {reason}); free its memory or disk (`rabbitmqctl alarms`)")]
    Blocked {
        /// The broker's text.
        reason: String,
    },
    /// `basic.cancel` from the broker.
    #[error("the broker ended the consumer of {queue}: the queue was deleted or its node is leaving")]
    Cancelled {
        /// The queue.
        queue: String,
    },
    /// The connection or channel ended with anything else.
    #[error("lost the broker while {doing}: {source}")]
    Lost {
        /// What was under way.
        doing: String,
        /// What it ended with.
        source: Source,
    },
}

impl BrokerError {
    /// Trying again cannot help: the settings themselves are wrong.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Url { .. } | Self::File { .. } | Self::TooLong { .. })
    }

    /// From a channel operation on the exchange or queue `name`.
    pub(super) fn of_channel(error: lapin::Error, doing: &str, name: &str) -> Self {
        let reply = match error.kind() {
            lapin::ErrorKind::ProtocolError(amqp) => Some((amqp.get_id(), amqp.get_message().to_string())),
            _ => None,
        };
        match reply {
            Some((403, reply)) => Self::Forbidden { name: name.to_owned(), reply },
            Some((404, _)) => Self::Missing { name: name.to_owned() },
            _ => Self::Lost { doing: format!("{doing} {name}"), source: Box::new(error) },
        }
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPErrorKind};

    use super::*;

    fn reply(code: u16) -> lapin::Error {
        let kind = AMQPErrorKind::from_id(code);
        assert!(kind.is_some(), "{code} is an AMQP reply code");
        kind.map_or_else(
            || lapin::ErrorKind::MissingHeartbeatError.into(),
            |kind| lapin::ErrorKind::ProtocolError(AMQPError::new(kind, "some text".into())).into(),
        )
    }

    #[test]
    fn the_reply_code_decides() {
        let of = |code| BrokerError::of_channel(reply(code), "declaring", "postern.work");
        assert!(matches!(of(403), BrokerError::Forbidden { .. }));
        assert!(matches!(of(404), BrokerError::Missing { .. }));
        assert!(matches!(of(405), BrokerError::Lost { .. }));
        assert!(of(404).to_string().contains("postern.work"));
    }

    #[test]
    fn only_settings_are_permanent() {
        assert!(BrokerError::Url { problem: "no host" }.is_permanent());
        assert!(!BrokerError::Login { address: "h:1".to_owned(), user: "u".to_owned() }.is_permanent());
    }
}
