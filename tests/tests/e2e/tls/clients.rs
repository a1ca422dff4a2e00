//! What a worker proves of itself: client certificates.

use anyhow::{Result, ensure};
use postern_tests::certificates::{Authority, Issued, Valid, Wanted};
use postern_tests::postgres::{Access, CONNECTOR};
use postern_tests::stage::Stage;

use super::{Met, check};

#[tokio::test]
async fn a_server_that_asks_for_a_client_certificate_gets_it() -> Result<()> {
    let stage = Stage::start().await?;
    let root = Authority::root("Server Root", Valid::Now)?;
    let clients = Authority::root("Client Root", Valid::Now)?;
    let server = root.issue(&Wanted::new("server", &["localhost"]))?;
    let roots = stage.scratch().write_private("roots.pem", &root.pem())?.display().to_string();
    let own = Wanted::new(CONNECTOR, &[]);
    let shown = [
        ("own", clients.intermediate("Client Intermediate", Valid::Now)?.issue(&own)?),
        ("expired", clients.issue(&own.clone().valid(Valid::Past))?),
        ("foreign", Authority::root("Foreign Root", Valid::Now)?.issue(&own)?),
        ("somebody", clients.issue(&Wanted::new("somebody_else", &[]))?),
    ];
    for rules in ["hostssl all all 127.0.0.1/32 cert", "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full"] {
        let pem = clients.pem();
        stage.pg.set_access(Access { tls: Some(&server), client_issuer: Some(&pem), rules: Some(rules) }).await?;
        for mode in ["allow", "prefer", "require", "verify-full"] {
            let met = with(&stage, mode, &roots, Some(&shown[0].1)).await?;
            ensure!(met == Met::Tls, "{rules}, {mode}: {met:?}");
        }
        let met = with(&stage, "verify-full", &roots, None).await?;
        ensure!(matches!(&met, Met::Refused(why) if why.contains("SQLSTATE 28000") && why.contains("ssl_cert")), "{rules}: {met:?}");
        for (what, issued) in &shown[1..3] {
            let met = with(&stage, "verify-full", &roots, Some(issued)).await?;
            let expected = "the server refuses the client certificate";
            ensure!(matches!(&met, Met::Refused(why) if why.contains(expected)), "{rules}, {what}: {met:?}");
        }
        let met = with(&stage, "verify-full", &roots, Some(&shown[3].1)).await?;
        ensure!(matches!(&met, Met::Refused(why) if why.contains("SQLSTATE 28")), "{rules}, of somebody else: {met:?}");
    }
    stage.finish().await
}

async fn with(stage: &Stage, mode: &str, roots: &str, issued: Option<&Issued>) -> Result<Met> {
    let mut settings = vec![("hostname", "localhost"), ("ssl_mode", mode), ("ssl_root_cert", roots)];
    let mut files = Vec::new();
    if let Some(Issued { chain, key }) = issued {
        for (name, text) in [("ssl_cert", chain), ("ssl_key", key)] {
            files.push((name, stage.scratch().write_private(name, text)?.display().to_string()));
        }
    }
    settings.extend(files.iter().map(|(name, path)| (*name, path.as_str())));
    check(stage, "client.toml", &settings, &[]).await
}
