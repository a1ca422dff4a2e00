//! `[broker]`: how to reach RabbitMQ.

use postern_schemas::fields::Fields;
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::{Env, read};
use crate::broker::Settings;

/// A RabbitMQ of the developer's own, with the account that it comes with and lets in from the same machine only.
const DEFAULT_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
const DEFAULT_PREFIX: &str = "postern";
const DEFAULT_PREFETCH: u16 = 64;

/// Reads the section out of the document; `POSTERN_BROKER_URL` wins over its `url`.
pub(super) fn read(document: &Fields<'_>, env: Env<'_>) -> Option<Settings> {
    let empty = Value::Object(Map::new());
    let fields = if document.has("broker") {
        document.object("broker")?
    } else {
        Fields::new(&empty, document.path("broker"), document.problems())?
    };
    let in_file: Option<String> = fields.text("url");
    let from_env = read::variable(env, "POSTERN_BROKER_URL");
    let url = from_env.clone().or(in_file).unwrap_or_else(|| DEFAULT_URL.to_owned());
    if let Err(message) = check_url(&url) {
        match from_env {
            Some(_) => fields.problems().add("POSTERN_BROKER_URL", message),
            None => fields.problem("url", message),
        }
    }
    let prefix = read::parsed(&fields, "prefix", prefix);
    let prefetch = fields.integer("prefetch", 1, u16::MAX.into()).and_then(|number| u16::try_from(number).ok());
    let ca = read::file(&fields, "ca");
    let certificate = read::file(&fields, "client_certificate");
    let key = read::file(&fields, "client_key");
    for (name, other) in [("client_certificate", "client_key"), ("client_key", "client_certificate")] {
        if fields.has(name) && !fields.has(other) {
            fields.problem(other, format!("is missing; it goes with {name}"));
        }
    }
    if !url.starts_with("amqps:") && (fields.has("ca") || fields.has("client_certificate")) {
        fields.problem("url", "is not amqps, so ca and client_certificate would not be used; expected amqps://");
    }
    fields.finish();
    Some(Settings {
        url: SecretString::from(url),
        prefix: prefix.unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
        prefetch: prefetch.unwrap_or(DEFAULT_PREFETCH),
        ca,
        client_certificate: certificate.zip(key),
    })
}

/// The first part of exchange and queue names. Those have at most 255 bytes (AMQP 0-9-1, shortstr), ours add a few.
fn prefix(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=100).contains(&text.len()) && text.bytes().all(legal) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} cannot begin a queue's name; expected 1 to 100 of a-z, A-Z, 0-9, - _ ."))
    }
}

/// Says what is wrong with the URL without repeating any of it: it holds a password.
fn check_url(url: &str) -> Result<(), String> {
    const EXPECTED: &str = "expected amqp://user:password@host:5672/vhost or amqps://…, with %2f for the vhost /";
    let wrong = |what: &str| Err(format!("{what}; {EXPECTED}"));
    let Some((scheme, rest)) = url.split_once("://") else { return wrong("has no scheme") };
    if !matches!(scheme, "amqp" | "amqps") {
        return wrong("its scheme is neither amqp nor amqps");
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return wrong("contains white space or a control character; write it percent-encoded");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let path = rest[authority.len()..].split(['?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once('@') {
        Some((user, _)) if user.contains('@') => return wrong("contains two @; write the one in the password as %40"),
        Some((_, host)) => host,
        None => authority,
    };
    if path.matches('/').count() > 1 {
        return wrong("contains a / too many; write the one in a name or password as %2f");
    }
    let (name, after) = match host.strip_prefix('[').and_then(|bracketed| bracketed.split_once(']')) {
        Some((address, _)) if address.parse::<std::net::Ipv6Addr>().is_err() => return wrong("its IPv6 address is malformed"),
        Some(split) => split,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    if name.is_empty() {
        return wrong("names no host");
    }
    match after.strip_prefix(':') {
        None if after.is_empty() => Ok(()),
        Some(port) if port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(()),
        _ => wrong("its port is not a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let good =
            ["amqp://h", "amqps://u:p%40@mq.example.com:5671/%2f?heartbeat=5", "amqp://[::1]:5672/x", "amqp://guest:guest@127.0.0.1:5672/"];
        for url in good {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        let bad = [
            "",
            "h:5672",
            "http://h/",
            "amqp://",
            "amqp://u:p@/x",
            "amqp://:1/",
            "amqp://h:0/",
            "amqp://h:x",
            "amqp://u:a@b@h/",
            "amqp://u:a/b@h/",
            "amqp://h /",
        ];
        for url in bad {
            assert!(check_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn no_message_shows_the_password() {
        for url in ["amqp://u:hunter2@h:port/", "amqp:u:hunter2@h", "amqp://u:hunter2@a@h", "amqp://u:hunter2 @h", "ftp://hunter2@x"] {
            assert!(!check_url(url).unwrap_err().contains("hunter2"), "{url}");
        }
    }
}
