//! How far a transfer has come, so that it can be resumed.

use crate::{Catalog, Result, row::parsed};
use model::{DeltaId, VmId};
use rusqlite::{OptionalExtension, params};

/// A delta that is being received and can be resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiving {
    pub vm: VmId,
    pub delta: DeltaId,
    /// JSON: how far it is durable.
    pub json: String,
}

impl Catalog {
    pub fn save_receiving(&self, entry: &Receiving) -> Result<()> {
        self.writer().execute(
            "INSERT OR REPLACE INTO receiving (vm, delta, json) VALUES (?1, ?2, ?3)",
            params![entry.vm.to_string(), entry.delta.to_string(), entry.json],
        )?;
        Ok(())
    }

    pub fn receiving(&self, vm: VmId, delta: DeltaId) -> Result<Option<Receiving>> {
        let writer = self.writer();
        let mut query = writer.prepare_cached("SELECT json FROM receiving WHERE vm = ?1 AND delta = ?2")?;
        let json =
            query.query_row(params![vm.to_string(), delta.to_string()], |row| row.get(0)).optional()?;
        Ok(json.map(|json| Receiving { vm, delta, json }))
    }

    /// The deltas of which the VM holds resumable parts.
    pub fn all_receiving(&self, vm: VmId) -> Result<Vec<Receiving>> {
        let writer = self.writer();
        let mut query =
            writer.prepare_cached("SELECT delta, json FROM receiving WHERE vm = ?1 ORDER BY delta")?;
        let rows = query.query_map([vm.to_string()], |row| {
            Ok(Receiving { vm, delta: parsed(row, "delta")?, json: row.get("json")? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn delete_receiving(&self, vm: VmId, delta: DeltaId) -> Result<()> {
        self.writer().execute(
            "DELETE FROM receiving WHERE vm = ?1 AND delta = ?2",
            params![vm.to_string(), delta.to_string()],
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiving_mark_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let entry = Receiving { vm: VmId::random(), delta: DeltaId::random(), json: "1".into() };
        catalog.save_receiving(&entry).unwrap();
        let entry = Receiving { json: "2".into(), ..entry };
        catalog.save_receiving(&entry).unwrap();
        assert_eq!(catalog.receiving(entry.vm, entry.delta).unwrap(), Some(entry.clone()));
        assert_eq!(catalog.all_receiving(entry.vm).unwrap(), std::slice::from_ref(&entry));
        catalog.delete_receiving(entry.vm, entry.delta).unwrap();
        assert_eq!(catalog.receiving(entry.vm, entry.delta).unwrap(), None);
    }
}
