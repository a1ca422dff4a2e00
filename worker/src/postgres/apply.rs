//! A plan as statements, in the transaction of the observation.

use jiff::Timestamp;
use postern_schemas::{GrantId, IntegrationId, Principal};
use serde_json::json;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::access::iam;
use crate::access::plan::GrantRecord;
use crate::access::state::Ending;
use crate::access::{Plan, Step};
use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::ledger::{Ledger, OWNER};
use crate::postgres::names::{ident, idents, literal};
use crate::postgres::observe::grant_digest;

/// What a plan needs beside itself to become statements.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The server.
    pub ledger: &'a Ledger,
    /// The SCRAM verifier of the password that was drawn, for the steps that set one.
    pub verifier: Option<&'a str>,
    /// `source id` of the event, kept with the grants that a wide revoke ends.
    pub by: &'a str,
}

/// Carries the plan out, with `last` (the event's row) behind it, and commits: one round trip.
pub async fn apply(client: &Client, plan: &Plan, context: Context<'_>, last: Vec<Statement>) -> Result<(), TargetError> {
    let mut statements = statements(plan, context);
    statements.extend(last);
    statements.push(Statement::plain("committing", "COMMIT"));
    batch::run(client, &statements).await.map(|_| ())
}

/// Ends the transaction without a trace.
pub async fn rollback(client: &Client) -> Result<(), TargetError> {
    batch::run(client, &[Statement::plain("rolling back", "ROLLBACK")]).await.map(|_| ())
}

/// Under which role a statement runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Owner,
    Login,
}

/// The statements of a plan. Memberships come last among the role DDL, whatever the order of the steps, and in the order
/// of the granted roles' names, whether they are given or taken: from 16 on GRANT and REVOKE lock that role until the
/// commit, and two events that take the same roles in opposite orders would deadlock.
pub fn statements(plan: &Plan, context: Context<'_>) -> Vec<Statement> {
    let mut statements = Vec::new();
    if !plan.hold.is_empty() {
        statements.push(Statement::query("holding bundles", "SELECT postern.hold_bundles($1)").bind(plan.hold.clone(), Type::INT8_ARRAY));
    }
    let mut current = As::Login;
    let (memberships, others): (Vec<&Step>, Vec<&Step>) = plan.steps.iter().partition(|step| is_membership(step));
    let changes = others.into_iter().flat_map(|step| of_step(step, context));
    for (role, statement) in changes.chain(in_order(&memberships).iter().flat_map(|step| of_step(step, context))) {
        if role != current {
            statements.push(match role {
                As::Owner => Statement::plain("becoming the owner role", format!("SET LOCAL ROLE {}", ident(OWNER))),
                As::Login => Statement::plain("becoming the connector", "SET LOCAL ROLE NONE"),
            });
            current = role;
        }
        statements.push(statement);
    }
    if current == As::Owner {
        statements.push(Statement::plain("becoming the connector", "SET LOCAL ROLE NONE"));
    }
    statements
}

fn is_membership(step: &Step) -> bool {
    matches!(
        step,
        Step::GrantBundles { .. }
            | Step::PassRoles { .. }
            | Step::GrantRoles { .. }
            | Step::GrantIam { .. }
            | Step::RevokeMembership { .. }
    )
}

/// Steps of memberships, split and joined again so that the granted roles come in the order of their names, and those of
/// one role in the order of the steps. GRANT and REVOKE take theirs in the order in which they are named.
fn in_order(steps: &[&Step]) -> Vec<Step> {
    let mut single: Vec<(&str, &Step)> = steps.iter().flat_map(|step| granted(step).into_iter().map(move |role| (role, *step))).collect();
    single.sort_by_key(|(role, _)| *role);
    let together = single.chunk_by(|(_, a), (_, b)| std::ptr::eq(*a, *b));
    together.filter_map(|chunk| Some(with_roles(chunk.first()?.1, chunk.iter().map(|(role, _)| (*role).to_owned()).collect()))).collect()
}

fn granted(step: &Step) -> Vec<&str> {
    match step {
        Step::GrantBundles { bundles: roles, .. }
        | Step::PassRoles { roles }
        | Step::GrantRoles { roles, .. }
        | Step::RevokeMembership { roles, .. } => roles.iter().map(String::as_str).collect(),
        Step::GrantIam { .. } => vec![iam::ROLE],
        _ => Vec::new(),
    }
}

