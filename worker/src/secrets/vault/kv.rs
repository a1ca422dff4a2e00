//! One path of a key/value engine, of version 1 or 2.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_schemas::id::sha256_hex;
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::server::{Reply, Server};
use crate::secrets::SecretFailure;
use crate::secrets::store::Labels;

const JSON: &str = "application/json";

/// A path of an engine on one server.
#[derive(Debug)]
pub(super) struct Engine {
    server: Arc<Server>,
    mount: String,
    path: String,
    /// Whether it is of version 2.
    versioned: bool,
}

/// Body, labels, version.
pub(super) type Read = (SecretString, Option<Labels>, String);

#[derive(Deserialize)]
struct Enveloped<T> {
    data: T,
}

#[derive(Deserialize)]
struct Mount {
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
}

/// `custom_metadata` came with Vault 1.9.
#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    metadata: DataMetadata,
}

#[derive(Deserialize)]
struct DataMetadata {
    version: u64,
    #[serde(default)]
    custom_metadata: Option<Labels>,
}

#[derive(Deserialize)]
struct Metadata {
    current_version: u64,
    #[serde(default)]
    custom_metadata: Option<Labels>,
}

#[derive(Deserialize)]
struct Written {
    version: u64,
}

impl Engine {
    /// Asks which version the engine has, as Vault's own command does: any right on a path of the mount allows that.
    pub(super) async fn find(server: Arc<Server>, mount: &str, path: &str) -> Result<Self, SecretFailure> {
        let versioned = match server.ask(Method::GET, &format!("sys/internal/ui/mounts/{mount}"), None).await? {
            Reply::Done(body) => {
                let mount: Enveloped<Mount> = parse(&body)?;
                mount.data.options.is_some_and(|options| options.get("version").is_some_and(|version| version == "2"))
            }
            Reply::Nothing => return Err(SecretFailure::NotFound(format!("{} has no engine {mount}", server.address()))),
            Reply::Refused(words) => return Err(refused(&server, &words)),
        };
        Ok(Self { server, mount: mount.to_owned(), path: path.to_owned(), versioned })
    }

    fn data(&self) -> String {
        if self.versioned { format!("{}/data/{}", self.mount, self.path) } else { format!("{}/{}", self.mount, self.path) }
    }

    fn metadata(&self) -> String {
        format!("{}/metadata/{}", self.mount, self.path)
    }

    fn nothing(&self) -> SecretFailure {
        SecretFailure::NotFound(format!("{} has nothing at {}, or its latest version is deleted", self.server.address(), self.data()))
    }

    pub(super) async fn read(&self) -> Result<Read, SecretFailure> {
        let body = self.get(&self.data()).await?;
        if !self.versioned {
            let data: Enveloped<&RawValue> = parse_borrowed(&body)?;
            let text = data.data.get();
            return Ok((SecretString::from(text.to_owned()), None, sha256_hex(text.as_bytes())));
        }
        let answer: Enveloped<Data<'_>> = parse_borrowed(&body)?;
        let Data { data, metadata } = answer.data;
        let text = data.ok_or_else(|| self.nothing())?.get().to_owned();
        Ok((SecretString::from(text), Some(metadata.custom_metadata.unwrap_or_default()), metadata.version.to_string()))
    }

    /// Labels and version. The engine of version 1 shows nothing without the value.
    pub(super) async fn describe(&self) -> Result<(Option<Labels>, String), SecretFailure> {
        if !self.versioned {
            return self.read().await.map(|(_, labels, version)| (labels, version));
        }
        let metadata: Enveloped<Metadata> = parse(&self.get(&self.metadata()).await?)?;
        Ok((Some(metadata.data.custom_metadata.unwrap_or_default()), metadata.data.current_version.to_string()))
    }

    /// The labels come first: a crash in between leaves a path without a value that is ours, not a value that nobody owns.
    pub(super) async fn create(&self, body: &SecretString, labels: &Labels) -> Result<String, SecretFailure> {
        if !self.versioned {
            let what = "is in a key/value engine of version 1, which keeps no metadata to say whose it is; use one of version 2";
            return Err(SecretFailure::Unsupported(what.to_owned()));
        }
        self.label(labels.clone()).await?;
        self.put("0", body).await
    }

