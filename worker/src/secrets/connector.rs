//! The connector's own secret: guarded, parsed, and rotated in stages.

use postern_schemas::Identifier;
use secrecy::{ExposeSecret as _, SecretString};

use super::body::{self, Body};
use super::{Credential, Secret, SecretError, SecretFailure, Stored};

/// The secret of an integration's connector.
#[derive(Clone, Debug)]
pub struct Connector {
    secret: Secret,
    username: Option<Identifier>,
    mark: Option<String>,
}

/// The connector's secret as it was read.
#[derive(Clone, Debug)]
pub struct Known {
    /// The current credential.
    pub current: Credential,
    /// The one that a rotation has begun to replace it with. The server may know one or the other.
    pub pending: Option<Credential>,
    /// Whether it carries the mark; `None`: its store has no marks.
    pub marked: Option<bool>,
    stored: Stored,
}

impl Connector {
    /// `username` is the configuration's, if it has one. A secret without `mark` is refused where its store has marks;
    /// `None`: none is asked for.
    pub fn new(secret: Secret, username: Option<Identifier>, mark: Option<String>) -> Self {
        Self { secret, username, mark }
    }

    /// The secret as it is now.
    pub async fn read(&self) -> Result<Known, SecretError> {
        let stored = self.secret.read_marked(self.mark.as_deref()).await.map_err(or_without)?;
        self.known(stored).map_err(|what| self.secret.error(what))
    }

    /// The secret in its store, for looking at it.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The command that sets the mark, where the store has marks and one is asked for.
    pub fn mark_command(&self) -> Option<String> {
        self.mark.as_ref().and_then(|mark| self.secret.mark_command(mark))
    }

    /// Puts `password` beside the current one. Fails with a conflict if the secret has changed since `known` was read, or
    /// if one is pending already. Returns the secret as it is then.
    pub async fn stage(&self, known: &Known, password: &SecretString) -> Result<Known, SecretError> {
        if known.pending.is_some() {
            return Err(self.secret.error(SecretFailure::Conflict("another password is pending already".to_owned())));
        }
        let Stored { body, version, .. } = &known.stored;
        if self.secret.has_stages() {
            let body = self.edited(body::with_password(body, self.username.as_ref(), password))?;
            self.secret.stage(version, &body).await?;
        } else {
            let body = self.edited(body::with_pending(body, self.username.as_ref(), password))?;
            self.secret.replace(version, &body, None).await?;
        }
        let now = self.read().await?;
        self.holds(now.pending.as_ref(), password)?;
        Ok(now)
    }

    /// Makes the pending password the current one; the old one is gone. Conflicts as [`Connector::stage`] does.
    pub async fn promote(&self, known: &Known) -> Result<Known, SecretError> {
        let Some(pending) = &known.pending else {
            return Err(self.secret.error(SecretFailure::Conflict("no password is pending any more".to_owned())));
        };
        let stored = &known.stored;
        if let Some(stage) = &stored.pending {
            self.secret.promote(&stored.version, &stage.version).await?;
        } else {
            let body = self.edited(body::with_password(&stored.body, self.username.as_ref(), &pending.password))?;
            self.secret.replace(&stored.version, &body, None).await?;
        }
        let now = self.read().await?;
        self.holds(Some(&now.current), &pending.password)?;
        Ok(now)
    }

    /// Forgets the pending password. Conflicts as [`Connector::stage`] does.
    pub async fn discard(&self, known: &Known) -> Result<Known, SecretError> {
        let stored = &known.stored;
        if let Some(stage) = &stored.pending {
            self.secret.discard(&stage.version).await?;
        } else if known.pending.is_some() {
            let body = self.edited(body::without_pending(&stored.body, self.username.as_ref()))?;
            self.secret.replace(&stored.version, &body, None).await?;
        }
        self.read().await
    }

    fn known(&self, stored: Stored) -> Result<Known, SecretFailure> {
        let marked = self.mark.as_ref().and_then(|mark| stored.is_marked(mark));
        let username = self.username.as_ref();
        let Body { current, pending } = Body::parse(&stored.body, username)?;
        let staged = stored.pending.as_ref().map(|stage| Body::parse(&stage.body, username)).transpose();
        // A pending version that cannot be read is somebody's unfinished work; the current one still holds.
        let pending = staged.ok().flatten().map(|staged| staged.current).or(pending);
        Ok(Known { current, pending, marked, stored })
    }

    fn edited(&self, body: Result<SecretString, SecretFailure>) -> Result<SecretString, SecretError> {
        body.map_err(|what| self.secret.error(what))
    }

    /// What was read back is what was written: the proof in stores without compare-and-set.
    fn holds(&self, met: Option<&Credential>, password: &SecretString) -> Result<(), SecretError> {
        if met.is_some_and(|met| met.password.expose_secret() == password.expose_secret()) {
            return Ok(());
        }
        Err(self.secret.error(SecretFailure::Conflict("read back, it holds another password than was written".to_owned())))
    }
}

/// The other way out, which only an integration has.
fn or_without(error: SecretError) -> SecretError {
    match error.what {
        SecretFailure::Unmarked(what) => {
            SecretError { what: SecretFailure::Unmarked(format!("{what}; or set require_mark = false for the integration")), ..error }
        }
        _ => error,
    }
}
