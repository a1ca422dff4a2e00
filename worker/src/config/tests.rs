use std::collections::HashMap;

use postern_schemas::{Access, Principal};
use secrecy::ExposeSecret as _;

use super::*;
use crate::config::integration::OwnedObjects;
use crate::config::secret::LocalPassword;

const MINIMAL: &str = r#"
[integrations.orders-prod]
type = "postgresql"
hostname = "db.example.com"
secret = { local = { username = "postern", password_file = "/run/secrets/pg" } }
"#;

fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let map: HashMap<String, String> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::parse(text, Path::new("postern.toml"), &|name| map.get(name).cloned())
}

fn orders(text: &str) -> Integration {
    let config = parse_with(text, &[]).unwrap_or_else(|error| panic!("{error}"));
    config.integrations[&IntegrationId::new("orders-prod").unwrap()].as_ref().clone()
}

/// The mistakes of `MINIMAL` with `more` in the integration's table.
fn mistakes_with(more: &str) -> Vec<String> {
    mistakes(&format!("{MINIMAL}{more}\n"), &[])
}

fn mistakes(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match parse_with(text, variables) {
        Err(ConfigError::Mistakes { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => vec![other.to_string()],
        Ok(_) => Vec::new(),
    }
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = parse_with("", &[]).unwrap();
    assert_eq!(config.secret_mark, "apono-connector-read");
    assert_eq!(config.broker.url.expose_secret(), "amqp://guest:guest@127.0.0.1:5672/%2f");
    assert_eq!((config.broker.prefix.as_str(), config.broker.prefetch), ("postern", 64));
    assert_eq!(config.worker, WorkerConfig::default());
    assert!(config.integrations.is_empty() && config.log.is_none());
}

#[test]
fn an_integration_has_the_contracts_defaults() {
    let integration = orders(MINIMAL);
    assert_eq!((integration.port, integration.database.as_str()), (5432, "postgres"));
    assert_eq!((integration.ssl_mode, integration.secret_cache.as_secs()), (SslMode::VerifyFull, 300));
    assert!(integration.require_mark && integration.user_cleanup_days.is_none() && integration.credential_rotation_days.is_none());
    assert_eq!((integration.owned_objects, integration.max_sessions), (OwnedObjects::Keep, 4));
    assert_eq!(integration.role_name.role_name(&Principal::new("jane").unwrap()).as_str(), "jane");
    assert_eq!(integration.policy, Policy::default());
    assert_eq!(integration.policy.access.into_iter().collect::<Vec<_>>(), [Access::ReadOnly, Access::ReadWrite]);
}

#[test]
fn every_key_is_read() {
    let root = std::env::temp_dir().join(format!("postern-config-{}.pem", std::process::id()));
    std::fs::write(&root, include_str!("../postgres/tls/verify/fixtures/issuer.pem")).unwrap();
    let text = r#"
        secret_mark = "postern-read"
        [broker]
        url = "amqps://u:p@mq.example.com/prod"
        prefix = "test"
        prefetch = 1
        ca = "ROOT"
        client_certificate = "ROOT"
        client_key = "ROOT"
        [worker]
        listen = "127.0.0.1:0"
        shutdown_grace_seconds = 5
        max_attempts = 3
        max_event_age_hours = 2
        unknown_grace_seconds = 0
        [integrations.orders-prod]
        type = "azure-postgresql"
        hostname = "::1"
        port = 5433
        database = "app"
        ssl_mode = "verify-ca"
        ssl_root_cert = "ROOT"
        auth = "password"
        secret = { local = { username = "postern", password_env = "PGPASSWORD" } }
        require_mark = false
        secret_cache_seconds = 0
        credential_rotation_days = 0
        user_cleanup_days = 0
        owned_objects = "drop"
        role_name = "jit_{principal}"
        custom_access_details = "Use the VPN first."
        integration_owner = { attribute = "group", value = ["dba"] }
        resource_owner = { key = "owner", attribute = "group" }
        max_sessions = 2
        connection_limit = 5
        replicas = ["ro.example.com", "[::1]:6432"]
        [integrations.orders-prod.policy]
        max_duration_hours = 12
        access = ["read_only"]
        roles = ["reporting"]
        databases = ["orders"]
        deliver_to = ["hashicorp_vault:secret/jit/*"]
    "#;
    let text = text.replace("ROOT", root.to_str().unwrap());
    let config = parse_with(&text, &[]).unwrap_or_else(|error| panic!("{error}"));
    std::fs::remove_file(&root).unwrap();
    assert_eq!((config.secret_mark.as_str(), config.worker.max_event_age.as_secs()), ("postern-read", 7200));
    assert_eq!(config.broker.client_certificate, Some((root.clone(), root)));
    let integration = config.integrations.values().next().unwrap();
    assert_eq!((integration.address().as_str(), integration.kind), ("[::1]:5433", Platform::Azure));
    assert_eq!((integration.credential_rotation_days, integration.user_cleanup_days), (Some(0), Some(0)));
    assert!(matches!(&integration.secret, SecretSource::Local { password: LocalPassword::Env(name), .. } if name == "PGPASSWORD"));
    assert_eq!(integration.policy.max_duration.map(|d| d.as_hours()), Some(12));
    let replicas: Vec<String> = integration.replicas.iter().flatten().map(|at| integration.at(at).address()).collect();
    assert_eq!(replicas, ["ro.example.com:5433", "[::1]:6432"]);
    assert_eq!(integration.connection_limit, Some(5));
    assert!(integration.policy.databases.as_ref().is_some_and(|d| d.len() == 1));
}

#[test]
fn the_environment_wins() {
    let text = "[broker]\nurl = \"amqp://file\"\n[worker]\nlisten = \"127.0.0.1:1\"\n";
    let config =
        parse_with(text, &[("POSTERN_BROKER_URL", "amqp://env"), ("POSTERN_LISTEN", "[::1]:0"), ("POSTERN_LOG", "debug")]).unwrap();
    assert_eq!(config.broker.url.expose_secret(), "amqp://env");
    assert_eq!((config.worker.listen.to_string().as_str(), config.log.as_deref()), ("[::1]:0", Some("debug")));
    let blank = parse_with(text, &[("POSTERN_BROKER_URL", "")]).unwrap();
    assert_eq!(blank.broker.url.expose_secret(), "amqp://file");
    let met = mistakes("", &[("POSTERN_BROKER_URL", "http://x"), ("POSTERN_LISTEN", "8080"), ("POSTERN_LOG", "a=b=c")]);
    assert_eq!(met.len(), 3, "{met:?}");
    for name in ["POSTERN_BROKER_URL: ", "POSTERN_LISTEN: ", "POSTERN_LOG: "] {
        assert!(met.iter().any(|mistake| mistake.starts_with(name)), "{name} not named in {met:?}");
    }
}

#[test]
fn all_mistakes_are_listed_one_a_line_each_with_its_path() {
    let text = r#"
        sceret_mark = "x"
        [broker]
        prefetch = 0
        [integrations.orders-prod]
        type = "mysql"
        hostname = "https://db"
        ssl_mode = "full"
        port = "5432"
        secret = { vault = { } }
        [integrations.orders-prod.policy]
        access = ["write"]
        [integrations.Bad_Name]
    "#;
    let shown = parse_with(text, &[]).unwrap_err().to_string();
    let paths = [
        "sceret_mark",
        "broker.prefetch",
        "integrations.orders-prod.type",
        "integrations.orders-prod.hostname",
        "integrations.orders-prod.ssl_mode",
        "integrations.orders-prod.port",
        "integrations.orders-prod.secret",
        "integrations.orders-prod.policy.access[0]",
        "integrations.Bad_Name",
        "integrations.Bad_Name.type",
        "integrations.Bad_Name.hostname",
        "integrations.Bad_Name.secret",
    ];
    assert!(shown.starts_with(&format!("postern.toml: {} mistakes\n", paths.len())), "{shown}");
    for path in paths {
        assert_eq!(shown.lines().filter(|line| line.starts_with(&format!("  {path}: "))).count(), 1, "{path} in\n{shown}");
    }
}

#[test]
fn names_are_checked() {
    for (more, expected) in [
        ("database = \"a\\u0000b\"", "integrations.orders-prod.database: contains a NUL"),
        ("hostname = \"a\\u0000b\"", "duplicate"),
        ("role_name = \"a\\u0000{principal}\"", "integrations.orders-prod.role_name: contains a control"),
        ("role_name = \"jit\"", "integrations.orders-prod.role_name: \"jit\" gives everybody the same role"),
        ("ssl_mode = \"verify-ca\"", "integrations.orders-prod.ssl_root_cert: is missing"),
        ("ssl_root_cert = \"/nonexistent/root.pem\"", "integrations.orders-prod.ssl_root_cert: /nonexistent/root.pem: cannot be read"),
        ("resource_owner = { key = \"o\", attribute = \"g\" }", "integrations.orders-prod.integration_owner: is missing"),
        ("auth = \"iam\"", "integrations.orders-prod.auth: iam goes with"),
        ("policy = { deliver_to = [\"vault:x\"] }", "integrations.orders-prod.policy.deliver_to[0]: "),
        ("policy = { max_duration_hours = 1.5 }", "integrations.orders-prod.policy.max_duration_hours: expected a whole number"),
    ] {
        let met = mistakes_with(more);
        assert!(met.iter().any(|mistake| mistake.contains(expected)), "{more}: {met:?}");
    }
    let long = mistakes_with(&format!("database = \"{}\"\ncustom_access_details = \"{}\"", "x".repeat(64), "y".repeat(401)));
    assert_eq!(long.len(), 2, "{long:?}");
    assert!(mistakes_with(&format!("custom_access_details = \"{}\"", "é".repeat(400))).is_empty());
}

#[test]
fn what_this_version_cannot_do_is_refused() {
    let met = mistakes_with("connector_rotation_days = 90");
    assert!(met.len() == 1 && met[0].contains("is not available in this version"), "{met:?}");
    for secret in [
        "azure = { vault_url = \"https://kv.vault.azure.net\", name = \"x\" }",
        "gcp = { project = \"p\", secret_id = \"x\" }",
        "kubernetes = { namespace = \"n\", name = \"x\" }",
    ] {
        let met = mistakes(&format!("[integrations.a]\ntype = \"postgresql\"\nhostname = \"h\"\nsecret = {{ {secret} }}\n"), &[]);
        assert!(met.len() == 1 && met[0].starts_with("integrations.a.secret.") && met[0].contains("not available"), "{met:?}");
    }
}

fn rds(more: &str) -> String {
    format!("[integrations.a]\ntype = \"aws-rds-postgresql\"\nauth = \"iam\"\n{more}")
}

#[test]
fn an_rds_instance_is_named_by_endpoint_or_by_id() {
    let read = |more: &str| parse_with(&rds(more), &[]).unwrap().integrations.into_values().next().unwrap();
    let by_id = read("region = \"eu-west-1\"\ninstance_id = \"Orders\"\nusername = \"gate\"");
    let expected = super::Instance { region: "eu-west-1".to_owned(), id: "orders".to_owned(), port: None };
    assert_eq!(by_id.instance, Some(expected));
    let iam = |username: &str, region: &str| SecretSource::Iam {
        username: postern_schemas::Identifier::new(username).unwrap(),
        region: (!region.is_empty()).then(|| region.to_owned()),
    };
    assert_eq!(by_id.secret, iam("gate", "eu-west-1"));
    assert_eq!(by_id.ssl_mode, SslMode::VerifyFull);
    let by_name = read("hostname = \"orders.abc.eu-central-1.rds.amazonaws.com\"");
    assert_eq!((&by_name.instance, &by_name.secret), (&None, &iam("postern_connector", "eu-central-1")));
    assert_eq!(read("hostname = \"db.example.com\"").secret, iam("postern_connector", ""));
    assert_eq!(read("hostname = \"db.example.com\"\nregion = \"us-east-1\"").secret, iam("postern_connector", "us-east-1"));

    for (more, expected) in [
        ("instance_id = \"i\"", "integrations.a: expected either hostname, or region and instance_id"),
        ("region = \"eu-west-1\"", "integrations.a: expected either hostname, or region and instance_id"),
        ("region = \"eu-west-1\"\ninstance_id = \"i\"\nhostname = \"h\"", "integrations.a: expected either"),
        ("region = \"EU West\"\ninstance_id = \"i\"", "integrations.a.region: "),
        ("region = \"eu-west-1\"\ninstance_id = \"i/j\"", "integrations.a.instance_id: "),
        ("hostname = \"h\"\nssl_mode = \"require\"", "integrations.a.ssl_mode: is \"require\" with auth = \"iam\"; expected verify-full"),
        ("hostname = \"h\"\nssl_mode = \"disable\"", "integrations.a.ssl_mode: "),
        ("hostname = \"h\"\nsecret = { local = { username = \"u\", password_env = \"P\" } }", "integrations.a.secret: is not used"),
    ] {
        let met = mistakes(&rds(more), &[]);
        assert!(met.iter().any(|mistake| mistake.starts_with(expected)), "{more}: {met:?}");
    }
}

#[test]
fn where_names_lead_to_is_checked() {
    let met = mistakes(MINIMAL, &[("POSTERN_RESOLVE", "db.example.com")]);
    assert!(met.len() == 1 && met[0].starts_with("POSTERN_RESOLVE: "), "{met:?}");
}

#[test]
fn a_wrong_name_hides_no_mistake_inside() {
    let met = mistakes(&MINIMAL.replace("orders-prod", "Orders_Prod").replace("db.example.com\"", "\"\nport = 99999"), &[]).join("\n");
    for path in ["integrations.Orders_Prod:", "integrations.Orders_Prod.hostname:", "integrations.Orders_Prod.port:"] {
        assert!(met.contains(path), "{path} in {met}");
    }
}

#[test]
fn three_mistakes_in_a_secret_are_three() {
    let met = mistakes(
        "[integrations.a]\ntype = \"postgresql\"\nhostname = \"h\"\nsecret = { local = { user = \"x\", password = \"hunter2\" } }\n",
        &[],
    );
    assert_eq!(met.len(), 4, "{met:?}");
    assert!(met.iter().all(|mistake| mistake.starts_with("integrations.a.secret.local")));
    assert!(!met.join("").contains("hunter2"));
}

#[test]
fn a_user_name_stands_beside_one_store() {
    let met = |secret: &str| {
        mistakes(&format!("[integrations.a]\ntype = \"postgresql\"\nhostname = \"h\"\nsecret = {{ {secret} }}\n"), &[]).join("\n")
    };
    let aws = "aws = { region = \"r\", secret_id = \"x\" }";
    let local = "local = { username = \"u\", password_env = \"P\" }";
    for (secret, expected) in [
        (format!("{aws}, {local}"), "expected exactly one of"),
        ("username = \"u\"".to_owned(), "expected exactly one of"),
        (format!("{local}, username = \"u\""), "a.secret.username: stands inside of local"),
        (format!("{aws}, username = \"\""), "a.secret.username: "),
        (format!("{aws}, usrname = \"u\""), "expected exactly one of"),
    ] {
        assert!(met(&secret).contains(expected), "{secret}: {}", met(&secret));
    }
}

#[test]
fn a_secret_in_vault_needs_a_server() {
    let text = "[integrations.a]\ntype = \"postgresql\"\nhostname = \"h\"\nsecret = { hashicorp_vault = { secret_engine = \"e\", path = \"p\" } }\n";
    let met = mistakes(text, &[]);
    assert!(met.len() == 1 && met[0].starts_with("integrations.a.secret.hashicorp_vault: no server is known"), "{met:?}");
    let server = r#"[{"address":"https://a","token":"hunter2"}]"#;
    let config = parse_with(text, &[("HASHICORP_VAULT_CONFIG", server)]).unwrap();
    assert!(config.vault.servers.len() == 1 && !format!("{config:?}").contains("hunter2"));
}

#[test]
fn broken_toml_gives_line_and_column_and_no_text_of_the_line() {
    let error = parse_with("[broker]\nurl = \"amqp://u:hunter2@h\" oops\n", &[]).unwrap_err();
    assert!(matches!(error, ConfigError::Syntax { line: 2, column: 28, .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    assert!(matches!(parse_with("a = 1\na = 2\n", &[]), Err(ConfigError::Syntax { line: 2, column: 1, .. })));
}

#[test]
fn a_file_that_is_not_there_is_named_with_the_way_to_name_another() {
    let error = Config::load(None, &|name| (name == "POSTERN_CONFIG").then(|| "/nonexistent/p.toml".to_owned())).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/p.toml: cannot be read: ") && error.to_string().contains("--config"), "{error}");
}

#[test]
fn nothing_prints_the_brokers_password() {
    let config = parse_with("", &[("POSTERN_BROKER_URL", "amqp://u:hunter2@h")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}
