//! No secret at all: each login is signed with AWS credentials.

use std::time::SystemTime;

use postern_schemas::Identifier;

use super::{Credential, Reading, SecretError, SecretFailure, SecretStore};
use crate::aws::{self, AwsError};
use crate::config::HostPort;

const STORE: &str = "aws";

/// Signs a token for one endpoint each time it is asked, so that no token is ever near its end.
#[derive(Debug)]
pub struct IamLogin {
    server: HostPort,
    username: Identifier,
    region: Option<String>,
}

impl IamLogin {
    /// Logins to `server`; without a region in the one that the process runs in.
    pub fn new(server: HostPort, username: Identifier, region: Option<String>) -> Self {
        Self { server, username, region }
    }

    async fn sign(&self) -> Result<Credential, AwsError> {
        let region = aws::region(self.region.as_deref()).await?;
        let credentials = aws::credentials().await?;
        let HostPort { host, port } = &self.server;
        let login = aws::token::Login { host, port: *port, region: &region, user: self.username.as_str() };
        let password = aws::token::token(login, &credentials, SystemTime::now())?;
        Ok(Credential { username: self.username.to_string(), password })
    }
}

impl SecretStore for IamLogin {
    fn connector(&self) -> Reading<'_> {
        Box::pin(async move {
            self.sign().await.map_err(|error| SecretError {
                store: STORE,
                name: format!("login token of {}", self.username),
                what: match &error {
                    AwsError::NoCredentials | AwsError::NoRegion => SecretFailure::NotFound(error.to_string()),
                    _ => SecretFailure::Unavailable(error.to_string()),
                },
            })
        })
    }
}
