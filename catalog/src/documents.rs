//! Small per-VM documents, the VM's disks, and `meta`.

use crate::{Catalog, Result, row::parsed};
use model::{DiskId, VmId};
use rusqlite::{OptionalExtension, params};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub disk: DiskId,
    /// The name in the guest's XML, such as `vda`; it may change.
    pub target: String,
    pub size_bytes: u64,
    /// JSON.
    pub json: String,
}

impl Catalog {
    pub fn put_document(&self, vm: VmId, key: &str, json: &str) -> Result<()> {
        self.writer().execute(
            "INSERT OR REPLACE INTO vm_document (vm, key, json) VALUES (?1, ?2, ?3)",
            params![vm.to_string(), key, json],
        )?;
        Ok(())
    }

    pub fn get_document(&self, vm: VmId, key: &str) -> Result<Option<String>> {
        let writer = self.writer();
        let mut query = writer.prepare_cached("SELECT json FROM vm_document WHERE vm = ?1 AND key = ?2")?;
        Ok(query.query_row(params![vm.to_string(), key], |row| row.get(0)).optional()?)
    }

    /// All documents of a VM as (key, JSON), by key.
    pub fn documents(&self, vm: VmId) -> Result<Vec<(String, String)>> {
        let writer = self.writer();
        let mut query =
            writer.prepare_cached("SELECT key, json FROM vm_document WHERE vm = ?1 ORDER BY key")?;
        let rows = query.query_map([vm.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn delete_document(&self, vm: VmId, key: &str) -> Result<()> {
        self.writer()
            .execute("DELETE FROM vm_document WHERE vm = ?1 AND key = ?2", params![vm.to_string(), key])?;
        Ok(())
    }

    pub fn delete_documents(&self, vm: VmId) -> Result<()> {
        self.writer().execute("DELETE FROM vm_document WHERE vm = ?1", [vm.to_string()])?;
        Ok(())
    }

    /// Replaces the VM's list of disks. Their order is kept.
    pub fn save_disks(&self, vm: VmId, disks: &[Disk]) -> Result<()> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        transaction.execute("DELETE FROM disk WHERE vm = ?1", [vm.to_string()])?;
        for (position, disk) in disks.iter().enumerate() {
            transaction.execute(
                "INSERT INTO disk (vm, disk, position, target, size_bytes, json) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![vm.to_string(), disk.disk.to_string(), position, disk.target, disk.size_bytes, disk.json],
            )?;
        }
        Ok(transaction.commit()?)
    }

    pub fn disks(&self, vm: VmId) -> Result<Vec<Disk>> {
        let writer = self.writer();
        let mut query = writer.prepare_cached("SELECT * FROM disk WHERE vm = ?1 ORDER BY position")?;
        let rows = query.query_map([vm.to_string()], |row| {
            Ok(Disk {
                disk: parsed(row, "disk")?,
                target: row.get("target")?,
                size_bytes: row.get("size_bytes")?,
                json: row.get("json")?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn put_meta(&self, key: &str, value: &str) -> Result<()> {
        self.writer()
            .execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value])?;
        Ok(())
    }

    pub fn get_meta(&self, key: &str) -> Result<Option<String>> {
        let writer = self.writer();
        let mut query = writer.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        Ok(query.query_row([key], |row| row.get(0)).optional()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_belong_to_their_vm() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let (vm, other) = (VmId::random(), VmId::random());
        catalog.put_document(vm, "xml", "1").unwrap();
        catalog.put_document(vm, "statistics", "2").unwrap();
        catalog.put_document(vm, "xml", "3").unwrap();
        catalog.put_document(other, "xml", "4").unwrap();
        assert_eq!(catalog.get_document(vm, "xml").unwrap().as_deref(), Some("3"));
        assert_eq!(catalog.documents(vm).unwrap().len(), 2);
        catalog.delete_document(vm, "statistics").unwrap();
        assert_eq!(catalog.documents(vm).unwrap(), [("xml".to_owned(), "3".to_owned())]);
        catalog.delete_documents(vm).unwrap();
        assert_eq!(catalog.get_document(vm, "xml").unwrap(), None);
        assert_eq!(catalog.documents(other).unwrap().len(), 1);
    }

    #[test]
    fn disks_keep_their_order_and_are_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let vm = VmId::random();
        let disk = |target: &str| Disk {
            disk: DiskId::random(),
            target: target.into(),
            size_bytes: 1 << 40,
            json: "{}".into(),
        };
        let disks = [disk("vdb"), disk("vda")];
        catalog.save_disks(vm, &disks).unwrap();
        assert_eq!(catalog.disks(vm).unwrap(), disks);
        catalog.save_disks(vm, &disks[1..]).unwrap();
        assert_eq!(catalog.disks(vm).unwrap(), disks[1..]);
        catalog.put_meta("host", "a").unwrap();
        assert_eq!(catalog.get_meta("host").unwrap().as_deref(), Some("a"));
        assert_eq!(catalog.get_meta("other").unwrap(), None);
    }
}
