//! `secret = { … }`: where the connector's own credential is kept.

use std::fmt;
use std::path::PathBuf;

use postern_schemas::Identifier;
use postern_schemas::fields::Fields;
use postern_schemas::store::StoreRef;

use super::read;

/// Where the connector's credential comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// A name in the configuration and a password beside it; for development.
    Local {
        /// The role to log in as.
        username: Identifier,
        /// Where its password is.
        password: LocalPassword,
    },
    /// A secret store.
    Store {
        /// The secret's place.
        place: StoreRef,
        /// The role to log in as, where the secret may hold a password alone.
        username: Option<Identifier>,
    },
    /// None: logins are signed with AWS credentials (`auth = "iam"`).
    Iam {
        /// The role to log in as.
        username: Identifier,
        /// The region of the server; `None`: the one that the process runs in.
        region: Option<String>,
    },
}

/// Where the password of [`SecretSource::Local`] is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LocalPassword {
    /// In a file, read afresh each time.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
}

impl SecretSource {
    /// Reads the object: exactly one key is a store's name; beside a remote store there may be `username`.
    pub(super) fn read(fields: &Fields<'_>) -> Option<Self> {
        let mut names = fields.keys().filter(|name| *name != "username");
        let only = match (names.next(), names.next()) {
            (Some(name), None) => name,
            _ => "",
        };
        if only == "local" {
            if fields.has("username") {
                fields.problem("username", "stands inside of local = { … }");
            }
            return fields.object("local").and_then(Self::local);
        }
        if let Some(name) = StoreRef::NAMES.into_iter().find(|name| *name == only) {
            let username = fields.text("username");
            let place = fields.object(name).and_then(|place| StoreRef::read(name, place))?;
            return Some(Self::Store { place, username });
        }
        let met: Vec<&str> = fields.keys().collect();
        let met = if met.is_empty() { "none".to_owned() } else { met.join(", ") };
        fields.problem_here(format!("expected exactly one of {}, local; met {met}", StoreRef::NAMES.join(", ")));
        None
    }

    fn local(fields: Fields<'_>) -> Option<Self> {
        let username = fields.required_text("username");
        let file = read::path(&fields, "password_file").map(LocalPassword::File);
        let env = read::words(&fields, "password_env").map(LocalPassword::Env);
        if fields.has("password_file") == fields.has("password_env") {
            fields.problem_here("expected exactly one of password_file, password_env");
        }
        fields.finish();
        Some(Self::Local { username: username?, password: file.or(env)? })
    }
}

impl fmt::Display for SecretSource {
    /// `store:place`; never the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { password: LocalPassword::File(path), .. } => write!(f, "local:{}", path.display()),
            Self::Local { password: LocalPassword::Env(name), .. } => write!(f, "local:${name}"),
            Self::Store { place, .. } => place.fmt(f),
            Self::Iam { region: Some(region), .. } => write!(f, "AWS IAM in {region}"),
            Self::Iam { region: None, .. } => f.write_str("AWS IAM"),
        }
    }
}
