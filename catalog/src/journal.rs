//! Both ends of a transfer: the sender's journal of cuts and the receiver's resume marks.

use crate::{
    Catalog, Result,
    row::{parsed, parsed_option},
};
use model::{DeltaId, VmId};
use rusqlite::{OptionalExtension, params};

/// A cut that the other side may not have yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    pub delta: DeltaId,
    pub base: Option<DeltaId>,
    pub stage: String,
    /// JSON.
    pub json: String,
}

/// A delta that is being received and can be resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiving {
    pub vm: VmId,
    pub delta: DeltaId,
    /// JSON: how far it is durable.
    pub json: String,
}

impl Catalog {
    /// Appends the cut, or updates base, stage and document of the one with its id; its place stays.
    pub fn save_journal(&self, vm: VmId, entry: &JournalEntry) -> Result<()> {
        self.writer().execute(
            "INSERT INTO journal (vm, delta, base, stage, json) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (vm, delta) DO UPDATE SET base = ?3, stage = ?4, json = ?5",
            params![
                vm.to_string(),
                entry.delta.to_string(),
                entry.base.map(|base| base.to_string()),
                entry.stage,
                entry.json
            ],
        )?;
        Ok(())
    }

    /// The VM's cuts, oldest first.
    pub fn journal(&self, vm: VmId) -> Result<Vec<JournalEntry>> {
        let writer = self.writer();
        let mut query = writer
            .prepare_cached("SELECT delta, base, stage, json FROM journal WHERE vm = ?1 ORDER BY id")?;
        let rows = query.query_map([vm.to_string()], |row| {
            Ok(JournalEntry {
                delta: parsed(row, "delta")?,
                base: parsed_option(row, "base")?,
                stage: row.get("stage")?,
                json: row.get("json")?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn delete_journal(&self, vm: VmId, delta: DeltaId) -> Result<()> {
        self.writer().execute(
            "DELETE FROM journal WHERE vm = ?1 AND delta = ?2",
            params![vm.to_string(), delta.to_string()],
        )?;
        Ok(())
    }

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
    fn the_journal_keeps_its_order_through_updates() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let vm = VmId::random();
        let first =
            JournalEntry { delta: DeltaId::random(), base: None, stage: "cut".into(), json: "{}".into() };
        let second = JournalEntry { delta: DeltaId::random(), base: Some(first.delta), ..first.clone() };
        catalog.save_journal(vm, &first).unwrap();
        catalog.save_journal(vm, &second).unwrap();
        let first = JournalEntry { stage: "sent".into(), ..first };
        catalog.save_journal(vm, &first).unwrap();
        assert_eq!(catalog.journal(vm).unwrap(), [first.clone(), second.clone()]);
        catalog.delete_journal(vm, first.delta).unwrap();
        assert_eq!(catalog.journal(vm).unwrap(), [second]);
        assert!(catalog.journal(VmId::random()).unwrap().is_empty());
    }

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
