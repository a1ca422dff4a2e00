//! AWS Secrets Manager as `moto` imitates it, asked through AWS's own Python library.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::wire::Wire;
use super::{Env, Store};
use crate::aws::{Services, credentials};
use crate::postgres::cache_dir;

const REGION: &str = "eu-central-1";
const MARK: &str = "apono-connector-read";

/// What the documentation says that a role needs, for all that Postern does.
const POLICY: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*", "Action": [
  "secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret", "secretsmanager:CreateSecret", "secretsmanager:PutSecretValue",
  "secretsmanager:UpdateSecretVersionStage", "secretsmanager:TagResource", "secretsmanager:DeleteSecret"]}]}"#;

/// Services of their own, behind a wire.
#[derive(Debug)]
pub struct Aws {
    services: Services,
    wire: Wire,
}

impl Aws {
    /// Starts them, and waits until Secrets Manager answers.
    pub async fn start() -> Result<Self> {
        let services = Services::start(&[]).await?;
        let port: u16 = services.url().rsplit_once(':').context("no port")?.1.parse()?;
        let aws = Self { services, wire: Wire::to(port).await? };
        let deadline = Instant::now() + Duration::from_mins(1);
        // moto loads a service when it is first asked, which takes longer than Postern waits.
        while let Err(error) = aws.call("secretsmanager", "c.list_secrets()") {
            ensure!(Instant::now() < deadline, "moto has no Secrets Manager: {error}");
        }
        Ok(aws)
    }

    /// Runs a Python expression with a client `c` of the service.
    fn call(&self, service: &str, call: &str) -> Result<Value> {
        let script = format!(
            "import json, botocore.session\n\
             c = botocore.session.Session().create_client({service:?}, region_name={REGION:?}, endpoint_url={:?})\n\
             print(json.dumps({call}, default=str))",
            self.services.url()
        );
        let python = cache_dir()?.join("aws/bin/python");
        let output = Command::new(python).args(["-c", &script]).envs(credentials()).env_remove("AWS_SESSION_TOKEN").output()?;
        ensure!(output.status.success(), "{call}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn env_with(&self, key: &str, secret: &str) -> Env {
        let mut env: Env = credentials().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        env.push(("AWS_ENDPOINT_URL".to_owned(), format!("http://127.0.0.1:{}", self.wire.port())));
        env.push(("AWS_ACCESS_KEY_ID".to_owned(), key.to_owned()));
        env.push(("AWS_SECRET_ACCESS_KEY".to_owned(), secret.to_owned()));
        env
    }

    /// A user with this policy; from then on moto lets nobody do what no policy allows.
    fn user(&self, name: &str, policy: Option<&str>) -> Result<Env> {
        self.call("iam", &format!("c.create_user(UserName={name:?})"))?;
        if let Some(policy) = policy {
            let policy: Value = serde_json::from_str(policy)?;
            let document = serde_json::to_string(&policy.to_string())?;
            self.call("iam", &format!("c.put_user_policy(UserName={name:?}, PolicyName='p', PolicyDocument={document})"))?;
        }
        let key = self.call("iam", &format!("c.create_access_key(UserName={name:?})"))?;
        let text = |field: &str| key["AccessKey"][field].as_str().map(ToOwned::to_owned).context("no access key");
        Ok(self.env_with(&text("AccessKeyId")?, &text("SecretAccessKey")?))
    }

    /// A user who may what the documentation says, and one who may nothing; nobody else may anything any more.
    pub fn enforce(&self) -> Result<(Env, Env)> {
        let (able, stranger) = (self.user("able", Some(POLICY))?, self.user("stranger", None)?);
        let url = format!("{}/moto-api/reset-auth", self.services.url());
        let script = format!(
            "import urllib.request as r\nr.urlopen(r.Request({url:?}, data=b'0', headers={{'Content-Type': 'text/plain'}}, method='POST')).read()"
        );
        let output = Command::new(cache_dir()?.join("aws/bin/python")).args(["-c", &script]).output()?;
        ensure!(output.status.success(), "moto: {}", String::from_utf8_lossy(&output.stderr));
        Ok((able, stranger))
    }
}

impl Store for Aws {
    fn place(&self, name: &str) -> Value {
        json!({ "aws": { "region": REGION, "secret_id": name } })
    }

    fn env(&self) -> Env {
        self.env_with(crate::aws::ACCESS_KEY, crate::aws::SECRET_KEY)
    }

    fn stranger(&self) -> Result<Env> {
        self.enforce().map(|(_, stranger)| stranger)
    }

    fn put(&self, name: &str, body: &str, marked: bool) -> Result<()> {
        let body = serde_json::to_string(body)?;
        let tags = format!("[{{'Key': {MARK:?}, 'Value': '{marked}'}}]");
        if self.call("secretsmanager", &format!("c.create_secret(Name={name:?}, SecretString={body}, Tags={tags})")).is_err() {
            self.call("secretsmanager", &format!("c.put_secret_value(SecretId={name:?}, SecretString={body})"))?;
            self.call("secretsmanager", &format!("c.tag_resource(SecretId={name:?}, Tags={tags})"))?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.call("secretsmanager", &format!("c.delete_secret(SecretId={name:?}, ForceDeleteWithoutRecovery=True)")).map(|_| ())
    }

    fn has_marks(&self) -> bool {
        true
    }

    fn holds_any_text(&self) -> bool {
        true
    }

    fn tells_rights(&self) -> bool {
        false
    }

    /// The command's arguments are those of the library, spelt for a shell; there is no `aws` command here.
    fn run(&self, command: &str) -> Result<()> {
        let tag = command.split_once("--tags Key=").and_then(|(_, tag)| tag.split_once(",Value=")).context("no tag")?;
        let name = command.split_once("--secret-id ").and_then(|(_, rest)| rest.split(' ').next()).context("no secret id")?;
        ensure!(command.starts_with(&format!("aws secretsmanager tag-resource --region {REGION} ")), "unknown command {command}");
        let tags = format!("[{{'Key': {:?}, 'Value': {:?}}}]", tag.0, tag.1);
        self.call("secretsmanager", &format!("c.tag_resource(SecretId={name:?}, Tags={tags})")).map(|_| ())
    }

    fn wire(&self) -> &Wire {
        &self.wire
    }
}
