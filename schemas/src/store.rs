//! Where a secret lives: one of five stores that can be read and written.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fields::Fields;

/// Neither empty nor with control characters.
const PLACE: &str = r"^[^\x00-\x1f\x7f-\x9f]+$";

/// A secret's place. Written as an object with exactly one key, the store's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StoreRef {
    /// AWS Secrets Manager.
    #[serde(rename_all = "snake_case")]
    Aws {
        /// Region, such as `eu-central-1`.
        #[schemars(regex(pattern = PLACE))]
        region: String,
        /// Name or ARN.
        #[schemars(regex(pattern = PLACE))]
        secret_id: String,
    },
    /// Azure Key Vault.
    Azure {
        /// The vault's address, such as `https://kv.vault.azure.net`.
        #[schemars(regex(pattern = PLACE))]
        vault_url: String,
        /// Name of the secret.
        #[schemars(regex(pattern = PLACE))]
        name: String,
    },
    /// Google Cloud Secret Manager.
    Gcp {
        /// Project id.
        #[schemars(regex(pattern = PLACE))]
        project: String,
        /// Name of the secret.
        #[schemars(regex(pattern = PLACE))]
        secret_id: String,
    },
    /// A Kubernetes `Secret`.
    Kubernetes {
        /// Namespace.
        #[schemars(regex(pattern = PLACE))]
        namespace: String,
        /// Name of the secret.
        #[schemars(regex(pattern = PLACE))]
        name: String,
    },
    /// A key/value engine of HashiCorp Vault or `OpenBao`.
    HashicorpVault {
        /// Mount path of the engine.
        #[schemars(regex(pattern = PLACE))]
        secret_engine: String,
        /// Path below the mount.
        #[schemars(regex(pattern = PLACE))]
        path: String,
    },
}

impl StoreRef {
    /// The stores' names, as written in events and configuration.
    pub const NAMES: [&'static str; 5] = ["aws", "azure", "gcp", "kubernetes", "hashicorp_vault"];

    /// The store's name, one of [`StoreRef::NAMES`].
    pub fn store(&self) -> &'static str {
        match self {
            Self::Aws { .. } => "aws",
            Self::Azure { .. } => "azure",
            Self::Gcp { .. } => "gcp",
            Self::Kubernetes { .. } => "kubernetes",
            Self::HashicorpVault { .. } => "hashicorp_vault",
        }
    }

    /// Reads the store `name` (one of [`StoreRef::NAMES`]) from its object; mistakes go to the reader's collector.
    pub fn read(name: &str, fields: Fields<'_>) -> Option<Self> {
        let pair = |a: &'static str, b: &'static str| required(&fields, a).zip(required(&fields, b));
        let store = match name {
            "aws" => pair("region", "secret_id").map(|(region, secret_id)| Self::Aws { region, secret_id }),
            "azure" => pair("vault_url", "name").map(|(vault_url, name)| Self::Azure { vault_url, name }),
            "gcp" => pair("project", "secret_id").map(|(project, secret_id)| Self::Gcp { project, secret_id }),
            "kubernetes" => pair("namespace", "name").map(|(namespace, name)| Self::Kubernetes { namespace, name }),
            "hashicorp_vault" => pair("secret_engine", "path").map(|(secret_engine, path)| Self::HashicorpVault { secret_engine, path }),
            _ => None,
        };
        fields.finish();
        store
    }
}

impl fmt::Display for StoreRef {
    /// `store:place`, the form that `deliver_to` patterns match.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws { region, secret_id } => write!(f, "aws:{region}/{secret_id}"),
            Self::Azure { vault_url, name } => write!(f, "azure:{}/{name}", vault_url.trim_end_matches('/')),
            Self::Gcp { project, secret_id } => write!(f, "gcp:{project}/{secret_id}"),
            Self::Kubernetes { namespace, name } => write!(f, "kubernetes:{namespace}/{name}"),
            Self::HashicorpVault { secret_engine, path } => write!(f, "hashicorp_vault:{secret_engine}/{path}"),
        }
    }
}

fn required(fields: &Fields<'_>, name: &'static str) -> Option<String> {
    let text: String = fields.required_text(name)?;
    if text.is_empty() || text.chars().any(char::is_control) {
        fields.problem(name, "is empty or contains control characters");
        return None;
    }
    Some(text)
}
