//! The documents beside the code are the ones that the code generates.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use postern_schemas::schema;

type Files = BTreeMap<PathBuf, String>;

fn read(dir: &Path, below: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(dir.join(below)).into_iter().flatten() {
        let path = below.join(entry.unwrap().file_name());
        if dir.join(&path).is_dir() {
            read(dir, &path, files);
        } else {
            files.insert(path.clone(), std::fs::read_to_string(dir.join(&path)).unwrap());
        }
    }
}

#[test]
fn the_documents_are_up_to_date() {
    let fresh_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("documents");
    let _ = std::fs::remove_dir_all(&fresh_dir);
    let written = schema::write_all(&fresh_dir).unwrap();
    let (mut fresh, mut kept) = (Files::new(), Files::new());
    read(&fresh_dir, Path::new(""), &mut fresh);
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("documents"), Path::new(""), &mut kept);
    assert_eq!(written.len(), fresh.len());
    let differing: Vec<_> = fresh.iter().filter(|(path, text)| kept.get(*path) != Some(text)).map(|(path, _)| path).collect();
    let stale: Vec<_> = kept.keys().filter(|path| !fresh.contains_key(*path)).collect();
    assert!(
        differing.is_empty() && stale.is_empty(),
        "schemas/documents is not what the types say: {differing:?} differ, {stale:?} are no longer generated; run `postern schema --all schemas/documents`"
    );
}
