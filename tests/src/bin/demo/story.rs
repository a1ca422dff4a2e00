//! The nine steps.

use anyhow::{Context as _, Result, ensure};
use jiff::SignedDuration;
use postern_tests::broker::Message;
use postern_tests::events::{self, Event};
use postern_tests::identity::{Credential, Identity};
use serde_json::Value;
use tokio_postgres::Client;

use crate::person::{Session, answer, rows};
use crate::servers::Servers;
use crate::stage::{INTEGRATION, Stage};
use crate::teller::Teller;

const JANE: &str = "jane.doe@example.com";
const KIM: &str = "kim.lee@example.com";
const INVOICES: &str = "SELECT id, customer, total FROM sales.invoices WHERE id = 1";
const INVOICE: &str = "1 | Ada | 120";
const ROLES: &str = "SELECT count(*) FROM pg_roles";
const OURS: &str = "SELECT rolname FROM pg_roles WHERE rolname LIKE '%@example.com' OR rolname LIKE 'postern:%' ORDER BY 1";
/// Owns the roles that Postern makes; it comes with the ledger, and both stay.
const OWNER: &str = "postern_owner";

/// Tells all steps. Ends at the first that does not go as told.
pub(crate) async fn tell(teller: &Teller, servers: &Servers, stage: &mut Stage) -> Result<()> {
    teller.say(&format!(
        "They run: {}, and `postern run` with the integration {INTEGRATION:?}. The account it has there is no superuser. The database \
         \"orders\" has a schema \"sales\", which Jane needs, and a schema \"hr\", which she does not.",
        servers.described
    ));
    let looking = servers.connector("postgres").await?;
    let story = Story { teller, servers, stage, looking, jane: Identity::generate() };
    let before = names(&story.looking).await?;
    let credential = story.grant().await?;
    let credential = story.until_revoked(credential).await?;
    story.out_of_order().await?;
    story.expiry(&credential).await?;
    story.rotation(&credential).await?;
    story.cleanup(&before).await?;
    stage.drain().await?;
    teller.title("That is the main job. The servers are stopped now, and what they wrote is removed.");
    Ok(())
}

struct Story<'a> {
    teller: &'a Teller,
    servers: &'a Servers,
    stage: &'a Stage,
    /// Postern's own account, which sees all roles.
    looking: Client,
    /// The key that Jane's credentials are sealed to.
    jane: Identity,
}

