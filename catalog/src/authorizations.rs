//! Which hosts may replicate to and from this one, and where their replicas are stored.

use crate::{Catalog, Result};
use rusqlite::params;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// An exact host name, a wildcard in its first label, or `*`.
    pub host: String,
    pub trust_group: String,
    /// Folder for new replicas.
    pub storage: String,
}

impl Catalog {
    /// Inserts the entry or replaces the one for its host pattern.
    pub fn save_authorization(&self, entry: &Authorization) -> Result<()> {
        self.writer().execute(
            "INSERT OR REPLACE INTO authorization (host, trust_group, storage) VALUES (?1, ?2, ?3)",
            params![entry.host, entry.trust_group, entry.storage],
        )?;
        Ok(())
    }

    /// All entries, by host pattern.
    pub fn authorizations(&self) -> Result<Vec<Authorization>> {
        let writer = self.writer();
        let mut query =
            writer.prepare_cached("SELECT host, trust_group, storage FROM authorization ORDER BY host")?;
        let rows = query.query_map([], |row| {
            Ok(Authorization { host: row.get(0)?, trust_group: row.get(1)?, storage: row.get(2)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn delete_authorization(&self, host: &str) -> Result<()> {
        self.writer().execute("DELETE FROM authorization WHERE host = ?1", [host])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authorization_is_replaced_by_its_host_pattern() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let entry = |host: &str, storage: &str| Authorization {
            host: host.into(),
            trust_group: "DEFAULT".into(),
            storage: storage.into(),
        };
        catalog.save_authorization(&entry("*", "/a")).unwrap();
        catalog.save_authorization(&entry("*.b.example", "/b")).unwrap();
        catalog.save_authorization(&entry("*", "/c")).unwrap();
        assert_eq!(catalog.authorizations().unwrap(), [entry("*", "/c"), entry("*.b.example", "/b")]);
        catalog.delete_authorization("*").unwrap();
        assert_eq!(catalog.authorizations().unwrap().len(), 1);
    }
}
