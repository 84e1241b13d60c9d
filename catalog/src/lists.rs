//! Cluster lists: which clusters of a disk a dropped layer or an overlay held. Bitmaps, compressed, since
//! most of them are nearly empty.

use crate::{
    Catalog, CatalogError, Result,
    row::{conversion, parsed, parsed_option},
};
use model::{ClusterSet, DeltaId, DiskId, VmId};
use rusqlite::{Row, params};

/// Level 1 shrinks a sparse bitmap a hundredfold; more gains nothing.
const ZSTD_LEVEL: i32 = 1;

/// A bitmap of the largest disk, 256 TiB.
const BITMAP_BYTES_MAX: usize = 512 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterList {
    pub disk: DiskId,
    /// What the list is kept for, such as the failover that it belongs to.
    pub label: String,
    /// The point that the list starts from, if it starts from one.
    pub delta: Option<DeltaId>,
    /// Where the clusters come from: layers, overlay.
    pub source: String,
    pub clusters: ClusterSet,
}

impl Catalog {
    /// Saves the lists in one transaction; each replaces the one of its disk and label.
    pub fn save_cluster_lists(&self, vm: VmId, lists: &[ClusterList]) -> Result<()> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        for list in lists {
            let bitmap = zstd::bulk::compress(&list.clusters.to_bytes(), ZSTD_LEVEL)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            transaction.execute(
                "INSERT OR REPLACE INTO cluster_list (vm, disk, label, delta, source, bitmap)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    vm.to_string(),
                    list.disk.to_string(),
                    list.label,
                    list.delta.map(|delta| delta.to_string()),
                    list.source,
                    bitmap
                ],
            )?;
        }
        transaction.commit().map_err(CatalogError::from)
    }

    /// All lists of a VM, by label and disk.
    pub fn cluster_lists(&self, vm: VmId) -> Result<Vec<ClusterList>> {
        let writer = self.writer();
        let mut query =
            writer.prepare_cached("SELECT * FROM cluster_list WHERE vm = ?1 ORDER BY label, disk")?;
        Ok(query.query_map([vm.to_string()], list)?.collect::<rusqlite::Result<_>>()?)
    }

    pub fn delete_cluster_lists(&self, vm: VmId, label: &str) -> Result<()> {
        self.writer().execute(
            "DELETE FROM cluster_list WHERE vm = ?1 AND label = ?2",
            params![vm.to_string(), label],
        )?;
        Ok(())
    }
}

fn list(row: &Row<'_>) -> rusqlite::Result<ClusterList> {
    let compressed: Vec<u8> = row.get("bitmap")?;
    let bitmap = zstd::stream::read::Decoder::new(&compressed[..])
        .and_then(|decoder| {
            let mut bitmap = vec![];
            std::io::Read::read_to_end(
                &mut std::io::Read::take(decoder, BITMAP_BYTES_MAX as u64),
                &mut bitmap,
            )?;
            Ok(bitmap)
        })
        .map_err(|error| conversion(row, "bitmap", Box::new(error)))?;
    let clusters = ClusterSet::from_bytes(&bitmap)
        .ok_or_else(|| conversion(row, "bitmap", "the bitmap is not made of whole words".into()))?;
    Ok(ClusterList {
        disk: parsed(row, "disk")?,
        label: row.get("label")?,
        delta: parsed_option(row, "delta")?,
        source: row.get("source")?,
        clusters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_as_it_was_and_goes_with_its_label() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let vm = VmId::random();
        let list = |label: &str, clusters: &[u32]| ClusterList {
            disk: DiskId::random(),
            label: label.into(),
            delta: Some(DeltaId::random()),
            source: "layers".into(),
            clusters: clusters.iter().copied().collect(),
        };
        let lists = [list("a", &[0, 7, 16 << 20]), list("b", &[])];
        catalog.save_cluster_lists(vm, &lists).unwrap();
        assert_eq!(catalog.cluster_lists(vm).unwrap(), lists);
        catalog.delete_cluster_lists(vm, "a").unwrap();
        assert_eq!(catalog.cluster_lists(vm).unwrap(), lists[1..]);
    }

    #[test]
    fn a_damaged_bitmap_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let vm = VmId::random();
        catalog
            .writer()
            .execute(
                "INSERT INTO cluster_list VALUES (?1, ?2, 'a', NULL, 'layers', x'0102')",
                params![vm.to_string(), DiskId::random().to_string()],
            )
            .unwrap();
        assert!(matches!(catalog.cluster_lists(vm), Err(CatalogError::Damaged { .. })));
    }
}
