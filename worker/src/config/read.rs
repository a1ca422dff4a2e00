//! Small readers that several sections share. Each records its mistake and then answers `None`.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use postern_schemas::fields::Fields;

use super::Env;

/// An environment variable; an empty one counts as absent, as a template that left it blank means.
pub(super) fn variable(env: Env<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

/// An optional text, read by `parse`, whose error says what was expected.
pub(super) fn parsed<T>(fields: &Fields<'_>, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
    let text: String = fields.text(name)?;
    parse(&text).map_err(|message| fields.problem(name, message)).ok()
}

/// An optional whole number that fits `u32`.
pub(super) fn number(fields: &Fields<'_>, name: &'static str, min: u32, max: u32) -> Option<u32> {
    fields.integer(name, min.into(), max.into()).and_then(|number| u32::try_from(number).ok())
}

/// An optional whole number of seconds.
pub(super) fn seconds(fields: &Fields<'_>, name: &'static str, min: u32, max: u32) -> Option<Duration> {
    number(fields, name, min, max).map(|seconds| Duration::from_secs(seconds.into()))
}

/// An optional text that is not empty and has no control characters.
pub(super) fn words(fields: &Fields<'_>, name: &'static str) -> Option<String> {
    parsed(fields, name, |text| match text {
        "" => Err("is empty; leave it out instead".to_owned()),
        text if text.chars().any(char::is_control) => Err("contains a control character".to_owned()),
        text => Ok(text.to_owned()),
    })
}

/// The path of a file, which is looked at when it is needed.
pub(super) fn path(fields: &Fields<'_>, name: &'static str) -> Option<PathBuf> {
    words(fields, name).map(PathBuf::from)
}

/// The path of a file that has to be readable when the process starts.
pub(super) fn file(fields: &Fields<'_>, name: &'static str) -> Option<PathBuf> {
    let path = path(fields, name)?;
    match File::open(&path) {
        Ok(_) => Some(path),
        Err(error) => {
            fields.problem(name, format!("{}: cannot be read: {error}", path.display()));
            None
        }
    }
}
