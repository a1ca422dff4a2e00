//! What was looked at, and how it was found.

use serde::Serialize;

/// How an item was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but somebody should know.
    Warn,
    /// Something does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What was looked at.
    pub item: String,
    /// How it was found.
    pub status: Status,
    /// What was met, and what that means.
    pub message: String,
    /// What mends it: statements or commands, in this order; what is no statement is an SQL comment.
    pub mend: Vec<String>,
}

impl Item {
    /// As it should be.
    pub fn ok(item: impl Into<String>, message: impl Into<String>) -> Self {
        Self { item: item.into(), status: Status::Ok, message: message.into(), mend: Vec::new() }
    }

    /// Somebody should know.
    pub fn warn(item: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: Status::Warn, ..Self::ok(item, message) }
    }

    /// Something does not work.
    pub fn fail(item: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::ok(item, message) }
    }

    /// Adds a line of what mends it.
    #[must_use]
    pub fn mend(mut self, line: impl Into<String>) -> Self {
        self.mend.push(line.into());
        self
    }
}
