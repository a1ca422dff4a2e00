//! A directory for one server or one test, removed at the end together with the processes recorded in it.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Waits for the end of its input, which comes when the test process is gone in whatever way, SIGKILL included; then
/// ends the recorded processes and removes the directory. A tidy end has removed the directory before.
const REAPER: &str = r#"
cat >/dev/null
cd "$1" 2>/dev/null || exit 0
pids=
for file in *.pid; do
  [ ! -f "$file" ] || pids="$pids $(cat "$file")"
done
[ -z "$pids" ] || { kill -QUIT $pids 2>/dev/null; sleep 2; kill -KILL $pids 2>/dev/null; }
# Again after a moment: what was still being copied here, or written by a dying server, comes after the first.
rm -rf -- "$1"; sleep 1; rm -rf -- "$1"
"#;

/// A directory that others may pass through but not list, and its reaper.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    reaper: Child,
}

impl Scratch {
    /// Makes a directory under the system's directory for temporary files. Its path is short, since the path of a Unix
    /// socket may have no more than 107 bytes.
    pub fn new(name: &str) -> Result<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = std::env::temp_dir().join(format!("postern-{name}-{}", &id[..12]));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711))?;
        let reaper = Command::new("/bin/sh")
            .args(["-c", REAPER, "reaper"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C reaches every process of the terminal's foreground group; the reaper must outlive it.
            .process_group(0)
            .spawn()
            .context("cannot start /bin/sh")?;
        Ok(Self { path, reaper })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Names a process that must not outlive the directory. The caller ends it in the ordinary case, and then calls
    /// [`Scratch::forget`].
    pub fn record(&self, name: &str, pid: u32) -> Result<()> {
        Ok(fs::write(self.join(format!("{name}.pid")), format!("{pid}\n"))?)
    }

    /// The process recorded under this name has ended.
    pub fn forget(&self, name: &str) {
        let _ = fs::remove_file(self.join(format!("{name}.pid")));
    }

    /// Writes a file that only its owner can read.
    pub fn write_private(&self, name: &str, text: &str) -> Result<PathBuf> {
        use std::io::Write as _;
        let path = self.join(name);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A server that was just killed may still be removing files of its own.
        for _ in 0..50 {
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => std::thread::sleep(crate::process::POLL),
                Ok(()) | Err(_) => break,
            }
        }
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}
