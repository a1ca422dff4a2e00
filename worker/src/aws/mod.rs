//! Amazon Web Services: credentials, and the two things that RDS needs of them.
//!
//! | module | does |
//! |---|---|
//! | [`token`] | signs logins (IAM database authentication); nobody is asked |
//! | [`rds`] | asks where an instance is (`DescribeDBInstances`) |
//!
//! Credentials come from the SDK's default chain: environment, profile, web identity (IRSA), ECS and EKS container
//! credentials, instance metadata. `AWS_ENDPOINT_URL` and the other variables of the SDKs are honoured.

pub mod rds;
pub mod token;

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use tokio::sync::{Mutex, OnceCell};

/// Which defaults of the SDK are meant, so that a newer SDK changes nothing by itself.
pub(crate) fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// Credentials are renewed so long before they expire: a login token is worth no more than what it was signed with.
const RENEW_BEFORE: Duration = Duration::from_mins(5);
/// Credentials without an expiry, such as those of a profile, are read anew after this time.
const REREAD: Duration = Duration::from_mins(15);

/// Why AWS could not be used. Never a key or a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AwsError {
    /// The default chain finds no credentials.
    #[error(
        "no AWS credentials are found in the environment, a profile, a web identity, the container's or the instance's role; give the process \
         one of them (on Kubernetes: a service account with a role)"
    )]
    NoCredentials,
    /// A place of the chain has credentials and could not give them.
    #[error("AWS credentials cannot be had: {0}")]
    Credentials(String),
    /// Nobody says which region.
    #[error("no AWS region is known; set `region` in the integration, or AWS_REGION")]
    NoRegion,
    /// A request could not be signed.
    #[error("cannot sign: {0}")]
    Unsigned(String),
    /// AWS refuses the call.
    #[error("AWS refuses {action} in {region}: {code}: {message}")]
    Denied {
        /// Such as `rds:DescribeDBInstances`.
        action: &'static str,
        /// Where.
        region: String,
        /// The error's code, such as `AccessDenied`.
        code: String,
        /// The error's words.
        message: String,
    },
    /// There is no such instance in the region.
    #[error(
        "there is no DB instance {instance:?} in region {region}; compare instance_id and region (an Aurora cluster is named by hostname)"
    )]
    NoInstance {
        /// What was asked for.
        instance: String,
        /// Where.
        region: String,
    },
    /// The instance has no endpoint yet.
    #[error("the DB instance {instance:?} has no endpoint yet (status {status}); it gets one when it has been created")]
    NoEndpoint {
        /// What was asked for.
        instance: String,
        /// Its status.
        status: String,
    },
    /// The service did not answer, or not as expected.
    #[error("RDS in region {region} cannot be asked: {what}")]
    Unavailable {
        /// Where.
        region: String,
        /// What was met.
        what: String,
    },
}

/// The chain's configuration, made once for the process: profiles are read and roles assumed for all who need them.
pub async fn config() -> &'static SdkConfig {
    static CONFIG: OnceCell<SdkConfig> = OnceCell::const_new();
    CONFIG.get_or_init(|| Box::pin(aws_config::defaults(behavior()).load())).await
}

/// The region: the one that is named, or the one of the environment, the profile or the instance.
pub async fn region(named: Option<&str>) -> Result<String, AwsError> {
    match named {
        Some(region) => Ok(region.to_owned()),
        None => config().await.region().map(ToString::to_string).ok_or(AwsError::NoRegion),
    }
}

/// Credentials that are good for a while yet. Only one caller asks the chain, the others wait for its answer.
pub async fn credentials() -> Result<Credentials, AwsError> {
    static KEPT: Mutex<Option<(SystemTime, Credentials)>> = Mutex::const_new(None);
    let mut kept = KEPT.lock().await;
    let now = SystemTime::now();
    if let Some((read, credentials)) = kept.as_ref()
        && is_fresh(*read, credentials.expiry(), now)
    {
        return Ok(credentials.clone());
    }
    let provider = config().await.credentials_provider().ok_or(AwsError::NoCredentials)?;
    let credentials = Box::pin(provider.provide_credentials()).await.map_err(|error| explained(&error))?;
    *kept = Some((now, credentials.clone()));
    Ok(credentials)
}

fn is_fresh(read: SystemTime, expiry: Option<SystemTime>, now: SystemTime) -> bool {
    match expiry {
        Some(expiry) => now + RENEW_BEFORE < expiry,
        // A clock that was set back is no reason to keep something for long.
        None => now.duration_since(read).is_ok_and(|age| age < REREAD),
    }
}

fn explained(error: &CredentialsError) -> AwsError {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => AwsError::NoCredentials,
        other => AwsError::Credentials(chain(other)),
    }
}

/// An error with its causes, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_renewed_before_they_expire() {
        let read = SystemTime::UNIX_EPOCH;
        let at = |minutes| read + Duration::from_mins(minutes);
        assert!(is_fresh(read, Some(at(60)), at(54)));
        assert!(!is_fresh(read, Some(at(60)), at(55)));
        assert!(is_fresh(read, None, at(14)));
        assert!(!is_fresh(read, None, at(15)));
        assert!(!is_fresh(at(10), None, at(9)));
    }
}
