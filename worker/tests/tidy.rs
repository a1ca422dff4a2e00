//! The invariants of ARCHITECTURE.md that can be read off the sources.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources has failed")]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Lines of code in `worker/src` for which `wrong` is true, outside the folders named in `except`.
fn offenders(within: &str, except: &[&str], wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root.join(within), &mut files);
    assert!(!files.is_empty());
    let mut offenders = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap().display().to_string();
        if except.iter().any(|folder| relative.starts_with(folder)) {
            continue;
        }
        // Unit tests stand at the end of a file.
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]")) {
            let code = line.trim_start();
            if !code.starts_with("//") && wrong(code) {
                offenders.push(format!("{relative}:{}: {code}", number + 1));
            }
        }
    }
    offenders
}

#[test]
fn the_rules_do_no_io() {
    let io = ["tokio::", "lapin::", "tokio_postgres::", "std::fs", "std::net", "std::env", "Timestamp::now", "SystemTime", "getrandom"];
    let met = offenders("access", &[], |line| io.iter().any(|word| line.contains(word)));
    assert!(met.is_empty(), "access/ is pure:\n{}", met.join("\n"));
}

#[test]
fn sql_stands_in_one_folder() {
    let verbs = ["SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ", "GRANT ", "REVOKE ", "CREATE ROLE", "DROP ROLE", "ALTER ROLE"];
    let is_sql = |line: &str| verbs.iter().any(|verb| line.contains(&format!("\"{verb}")));
    let met = offenders("", &["postgres/"], is_sql);
    assert!(met.is_empty(), "SQL belongs under postgres/:\n{}", met.join("\n"));
}

#[test]
fn lapin_stands_in_one_folder() {
    let met = offenders("", &["broker/"], |line| line.contains("lapin::"));
    assert!(met.is_empty(), "lapin belongs under broker/:\n{}", met.join("\n"));
}

#[test]
fn files_stay_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 600, "{} has {lines} lines; split it", file.display());
    }
}

/// Tables of behaviour are worth as much as the tests they name.
#[test]
fn tests_that_are_named_are_there() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let mut files = Vec::new();
    sources(&tests.join("tests/e2e"), &mut files);
    let there: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            let module = file.strip_prefix(tests.join("tests/e2e")).unwrap().with_extension("");
            (module.display().to_string().replace('/', "::"), fs::read_to_string(file).unwrap())
        })
        .collect();
    let readme = fs::read_to_string(tests.join("README.md")).unwrap();
    let named = readme.split('`').skip(1).step_by(2).filter_map(|name| name.rsplit_once("::"));
    let is_there =
        |module: &str, name: &str| there.iter().any(|(path, text)| path == module && text.contains(&format!("async fn {name}(")));
    let missing: Vec<_> = named.clone().filter(|(module, name)| !is_there(module, name)).collect();
    assert!(named.count() > 40 && missing.is_empty(), "named in tests/README.md and not there: {missing:?}");
}
