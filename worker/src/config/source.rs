//! TOML as JSON, so that one reader lists the mistakes of events and of configuration alike.

use std::path::Path;

use serde_json::{Map, Value};

use super::ConfigError;

/// A place where the text stops being TOML.
#[derive(Debug)]
pub(super) struct Broken {
    line: usize,
    column: usize,
    message: String,
}

impl Broken {
    pub(super) fn in_file(self, path: &Path) -> ConfigError {
        ConfigError::Syntax { path: path.to_owned(), line: self.line, column: self.column, message: self.message }
    }
}

/// Parses `text`. The parser's own display is not used: it quotes the line, which may hold the broker's password.
pub(super) fn to_json(text: &str) -> Result<Value, Broken> {
    // A byte order mark is what editors on Windows leave; it means nothing.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.parse::<toml::Table>() {
        Ok(table) => Ok(object(table)),
        Err(error) => {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            let before = text.get(..start).unwrap_or_default();
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            Err(Broken {
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message: error.message().lines().collect::<Vec<_>>().join("; "),
            })
        }
    }
}

fn object(table: toml::Table) -> Value {
    Value::Object(table.into_iter().map(|(key, value)| (key, json(value))).collect::<Map<_, _>>())
}

fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        // `inf` and `nan` are no JSON numbers; as a text they are a mistake wherever a number is expected.
        toml::Value::Float(number) => serde_json::Number::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number),
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(items) => Value::Array(items.into_iter().map(json).collect()),
        toml::Value::Table(table) => object(table),
    }
}
