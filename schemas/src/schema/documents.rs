//! The generated documents as files.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{asyncapi, names, result_example, schema};

/// Every example by name: the events, and a result.
pub fn examples() -> Vec<(&'static str, Value)> {
    let mut examples = crate::examples::events();
    examples.push(("audit-grant", result_example::grant()));
    examples
}

/// Writes `<name>.json` for each schema, `asyncapi.json` and `examples/<name>.json` into `dir`, which is made if need be.
/// Answers with the files' paths. What else is there stays.
pub fn write_all(dir: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir.join("examples"))?;
    let write = |(path, value): (PathBuf, Value)| std::fs::write(&path, text(value)).map(|()| path);
    all(dir).into_iter().map(write).collect()
}

fn all(dir: &Path) -> Vec<(PathBuf, Value)> {
    let schemas = names().into_iter().filter_map(|name| schema(name).map(|schema| (dir.join(format!("{name}.json")), schema)));
    let examples = examples().into_iter().map(|(name, example)| (dir.join("examples").join(format!("{name}.json")), example));
    schemas.chain([(dir.join("asyncapi.json"), asyncapi())]).chain(examples).collect()
}

/// Indented, keys sorted: the map's own order depends on a feature of `serde_json` that any dependency may switch on.
fn text(value: Value) -> String {
    format!("{:#}\n", sorted(value))
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            Value::Object(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        scalar => scalar,
    }
}