impl Story<'_> {
    /// 1
    async fn grant(&self) -> Result<Shown> {
        self.teller.begin("Jane may read \"sales\" for eight hours. Somebody approved it, and the access system publishes an event.");
        let event = read_sales("AR-1").age(&self.jane.recipient()).expires_in(SignedDuration::from_hours(8));
        let result = self.send(&event, "succeeded").await?;
        let credential = self.jane.open_credential(result.data())?;
        self.teller.note(&format!(
            "Jane opens the seal with her key and finds the password of {:?}; nobody else can, and it is stored nowhere.",
            credential.username
        ));
        self.look("SELECT rolname, rolsuper, rolcanlogin FROM pg_roles WHERE rolname LIKE '%@example.com'", &format!("{JANE} | f | t"))
            .await?;
        Ok(Shown { event, result, credential })
    }

    /// 2 to 5
    async fn until_revoked(&self, first: Shown) -> Result<Credential> {
        self.teller.begin("Jane logs in and reads what she was given, and nothing else.");
        let session = self.login(&first.credential).await?;
        let seen = session.query(INVOICES).await?;
        ensure!(seen == INVOICE, "`{INVOICES}` gave {seen}");
        self.teller.sql("jane", INVOICES, &seen);
        for statement in ["DELETE FROM sales.invoices", "SELECT * FROM hr.salaries"] {
            self.teller.sql("jane", statement, &session.refused(statement).await?);
        }

        self.teller.begin("The same event comes again, as brokers may deliver twice. Nothing is done twice: the same result, the same id.");
        let roles = rows(&self.looking, ROLES).await?;
        let again = self.send(&first.event, "succeeded").await?;
        let (id, same) = (again.message_id().context("the result has no id")?, first.result.message_id());
        ensure!(Some(id) == same, "the ids differ: {same:?} and {id}");
        ensure!(again.data()["credential"] == first.result.data()["credential"], "the credential was sealed anew");
        self.teller.note(&format!("The result's id, both times: {id}. Roles before it: {roles}."));
        self.look(ROLES, &roles).await?;

        self.teller.begin("The grant is revoked while Jane's session from step 2 is open. It is gone before the result is published.");
        let revoked = self.send(&events::revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;
        ensure!(revoked.data()["sessions_terminated"] == 1, "one session should have been ended: {:#}", revoked.data());
        self.teller.sql("jane", "SELECT 1", &session.cut().await?);

        self.teller.begin("Jane tries to come back. Her password is right, her access is over.");
        self.refused_login(&first.credential).await?;
        Ok(first.credential)
    }

    /// 6
    async fn out_of_order(&self) -> Result<()> {
        self.teller.begin("A revoke overtakes its grant on the way. The grant comes late and opens nothing: order does not matter.");
        self.send(&events::revoke_grant(INTEGRATION, "AR-2"), "succeeded").await?;
        let late = events::grant(INTEGRATION, "AR-2", KIM).schema("orders", "sales", "read_only").age(&self.jane.recipient());
        let result = self.send(&late, "superseded").await?;
        ensure!(result.data()["reason"]["code"] == "revoked", "the reason should be `revoked`: {:#}", result.data());
        self.look("SELECT rolname FROM pg_roles WHERE rolname LIKE 'kim%'", "no rows").await
    }

    /// 7
    async fn expiry(&self, credential: &Credential) -> Result<()> {
        self.teller.begin("Jane gets three seconds more. They pass, and Postern takes the access away by itself.");
        let event = read_sales("AR-3").expires_in(SignedDuration::from_secs(3));
        self.send(&event, "succeeded").await?;
        let session = self.login(credential).await?;
        let seen = session.query(INVOICES).await?;
        self.teller.sql("jane", INVOICES, &seen);
        ensure!(seen == INVOICE, "`{INVOICES}` gave {seen}");
        let expired = self.stage.expiry("AR-3").await?;
        self.teller.result(&summary(&expired));
        ensure!(expired.data()["reason"]["code"] == "expired", "the reason should be `expired`: {:#}", expired.data());
        self.teller.sql("jane", "SELECT 1", &session.cut().await?);
        self.refused_login(credential).await
    }

    /// 8
    async fn rotation(&self, old: &Credential) -> Result<()> {
        self.teller.begin("Jane is given access once more and loses her notebook: her password is replaced now.");
        self.send(&read_sales("AR-4"), "succeeded").await?;
        let event = events::rotate_principal(INTEGRATION, JANE, &self.jane.recipient());
        let rotated = self.send(&event, "succeeded").await?;
        let new = self.jane.open_credential(rotated.data())?;
        ensure!(new.password != old.password, "the password is the old one");
        self.teller.note("With the old password:");
        self.refused_login(old).await?;
        self.teller.note("With the new one:");
        let session = self.login(&new).await?;
        let seen = session.query(INVOICES).await?;
        ensure!(seen == INVOICE, "`{INVOICES}` gave {seen}");
        self.teller.sql("jane", INVOICES, &seen);
        Ok(())
    }

    /// 9
    async fn cleanup(&self, before: &[String]) -> Result<()> {
        self.teller.begin("Jane leaves the company: one clean-up deletes her account, the regular one the bundle role nobody needs now.");
        let there = rows(&self.looking, OURS).await?;
        self.teller.sql("postern", OURS, &there);
        let gone = self.send(&events::cleanup_principal(INTEGRATION, JANE), "succeeded").await?;
        ensure!(gone.data()["ended"] == serde_json::json!(["AR-4"]), "AR-4 should have been ended: {:#}", gone.data());
        self.send(&events::cleanup(INTEGRATION), "succeeded").await?;
        self.look(OURS, "no rows").await?;
        let mut after = names(&self.looking).await?;
        self.teller.note(&format!(
            "Roles on the server before the story: {}, after it: {}, one of them {OWNER}, which stays with Postern's ledger. Nothing \
             was left behind.",
            before.len(),
            after.len()
        ));
        after.retain(|name| name != OWNER);
        ensure!(before == after, "the roles before were {before:?}, and are {after:?}");
        Ok(())
    }

    /// Publishes an event and shows it with its result.
    async fn send(&self, event: &Event, outcome: &str) -> Result<Message> {
        self.teller.event(&event.routing_key(), &event.json()["data"]);
        let result = self.stage.send(event, outcome).await?;
        self.teller.result(&summary(&result));
        Ok(result)
    }

    async fn login(&self, credential: &Credential) -> Result<Session> {
        let session = Session::open(self.servers, &credential.username, &credential.password, "orders").await;
        session.map_err(|error| anyhow::anyhow!("{JANE} cannot log in: {}", answer(&error)))
    }

    async fn refused_login(&self, credential: &Credential) -> Result<()> {
        match Session::open(self.servers, &credential.username, &credential.password, "orders").await {
            Ok(_) => anyhow::bail!("{JANE} can log in, and should not"),
            Err(error) => {
                ensure!(error.as_db_error().is_some(), "the login met {error:?}");
                self.teller.sql("jane", "psql \"host=… dbname=orders user=jane.doe@example.com\"", &answer(&error));
                Ok(())
            }
        }
    }

    /// Looks as Postern's own account; exactly this has to come back.
    async fn look(&self, statement: &str, expected: &str) -> Result<()> {
        let seen = rows(&self.looking, statement).await?;
        self.teller.sql("postern", statement, &seen);
        ensure!(seen == expected, "`{statement}` should give {expected}, and gave {seen}");
        Ok(())
    }
}

