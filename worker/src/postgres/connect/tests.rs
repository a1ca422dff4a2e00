use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::Config as PosternConfig;

const SSL_REQUEST_LENGTH: usize = 8;

/// What the pretended server does with one connection.
enum Act {
    /// Expects no question for encryption and answers the login with these bytes.
    Plain(Vec<u8>),
    /// Answers the question for encryption with this byte, and the login that follows in clear with these bytes.
    Answer(u8, Vec<u8>),
    /// Offers encryption and then breaks off.
    BrokenHandshake,
}

const CLEARTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
const LOGGED_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
const REPLICA: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x16in_hot_standby\0on\0Z\0\0\0\x05I";

/// A server's refusal with this SQLSTATE.
fn refusal(sqlstate: &str) -> Vec<u8> {
    let body = format!("SFATAL\0C{sqlstate}\0Mno\0\0");
    let length = u32::try_from(body.len() + 4).unwrap();
    [b"E", length.to_be_bytes().as_slice(), body.as_bytes()].concat()
}

/// Serves one connection for each act; the task answers with everything that clients sent after the login packet.
async fn pretend(acts: Vec<Act>) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut said = Vec::new();
        for act in acts {
            let (mut stream, _) = listener.accept().await.unwrap();
            match act {
                Act::Plain(bytes) => answer_login(&mut stream, &bytes).await,
                Act::Answer(byte, bytes) => {
                    ssl_request(&mut stream).await;
                    stream.write_all(&[byte]).await.unwrap();
                    if byte == b'N' && !bytes.is_empty() {
                        answer_login(&mut stream, &bytes).await;
                    }
                }
                Act::BrokenHandshake => {
                    ssl_request(&mut stream).await;
                    stream.write_all(b"Sthis is not TLS").await.unwrap();
                }
            }
            // The client may break off; what it had said by then counts.
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut said).await;
        }
        said
    });
    (port, task)
}

async fn ssl_request(stream: &mut TcpStream) {
    let mut request = [0; SSL_REQUEST_LENGTH];
    stream.read_exact(&mut request).await.unwrap();
    assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "expected a question for encryption");
}

async fn answer_login(stream: &mut TcpStream, bytes: &[u8]) {
    let length = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
    assert!(length > SSL_REQUEST_LENGTH, "expected a login, not a question for encryption");
    let mut login = vec![0; length - 4];
    stream.read_exact(&mut login).await.unwrap();
    stream.write_all(bytes).await.unwrap();
}

async fn connect_to(port: u16, mode: &str) -> Result<(), ConnectError> {
    let text = format!(
        "[integrations.a]\ntype = \"postgresql\"\nhostname = \"127.0.0.1\"\nport = {port}\nssl_mode = \"{mode}\"\n\
         secret = {{ local = {{ username = \"u\", password_env = \"X\" }} }}\n"
    );
    let config = PosternConfig::parse(&text, "postern.toml".as_ref(), &|_| None).unwrap();
    let integration = config.integrations.values().next().unwrap();
    let credential = Credential { username: "u".to_owned(), password: "hunter2".to_owned().into() };
    connect(integration, Purpose::Changing, &integration.database, &credential, "postern").await.map(|_| ())
}

/// The outcome, and what the server heard after the login packets.
async fn outcome(mode: &str, acts: Vec<Act>) -> (Result<(), ConnectError>, Vec<u8>) {
    let (port, server) = pretend(acts).await;
    let result = connect_to(port, mode).await;
    let shown = result.as_ref().err().map(|error| format!("{error} {error:?}")).unwrap_or_default();
    assert!(!shown.contains("hunter2"), "{shown}");
    (result, server.await.unwrap())
}

