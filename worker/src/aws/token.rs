//! Login tokens of IAM database authentication: a presigned URL for `rds-db:connect` without its scheme, in place of
//! the password (RDS user guide, "Connecting to your DB instance using IAM authentication").
//!
//! Made locally: AWS is not asked, and a token for a role or server that the credentials may not use is refused by the
//! server. A token is good for new sessions for 15 minutes; it is signed anew for every session, so none is ever old.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use percent_encoding::utf8_percent_encode;
use secrecy::SecretString;

use super::AwsError;
use crate::audit::UNRESERVED;

/// How long RDS takes a token, at most.
const LIFE: Duration = Duration::from_mins(15);
const SERVICE: &str = "rds-db";

/// What a token is for.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// The endpoint's name, as the server knows itself.
    pub host: &'a str,
    /// Its TCP port.
    pub port: u16,
    /// The region of the instance.
    pub region: &'a str,
    /// The role.
    pub user: &'a str,
}

/// Signs a token at `now`. The same inputs give the token that AWS's own tools make.
pub fn token(login: Login<'_>, credentials: &Credentials, now: SystemTime) -> Result<SecretString, AwsError> {
    let unsigned = |what: &dyn std::fmt::Display| AwsError::Unsigned(what.to_string());
    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFE);
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(login.region)
        .name(SERVICE)
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| unsigned(&error))?
        .into();
    let asked = format!(":{}/?Action=connect&DBUser={}", login.port, escaped(login.user));
    // Names of hosts know no case, signatures do.
    let url = format!("https://{}{asked}", login.host.to_ascii_lowercase());
    let request = SignableRequest::new("GET", url, std::iter::empty(), SignableBody::Bytes(b"")).map_err(|error| unsigned(&error))?;
    let (signed, _) = sign(request, &params).map_err(|error| unsigned(&error))?.into_parts();
    let mut token = format!("{}{asked}", login.host);
    // The signature stands last, as AWS's own tools have it.
    let (signature, others): (Vec<_>, Vec<_>) = signed.params().iter().partition(|(name, _)| *name == "X-Amz-Signature");
    for (name, value) in others.into_iter().chain(signature) {
        token.push('&');
        token.push_str(name);
        token.push('=');
        token.push_str(&escaped(value));
    }
    Ok(SecretString::from(token))
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests;
