use aws_credential_types::Credentials;
use secrecy::ExposeSecret as _;

use super::*;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2026-11-21T09:00:00Z.
const RECORDED_AT: Duration = Duration::from_hours(498_681);

#[derive(serde::Deserialize)]
struct Recorded {
    host: String,
    port: u16,
    user: String,
    region: String,
    session_token: Option<String>,
    token: String,
}

fn made(recorded: &Recorded, now: SystemTime) -> String {
    let Recorded { host, port, user, region, session_token, .. } = recorded;
    let credentials = Credentials::new(KEY, SECRET, session_token.clone(), None, "test");
    token(Login { host, port: *port, region, user }, &credentials, now).unwrap().expose_secret().to_owned()
}

/// Recorded from botocore 1.44.5, `generate_db_auth_token`; the end-to-end tests ask the library itself.
fn recorded() -> Vec<Recorded> {
    serde_json::from_str(include_str!("botocore.json")).unwrap()
}

#[test]
fn tokens_are_those_of_botocore() {
    for recorded in recorded() {
        assert_eq!(made(&recorded, SystemTime::UNIX_EPOCH + RECORDED_AT), recorded.token);
    }
}

#[test]
fn a_session_after_a_tokens_life_gets_another_that_is_good_then() {
    let login = &recorded()[0];
    let start = SystemTime::UNIX_EPOCH + RECORDED_AT;
    let (first, later) = (made(login, start), made(login, start + LIFE));
    assert!(first.contains("X-Amz-Date=20261121T090000Z&X-Amz-Expires=900&"), "{first}");
    assert!(later.contains("X-Amz-Date=20261121T091500Z&X-Amz-Expires=900&"), "{later}");
    assert_ne!(first.rsplit_once('='), later.rsplit_once('='));
}

#[test]
fn nothing_prints_a_token() {
    let credentials = Credentials::new(KEY, SECRET, None, None, "test");
    let login = Login { host: "h", port: 1, region: "r", user: "u" };
    let shown = format!("{:?}", token(login, &credentials, SystemTime::UNIX_EPOCH).unwrap());
    assert!(!shown.contains("X-Amz"), "{shown}");
}