fn with_roles(step: &Step, names: Vec<String>) -> Step {
    let mut step = step.clone();
    if let Step::GrantBundles { bundles: roles, .. }
    | Step::PassRoles { roles }
    | Step::GrantRoles { roles, .. }
    | Step::RevokeMembership { roles, .. } = &mut step
    {
        *roles = names;
    }
    step
}

fn of_step(step: &Step, context: Context<'_>) -> Vec<(As, Statement)> {
    let owner = |statement| vec![(As::Owner, statement)];
    let login = |statement| vec![(As::Login, statement)];
    match step {
        Step::CreateRole { name, valid_until, password, connection_limit, whom } => {
            let password = password_clause(*password, context);
            let create =
                format!("CREATE ROLE {} LOGIN{password}{} VALID UNTIL {}", ident(name), limit(*connection_limit), until(*valid_until));
            vec![(As::Owner, Statement::plain("making the role", create)), (As::Owner, mark_role(name, "person", whom))]
        }
        Step::AlterRole { name, login, valid_until, connection_limit, password, without } => {
            let mut sql = format!("ALTER ROLE {}", ident(name));
            if let Some(login) = login {
                sql.push_str(if *login { " LOGIN" } else { " NOLOGIN" });
            }
            sql.push_str(&password_clause(*password, context));
            sql.push_str(&limit(*connection_limit));
            if let Some(moment) = valid_until {
                sql.push_str(" VALID UNTIL ");
                sql.push_str(&until(*moment));
            }
            for attribute in without {
                sql.push_str(" NO");
                sql.push_str(attribute);
            }
            owner(Statement::plain("changing the role", sql))
        }
        Step::RevokeMember { role, member, grantor } => {
            let sql = format!("REVOKE {} FROM {}{}", ident(role), ident(member), granted_by(grantor, context));
            login(Statement::plain("taking a membership in the person's role back", sql))
        }
        Step::RevokeMembership { member, roles, grantor } => {
            let by = granted_by(grantor, context);
            let sql = format!("REVOKE {} FROM {}{by}", idents(roles.iter().map(String::as_str)), ident(member));
            login(Statement::plain("taking memberships back", sql))
        }
        Step::GrantBundles { member, bundles } => owner(Statement::plain("giving bundles", give(bundles, member, context))),
        Step::PassRoles { roles } => {
            let roles = idents(roles.iter().map(String::as_str));
            let sql = format!("GRANT {roles} TO {} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE", ident(OWNER));
            login(Statement::plain("giving roles to the owner role", sql))
        }
        Step::GrantRoles { member, roles } => {
            let by = if context.ledger.has_membership_options() { As::Owner } else { As::Login };
            vec![(by, Statement::plain("handing roles on", give(roles, member, context)))]
        }
        Step::GrantIam { member } => vec![
            (As::Owner, Statement::plain("leaving the person's role", leave(member, context.ledger))),
            (As::Login, Statement::plain("giving rds_iam", give(&[iam::ROLE.to_owned()], member, context))),
        ],
        Step::DropPassword { name } => {
            owner(Statement::plain("taking the password away", format!("ALTER ROLE {} PASSWORD NULL", ident(name))))
        }
        ledger => of_ledger(ledger, context.by).into_iter().map(|statement| (As::Login, statement)).collect(),
    }
}

fn give(roles: &[String], member: &str, context: Context<'_>) -> String {
    let options = if context.ledger.has_membership_options() { " WITH INHERIT TRUE, SET FALSE" } else { "" };
    format!("GRANT {} TO {}{options}", idents(roles.iter().map(String::as_str)), ident(member))
}

/// Takes the connector out of a role of ours that it joined to dispose of it; nothing but a warning if it is not in it.
pub fn leave(role: &str, ledger: &Ledger) -> String {
    let by = if ledger.has_membership_options() { format!(" GRANTED BY {}", ident(OWNER)) } else { String::new() };
    format!("REVOKE {} FROM SESSION_USER{by}", ident(role))
}

/// From 16 on a membership is taken back in the name of who gave it.
fn granted_by(grantor: &str, context: Context<'_>) -> String {
    if context.ledger.has_membership_options() && !grantor.is_empty() { format!(" GRANTED BY {}", ident(grantor)) } else { String::new() }
}

fn password_clause(set: bool, context: Context<'_>) -> String {
    match context.verifier {
        Some(verifier) if set => format!(" PASSWORD {}", literal(verifier)),
        _ => String::new(),
    }
}

fn limit(sessions: Option<u32>) -> String {
    sessions.map(|limit| format!(" CONNECTION LIMIT {limit}")).unwrap_or_default()
}

