//! A reader of JSON objects that collects every mistake instead of stopping at the first.
//!
//! Used for events and, after conversion from TOML, for the configuration. Rules, from the contract: unknown
//! fields are mistakes (a typo must not silently widen or drop access) and `null` is not "absent".

use std::cell::RefCell;
use std::fmt;

use serde_json::{Map, Value};

/// One mistake: where it is and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path, such as `data.permissions[2].access`.
    pub path: String,
    /// What was met and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The mistakes found so far, in the order of reading.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Records a mistake at `path`.
    pub fn add(&self, path: impl Into<String>, message: impl Into<String>) {
        self.0.borrow_mut().push(Problem { path: path.into(), message: message.into() });
    }

    /// The collected mistakes, each once.
    pub fn into_vec(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        let mut seen = std::collections::HashSet::new();
        problems.retain(|problem| seen.insert((problem.path.clone(), problem.message.clone())));
        problems
    }

    /// Whether none was found.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// A value that is written as a string and can say why a text is not one of its kind.
pub trait FromText: Sized {
    /// Parses `text`; the error says what was expected.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl FromText for jiff::Timestamp {
    fn from_text(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("{text:?} is not a time; expected RFC 3339 with an offset, such as 2026-11-21T09:00:00.123456Z, and before 9999-12-31")
        };
        if !has_shape_of_rfc3339(text) {
            return Err(expected());
        }
        text.parse().map_err(|_| expected())
    }
}

/// Digits and signs where RFC 3339 has them. The parser alone is more generous than the schemas, which producers test
/// their events with: it also takes a missing second, a space for the T, or a time zone in brackets.
fn has_shape_of_rfc3339(text: &str) -> bool {
    let fits = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                letter => byte.eq_ignore_ascii_case(&letter),
            })
    };
    let Some((seconds, rest)) = text.split_at_checked("0000-00-00T00:00:00".len()) else { return false };
    let digits = rest.strip_prefix('.').map(|fraction| fraction.bytes().take_while(u8::is_ascii_digit).count());
    let offset = match digits {
        None => rest,
        Some(digits @ 1..=9) => &rest[1 + digits..],
        Some(_) => return false,
    };
    let numeric = |sign: &str| offset.strip_prefix(sign).is_some_and(|offset| fits(offset, "00:00") && offset < "24:00");
    fits(seconds, "0000-00-00T00:00:00") && (fits(offset, "Z") || numeric("+") || numeric("-"))
}

/// One JSON object being read. Every field that is asked for counts as known; [`Fields::finish`] reports the rest.
#[derive(Debug)]
pub struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    known: RefCell<Vec<&'static str>>,
    problems: &'a Problems,
}

impl<'a> Fields<'a> {
    /// Starts to read `value`, which stands at `path` (empty for the document itself).
    pub fn new(value: &'a Value, path: impl Into<String>, problems: &'a Problems) -> Option<Self> {
        let path = path.into();
        match value {
            Value::Object(map) => Some(Self { path, map, known: RefCell::default(), problems }),
            other => {
                let at = if path.is_empty() { "document".to_owned() } else { path };
                problems.add(at, format!("expected an object, met {}", kind(other)));
                None
            }
        }
    }

    /// The path of a field of this object.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Records a mistake in the field `name`.
    pub fn problem(&self, name: &str, message: impl Into<String>) {
        self.problems.add(self.path(name), message);
    }

    /// Records a mistake of the object as a whole.
    pub fn problem_here(&self, message: impl Into<String>) {
        let at = if self.path.is_empty() { "document" } else { &self.path };
        self.problems.add(at, message);
    }

    /// Whether the object has the field, known or not, whatever its value.
    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// The field's names as they stand in the document.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// An optional field; an explicit `null` is a mistake.
    pub fn value(&self, name: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().push(name);
        match self.map.get(name) {
            Some(Value::Null) => {
                self.problem(name, "is null; leave the field out instead");
                None
            }
            other => other,
        }
    }

