//! `POSTERN_RESOLVE`: where names lead to, as curl's `--resolve` has it.
//!
//! `NAME:PORT=ADDRESS:PORT`, several separated by commas. A connection to `NAME:PORT` goes to `ADDRESS:PORT`; the name
//! that the certificate must hold, and that login tokens are signed for, stays `NAME`. For tests, and for networks where
//! a server is reached by another way than its name says.

use std::sync::Arc;

use postern_schemas::fields::{FromText as _, Problems};

use super::{Env, HostPort, read};

const VARIABLE: &str = "POSTERN_RESOLVE";

/// Names and where they lead to; mostly none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolve(Arc<[(HostPort, HostPort)]>);

impl Resolve {
    pub(super) fn read(env: Env<'_>, problems: &Problems) -> Self {
        let text = read::variable(env, VARIABLE).unwrap_or_default();
        let mut pairs = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let parsed = pair.split_once('=').and_then(|(from, to)| HostPort::from_text(from).ok().zip(HostPort::from_text(to).ok()));
            match parsed {
                Some(pair) => pairs.push(pair),
                None => problems.add(VARIABLE, format!("{pair:?} is no pair; expected such as db.example.com:5432=127.0.0.1:15432")),
            }
        }
        Self(pairs.into())
    }

    /// Where a connection to `host:port` goes.
    pub fn destination<'a>(&'a self, host: &'a str, port: u16) -> (&'a str, u16) {
        let found = self.0.iter().find(|(from, _)| from.port == port && from.host.eq_ignore_ascii_case(host));
        found.map_or((host, port), |(_, to)| (to.host.as_str(), to.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Resolve, usize) {
        let problems = Problems::default();
        let resolve = Resolve::read(&|name| (name == VARIABLE).then(|| text.to_owned()), &problems);
        (resolve, problems.into_vec().len())
    }

    #[test]
    fn a_name_leads_elsewhere_on_its_port_only() {
        let (resolve, mistakes) = read("db.example.com:5432=127.0.0.1:15432, other:1=[::1]:2");
        assert_eq!(mistakes, 0);
        assert_eq!(resolve.destination("DB.example.com", 5432), ("127.0.0.1", 15432));
        assert_eq!(resolve.destination("other", 1), ("::1", 2));
        assert_eq!(resolve.destination("db.example.com", 5433), ("db.example.com", 5433));
    }

    #[test]
    fn what_is_no_pair_is_a_mistake() {
        for text in ["db.example.com", "a:1=b", "a=b:1", "a:1=b:1=c:1", "a:0=b:1"] {
            assert_eq!(read(text).1, 1, "{text}");
        }
    }
}
