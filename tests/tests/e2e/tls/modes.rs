//! Mode × server, each cell with what Postern does and what libpq does.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use postern_tests::certificates::{Authority, Issued, Valid, Wanted};
use postern_tests::postgres::{Access, CONNECTOR};
use postern_tests::stage::Stage;

use super::{Met, check, shown};

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

const SSL_ONLY: &str = "hostssl all all 127.0.0.1/32 scram-sha-256";
const PLAIN_ONLY: &str = "hostnossl all all 127.0.0.1/32 scram-sha-256";
const CLEARTEXT: &str = "host all all 127.0.0.1/32 password";

/// A server, and what is expected of each mode: `T` a session over TLS, `P` a plain one, `R` none.
struct Row<'a> {
    what: &'a str,
    tls: Option<&'a Issued>,
    rules: Option<&'a str>,
    host: &'a str,
    /// What `ssl_root_cert` holds.
    roots: &'a str,
    postern: &'a str,
    /// Where libpq differs.
    libpq: Option<&'a str>,
    /// In the message of every refusal from `require` on.
    says: &'a str,
}

const PLAIN: Row<'_> = Row { what: "", tls: None, rules: None, host: "localhost", roots: "", postern: "", libpq: None, says: "" };

impl<'a> Row<'a> {
    fn new(what: &'a str, tls: &'a Issued, roots: &'a str, postern: &'a str, says: &'a str) -> Self {
        Self { what, tls: Some(tls), roots, postern, says, ..PLAIN }
    }
}

#[tokio::test]
async fn every_mode_does_with_every_server_what_libpq_does() -> Result<()> {
    let root = Authority::root("Test Root", Valid::Now)?;
    let other = Authority::root("Other Root", Valid::Now)?.pem();
    let past_root = Authority::root("Past Root", Valid::Past)?;
    let middle = root.intermediate("Test Intermediate", Valid::Now)?;
    let past_middle = root.intermediate("Past Intermediate", Valid::Past)?;
    let ca = root.pem();
    let named = Wanted::new("server", &["localhost"]);
    let good = root.issue(&named)?;
    let elsewhere = root.issue(&Wanted::new("server", &["db.example.com"]))?;
    let by_address = root.issue(&Wanted::new("server", &["127.0.0.1"]))?;
    let expired = root.issue(&named.clone().valid(Valid::Past))?;
    let early = root.issue(&named.clone().valid(Valid::Future))?;
    let common_name = root.issue(&Wanted::new("localhost", &[]))?;
    let by_middle = middle.issue(&named)?;
    let mut unlinked = by_middle.clone();
    unlinked.chain.truncate(unlinked.chain.find("-----END").context("no PEM")? + "-----END CERTIFICATE-----\n".len());
    let by_past_middle = past_middle.issue(&named)?;
    let by_past_root = past_root.issue(&named)?;
    let own_name = Wanted::new("localhost", &[]).self_signed()?;
    let own_issuer = named.clone().as_issuer().self_signed()?;
    let own_past = named.clone().valid(Valid::Past).self_signed()?;
    let own_elsewhere = Wanted::new("server", &["db.example.com"]).self_signed()?;
    let past = past_root.pem();
    let two = other.clone() + &ca;

    let rows = [
        Row { what: "no TLS", roots: &ca, postern: "PPPRRR", says: "does not offer TLS", ..PLAIN },
        Row { what: "no TLS, no file", postern: "PPPR-R", says: "does not offer TLS", ..PLAIN },
        Row::new("chain and name are right", &good, &ca, "PPTTTT", ""),
        Row::new("one of two issuers in the file", &good, &two, "PPTTTT", ""),
        Row::new("no file: the system's issuers, which are others", &good, "", "PPTT-R", "not trusted"),
        Row::new("another issuer", &good, &other, "PPPRRR", "not trusted; put the issuer's certificate"),
        Row::new("another name", &elsewhere, &ca, "PPTTTR", "is for db.example.com, not for localhost; use a name"),
        Row { host: "LocalHost", ..Row::new("the name in other letters", &good, &ca, "PPTTTT", "") },
        Row { host: "127.0.0.1", ..Row::new("the address", &by_address, &ca, "PPTTTT", "") },
        Row { host: "127.0.0.1", ..Row::new("the name for the address", &good, &ca, "PPTTTR", "is for localhost, not for 127.0.0.1") },
        Row::new("the address for the name", &by_address, &ca, "PPTTTR", "is for 127.0.0.1, not for localhost"),
        Row::new("expired", &expired, &ca, "PPPRRR", "the server's certificate has expired; renew it"),
        Row::new("not valid yet", &early, &ca, "PPPRRR", "the server's certificate is not valid yet; compare the clocks"),
        Row::new("through an intermediate", &by_middle, &ca, "PPTTTT", ""),
        Row::new("an intermediate that is not shown", &unlinked, &ca, "PPPRRR", "not trusted"),
        Row::new("an intermediate that has expired", &by_past_middle, &ca, "PPPRRR", "has expired (CN=Past Intermediate, at 2021-01-01"),
        Row::new("a root that has expired", &by_past_root, &past, "PPPRRR", "issuer CN=Past Root has expired at 2021-01-01"),
        Row::new("self-signed", &own_name, &ca, "PPPRRR", "not trusted"),
        Row::new("self-signed, common name only, in the file", &own_name, &own_name.chain, "PPTTTT", ""),
        Row::new("self-signed, says it may issue, in the file", &own_issuer, &own_issuer.chain, "PPTTTT", ""),
        Row::new("self-signed, in the file, for another name", &own_elsewhere, &own_elsewhere.chain, "PPTTTR", "is for db.example.com"),
        Row::new("self-signed, in the file, expired", &own_past, &own_past.chain, "PPPRRR", "has expired"),
        // OpenSSL wants an issuer in the file; an operator who puts a server's own certificate there means that one.
        Row { libpq: Some("PPPRRR"), ..Row::new("from an issuer, itself in the file", &good, &good.chain, "PPTTTT", "") },
        // A common name is free text that constraints on an issuer do not bind (RFC 9525, 2).
        Row { libpq: Some("PPTTTT"), ..Row::new("common name only", &common_name, &ca, "PPTTTR", "names no host") },
        Row { rules: Some(PLAIN_ONLY), ..Row::new("plain connections only", &good, &ca, "PPPRRR", "SQLSTATE 28000") },
        Row { rules: Some(SSL_ONLY), ..Row::new("TLS only", &good, &ca, "RTTTTT", "SQLSTATE 28000") },
        Row { rules: Some(SSL_ONLY), ..Row::new("TLS only, from another issuer", &good, &other, "RRRRRR", "not trusted") },
        // Whoever has not proven its name gets no password in clear text.
        Row {
            rules: Some(CLEARTEXT),
            libpq: Some("PPTTTT"),
            ..Row::new("asks for the password", &good, &ca, "RRRRRT", "only given to a server that has proven its name; use ssl_mode")
        },
    ];

    let stage = Stage::start().await?;
    let psql = stage.pg.version().psql();
    for (number, row) in rows.iter().enumerate() {
        stage.pg.set_access(Access { tls: row.tls, rules: row.rules, ..Access::default() }).await?;
        let roots = stage.scratch().write_private("roots.pem", row.roots)?.display().to_string();
        let cells = MODES.iter().zip(row.postern.chars()).filter(|(_, expected)| *expected != '-');
        try_join_all(cells.map(async |(mode, expected)| {
            let mut settings = vec![("hostname", row.host), ("ssl_mode", mode)];
            if !row.roots.is_empty() {
                settings.push(("ssl_root_cert", &roots));
            }
            let met = check(&stage, &format!("{mode}.toml"), &settings, &[]).await?;
            judge(&met, expected, row, mode).with_context(|| format!("row {number}, {}, {mode}: met {met:?}", row.what))
        }))
        .await?;

        let Some(psql) = &psql else { continue };
        let expected = row.libpq.unwrap_or(row.postern);
        let roots = if row.roots.is_empty() { "/nonexistent".to_owned() } else { roots };
        let met = try_join_all(MODES.iter().map(async |mode| libpq(psql, &stage, row.host, mode, &roots).await)).await?;
        let same = met.iter().zip(expected.chars()).all(|((letter, _), expected)| *letter == expected || expected == '-');
        ensure!(same, "row {number}, {}: expected of libpq {expected}, met {met:?}", row.what);
    }
    stage.finish().await
}

