//! No secret at all: each login is signed with AWS credentials.

use std::sync::Arc;
use std::time::SystemTime;

use postern_schemas::Identifier;
use secrecy::SecretString;

use super::store::{Answer, SecretStore, Stored, Version};
use super::{Secret, SecretFailure};
use crate::aws::{self, AwsError};
use crate::config::HostPort;

const STORE: &str = "aws";

/// Signs a token for one endpoint each time it is read, so that no token is ever near its end.
#[derive(Debug)]
pub struct IamLogin {
    server: HostPort,
    username: Identifier,
    region: Option<String>,
}

impl IamLogin {
    /// Logins to `server`; without a region in the one that the process runs in.
    pub fn secret(server: HostPort, username: Identifier, region: Option<String>) -> Secret {
        Secret::new(STORE, format!("login token of {username}"), Arc::new(Self { server, username, region }))
    }

    async fn sign(&self) -> Result<SecretString, AwsError> {
        let region = aws::region(self.region.as_deref()).await?;
        let credentials = aws::credentials().await?;
        let HostPort { host, port } = &self.server;
        let login = aws::token::Login { host, port: *port, region: &region, user: self.username.as_str() };
        aws::token::token(login, &credentials, SystemTime::now())
    }
}

impl SecretStore for IamLogin {
    fn read(&self) -> Answer<'_, Stored> {
        Box::pin(async move {
            let body = self.sign().await.map_err(|error| match &error {
                AwsError::NoCredentials | AwsError::NoRegion => SecretFailure::NotFound(error.to_string()),
                _ => SecretFailure::Unavailable(error.to_string()),
            })?;
            Ok(Stored { body, labels: None, version: Version(String::new()), pending: None })
        })
    }
}
