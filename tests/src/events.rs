//! Builders for access events. They hold plain JSON, so that a test can also say what the contract forbids.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// The `source` that events have unless told otherwise.
pub const SOURCE: &str = "//access.example.com/requests";

/// An access event, ready to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    verb: String,
    json: Value,
}

/// A grant without permissions yet.
pub fn grant(integration: &str, grant_id: &str, principal: &str) -> Event {
    Event::new("grant", json!({ "integration": integration, "grant_id": grant_id, "principal": principal, "permissions": [] }))
}

/// Ends one grant for good.
pub fn revoke_grant(integration: &str, grant_id: &str) -> Event {
    Event::new("revoke", json!({ "integration": integration, "grant_id": grant_id }))
}

/// Ends all grants that a person was given up to now.
pub fn revoke_principal(integration: &str, principal: &str) -> Event {
    Event::new("revoke", json!({ "integration": integration, "principal": principal }))
}

/// The panic button.
pub fn revoke_all(integration: &str) -> Event {
    Event::new("revoke", json!({ "integration": integration, "all": true }))
}

/// Resets a person's password now, sealed to an age recipient.
pub fn rotate_principal(integration: &str, principal: &str, recipient: &str) -> Event {
    Event::new("rotate", json!({ "integration": integration, "principal": principal })).age(recipient)
}

/// Rotates Postern's own credential.
pub fn rotate_connector(integration: &str) -> Event {
    Event::new("rotate", json!({ "integration": integration, "connector": true }))
}

/// Applies the policy on the age of credentials.
pub fn rotate_policy(integration: &str) -> Event {
    Event::new("rotate", json!({ "integration": integration }))
}

/// Applies the policy on what has expired and who has gone.
pub fn cleanup(integration: &str) -> Event {
    Event::new("cleanup", json!({ "integration": integration }))
}

/// Deletes a person's account.
pub fn cleanup_principal(integration: &str, principal: &str) -> Event {
    Event::new("cleanup", json!({ "integration": integration, "principal": principal }))
}

/// Lists the resources of some types.
pub fn discover(integration: &str, resource_types: &[&str]) -> Event {
    Event::new("discover", json!({ "integration": integration, "resource_types": resource_types }))
}

impl Event {
    /// An event of any verb, asked now, with an id of its own.
    #[expect(clippy::needless_pass_by_value, reason = "what `json!` makes is handed over")]
    pub fn new(verb: &str, data: Value) -> Self {
        let json = json!({
            "specversion": "1.0",
            "id": uuid::Uuid::now_v7().to_string(),
            "source": SOURCE,
            "type": format!("postern.access.{verb}.v1"),
            "time": Timestamp::now().to_string(),
            "datacontenttype": "application/json",
            "data": data,
        });
        Self { verb: verb.to_owned(), json }
    }

    // What it says.

    /// CloudEvents `id`.
    pub fn id(&self) -> &str {
        self.json["id"].as_str().unwrap_or_default()
    }

    /// The whole event.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The whole event, to change at will.
    pub fn json_mut(&mut self) -> &mut Value {
        &mut self.json
    }

    /// The body as it is published.
    pub fn bytes(&self) -> Vec<u8> {
        self.json.to_string().into_bytes()
    }

    /// `access.<verb>.<integration>`.
    pub fn routing_key(&self) -> String {
        format!("access.{}.{}", self.verb, self.json["data"]["integration"].as_str().unwrap_or("_"))
    }

    // The envelope.

    /// Another `id`.
    #[must_use]
    pub fn with_id(self, id: &str) -> Self {
        self.attribute("id", json!(id))
    }

    /// Another `source`.
    #[must_use]
    pub fn with_source(self, source: &str) -> Self {
        self.attribute("source", json!(source))
    }

    /// Asked so long after now; before, if negative.
    #[must_use]
    pub fn asked_in(self, offset: SignedDuration) -> Self {
        let time = Timestamp::now() + offset;
        self.attribute("time", json!(time.to_string()))
    }

    /// Asked at this time.
    #[must_use]
    pub fn asked_at(self, time: Timestamp) -> Self {
        self.attribute("time", json!(time.to_string()))
    }

    /// Sets a CloudEvents attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: Value) -> Self {
        self.json[name] = value;
        self
    }

    /// Leaves a CloudEvents attribute out.
    #[must_use]
    pub fn without_attribute(mut self, name: &str) -> Self {
        if let Some(object) = self.json.as_object_mut() {
            object.remove(name);
        }
        self
    }

    // `data`.

    /// Sets a field of `data`.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.json["data"][name] = value;
        self
    }

    /// Leaves a field of `data` out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        if let Some(data) = self.json["data"].as_object_mut() {
            data.remove(name);
        }
        self
    }

    /// `revision`.
    #[must_use]
    pub fn revision(self, revision: u32) -> Self {
        self.with("revision", json!(revision))
    }

    /// `expires_at`, so long after now; before, if negative.
    #[must_use]
    pub fn expires_in(self, offset: SignedDuration) -> Self {
        let time = Timestamp::now() + offset;
        self.with("expires_at", json!(time.to_string()))
    }

    /// Delivers the credential sealed to an age recipient.
    #[must_use]
    pub fn age(self, recipient: &str) -> Self {
        self.with("credential", json!({ "deliver": "age", "recipient": recipient }))
    }

    /// Adds any permission.
    #[must_use]
    pub fn permission(mut self, permission: Value) -> Self {
        match self.json["data"]["permissions"].as_array_mut() {
            Some(permissions) => permissions.push(permission),
            None => return self.with("permissions", json!([permission])),
        }
        self
    }

    /// Adds access to a whole database.
    #[must_use]
    pub fn database(self, database: &str, access: &str) -> Self {
        self.permission(json!({ "database": database, "access": access }))
    }

    /// Adds access to a schema.
    #[must_use]
    pub fn schema(self, database: &str, schema: &str, access: &str) -> Self {
        self.permission(json!({ "database": database, "schema": schema, "access": access }))
    }

    /// Adds access to tables.
    #[must_use]
    pub fn tables(self, database: &str, schema: &str, tables: &[&str], access: &str) -> Self {
        self.permission(json!({ "database": database, "schema": schema, "tables": tables, "access": access }))
    }

    /// Adds membership in an existing role.
    #[must_use]
    pub fn role(self, role: &str) -> Self {
        self.permission(json!({ "role": role }))
    }
}
