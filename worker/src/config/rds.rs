//! What only `type = "aws-rds-postgresql"` has: an instance by its id, and logins signed with AWS credentials.

use postern_schemas::Identifier;
use postern_schemas::fields::Fields;

use super::integration::Instance;
use super::{Platform, SecretSource, SslMode, read};

/// The login that the shipped bootstrap makes.
const DEFAULT_USERNAME: &str = "postern_connector";

/// `region` and `instance_id` in place of `hostname`.
pub(super) fn instance(fields: &Fields<'_>, kind: Option<Platform>, port: Option<u16>) -> Option<Instance> {
    if kind != Some(Platform::AwsRds) {
        return None;
    }
    let region = read::parsed(fields, "region", region);
    let id = read::parsed(fields, "instance_id", identifier);
    let named = fields.has("hostname");
    // With a hostname the region is of use to sign logins, and nowhere else.
    let region_alone = fields.has("region") && !fields.has("instance_id") && !(named && iam_is_asked(fields));
    if named == fields.has("instance_id") || region_alone || fields.has("instance_id") && !fields.has("region") {
        fields.problem_here("expected either hostname, or region and instance_id");
    }
    Some(Instance { region: region?, id: id.filter(|_| !named)?, port })
}

/// `auth = "iam"`.
pub(super) fn iam(
    fields: &Fields<'_>,
    kind: Option<Platform>,
    hostname: Option<&str>,
    instance: Option<&Instance>,
) -> Option<SecretSource> {
    let username = fields.text("username").or_else(|| Identifier::new(DEFAULT_USERNAME).ok());
    if kind.is_some_and(|kind| kind != Platform::AwsRds) {
        fields.problem("auth", "iam goes with type = \"aws-rds-postgresql\" only; expected password");
    }
    if fields.value("secret").is_some() {
        fields.problem("secret", "is not used with auth = \"iam\"; leave it out");
    }
    let mode: Option<String> = fields.value("ssl_mode").and_then(|mode| mode.as_str()).map(ToOwned::to_owned);
    if let Some(mode) = mode.filter(|mode| mode != SslMode::VerifyFull.as_str()) {
        let why = "a login token travels in clear text inside TLS, so only a server that has proven its name may get it";
        fields.problem("ssl_mode", format!("is {mode:?} with auth = \"iam\"; expected verify-full: {why}"));
    }
    let named = read::parsed(fields, "region", region);
    let region = named.or_else(|| instance.map(|instance| instance.region.clone())).or_else(|| hostname.and_then(region_of));
    Some(SecretSource::Iam { username: username?, region })
}

fn iam_is_asked(fields: &Fields<'_>) -> bool {
    fields.value("auth").and_then(|auth| auth.as_str()) == Some("iam")
}

/// The region in an endpoint's name, such as `orders.abc123.eu-central-1.rds.amazonaws.com`.
fn region_of(hostname: &str) -> Option<String> {
    let hostname = hostname.to_ascii_lowercase();
    if let Some(rest) = hostname.strip_suffix(".rds.amazonaws.com") {
        return rest.rsplit('.').next().map(ToOwned::to_owned);
    }
    // China: orders.abc123.rds.cn-north-1.amazonaws.com.cn
    let (_, region) = hostname.strip_suffix(".amazonaws.com.cn")?.rsplit_once(".rds.")?;
    Some(region.to_owned())
}

/// It becomes part of a host's name, so nothing else may stand in it.
fn region(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=32).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not a region; expected such as eu-central-1"))
}

/// RDS user guide, "Naming constraints": letters, digits and hyphens; stored in lower case.
fn identifier(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if (1..=63).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("{text:?} is not the identifier of a DB instance; expected letters, digits and hyphens, such as orders-prod"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_name_their_region() {
        for (host, expected) in [
            ("orders.abc123.eu-central-1.rds.amazonaws.com", Some("eu-central-1")),
            ("Orders.cluster-ro-abc.US-east-1.rds.amazonaws.com", Some("us-east-1")),
            ("orders.abc.rds.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("orders.example.com", None),
        ] {
            assert_eq!(region_of(host).as_deref(), expected, "{host}");
        }
    }
}
