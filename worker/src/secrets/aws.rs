//! AWS Secrets Manager (AWS docs, "Secrets Manager API Reference").
//!
//! `PutSecretValue` has no compare-and-set, but moving a staging label has: it fails unless the label is where it is said
//! to be. So every version is first written under a label of its own, which nobody reads, and then gets `AWSCURRENT` or
//! `AWSPENDING` by a move. Tags are written after the value. Deleting has no compare-and-set.

mod failure;
mod tags;

use std::time::Duration;

use aws_config::Region;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::operation::describe_secret::DescribeSecretOutput;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::OnceCell;
use uuid::Uuid;

use self::failure::{failure, is_missing_stage};
use super::SecretFailure;
use super::store::{Answer, Described, Labels, Pending, SecretStore, Stages, Stored, Version};

const CURRENT: &str = "AWSCURRENT";
const PENDING: &str = "AWSPENDING";

/// What the requests of one secret may take, and how often one is sent: the store as a whole has a limit too.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
const OPERATION_TIMEOUT: Duration = Duration::from_millis(4500);
const ATTEMPTS: u32 = 2;

/// One secret in one region.
#[derive(Debug)]
pub(super) struct AwsSecret {
    region: String,
    secret_id: String,
    client: OnceCell<Client>,
}

impl AwsSecret {
    pub(super) fn new(region: &str, secret_id: &str) -> Self {
        Self { region: region.to_owned(), secret_id: secret_id.to_owned(), client: OnceCell::new() }
    }

    async fn client(&self) -> &Client {
        let make = async || {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT);
            let config = aws_sdk_secretsmanager::config::Builder::from(crate::aws::config().await)
                .region(Region::new(self.region.clone()))
                .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
                .timeout_config(timeouts.build());
            Client::from_conf(config.build())
        };
        self.client.get_or_init(make).await
    }

    async fn about(&self) -> Result<About, SecretFailure> {
        let answer = self.client().await.describe_secret().secret_id(&self.secret_id).send().await;
        About::of(answer.map_err(|error| failure("secretsmanager:DescribeSecret", &error))?)
    }

    /// The version that a stage is at; `None` if it is at none.
    async fn value(&self, stage: &str) -> Result<Option<(Version, SecretString)>, SecretFailure> {
        let request = self.client().await.get_secret_value().secret_id(&self.secret_id).version_stage(stage);
        match request.send().await {
            Ok(answer) => text(&answer).map(Some),
            Err(error) if is_missing_stage(&error) && stage != CURRENT => Ok(None),
            Err(error) => Err(failure("secretsmanager:GetSecretValue", &error)),
        }
    }

    /// Writes a version under a label of its own, moves `stage` to it with `settle`, and takes the label away again.
    async fn put(&self, body: &SecretString, stage: &str, from: Option<&str>) -> Result<Version, SecretFailure> {
        let version = Uuid::new_v4().to_string();
        let label = format!("postern-{version}");
        let request = self.client().await.put_secret_value().secret_id(&self.secret_id).client_request_token(&version);
        let sent = request.secret_string(body.expose_secret()).version_stages(&label).send().await;
        sent.map_err(|error| failure("secretsmanager:PutSecretValue", &error))?;
        let moved = self.move_stage(stage, from, Some(&version)).await;
        // Without a label the version goes by itself. If this fails, it stays with one that nobody reads.
        let dropped = self.move_stage(&label, Some(&version), None).await;
        moved.and(dropped).map(|()| Version(version))
    }

    /// Moves a staging label. Fails with a conflict if it is not at `from`, or with none if it is anywhere else than `to`.
    async fn move_stage(&self, stage: &str, from: Option<&str>, to: Option<&str>) -> Result<(), SecretFailure> {
        let request = self.client().await.update_secret_version_stage().secret_id(&self.secret_id).version_stage(stage);
        let sent = request.set_remove_from_version_id(from.map(Into::into)).set_move_to_version_id(to.map(Into::into)).send().await;
        let Err(error) = sent else { return Ok(()) };
        let failed = failure("secretsmanager:UpdateSecretVersionStage", &error);
        // The service has one error for a label that is elsewhere and for other mistakes: look where it is.
        let at = self.about().await?.at(stage).map(|version| version.0);
        if at.as_deref() == from { Err(failed) } else { Err(SecretFailure::Conflict(format!("{stage} was moved meanwhile"))) }
    }

    async fn is_still(&self, at: &Version) -> Result<About, SecretFailure> {
        let about = self.about().await?;
        if about.at(CURRENT).as_ref() == Some(at) {
            return Ok(about);
        }
        Err(SecretFailure::Conflict("somebody else wrote it meanwhile".to_owned()))
    }
}

/// What `DescribeSecret` says.
struct About(DescribeSecretOutput);