/// A grant of what Jane asks for each time.
fn read_sales(grant_id: &str) -> Event {
    events::grant(INTEGRATION, grant_id, JANE).schema("orders", "sales", "read_only")
}

/// What the first grant gave, for the steps after it.
struct Shown {
    event: Event,
    result: Message,
    credential: Credential,
}

async fn names(client: &Client) -> Result<Vec<String>> {
    Ok(rows(client, "SELECT rolname FROM pg_roles ORDER BY 1").await?.lines().map(str::to_owned).collect())
}

/// The fields of a result that matter to a reader.
fn summary(result: &Message) -> String {
    let data = result.data();
    let mut parts = vec![format!("{} outcome: {}", result.routing_key, text(&data["outcome"]))];
    if data["reason"].is_object() {
        parts.push(format!("reason: {} ({})", text(&data["reason"]["code"]), text(&data["reason"]["message"])));
    }
    let changes: Vec<_> =
        data["changes"].as_array().into_iter().flatten().map(|c| format!("{} {}", text(&c["kind"]), text(&c["target"]))).collect();
    if !changes.is_empty() {
        parts.push(format!("changes: {}", changes.join(", ")));
    }
    match text(&data["credential"]["status"]).as_str() {
        "delivered" => parts.push(format!("credential: delivered, generation {}, sealed to her age key", data["credential"]["generation"])),
        "unchanged" => parts.push("credential: unchanged".to_owned()),
        _ => {}
    }
    let ended: Vec<_> = data["ended"].as_array().into_iter().flatten().map(text).collect();
    if !ended.is_empty() {
        parts.push(format!("ended: {}", ended.join(", ")));
    }
    if let Some(sessions) = data["sessions_terminated"].as_u64().filter(|sessions| *sessions > 0) {
        parts.push(format!("sessions terminated: {sessions}"));
    }
    parts.join("; ")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