/// Marks a role as made by us for `whom`, in its comment. Runs as the owner role.
pub fn mark_role(name: &str, kind: &str, whom: &str) -> Statement {
    Statement::query("marking the role", "SELECT postern.mark_role($1, $2, $3)").text(name).text(kind).text(whom)
}

/// PostgreSQL keeps microseconds and would round what is finer, where the ledger's own columns cut it.
fn until(moment: Option<Timestamp>) -> String {
    let cut = |moment: Timestamp| Timestamp::from_microsecond(moment.as_microsecond()).unwrap_or(moment);
    moment.map_or_else(|| "'infinity'".to_owned(), |moment| literal(&cut(moment).to_string()))
}

fn of_ledger(step: &Step, by: &str) -> Vec<Statement> {
    match step {
        Step::ClaimRole { principal, role } => vec![
            Statement::query(
                "recording the role",
                "UPDATE postern.account SET role_name = $2, role_oid = (SELECT oid FROM pg_roles WHERE rolname = $2), created_at = now(), \
                 last_grant_ended_at = NULL, password_set_at = NULL, rotation_due = false, iam = false WHERE principal = $1",
            )
            .text(principal.as_str())
            .text(role.as_str()),
        ],
        Step::SaveCredential { principal, asked_at } => vec![
            Statement::query(
                "recording the credential",
                "UPDATE postern.account SET generation = generation + 1, password_set_at = now(), rotation_due = false, \
                 password_asked_at = greatest(password_asked_at, $2) WHERE principal = $1",
            )
            .text(principal.as_str())
            .bind(*asked_at, Type::TIMESTAMPTZ),
        ],
        Step::SaveLogin { principal, iam, asked_at } => vec![
            Statement::query(
                "recording how the person logs in",
                "UPDATE postern.account SET iam = $2, login_asked_at = greatest(login_asked_at, $3), \
                 password_set_at = CASE WHEN NOT $2 THEN password_set_at END, rotation_due = rotation_due AND NOT $2 WHERE principal = $1",
            )
            .text(principal.as_str())
            .bind(*iam, Type::BOOL)
            .bind(*asked_at, Type::TIMESTAMPTZ),
        ],
        Step::SaveGrant(record) => save_grant(record),
        Step::RebindGrant { integration, grant_id, bundles } => vec![
            of_grant(
                "rebinding a grant",
                "UPDATE postern.access_grant SET bundles = $3 WHERE integration = $1 AND grant_id = $2",
                integration,
                grant_id,
            )
            .bind(bundles.clone(), Type::INT8_ARRAY),
        ],
        Step::EndGrant { integration, grant_id, ending } => end_grant(integration, grant_id, *ending, by),
        Step::BarGrant { integration, grant_id } => vec![
            Statement::query(
                "barring the grant_id",
                "UPDATE postern.grant_key SET ending = 'revoked' WHERE integration = $1 AND digest = $2",
            )
            .text(integration.as_str())
            .bind(grant_digest(grant_id), Type::BYTEA),
        ],
        Step::RaiseWatermark { integration, principal, asked_at } => vec![raise_watermark(integration, principal.as_ref(), *asked_at)],
        Step::MarkRotationDue { before } => vec![
            Statement::query(
                "marking passwords",
                "UPDATE postern.account SET rotation_due = true WHERE password_set_at <= $1 AND role_oid IS NOT NULL",
            )
            .bind(*before, Type::TIMESTAMPTZ),
        ],
        Step::CreateRole { .. }
        | Step::AlterRole { .. }
        | Step::RevokeMembership { .. }
        | Step::RevokeMember { .. }
        | Step::GrantBundles { .. }
        | Step::PassRoles { .. }
        | Step::GrantIam { .. }
        | Step::DropPassword { .. }
        | Step::GrantRoles { .. } => Vec::new(),
    }
}

/// Every revision asked until then is over. A watermark never goes down.
pub fn raise_watermark(integration: &IntegrationId, principal: Option<&Principal>, asked_at: Timestamp) -> Statement {
    Statement::query(
        "raising the watermark",
        "INSERT INTO postern.watermark AS w (integration, principal, asked_at) VALUES ($1, $2, $3) \
         ON CONFLICT (integration, principal) DO UPDATE SET asked_at = greatest(w.asked_at, excluded.asked_at)",
    )
    .text(integration.as_str())
    .text(principal.map_or("", |p| p.as_str()))
    .bind(asked_at, Type::TIMESTAMPTZ)
}

