//! `[integrations.<id>]`: one database server that can be asked for.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use postern_schemas::fields::{Fields, FromText, Problems};
use postern_schemas::{Identifier, IntegrationId};
use serde_json::Value;

use super::{Policy, Resolve, RoleTemplate, SecretSource, SslMode, rds, read, tls, unavailable};

/// The most characters of `custom_access_details`, which travel in every grant's result.
const MAX_ACCESS_DETAILS: usize = 400;
const DEFAULT_PORT: u16 = 5432;
const DEFAULT_DATABASE: &str = "postgres";
const DEFAULT_SECRET_CACHE: Duration = Duration::from_mins(5);
const DEFAULT_MAX_SESSIONS: u32 = 4;
/// The most connections that a server can be configured for (PostgreSQL docs, `max_connections`: 262143).
const MAX_CONNECTION_LIMIT: u32 = 262_143;

/// Who runs the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Anybody: a connector with CREATEROLE is all that is assumed.
    Postgresql,
    /// Azure Database for PostgreSQL.
    Azure,
    /// Amazon RDS and Aurora.
    AwsRds,
}

impl Platform {
    const ALL: [Self; 3] = [Self::Postgresql, Self::Azure, Self::AwsRds];

    /// The configuration's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql",
            Self::Azure => "azure-postgresql",
            Self::AwsRds => "aws-rds-postgresql",
        }
    }

    /// The role that the bootstrap gives everything to, and the connector with it.
    pub fn admin_role(self) -> &'static str {
        match self {
            Self::Postgresql => "postern_admin",
            Self::Azure => "azure_pg_admin",
            Self::AwsRds => "rds_superuser",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|platform| platform.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a type; expected one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// What becomes of objects that a deleted account owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OwnedObjects {
    /// They stay, and so does the account, disabled.
    #[default]
    Keep,
    /// They are dropped with it.
    Drop,
    /// They are given to this role, unless something of them could run with its rights.
    ReassignTo(Identifier),
}

/// An RDS instance whose endpoint is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Its region.
    pub region: String,
    /// Its identifier in that region.
    pub id: String,
    /// A port that counts more than the endpoint's own, such as that of a tunnel.
    pub port: Option<u16>,
}

/// A host and its TCP port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Who is responsible for an integration, in the words of the access system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntegrationOwner {
    /// The kind of attribute, such as `group`.
    pub attribute: String,
    /// Its values; at least one.
    pub value: Vec<String>,
}

/// Which tag of a resource names its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceOwner {
    /// The tag's key.
    pub key: String,
    /// The kind of attribute that its value is.
    pub attribute: String,
}

/// One database server that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integration {
    /// Its name in events.
    pub id: IntegrationId,
    /// `type`: who runs the server.
    pub kind: Platform,
    /// Name or address; what `verify-full` compares the certificate with. With `instance`: what stands for the endpoint
    /// until it is found.
    pub hostname: String,
    /// TCP port.
    pub port: u16,
    /// The instance whose endpoint takes the place of `hostname` and `port`.
    pub instance: Option<Instance>,
    /// Other addresses for names, from `POSTERN_RESOLVE`.
    pub resolve: Resolve,
    /// The maintenance database, which holds the ledger.
    pub database: Identifier,
    /// How much a connection proves about its other end.
    pub ssl_mode: SslMode,
    /// A PEM file with the issuers to trust, or the server's own certificate; `None`: the system's issuers.
    pub ssl_root_cert: Option<PathBuf>,
    /// PEM files of the client certificate (`ssl_cert`, with its chain) and its key (`ssl_key`), for a server that asks.
    pub ssl_client: Option<(PathBuf, PathBuf)>,
    /// Where the connector's credential is.
    pub secret: SecretSource,
    /// Whether a secret without the mark is refused.
    pub require_mark: bool,
    /// How long the connector's credential is remembered; zero: not at all.
    pub secret_cache: Duration,
    /// After how many days the connector's credential is due. Refused by this version.
    pub connector_rotation_days: Option<u32>,
    /// After how many days a person's password is due; 0: at each request that delivers one.
    pub credential_rotation_days: Option<u32>,
    /// How many days an account stays after its last grant; 0: until the next cleanup; `None`: for ever, without access.
    pub user_cleanup_days: Option<u32>,
    /// What becomes of objects that a deleted account owns.
    pub owned_objects: OwnedObjects,
    /// Read replicas where sessions end too; an empty list says that people can reach none, `None` nothing.
    pub replicas: Option<Vec<HostPort>>,
    /// How a person's role is called.
    pub role_name: RoleTemplate,
    /// The operator's own words for people who get access.
    pub custom_access_details: Option<String>,
    /// Who is responsible for it.
    pub integration_owner: Option<IntegrationOwner>,
    /// Which tag of a resource names its owner.
    pub resource_owner: Option<ResourceOwner>,
    /// What events may ask.
    pub policy: Policy,
    /// The most sessions one worker opens on the server at once, 1 to 100; default 4.
    pub max_sessions: u32,
    /// The most sessions one person may have at once (CONNECTION LIMIT); `None`: as many as the server lets.
    pub connection_limit: Option<u32>,
}

