//! Relationships: one row per VM and link, with the generation beside the opaque record, because the
//! transaction that commits a point has to compare it.

use crate::{Catalog, Result, row::parsed};
use model::{Generation, VmId};
use rusqlite::{Connection, OptionalExtension, Row, params};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relationship {
    pub vm: VmId,
    /// 0: primary to replica; 1: replica to extended replica.
    pub index: u16,
    /// JSON.
    pub record: String,
    pub generation: Generation,
}

const COLUMNS: &str = "vm, idx, record, generation_number, generation_owner, generation_nonce";

impl Catalog {
    pub fn save_relationship(
        &self,
        vm: VmId,
        index: u16,
        record: &str,
        generation: &Generation,
    ) -> Result<()> {
        self.writer().execute(
            &format!("INSERT OR REPLACE INTO relationship ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
            params![
                vm.to_string(),
                index,
                record,
                generation.number,
                generation.owner.as_str(),
                generation.nonce.to_string()
            ],
        )?;
        Ok(())
    }

    /// All relationships, by VM and index.
    pub fn relationships(&self) -> Result<Vec<Relationship>> {
        let writer = self.writer();
        let mut query =
            writer.prepare_cached(&format!("SELECT {COLUMNS} FROM relationship ORDER BY vm, idx"))?;
        let rows = query.query_map([], relationship)?.collect::<rusqlite::Result<_>>()?;
        Ok(rows)
    }

    pub fn relationship(&self, vm: VmId, index: u16) -> Result<Option<Relationship>> {
        Ok(find(&self.writer(), vm, index)?)
    }

    pub fn delete_relationship(&self, vm: VmId, index: u16) -> Result<()> {
        self.writer()
            .execute("DELETE FROM relationship WHERE vm = ?1 AND idx = ?2", params![vm.to_string(), index])?;
        Ok(())
    }
}

pub(crate) fn find(connection: &Connection, vm: VmId, index: u16) -> rusqlite::Result<Option<Relationship>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM relationship WHERE vm = ?1 AND idx = ?2"))?
        .query_row(params![vm.to_string(), index], relationship)
        .optional()
}

fn relationship(row: &Row<'_>) -> rusqlite::Result<Relationship> {
    Ok(Relationship {
        vm: parsed(row, "vm")?,
        index: row.get("idx")?,
        record: row.get("record")?,
        generation: Generation {
            number: row.get("generation_number")?,
            owner: parsed(row, "generation_owner")?,
            nonce: parsed(row, "generation_nonce")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relationships_are_saved_replaced_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let vm = VmId::random();
        let first = Generation::first("a.example".parse().unwrap());
        let second = first.next("b.example".parse().unwrap());
        catalog.save_relationship(vm, 0, "{}", &first).unwrap();
        catalog.save_relationship(vm, 1, "{}", &first).unwrap();
        catalog.save_relationship(vm, 0, r#"{"x":1}"#, &second).unwrap();
        let expected = Relationship { vm, index: 0, record: r#"{"x":1}"#.into(), generation: second };
        assert_eq!(catalog.relationship(vm, 0).unwrap().unwrap(), expected);
        assert_eq!(catalog.relationships().unwrap().len(), 2);
        catalog.delete_relationship(vm, 0).unwrap();
        assert_eq!(catalog.relationship(vm, 0).unwrap(), None);
    }
}
