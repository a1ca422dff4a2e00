//! Permissions in short: `database[.schema[.table,table]]:level`, and JSON where a name does not fit into that.

use postern_schemas::{Identifier, Permission, Scope};
use serde_json::{Value, json};

/// What no name in the short form may hold.
const SPECIAL: [char; 4] = ['.', ',', ':', '{'];

/// Parses the short form, or one entry of `permissions` in JSON. Names and levels are judged with the event.
pub fn parse(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"));
    }
    let expected = "expected database[.schema[.table,table]]:level, or JSON such as {\"database\":\"a.b\",\"access\":\"read_only\"}";
    let Some((scope, access)) = text.rsplit_once(':') else {
        return Err(format!("has no level; {expected}"));
    };
    let parts: Vec<&str> = scope.split('.').collect();
    match parts[..] {
        [database] => Ok(json!({ "database": database, "access": access })),
        [database, schema] => Ok(json!({ "database": database, "schema": schema, "access": access })),
        [database, schema, tables] => {
            let tables: Vec<&str> = tables.split(',').collect();
            Ok(json!({ "database": database, "schema": schema, "tables": tables, "access": access }))
        }
        _ => Err(format!("has {} names with dots between; {expected}", parts.len())),
    }
}

/// A permission in the form that [`parse`] reads; a role's as `role NAME`.
pub fn short(permission: &Permission) -> String {
    let scope = match permission {
        Permission::Role(membership) => return format!("role {}", membership.role),
        Permission::Objects(scope) => scope,
    };
    let Scope { database, schema, tables, access } = scope;
    let names = [Some(database), schema.as_ref()].into_iter().flatten().chain(tables.iter().flatten());
    if names.into_iter().any(|name| name.as_str().contains(SPECIAL)) {
        return json!(permission).to_string();
    }
    let mut text = database.to_string();
    if let Some(schema) = schema {
        text = format!("{text}.{schema}");
    }
    if let Some(tables) = tables {
        let tables: Vec<&str> = tables.iter().map(Identifier::as_str).collect();
        text = format!("{text}.{}", tables.join(","));
    }
    format!("{text}:{}", access.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(value: &Value) -> Permission {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn the_short_form_is_read_and_written() {
        for (text, expected) in [
            ("orders:read_only", json!({ "database": "orders", "access": "read_only" })),
            ("orders.sales:read_write", json!({ "database": "orders", "schema": "sales", "access": "read_write" })),
            (
                "orders.sales.invoices,lines:admin",
                json!({ "database": "orders", "schema": "sales", "tables": ["invoices", "lines"], "access": "admin" }),
            ),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed, expected, "{text}");
            assert_eq!(short(&read_back(&parsed)), text);
        }
    }

    #[test]
    fn names_that_do_not_fit_are_written_as_json() {
        let text = r#"{"access":"read_only","database":"shop.eu","schema":"a,b"}"#;
        let parsed = parse(text).unwrap();
        assert_eq!(parsed["database"], "shop.eu");
        assert_eq!(parse(&short(&read_back(&parsed))).unwrap(), parsed);
        assert_eq!(short(&read_back(&json!({ "role": "reporting" }))), "role reporting");
    }

    #[test]
    fn what_cannot_be_meant_says_what_was_expected() {
        for text in ["orders", "a.b.c.d:read_only", "{nonsense"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("orders.sales").unwrap_err().contains("has no level; expected database"));
    }
}