impl Integration {
    /// Reads the table that stands at `path`. `None` when a mistake keeps it from being made; others are recorded too.
    pub(super) fn read(id: IntegrationId, table: &Value, path: String, resolve: &Resolve, problems: &Problems) -> Option<Self> {
        let fields = Fields::new(table, path, problems)?;
        fields.required("type");
        let kind = read::parsed(&fields, "type", Platform::parse);
        let port = fields.integer("port", 1, u16::MAX.into()).and_then(|port| u16::try_from(port).ok());
        let instance = rds::instance(&fields, kind, port);
        let hostname = hostname(&fields, instance.as_ref());
        let database = fields.text("database").or_else(|| Identifier::new(DEFAULT_DATABASE).ok());
        let ssl_mode = tls::mode(&fields);
        let ssl_root_cert = tls::root_cert(&fields);
        let ssl_client = tls::client(&fields);
        let secret = secret(&fields, kind, hostname.as_deref(), instance.as_ref());
        let require_mark = fields.boolean("require_mark").unwrap_or(true);
        let secret_cache = read::seconds(&fields, "secret_cache_seconds", 0, 86_400).unwrap_or(DEFAULT_SECRET_CACHE);
        let connector_rotation_days = read::number(&fields, "connector_rotation_days", 1, 3650);
        let credential_rotation_days = read::number(&fields, "credential_rotation_days", 0, 3650);
        let user_cleanup_days = read::number(&fields, "user_cleanup_days", 0, 3650);
        let owned_objects = owned_objects(&fields).unwrap_or_default();
        let at = |place: Place| HostPort { host: place.host, port: place.port.or(port).unwrap_or(DEFAULT_PORT) };
        let replicas = fields.texts("replicas").map(|places: Vec<Place>| places.into_iter().map(at).collect());
        let connection_limit = read::number(&fields, "connection_limit", 1, MAX_CONNECTION_LIMIT);
        let role_name = read::parsed(&fields, "role_name", RoleTemplate::parse).unwrap_or_default();
        let custom_access_details = read::parsed(&fields, "custom_access_details", access_details);
        let integration_owner = fields.object("integration_owner").and_then(integration_owner);
        let resource_owner = fields.object("resource_owner").and_then(resource_owner);
        if fields.has("resource_owner") && !fields.has("integration_owner") {
            fields.problem("integration_owner", "is missing; resource_owner requires it, for resources without the tag");
        }
        let policy = fields.object("policy").map(Policy::read).unwrap_or_default();
        let max_sessions = read::number(&fields, "max_sessions", 1, 100).unwrap_or(DEFAULT_MAX_SESSIONS);
        unavailable::report(&fields, table);
        fields.finish();
        Some(Self {
            id,
            kind: kind?,
            hostname: hostname?,
            instance,
            resolve: resolve.clone(),
            port: port.unwrap_or(DEFAULT_PORT),
            database: database?,
            ssl_mode,
            ssl_root_cert,
            ssl_client,
            secret: secret?,
            require_mark,
            secret_cache,
            connector_rotation_days,
            credential_rotation_days,
            user_cleanup_days,
            owned_objects,
            replicas,
            role_name,
            custom_access_details,
            integration_owner,
            resource_owner,
            policy,
            max_sessions,
            connection_limit,
        })
    }

    /// The same server's copy at another address, or the server where it was found: same login, database and encryption.
    #[must_use]
    pub fn at(&self, place: &HostPort) -> Self {
        Self { hostname: place.host.clone(), port: place.port, ..self.clone() }
    }

