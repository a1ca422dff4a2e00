//! Secrets that Postern writes for people: labelled as its own, and only its own are overwritten or deleted.

use jiff::Timestamp;
use postern_schemas::{IntegrationId, Principal};
use secrecy::SecretString;

use super::{Described, Labels, Secret, SecretError, SecretFailure, Version};

/// The label that every secret of Postern carries, and its value. Legal as a tag or label in every store.
pub const MANAGED_BY: (&str, &str) = ("managed-by", "postern");
const LEDGER: &str = "postern-ledger";
const INTEGRATION: &str = "postern-integration";
const OWNER: &str = "postern-owner";
const GRANT: &str = "postern-grant";
const EXPIRES: &str = "postern-expires-at";
const GENERATION: &str = "postern-generation";

/// Whose secret it is. A secret is overwritten and deleted only for the same ledger, integration and person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The ledger's own UUID.
    pub ledger: String,
    /// The integration.
    pub integration: IntegrationId,
    /// The person.
    pub principal: Principal,
}

/// What else the labels say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The grant that it was written for, if it was one.
    pub grant: Option<String>,
    /// When that ends.
    pub expires_at: Option<Timestamp>,
    /// The credential's generation in the ledger.
    pub generation: i64,
}

impl Owner {
    /// The labels of a secret. Never the mark, which is for connectors.
    pub fn labels(&self, about: &About) -> Labels {
        // Vault refuses an empty value, and a label that is left out would keep the one of the version before.
        let or = |value: Option<String>, none: &str| value.filter(|value| !value.is_empty()).unwrap_or_else(|| none.to_owned());
        [
            (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
            (LEDGER, self.ledger.clone()),
            (INTEGRATION, self.integration.to_string()),
            (OWNER, self.principal.to_string()),
            (GRANT, or(about.grant.clone(), "none")),
            (EXPIRES, or(about.expires_at.map(|at| at.to_string()), "never")),
            (GENERATION, about.generation.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// Whether the secret is this owner's; the failure says whose it is instead.
    fn check(&self, labels: Option<&Labels>) -> Result<(), SecretFailure> {
        let Some(labels) = labels else {
            let what = "this kind of secret carries no labels, so it cannot be shown to be ours; deliver to another store or engine";
            return Err(SecretFailure::Unsupported(what.to_owned()));
        };
        let met = |key: &str| labels.get(key).map_or("", String::as_str);
        let is = |key: &str, expected: &str| met(key) == expected;
        if !is(MANAGED_BY.0, MANAGED_BY.1) {
            let what = format!("was not written by Postern (no label {} = {:?}); name another place", MANAGED_BY.0, MANAGED_BY.1);
            return Err(SecretFailure::NotOurs(what));
        }
        if is(LEDGER, &self.ledger) && is(INTEGRATION, self.integration.as_str()) && is(OWNER, self.principal.as_str()) {
            return Ok(());
        }
        let whose = format!("{} of integration {}, ledger {}", met(OWNER), met(INTEGRATION), met(LEDGER));
        Err(SecretFailure::NotOurs(format!("holds the credential of {whose}; name another place")))
    }
}

/// Writes the body: a new secret, or a new version of one that is this owner's. The answer can be unknown
/// ([`SecretFailure::Unavailable`]): doing it again is safe.
pub async fn write(secret: &Secret, owner: &Owner, about: &About, body: &SecretString) -> Result<Version, SecretError> {
    let labels = owner.labels(about);
    match described(secret, owner).await? {
        Some(met) => secret.replace(&met.version, body, Some(&labels)).await,
        None => secret.create(body, &labels).await,
    }
}

/// Deletes the secret if it is this owner's. Whether there was one.
pub async fn remove(secret: &Secret, owner: &Owner) -> Result<bool, SecretError> {
    let Some(met) = described(secret, owner).await? else { return Ok(false) };
    match secret.delete(&met.version).await {
        Err(error) if error.is_not_found() => Ok(false),
        other => other.map(|()| true),
    }
}

/// What is there, if anything is; an error if it is somebody else's.
pub async fn described(secret: &Secret, owner: &Owner) -> Result<Option<Described>, SecretError> {
    match secret.describe().await {
        Ok(met) => owner.check(met.labels.as_ref()).map(|()| Some(met)).map_err(|what| secret.error(what)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_ledger_integration_and_person_own_a_secret() {
        let owner = |ledger: &str, integration: &str, who: &str| Owner {
            ledger: ledger.to_owned(),
            integration: IntegrationId::new(integration).unwrap(),
            principal: Principal::new(who).unwrap(),
        };
        let ours = owner("l", "orders", "jane");
        let mut labels = ours.labels(&About { grant: None, expires_at: None, generation: 1 });
        assert_eq!(ours.check(Some(&labels)), Ok(()));
        for other in [owner("m", "orders", "jane"), owner("l", "other", "jane"), owner("l", "orders", "kim")] {
            assert!(matches!(other.check(Some(&labels)), Err(SecretFailure::NotOurs(_))), "{other:?}");
        }
        labels.remove(MANAGED_BY.0);
        assert!(matches!(ours.check(Some(&labels)), Err(SecretFailure::NotOurs(_))));
        assert!(matches!(ours.check(None), Err(SecretFailure::Unsupported(_))));
    }
}