    /// A field that must be there.
    pub fn required(&self, name: &'static str) -> Option<&'a Value> {
        if !self.has(name) {
            self.known.borrow_mut().push(name);
            self.problem(name, "is missing");
            return None;
        }
        self.value(name)
    }

    /// An optional string, parsed.
    pub fn text<T: FromText>(&self, name: &'static str) -> Option<T> {
        let value = self.value(name)?;
        parse_text(value, &self.path(name), self.problems)
    }

    /// A string that must be there, parsed.
    pub fn required_text<T: FromText>(&self, name: &'static str) -> Option<T> {
        let value = self.required(name)?;
        parse_text(value, &self.path(name), self.problems)
    }

    /// An optional whole number between `min` and `max`.
    pub fn integer(&self, name: &'static str, min: i64, max: i64) -> Option<i64> {
        let value = self.value(name)?;
        match whole(value) {
            Some(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                self.problem(name, format!("expected a whole number from {min} to {max}, met {}", shown(value)));
                None
            }
        }
    }

    /// An optional `true` or `false`.
    pub fn boolean(&self, name: &'static str) -> Option<bool> {
        let value = self.value(name)?;
        value.as_bool().or_else(|| {
            self.problem(name, format!("expected true or false, met {}", shown(value)));
            None
        })
    }

    /// A marker that can only be `true`. Returns whether it is there and right.
    pub fn only_true(&self, name: &'static str) -> bool {
        match self.value(name) {
            Some(Value::Bool(true)) => true,
            Some(other) => {
                self.problem(name, format!("can only be true, met {}", shown(other)));
                false
            }
            None => false,
        }
    }

    /// An optional nested object.
    pub fn object(&self, name: &'static str) -> Option<Fields<'a>> {
        Fields::new(self.value(name)?, self.path(name), self.problems)
    }

    /// A nested object that must be there.
    pub fn required_object(&self, name: &'static str) -> Option<Fields<'a>> {
        Fields::new(self.required(name)?, self.path(name), self.problems)
    }

    /// An optional list; `read` gets each item with its path.
    pub fn list<T>(&self, name: &'static str, mut read: impl FnMut(&'a Value, String) -> Option<T>) -> Option<Vec<T>> {
        let value = self.value(name)?;
        let Value::Array(items) = value else {
            self.problem(name, format!("expected a list, met {}", shown(value)));
            return None;
        };
        let path = self.path(name);
        Some(items.iter().enumerate().filter_map(|(index, item)| read(item, format!("{path}[{index}]"))).collect())
    }

    /// An optional list of strings, each parsed.
    pub fn texts<T: FromText>(&self, name: &'static str) -> Option<Vec<T>> {
        self.list(name, |item, path| parse_text(item, &path, self.problems))
    }

    /// The collector, for readers of nested values.
    pub fn problems(&self) -> &'a Problems {
        self.problems
    }

    /// Reports every field that nobody asked for.
    pub fn finish(self) {
        let known = self.known.borrow();
        for name in self.map.keys().filter(|name| !known.contains(&name.as_str())) {
            let mut expected: Vec<&str> = known.clone();
            expected.sort_unstable();
            expected.dedup();
            self.problems.add(self.path(name), format!("unknown field; known here: {}", expected.join(", ")));
        }
    }
}

/// A whole number, however it is written: to JSON Schema 1.0 is one, and some producers write no other.
fn whole(value: &Value) -> Option<i64> {
    let from_float = || value.as_f64().filter(|number| number.fract() == 0.0).and_then(|number| format!("{number:.0}").parse().ok());
    value.as_i64().or_else(from_float)
}

fn parse_text<T: FromText>(value: &Value, path: &str, problems: &Problems) -> Option<T> {
    let Value::String(text) = value else {
        problems.add(path, format!("expected a string, met {}", shown(value)));
        return None;
    };
    T::from_text(text).map_err(|message| problems.add(path, message)).ok()
}

/// What a value is, in a reader's words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value as it may be quoted back: numbers and booleans in full; texts only by kind, they may be secret.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        other => kind(other).to_owned(),
    }
}