fn of_grant(doing: &'static str, sql: &str, integration: &IntegrationId, grant_id: &GrantId) -> Statement {
    Statement::query(doing, sql).text(integration.as_str()).text(grant_id.as_str())
}

fn save_grant(record: &GrantRecord) -> Vec<Statement> {
    let ending = record.ending.map(Ending::as_str);
    vec![
        of_grant(
            "recording the grant",
            "INSERT INTO postern.access_grant (integration, grant_id, revision, principal, permissions, bundles, expires_at, asked_at, ending, ended_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $9 IS NOT NULL THEN now() END) \
             ON CONFLICT (integration, grant_id) DO UPDATE SET revision = excluded.revision, permissions = excluded.permissions, \
               bundles = excluded.bundles, expires_at = excluded.expires_at, asked_at = excluded.asked_at, opened_at = now(), \
               ending = excluded.ending, ended_at = excluded.ended_at, ended_by = NULL",
            &record.integration,
            &record.grant_id,
        )
        .bind(record.revision, Type::INT4)
        .text(record.principal.as_str())
        .bind(json!(record.permissions), Type::JSONB)
        .bind(record.bundles.clone(), Type::INT8_ARRAY)
        .bind(record.expires_at, Type::TIMESTAMPTZ)
        .bind(record.asked_at, Type::TIMESTAMPTZ)
        .bind(ending, Type::TEXT),
        Statement::query(
            "recording the grant_id",
            "UPDATE postern.grant_key SET principal = $3, revision = $4, ending = $5 WHERE integration = $1 AND digest = $2",
        )
        .text(record.integration.as_str())
        .bind(grant_digest(&record.grant_id), Type::BYTEA)
        .text(record.principal.as_str())
        .bind(record.revision, Type::INT4)
        .bind(ending, Type::TEXT),
    ]
}

fn end_grant(integration: &IntegrationId, grant_id: &GrantId, ending: Ending, by: &str) -> Vec<Statement> {
    vec![
        of_grant(
            "ending the grant",
            "WITH ended AS (UPDATE postern.access_grant SET ending = $3, ended_at = now(), ended_by = $4 \
                            WHERE integration = $1 AND grant_id = $2 AND ending IS NULL RETURNING principal) \
             UPDATE postern.account a SET last_grant_ended_at = now() FROM ended WHERE a.principal = ended.principal",
            integration,
            grant_id,
        )
        .text(ending.as_str())
        .text(by),
        Statement::query(
            "recording the ending",
            "UPDATE postern.grant_key SET ending = $3 WHERE integration = $1 AND digest = $2 AND ending IS DISTINCT FROM 'revoked'",
        )
        .text(integration.as_str())
        .bind(grant_digest(grant_id), Type::BYTEA)
        .text(ending.as_str()),
    ]
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// The statements of a plan as text, parameters left out.
    fn text(plan: &Plan, version: i32) -> String {
        let ledger = Ledger { id: Uuid::nil(), version, connector: "postern_connector".to_owned() };
        let context = Context { ledger: &ledger, verifier: Some("SCRAM-SHA-256$…"), by: "" };
        statements(plan, context).into_iter().map(|s| s.sql).collect::<Vec<_>>().join("\n")
    }

    fn plan() -> Plan {
        let member = "jane\"doe@example.com".to_owned();
        let integration: IntegrationId = "orders-prod".parse().unwrap_or_else(|e| panic!("{e}"));
        let grant_id: GrantId = "AR-1".parse().unwrap_or_else(|e| panic!("{e}"));
        let steps = vec![
            Step::GrantBundles { member: member.clone(), bundles: vec!["a".to_owned(), "b".to_owned()] },
            Step::CreateRole {
                name: member.clone(),
                valid_until: None,
                password: true,
                connection_limit: Some(5),
                whom: "jane's".to_owned(),
            },
            Step::PassRoles { roles: vec!["reporting".to_owned()] },
            Step::GrantRoles { member: member.clone(), roles: vec!["reporting".to_owned()] },
            Step::RevokeMembership { member, roles: vec!["c".to_owned()], grantor: "postern_owner".to_owned() },
            Step::EndGrant { integration: integration.clone(), grant_id: grant_id.clone(), ending: Ending::Swept },
            Step::BarGrant { integration, grant_id },
        ];
        Plan { steps, hold: vec![1, 2], ..Plan::default() }
    }

    #[test]
    fn memberships_come_last_and_names_are_quoted() {
        insta::assert_snapshot!("from_16", text(&plan(), 160_014));
        insta::assert_snapshot!("up_to_15", text(&plan(), 150_018));
    }
}
