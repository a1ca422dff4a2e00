//! The only place that writes to the terminal. Results go to standard output, everything else to standard error.
#![expect(clippy::print_stderr, reason = "this is the command line's output")]

use std::fmt::Display;
use std::io::Write as _;

/// A line of the result.
pub fn line(text: impl Display) {
    bytes(format!("{text}\n").as_bytes());
}

/// A result as it is. Whoever reads it may stop before its end (`postern watch | head`), which ends the command.
pub fn bytes(result: &[u8]) {
    let mut output = std::io::stdout().lock();
    if output.write_all(result).and_then(|()| output.flush()).is_err() {
        std::process::exit(super::FAILED.into());
    }
}

/// JSON, indented for people, as a result.
pub fn json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(text),
        Err(error) => self::error(format_args!("cannot be written as JSON: {error}")),
    }
}

/// Rows under their headings, in columns as wide as their widest entry. An empty entry is shown as `-`.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    aligned(headings, rows).iter().for_each(line);
}

fn aligned<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let shown = |text: &str| if text.is_empty() { "-".to_owned() } else { plain(text) };
    let rows: Vec<[String; N]> =
        std::iter::once(headings.map(str::to_owned)).chain(rows.iter().map(|row| row.each_ref().map(|text| shown(text)))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let aligned = |row: &[String; N]| {
        let columns: Vec<String> = row.iter().zip(widths).map(|(text, width)| format!("{text:<width$}")).collect();
        columns.join("  ").trim_end().to_owned()
    };
    rows.iter().map(aligned).collect()
}

/// A text on one line, without what a terminal would obey: it may come from anywhere.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Something that is not a result.
pub fn note(text: impl Display) {
    eprintln!("{text}");
}

/// A mistake or a failure.
pub fn error(text: impl Display) {
    eprintln!("postern: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let rows = [["é".to_owned(), "x\u{1b}[2J".to_owned()], ["longer".to_owned(), String::new()]];
        assert_eq!(aligned(["A", "B"], &rows), ["A       B", "é       x [2J", "longer  -"]);
    }
}
