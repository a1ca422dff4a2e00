//! The only place that writes to the terminal. Results go to standard output, everything else to standard error.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the command line's output")]

use std::fmt::Display;

/// A line of the result.
pub fn line(text: impl Display) {
    println!("{text}");
}

/// JSON, indented for people, as a result.
pub fn json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(error) => self::error(format_args!("cannot be written as JSON: {error}")),
    }
}

/// Something that is not a result.
pub fn note(text: impl Display) {
    eprintln!("{text}");
}

/// A mistake or a failure.
pub fn error(text: impl Display) {
    eprintln!("postern: {text}");
}
