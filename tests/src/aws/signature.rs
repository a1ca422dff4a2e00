//! Reads a login token and checks its signature, by the specification of Signature Version 4 (IAM user guide, "Create a
//! signed AWS API request") and with none of the code that makes tokens.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use hmac::{Hmac, Mac as _};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{ACCESS_KEY, SECRET_KEY};

/// What a token has to be for.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The endpoint's name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The instance's region.
    pub region: String,
}

/// Whether a server at `expected` lets `user` in with `token` at `now`.
pub fn check(token: &str, user: &str, expected: &Expected, now: Timestamp) -> Result<()> {
    let Expected { host, port, region } = expected;
    let query = token.strip_prefix(&format!("{host}:{port}/?")).context("the token is for another server")?;
    let pairs: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let by_name: BTreeMap<&str, &str> = pairs.iter().copied().collect();
    let get = |name: &str| by_name.get(name).map(|text| decoded(text)).with_context(|| format!("the token has no {name}"));
    ensure!(get("Action")? == "connect", "the token is for another action");
    ensure!(get("DBUser")? == user, "the token is for another user");
    let date = get("X-Amz-Date")?;
    let day = date.get(..8).context("X-Amz-Date")?.to_owned();
    let scope = format!("{day}/{region}/rds-db/aws4_request");
    ensure!(get("X-Amz-Credential")? == format!("{ACCESS_KEY}/{scope}"), "the token is of another region, day or key");
    ensure!(get("X-Amz-Expires")? == "900" && get("X-Amz-SignedHeaders")? == "host", "the token lives too long, or signs other headers");

    let sorted: Vec<String> =
        by_name.iter().filter(|(name, _)| **name != "X-Amz-Signature").map(|(name, value)| format!("{name}={value}")).collect();
    let request = format!("GET\n/\n{}\nhost:{host}:{port}\n\nhost\n{}", sorted.join("&"), hex(&Sha256::digest(b"")));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request)));
    let key = [day.as_str(), region, "rds-db", "aws4_request"]
        .iter()
        .try_fold(format!("AWS4{SECRET_KEY}").into_bytes(), |key, part| hmac(&key, part))?;
    ensure!(get("X-Amz-Signature")? == hex(&hmac(&key, &to_sign)?), "the signature is wrong");

    let signed = signed_at(token)?;
    ensure!(signed <= now + SignedDuration::from_secs(300), "the token is of the future");
    ensure!(now < signed + SignedDuration::from_secs(900), "the token has expired");
    Ok(())
}

/// `X-Amz-Date`.
pub fn signed_at(token: &str) -> Result<Timestamp> {
    Ok(jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date(token)?)?.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp())
}

/// `X-Amz-Date` as it stands.
pub fn date(token: &str) -> Result<&str> {
    let (_, rest) = token.split_once("X-Amz-Date=").context("the token has no X-Amz-Date")?;
    Ok(rest.split('&').next().unwrap_or_default())
}

fn hmac(key: &[u8], text: &str) -> Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(text.as_bytes());
    Ok(mac.finalize().into_bytes().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Percent-decoded. What is not UTF-8 afterwards is nobody's name.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let (b'%', Some(byte)) = (first, escaped) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
