//! What `auth = "iam"` and `instance_id` need: AWS's side, and the role `rds_iam`.

use super::{Facts, Item};
use crate::access::iam;
use crate::aws::AwsError;
use crate::config::Instance;
use crate::postgres::connect::{ConnectError, ConnectFailure};
use crate::postgres::names::ident;

/// Why the instance was not found, and what finds it.
pub(super) fn no_endpoint(error: &AwsError, instance: &Instance) -> Item {
    let region = &instance.region;
    let item = Item::fail(if is_about_credentials(error) { "secret" } else { "endpoint" }, error.to_string());
    match error {
        AwsError::Denied { action, code, .. } if code.starts_with("AccessDenied") || code.starts_with("Unauthorized") => {
            item.mend("-- a policy of the role that Postern runs as").mend(format!(
                "{{\"Effect\": \"Allow\", \"Action\": \"{action}\", \"Resource\": \"arn:aws:rds:{region}:*:db:{}\"}}",
                instance.id
            ))
        }
        AwsError::Denied { .. } => item.mend("-- whom AWS takes the process for").mend("aws sts get-caller-identity"),
        AwsError::NoInstance { .. } => item
            .mend("-- what there is in that region")
            .mend(format!("aws rds describe-db-instances --region {region} --query 'DBInstances[].DBInstanceIdentifier'")),
        _ => item,
    }
}

fn is_about_credentials(error: &AwsError) -> bool {
    matches!(error, AwsError::NoCredentials | AwsError::Credentials(_))
}

/// A login by token is refused for more reasons than one with a password, and the server names none of them.
pub(super) fn no_login(error: &ConnectError, item: Item) -> Item {
    if !matches!(error.failure, ConnectFailure::Authentication { .. }) {
        return item;
    }
    let user = ident(&error.user);
    Item::fail("login", format!("{error}; the server takes a token only if all of these hold"))
        .mend("-- the instance has IAM database authentication switched on")
        .mend("aws rds modify-db-instance --db-instance-identifier INSTANCE --enable-iam-database-authentication --apply-immediately")
        .mend("-- the role that Postern runs as may log in: Action rds-db:connect on")
        .mend(format!("-- arn:aws:rds-db:REGION:ACCOUNT:dbuser:RESOURCE_ID/{}", error.user))
        .mend("-- as the server's master user")
        .mend(format!("ALTER ROLE {user} LOGIN;"))
        .mend(format!("GRANT {} TO {user} WITH ADMIN OPTION;", iam::ROLE))
}

/// People get `rds_iam` from the connector.
pub(super) fn hands_iam_on(facts: &Facts) -> Item {
    let role = iam::ROLE;
    match facts.hands_iam_on {
        _ if facts.superuser => Item::ok(role, format!("{} is a superuser", facts.login)),
        Some(true) => Item::ok(role, format!("{} may hand it on", facts.login)),
        Some(false) => Item::fail(role, format!("{} may not hand it on, so nobody gets a login by token", facts.login))
            .mend("-- as the server's master user")
            .mend(format!("GRANT {role} TO {} WITH ADMIN OPTION;", ident(&facts.login))),
        None => Item::fail(role, "the role is not there, so nobody logs in by token; is this server RDS or Aurora?")
            .mend("-- as an administrator")
            .mend(format!("CREATE ROLE {role};")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::check::Status;

    fn instance() -> Instance {
        Instance { region: "eu-west-1".to_owned(), id: "orders".to_owned(), port: None }
    }

    #[test]
    fn each_refusal_of_aws_names_what_mends_it() {
        let denied = |code: &str| AwsError::Denied {
            action: "rds:DescribeDBInstances",
            region: "eu-west-1".to_owned(),
            code: code.to_owned(),
            message: String::new(),
        };
        let mended = |error: &AwsError| no_endpoint(error, &instance()).mend.join("\n");
        assert!(mended(&denied("AccessDenied")).contains("arn:aws:rds:eu-west-1:*:db:orders"));
        assert!(mended(&denied("InvalidClientTokenId")).contains("get-caller-identity"));
        let unknown = AwsError::NoInstance { instance: "orders".to_owned(), region: "eu-west-1".to_owned() };
        assert!(mended(&unknown).contains("describe-db-instances --region eu-west-1"));
        assert_eq!(no_endpoint(&AwsError::NoCredentials, &instance()).item, "secret");
    }

    #[test]
    fn rds_iam_has_to_be_there_and_at_hand() {
        let facts = |hands_iam_on| Facts { login: "gate".to_owned(), hands_iam_on, ..Facts::default() };
        assert_eq!(hands_iam_on(&facts(Some(true))).status, Status::Ok);
        assert_eq!(hands_iam_on(&facts(Some(false))).mend[1], "GRANT rds_iam TO \"gate\" WITH ADMIN OPTION;");
        assert_eq!(hands_iam_on(&facts(None)).mend[1], "CREATE ROLE rds_iam;");
    }
}
