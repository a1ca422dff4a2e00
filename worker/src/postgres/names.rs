//! Quoting: the only way a name or a text gets into a statement that takes no parameters.

/// A name as a quoted identifier. Quotes inside are doubled (PostgreSQL docs, "Identifiers and Key Words").
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names as quoted identifiers, separated by commas.
pub fn idents<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(ident).collect::<Vec<_>>().join(", ")
}

/// A text as a string constant that means the same whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_names() {
        assert_eq!(ident(r#"x"; DROP ROLE postern_owner; --"#), r#""x""; DROP ROLE postern_owner; --""#);
        assert_eq!(literal(r"it's \ here"), r"E'it''s \\ here'");
        assert_eq!(idents(["a", "b c"]), r#""a", "b c""#);
    }
}
