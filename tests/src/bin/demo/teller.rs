//! What the story looks like: numbered steps, plain sentences, and beside them what was sent and seen.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};

use serde_json::Value;

const WIDTH: usize = 110;
const INDENT: usize = 13;

/// The order in which a reader wants an event's fields; others follow.
const ORDER: [&str; 8] = ["integration", "grant_id", "principal", "permissions", "database", "schema", "access", "expires_at"];

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const YELLOW: &str = "\x1b[33m";
const GREEN: &str = "\x1b[32m";
const BLUE: &str = "\x1b[34m";
const PLAIN: &str = "\x1b[0m";

/// Writes to standard output, in colours on a terminal.
pub(crate) struct Teller {
    colours: bool,
    step: Cell<u8>,
}

impl Teller {
    pub(crate) fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colours: std::io::stdout().is_terminal() && !unwanted, step: Cell::new(0) }
    }

    /// The step that is being told.
    pub(crate) fn step(&self) -> u8 {
        self.step.get()
    }

    pub(crate) fn title(&self, text: &str) {
        self.line(&format!("\n{}", self.paint(BOLD, text)));
    }

    pub(crate) fn say(&self, text: &str) {
        for line in wrapped(text, WIDTH) {
            self.line(&line);
        }
    }

    /// Begins the next step.
    pub(crate) fn begin(&self, text: &str) {
        self.step.set(self.step.get() + 1);
        self.line(&format!("\n{} {}", self.paint(BOLD, &format!("{}.", self.step.get())), self.paint(BOLD, text)));
    }

    /// An event on its way to the broker. The envelope is the same everywhere, so only `data` is shown.
    pub(crate) fn event(&self, routing_key: &str, data: &Value) {
        self.beside(BLUE, "event", &format!("{routing_key} {}", compact(data)));
    }

    /// A result that came back.
    pub(crate) fn result(&self, text: &str) {
        self.beside(GREEN, "result", text);
    }

    /// A statement and what the server answered.
    pub(crate) fn sql(&self, who: &str, statement: &str, answer: &str) {
        self.beside(YELLOW, "database", &format!("{who}: {statement}"));
        for line in answer.lines().flat_map(|line| wrapped(line, WIDTH - INDENT - 3)) {
            self.line(&format!("{:INDENT$}-> {line}", ""));
        }
    }

    /// Something that is seen in no event, result or statement.
    pub(crate) fn note(&self, text: &str) {
        self.beside(DIM, "", text);
    }

    fn beside(&self, colour: &str, label: &str, text: &str) {
        let mut lines = wrapped(text, WIDTH - INDENT).into_iter();
        let label = self.paint(colour, &format!("{label:<9}"));
        self.line(&format!("   {label} {}", lines.next().unwrap_or_default()));
        lines.for_each(|line| self.line(&format!("{:INDENT$}{line}", "")));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }

    /// Whoever reads this may have gone (`make demo | head`); the demo ends tidily all the same.
    #[expect(clippy::unused_self, reason = "all output goes through the teller")]
    fn line(&self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

/// JSON on one line, with spaces where a line may break.
fn compact(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by_key(|(key, _)| ORDER.iter().position(|known| known == key).unwrap_or(ORDER.len()));
            let fields: Vec<_> = fields.into_iter().map(|(key, value)| format!("\"{key}\": {}", compact(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(compact).collect::<Vec<_>>().join(", ")),
        // A key's digits say nothing to a reader.
        Value::String(text) if text.starts_with("age1") => format!("\"{}…\"", text.chars().take(12).collect::<String>()),
        other => other.to_string(),
    }
}

/// Breaks at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(last) if line == 0 => last.push_str(word),
            Some(last) if line + 1 + word.chars().count() <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