impl About {
    fn of(answer: DescribeSecretOutput) -> Result<Self, SecretFailure> {
        if answer.deleted_date().is_some() {
            return Err(SecretFailure::NotFound(
                "is scheduled for deletion; restore it with: aws secretsmanager restore-secret".to_owned(),
            ));
        }
        Ok(Self(answer))
    }

    fn labels(&self) -> Labels {
        tags::labels(self.0.tags())
    }

    fn at(&self, stage: &str) -> Option<Version> {
        let versions = self.0.version_ids_to_stages()?;
        let at = versions.iter().find(|(_, stages)| stages.iter().any(|met| met == stage));
        at.map(|(version, _)| Version(version.clone()))
    }
}

fn text(answer: &GetSecretValueOutput) -> Result<(Version, SecretString), SecretFailure> {
    let version = Version(answer.version_id().unwrap_or_default().to_owned());
    match answer.secret_string() {
        Some(text) => Ok((version, SecretString::from(text.to_owned()))),
        None => Err(SecretFailure::Malformed("is binary; expected a secret string".to_owned())),
    }
}

impl SecretStore for AwsSecret {
    fn read(&self) -> Answer<'_, Stored> {
        Box::pin(async {
            let (about, value) = tokio::try_join!(self.about(), self.value(CURRENT))?;
            let nothing = || SecretFailure::NotFound(format!("has no version at {CURRENT}"));
            let (version, body) = value.ok_or_else(nothing)?;
            // The usual rotation leaves AWSPENDING at what has become current.
            let is_pending = about.at(PENDING).is_some_and(|pending| pending != version);
            let pending = if is_pending { self.value(PENDING).await? } else { None };
            let pending = pending.filter(|(pending, _)| *pending != version).map(|(version, body)| Pending { version, body });
            Ok(Stored { body, labels: Some(about.labels()), version, pending })
        })
    }

    fn describe(&self) -> Answer<'_, Described> {
        Box::pin(async {
            let about = self.about().await?;
            let version = about.at(CURRENT).unwrap_or(Version(String::new()));
            Ok(Described { labels: Some(about.labels()), version })
        })
    }

    fn create<'a>(&'a self, body: &'a SecretString, labels: &'a Labels) -> Answer<'a, Version> {
        Box::pin(async {
            let request = self.client().await.create_secret().name(&self.secret_id).client_request_token(Uuid::new_v4());
            let sent = request.secret_string(body.expose_secret()).set_tags(Some(tags::tags(labels))).send().await;
            let made = sent.map_err(|error| failure("secretsmanager:CreateSecret", &error))?;
            Ok(Version(made.version_id().unwrap_or_default().to_owned()))
        })
    }

    fn replace<'a>(&'a self, at: &'a Version, body: &'a SecretString, labels: Option<&'a Labels>) -> Answer<'a, Version> {
        Box::pin(async move {
            let now = self.put(body, CURRENT, Some(&at.0)).await?;
            if let Some(labels) = labels {
                let sent = self.client().await.tag_resource().secret_id(&self.secret_id).set_tags(Some(tags::tags(labels))).send().await;
                sent.map_err(|error| failure("secretsmanager:TagResource", &error))?;
            }
            Ok(now)
        })
    }

    /// For good and at once: a recovery window would keep the name from being used again.
    fn delete<'a>(&'a self, at: &'a Version) -> Answer<'a, ()> {
        Box::pin(async move {
            self.is_still(at).await?;
            let sent = self.client().await.delete_secret().secret_id(&self.secret_id).force_delete_without_recovery(true).send().await;
            sent.map(|_| ()).map_err(|error| failure("secretsmanager:DeleteSecret", &error))
        })
    }

    fn stages(&self) -> Option<&dyn Stages> {
        Some(self)
    }

    fn mark_command(&self, mark: &str) -> Option<String> {
        let Self { region, secret_id, .. } = self;
        Some(format!("aws secretsmanager tag-resource --region {region} --secret-id {secret_id} --tags Key={mark},Value=true"))
    }
}

impl Stages for AwsSecret {
    fn stage<'a>(&'a self, at: &'a Version, body: &'a SecretString) -> Answer<'a, Version> {
        Box::pin(async move {
            let about = self.is_still(at).await?;
            let from = match about.at(PENDING) {
                Some(left) if left == *at => Some(left.0),
                Some(_) => return Err(SecretFailure::Conflict("another version is pending already".to_owned())),
                None => None,
            };
            self.put(body, PENDING, from.as_deref()).await
        })
    }

    fn promote<'a>(&'a self, at: &'a Version, pending: &'a Version) -> Answer<'a, ()> {
        Box::pin(async move {
            self.move_stage(CURRENT, Some(&at.0), Some(&pending.0)).await?;
            self.move_stage(PENDING, Some(&pending.0), None).await
        })
    }

    fn discard<'a>(&'a self, pending: &'a Version) -> Answer<'a, ()> {
        Box::pin(async move { self.move_stage(PENDING, Some(&pending.0), None).await })
    }
}