#[tokio::test]
async fn a_server_that_has_not_proven_its_name_is_given_no_password() {
    for (mode, acts) in [
        ("disable", vec![Act::Plain(CLEARTEXT.to_vec())]),
        ("allow", vec![Act::Plain(CLEARTEXT.to_vec())]),
        ("prefer", vec![Act::Answer(b'N', CLEARTEXT.to_vec())]),
    ] {
        let (result, heard) = outcome(mode, acts).await;
        assert!(matches!(result, Err(ConnectError { failure: ConnectFailure::Cleartext(_), .. })), "{mode}: {result:?}");
        assert_eq!(heard, b"", "{mode}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_asked_for() {
    for mode in ["require", "verify-full"] {
        let (result, _) = outcome(mode, vec![Act::Answer(b'N', Vec::new())]).await;
        assert!(
            matches!(&result, Err(ConnectError { failure: ConnectFailure::Tls(error), .. }) if matches!(**error, TlsError::NotOffered)),
            "{mode}: {result:?}"
        );
    }
    let (result, _) = outcome("require", vec![Act::Answer(b'H', Vec::new())]).await;
    assert!(
        matches!(&result, Err(ConnectError { failure: ConnectFailure::Tls(error), .. }) if matches!(**error, TlsError::NotPostgres)),
        "{result:?}"
    );
    // An error before encryption ends even `prefer`: it may be temporary, and it may be a lie.
    for mode in ["prefer", "require"] {
        let (result, _) = outcome(mode, vec![Act::Answer(b'E', Vec::new())]).await;
        assert!(result.as_ref().is_err_and(ConnectError::is_unreachable), "{mode}: {result:?}");
    }
}

#[tokio::test]
async fn disable_and_allow_log_in_in_clear_and_prefer_where_tls_is_not_offered() {
    for (mode, acts) in [
        ("disable", vec![Act::Plain(LOGGED_IN.to_vec())]),
        ("allow", vec![Act::Plain(LOGGED_IN.to_vec())]),
        ("prefer", vec![Act::Answer(b'N', LOGGED_IN.to_vec())]),
        ("prefer", vec![Act::BrokenHandshake, Act::Plain(LOGGED_IN.to_vec())]),
    ] {
        let (result, _) = outcome(mode, acts).await;
        assert!(result.is_ok(), "{mode}: {result:?}");
    }
}

#[tokio::test]
async fn the_second_try_of_allow_is_encrypted_and_the_better_error_is_told() {
    let (result, _) = outcome("allow", vec![Act::Plain(refusal("28000")), Act::Answer(b'N', Vec::new())]).await;
    assert_eq!(result.unwrap_err().sqlstate(), Some("28000"));
    let (result, _) = outcome("allow", vec![Act::Plain(refusal("28000")), Act::BrokenHandshake]).await;
    assert!(matches!(result.unwrap_err().failure, ConnectFailure::Tls(_)));
    // Not encrypted by the server's choice: another try in clear would be the same again.
    let (result, _) = outcome("prefer", vec![Act::Answer(b'N', refusal("28P01"))]).await;
    assert!(result.unwrap_err().is_authentication());
    let (result, _) = outcome("prefer", vec![Act::BrokenHandshake, Act::Plain(refusal("28P01"))]).await;
    assert_eq!(result.unwrap_err().sqlstate(), Some("28P01"));
    let (result, _) = outcome("prefer", vec![Act::BrokenHandshake, Act::Plain(refusal("28000"))]).await;
    assert!(matches!(result.unwrap_err().failure, ConnectFailure::Tls(_)));
}

#[tokio::test]
async fn refusals_are_told_apart_by_sqlstate() {
    let (result, _) = outcome("disable", vec![Act::Plain(refusal("57P03"))]).await;
    assert!(result.unwrap_err().is_unreachable());
    let (result, _) = outcome("disable", vec![Act::Plain(refusal("3D000"))]).await;
    let error = result.unwrap_err();
    assert!(error.is_no_database() && error.to_string().ends_with("database postgres, as u: the database does not exist"), "{error}");
    let (result, _) = outcome("disable", vec![Act::Plain(REPLICA.to_vec())]).await;
    assert!(matches!(result.unwrap_err().failure, ConnectFailure::ReadOnly));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = connect_to(port, "disable").await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    let (result, _) = outcome("require", vec![Act::BrokenHandshake]).await;
    assert!(!result.unwrap_err().is_authentication());
}
