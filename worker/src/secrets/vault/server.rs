//! One server of HashiCorp Vault or `OpenBao`: requests, and what its answers mean (Vault docs, "HTTP API").

use std::error::Error as _;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::config::vault::VaultServer;
use crate::secrets::SecretFailure;
use crate::secrets::error::spoken;

/// Short, so that a server that is gone leaves time for the others.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
/// What stays as it is in a segment of a path (RFC 3986, "unreserved").
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A server, its token and its connections.
#[derive(Debug)]
pub(super) struct Server {
    settings: VaultServer,
    namespace: Option<String>,
    client: OnceCell<Client>,
}

/// An answer that is neither success nor one of the failures that every request can meet.
#[derive(Debug)]
pub(super) enum Reply {
    /// 2xx, with its body; zeroized when dropped.
    Done(Zeroizing<Vec<u8>>),
    /// 404: nothing there, or an engine of another kind.
    Nothing,
    /// 400, with the server's words.
    Refused(String),
}

#[derive(Debug, Default, Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<String>,
}

impl Server {
    pub(super) fn new(settings: VaultServer, namespace: Option<String>) -> Self {
        Self { settings, namespace, client: OnceCell::new() }
    }

    /// For messages: it holds no secret.
    pub(super) fn address(&self) -> &str {
        &self.settings.address
    }

    /// Sends a request to `/v1/` and `path`, whose segments are escaped here.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<(&'static str, Vec<u8>)>) -> Result<Reply, SecretFailure> {
        let mut url = format!("{}/v1", self.settings.address);
        for segment in path.split('/') {
            url.push('/');
            url.extend(utf8_percent_encode(segment, SEGMENT));
        }
        let client = self.client.get_or_try_init(|| std::future::ready(client(&self.settings))).await?;
        let mut token =
            HeaderValue::from_str(self.settings.token.expose_secret()).map_err(|_| self.unavailable("the token is no header"))?;
        token.set_sensitive(true);
        let mut request = client.request(method, url).header(TOKEN, token).header(REQUEST, "true");
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace);
        }
        if let Some((kind, body)) = body {
            request = request.header(CONTENT_TYPE, kind).body(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        let body = Zeroizing::new(Vec::from(answer.bytes().await.map_err(|error| self.unreachable(error))?));
        self.meaning(status, body)
    }

    /// Vault docs, "HTTP API", section "HTTP status codes".
    fn meaning(&self, status: StatusCode, body: Zeroizing<Vec<u8>>) -> Result<Reply, SecretFailure> {
        let words = || {
            let errors: Errors = serde_json::from_slice(&body).unwrap_or_default();
            spoken(&errors.errors.join("; "))
        };
        match status {
            status if status.is_success() => Ok(Reply::Done(body)),
            StatusCode::NOT_FOUND => Ok(Reply::Nothing),
            StatusCode::BAD_REQUEST => Ok(Reply::Refused(words())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(SecretFailure::Denied(format!(
                "{} refuses the token ({status}: {}); see which policy the token needs in docs/secret-stores.md",
                self.address(),
                words()
            ))),
            status => Err(self.unavailable(&format!("it answers {status}: {}", words()))),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> SecretFailure {
        let error = error.without_url();
        let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { error.to_string() };
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        self.unavailable(&text)
    }

    fn unavailable(&self, what: &str) -> SecretFailure {
        SecretFailure::Unavailable(format!("{} cannot be asked: {}", self.address(), spoken(what)))
    }
}

fn client(settings: &VaultServer) -> Result<Client, SecretFailure> {
    let failed =
        |error: reqwest::Error| SecretFailure::Unavailable(format!("{}: no client: {}", settings.address, spoken(&error.to_string())));
    let issuers = settings.issuers.iter().map(|issuer| Certificate::from_der(issuer)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        // A standby may name the active server. The token never goes from TLS to clear text.
        .redirect(Policy::custom(|attempt| {
            let before = attempt.previous();
            let same = before.first().is_some_and(|first| first.scheme() == attempt.url().scheme());
            if same && before.len() <= 2 { attempt.follow() } else { attempt.stop() }
        }))
        .tls_danger_accept_invalid_certs(settings.skip_verify);
    if !issuers.is_empty() {
        builder = builder.tls_certs_only(issuers);
    }
    builder.build().map_err(failed)
}