    /// The value comes first: its compare-and-set decides whether the labels are ours to write.
    pub(super) async fn replace(&self, at: &str, body: &SecretString, labels: Option<&Labels>) -> Result<String, SecretFailure> {
        if self.versioned {
            let now = self.put(at, body).await?;
            if let Some(labels) = labels {
                let mut all = self.describe().await?.0.unwrap_or_default();
                all.extend(labels.clone());
                self.label(all).await?;
            }
            return Ok(now);
        }
        self.is_still(at).await?;
        let text = Zeroizing::new(body.expose_secret().as_bytes().to_vec());
        match self.server.ask(Method::POST, &self.data(), Some((JSON, text.to_vec()))).await? {
            Reply::Done(_) => self.read().await.map(|(_, _, version)| version),
            Reply::Nothing => Err(self.nothing()),
            Reply::Refused(words) => Err(refused(&self.server, &words)),
        }
    }

    /// With all its versions and metadata.
    pub(super) async fn delete(&self, at: &str) -> Result<(), SecretFailure> {
        self.is_still(at).await?;
        let path = if self.versioned { self.metadata() } else { self.data() };
        match self.server.ask(Method::DELETE, &path, None).await? {
            Reply::Done(_) => Ok(()),
            Reply::Nothing => Err(self.nothing()),
            Reply::Refused(words) => Err(refused(&self.server, &words)),
        }
    }

    /// Whether the token may write a new version (Vault docs, "/sys/capabilities-self").
    pub(super) async fn may_write(&self) -> Result<bool, SecretFailure> {
        #[derive(Deserialize)]
        struct Capabilities {
            #[serde(default)]
            capabilities: Vec<String>,
        }
        let body = json!({ "paths": [self.data()] }).to_string().into_bytes();
        match self.server.ask(Method::POST, "sys/capabilities-self", Some((JSON, body))).await? {
            Reply::Done(body) => {
                let met: Enveloped<Capabilities> = parse(&body)?;
                Ok(met.data.capabilities.iter().any(|met| matches!(met.as_str(), "update" | "root")))
            }
            Reply::Nothing => Err(self.nothing()),
            Reply::Refused(words) => Err(refused(&self.server, &words)),
        }
    }

    async fn get(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, SecretFailure> {
        match self.server.ask(Method::GET, path, None).await? {
            Reply::Done(body) => Ok(body),
            Reply::Nothing => Err(self.nothing()),
            Reply::Refused(words) => Err(refused(&self.server, &words)),
        }
    }

    async fn is_still(&self, at: &str) -> Result<(), SecretFailure> {
        let (_, now) = self.describe().await?;
        if now == at { Ok(()) } else { Err(changed()) }
    }

    /// Writes a version, if the current one is `at`.
    async fn put(&self, at: &str, body: &SecretString) -> Result<String, SecretFailure> {
        let cas: u64 = at.parse().map_err(|_| changed())?;
        let text = Zeroizing::new(format!(r#"{{"options":{{"cas":{cas}}},"data":{}}}"#, body.expose_secret()));
        match self.server.ask(Method::POST, &self.data(), Some((JSON, text.as_bytes().to_vec()))).await? {
            Reply::Done(body) => parse::<Enveloped<Written>>(&body).map(|written| written.data.version.to_string()),
            Reply::Nothing => Err(self.nothing()),
            // The server has one status for a lost compare-and-set and for any other mistake: look which it was.
            Reply::Refused(words) => match self.describe().await {
                Ok((_, now)) if now != at => Err(changed()),
                _ => Err(refused(&self.server, &words)),
            },
        }
    }

    async fn label(&self, labels: Labels) -> Result<(), SecretFailure> {
        let body = json!({ "custom_metadata": labels }).to_string().into_bytes();
        match self.server.ask(Method::POST, &self.metadata(), Some((JSON, body))).await? {
            Reply::Done(_) => Ok(()),
            Reply::Nothing => Err(self.nothing()),
            Reply::Refused(words) => Err(refused(&self.server, &words)),
        }
    }
}

fn changed() -> SecretFailure {
    SecretFailure::Conflict("somebody else wrote it meanwhile".to_owned())
}

fn refused(server: &Server, words: &str) -> SecretFailure {
    SecretFailure::Malformed(format!("{} refuses the request: {words}", server.address()))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, SecretFailure> {
    serde_json::from_slice(body).map_err(|_| strange())
}

fn parse_borrowed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, SecretFailure> {
    serde_json::from_slice(body).map_err(|_| strange())
}

/// The parser's message is not shown: it may quote a value.
fn strange() -> SecretFailure {
    SecretFailure::Malformed("the server's answer is not that of a key/value engine; is the engine of another kind?".to_owned())
}