    /// Whether this is its address.
    pub fn is_at(&self, endpoint: &HostPort) -> bool {
        (self.hostname.as_str(), self.port) == (endpoint.host.as_str(), endpoint.port)
    }

    /// Whether the connector logs in by AWS credentials, and people without a password can.
    pub fn is_iam(&self) -> bool {
        matches!(self.secret, SecretSource::Iam { .. })
    }

    /// `host:port`, an IPv6 address in brackets.
    pub fn address(&self) -> String {
        if self.hostname.contains(':') { format!("[{}]:{}", self.hostname, self.port) } else { format!("{}:{}", self.hostname, self.port) }
    }
}

fn hostname(fields: &Fields<'_>, instance: Option<&Instance>) -> Option<String> {
    let host = read::parsed(fields, "hostname", host);
    if !fields.has("hostname") && !fields.has("instance_id") {
        fields.problem("hostname", "is missing");
    }
    host.or_else(|| instance.map(|instance| format!("{}.{}", instance.id, instance.region)))
}

fn host(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=253).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not a host; expected a name or an address alone: the port has a key of its own, and no scheme belongs here"))
}

fn secret(fields: &Fields<'_>, kind: Option<Platform>, hostname: Option<&str>, instance: Option<&Instance>) -> Option<SecretSource> {
    let iam = read::parsed(fields, "auth", |text| match text {
        "password" => Ok(false),
        "iam" => Ok(true),
        other => Err(format!("{other:?} is not a way to log in; expected password or iam")),
    });
    if iam != Some(true) {
        if fields.value("username").is_some() {
            fields.problem("username", "goes with auth = \"iam\" only; otherwise the secret names the login");
        }
        return fields.required_object("secret").and_then(|secret| SecretSource::read(&secret));
    }
    rds::iam(fields, kind, hostname, instance)
}

fn owned_objects(fields: &Fields<'_>) -> Option<OwnedObjects> {
    if fields.value("owned_objects")?.is_object() {
        let object = fields.object("owned_objects")?;
        let role = object.required_text("reassign_to");
        object.finish();
        return role.map(OwnedObjects::ReassignTo);
    }
    read::parsed(fields, "owned_objects", |text| match text {
        "keep" => Ok(OwnedObjects::Keep),
        "drop" => Ok(OwnedObjects::Drop),
        other => Err(format!("{other:?} is unknown; expected keep, drop or {{ reassign_to = \"role\" }}")),
    })
}

/// A host, and its TCP port where it is not the integration's.
struct Place {
    host: String,
    port: Option<u16>,
}

impl FromText for Place {
    fn from_text(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not host or host:port; expected such as replica.example.com, replica.example.com:5432 or [::1]:5432");
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?)),
            _ => (text, None),
        };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        if bare.is_none() && name.contains(':') {
            return Err(wrong());
        }
        host(bare.unwrap_or(name)).map(|host| Self { host, port }).map_err(|_| wrong())
    }
}

impl FromText for HostPort {
    fn from_text(text: &str) -> Result<Self, String> {
        let Place { host, port } = Place::from_text(text)?;
        let port = port.ok_or_else(|| format!("{text:?} names no port; expected host:port"))?;
        Ok(Self { host, port })
    }
}

fn access_details(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if !(1..=MAX_ACCESS_DETAILS).contains(&length) {
        return Err(format!("has {length} characters; expected 1 to {MAX_ACCESS_DETAILS}"));
    }
    if text.contains('\0') {
        return Err("contains a NUL character".to_owned());
    }
    Ok(text.to_owned())
}

fn integration_owner(fields: Fields<'_>) -> Option<IntegrationOwner> {
    fields.required("attribute");
    fields.required("value");
    let attribute = read::words(&fields, "attribute");
    let value = fields.texts::<String>("value");
    if value.as_ref().is_some_and(Vec::is_empty) {
        fields.problem("value", "is an empty list; name at least one owner");
    }
    fields.finish();
    Some(IntegrationOwner { attribute: attribute?, value: value? })
}

fn resource_owner(fields: Fields<'_>) -> Option<ResourceOwner> {
    fields.required("key");
    fields.required("attribute");
    let key = read::words(&fields, "key");
    let attribute = read::words(&fields, "attribute");
    fields.finish();
    Some(ResourceOwner { key: key?, attribute: attribute? })
}
