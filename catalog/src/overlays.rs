//! Pins, and the overlays that VMs run in on top of a point. An overlay and its pin come and go together.

use crate::{
    Catalog, CatalogError, Result,
    row::{UnknownWord, parsed},
};
use model::{DeltaId, DiskId, VmId};
use rusqlite::{Connection, Row, params};
use std::{fmt, path::PathBuf, str::FromStr};

/// Why the layers of a point must not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub id: i64,
    pub delta: DeltaId,
    pub reason: String,
    /// Whoever takes the pin away again.
    pub owner: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OverlayKind {
    Failover,
    Test,
}

/// One disk's writable file on top of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    pub kind: OverlayKind,
    pub number: u32,
    pub disk: DiskId,
    pub delta: DeltaId,
    /// A file name in the disk's folder.
    pub path: PathBuf,
}

const OVERLAY_PIN: &str = "overlay";

impl Catalog {
    /// Pins a point; the same pin twice is one.
    pub fn add_pin(&self, vm: VmId, delta: DeltaId, reason: &str, owner: &str) -> Result<()> {
        Ok(insert_pin(&self.writer(), vm, delta, reason, owner)?)
    }

    /// Removes the pin of this reason and owner, on whatever points it is.
    pub fn delete_pins(&self, vm: VmId, reason: &str, owner: &str) -> Result<()> {
        self.writer().execute(
            "DELETE FROM pin WHERE vm = ?1 AND reason = ?2 AND owner = ?3",
            params![vm.to_string(), reason, owner],
        )?;
        Ok(())
    }

    /// All pins of a VM, oldest first.
    pub fn pins(&self, vm: VmId) -> Result<Vec<Pin>> {
        let writer = self.writer();
        let mut query =
            writer.prepare_cached("SELECT id, delta, reason, owner FROM pin WHERE vm = ?1 ORDER BY id")?;
        let rows = query.query_map([vm.to_string()], |row| {
            Ok(Pin {
                id: row.get("id")?,
                delta: parsed(row, "delta")?,
                reason: row.get("reason")?,
                owner: row.get("owner")?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Records overlays, one per disk, and pins their points, in one transaction.
    pub fn add_overlays(&self, vm: VmId, overlays: &[Overlay]) -> Result<()> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        for overlay in overlays {
            let path =
                overlay.path.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(overlay.path.clone()))?;
            insert_pin(&transaction, vm, overlay.delta, OVERLAY_PIN, &owner(overlay.kind, overlay.number))?;
            transaction.execute(
                "INSERT INTO overlay (vm, kind, number, disk, delta, path) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    vm.to_string(),
                    overlay.kind.to_string(),
                    overlay.number,
                    overlay.disk.to_string(),
                    overlay.delta.to_string(),
                    path
                ],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// All overlays of a VM, by kind, number and disk.
    pub fn overlays(&self, vm: VmId) -> Result<Vec<Overlay>> {
        let writer = self.writer();
        let mut query =
            writer.prepare_cached("SELECT * FROM overlay WHERE vm = ?1 ORDER BY kind, number, disk")?;
        Ok(query.query_map([vm.to_string()], overlay)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Forgets the overlays of this kind and number and their pin.
    pub fn delete_overlays(&self, vm: VmId, kind: OverlayKind, number: u32) -> Result<()> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        transaction.execute(
            "DELETE FROM overlay WHERE vm = ?1 AND kind = ?2 AND number = ?3",
            params![vm.to_string(), kind.to_string(), number],
        )?;
        transaction.execute(
            "DELETE FROM pin WHERE vm = ?1 AND reason = ?2 AND owner = ?3",
            params![vm.to_string(), OVERLAY_PIN, owner(kind, number)],
        )?;
        transaction.commit().map_err(CatalogError::from)
    }
}

fn owner(kind: OverlayKind, number: u32) -> String {
    format!("{kind}-{number}")
}

fn insert_pin(
    connection: &Connection,
    vm: VmId,
    delta: DeltaId,
    reason: &str,
    owner: &str,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO pin (vm, delta, reason, owner) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (vm, delta, reason, owner) DO NOTHING",
        params![vm.to_string(), delta.to_string(), reason, owner],
    )?;
    Ok(())
}

fn overlay(row: &Row<'_>) -> rusqlite::Result<Overlay> {
    let path: String = row.get("path")?;
    Ok(Overlay {
        kind: parsed(row, "kind")?,
        number: row.get("number")?,
        disk: parsed(row, "disk")?,
        delta: parsed(row, "delta")?,
        path: path.into(),
    })
}

impl fmt::Display for OverlayKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failover => "failover",
            Self::Test => "test",
        })
    }
}

impl FromStr for OverlayKind {
    type Err = UnknownWord;
    fn from_str(text: &str) -> std::result::Result<Self, UnknownWord> {
        match text {
            "failover" => Ok(Self::Failover),
            "test" => Ok(Self::Test),
            _ => Err(UnknownWord(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expected, NewPoint};
    use model::{Generation, PointKind};

    #[test]
    fn an_overlay_pins_its_point_until_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let (vm, delta) = (VmId::random(), DeltaId::random());
        let generation = Generation::first("a.example".parse().unwrap());
        catalog.save_relationship(vm, 0, "{}", &generation).unwrap();
        let expected = Expected {
            index: 0,
            generation_number: generation.number,
            generation_nonce: generation.nonce,
            base: None,
        };
        let point = NewPoint {
            delta,
            kind: PointKind::Regular,
            cut_at_ms: 0,
            received_at_ms: 0,
            note: String::new(),
            json: String::new(),
        };
        catalog.commit_point(vm, &expected, &point, &[]).unwrap();
        let overlay =
            |disk| Overlay { kind: OverlayKind::Test, number: 1, disk, delta, path: "test-1.qcow2".into() };
        let overlays = [overlay(DiskId::random()), overlay(DiskId::random())];
        catalog.add_overlays(vm, &overlays).unwrap();
        assert_eq!(catalog.overlays(vm).unwrap().len(), 2);
        let pins = catalog.pins(vm).unwrap();
        assert_eq!(pins.len(), 1);
        assert_eq!((pins[0].delta, pins[0].owner.as_str()), (delta, "test-1"));

        catalog.add_pin(vm, delta, "transfer", "c.example").unwrap();
        catalog.add_pin(vm, delta, "transfer", "c.example").unwrap();
        assert_eq!(catalog.pins(vm).unwrap().len(), 2);
        catalog.delete_overlays(vm, OverlayKind::Test, 1).unwrap();
        assert!(catalog.overlays(vm).unwrap().is_empty());
        // The other pin still holds the point.
        assert!(catalog.delete_points(vm, &[delta]).is_err());
        catalog.delete_pins(vm, "transfer", "c.example").unwrap();
        catalog.delete_points(vm, &[delta]).unwrap();
        assert!(catalog.points(vm).unwrap().is_empty());
        // A pin of a point that does not exist would protect nothing.
        assert!(catalog.add_pin(vm, delta, "transfer", "c.example").is_err());
    }
}