fn judge(met: &Met, expected: char, row: &Row<'_>, mode: &str) -> Result<()> {
    match (met, expected) {
        (Met::Tls, 'T') | (Met::Plain, 'P') => Ok(()),
        (Met::Refused(message), 'R') => {
            ensure!(message.starts_with(&format!("cannot connect to {}:", row.host)), "it does not say where");
            // Without encryption there is no certificate to speak of, but the server's own refusal.
            ensure!(message.contains(row.says) || mode == "disable", "expected {:?} in it", row.says);
            let about_certificate =
                ["server's certificate", "server's issuer", "issuer's certificate"].iter().any(|it| message.contains(it));
            ensure!(!about_certificate || message.contains("(met: subject CN="), "it does not say which certificate was met");
            Ok(())
        }
        _ => anyhow::bail!("expected {expected}"),
    }
}

/// What libpq does, as a letter, and what it says.
async fn libpq(psql: &Path, stage: &Stage, host: &str, mode: &str, roots: &str) -> Result<(char, String)> {
    let port = stage.pg.port();
    let to = format!("host={host} port={port} user={CONNECTOR} dbname=postgres sslmode={mode} sslrootcert={roots} gssencmode=disable");
    let output = tokio::process::Command::new(psql)
        .args([&to, "-XAtc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"])
        .env("PGPASSWORD", stage.pg.connector_password())
        .env("HOME", stage.scratch().path())
        .output()
        .await?;
    let letter = match String::from_utf8_lossy(&output.stdout).trim() {
        "t" => 'T',
        "f" => 'P',
        _ => 'R',
    };
    Ok((letter, shown(&output)))
}
