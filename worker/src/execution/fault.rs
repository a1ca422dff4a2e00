//! Named instructions at which tests kill the worker. Compiled in only with the feature `fault-points`.

/// Ends the process on the spot, as a kill would, if `POSTERN_FAULT` names this point. With `POSTERN_FAULT_ONCE`, only
/// while that file is absent, which it then makes: the next worker lives.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    if std::env::var("POSTERN_FAULT").is_ok_and(|wanted| wanted == name) {
        if let Ok(path) = std::env::var("POSTERN_FAULT_ONCE")
            && std::fs::OpenOptions::new().write(true).create_new(true).open(path).is_err()
        {
            return;
        }
        std::process::abort();
    }
}

/// Nothing, in a binary for use.
#[cfg(not(feature = "fault-points"))]
pub fn point(_name: &str) {}
