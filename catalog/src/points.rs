//! Recovery points and their layers, and the merge that is going on between two of them.

use crate::{
    Catalog, CatalogError, CommitRefused, Result, relationships,
    row::{UnknownWord, conversion, parsed, parsed_option},
};
use model::{DeltaId, DiskId, PointKind, VmId};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::{fmt, path::PathBuf, str::FromStr};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub delta: DeltaId,
    /// The point below it in the chain.
    pub base: Option<DeltaId>,
    /// Order among the VM's points; given by the commit, never reused while the point exists.
    pub sequence: u64,
    pub kind: PointKind,
    pub cut_at_ms: i64,
    pub received_at_ms: i64,
    /// When it was received, by a clock that stands where the host's goes back: never before the point below.
    pub timeline_ms: i64,
    pub generation_number: u64,
    pub visible: bool,
    pub note: String,
    /// JSON.
    pub json: String,
}

/// A point that is to become visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPoint {
    pub delta: DeltaId,
    pub kind: PointKind,
    pub cut_at_ms: i64,
    pub received_at_ms: i64,
    pub note: String,
    pub json: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerFormat {
    Qcow2,
    Raw,
}

/// One disk's part of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub disk: DiskId,
    pub delta: DeltaId,
    /// The delta of the layer below; `None` at the bottom.
    pub base: Option<DeltaId>,
    /// A file name in the disk's folder, or, in place, an absolute path.
    pub path: PathBuf,
    pub format: LayerFormat,
    /// The VM's own disk, adopted where it stood: never written.
    pub in_place: bool,
    pub size_bytes: u64,
    pub data_clusters: u64,
    pub stored_bytes: u64,
}

/// What the sender believes; checked inside the transaction that makes its point visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Which relationship of the VM feeds this replica.
    pub index: u16,
    pub generation_number: u64,
    pub generation_nonce: Uuid,
    /// The latest point, on which the delta builds.
    pub base: Option<DeltaId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeStage {
    /// The older layers' files are being written: their own points can no longer be read.
    Copying,
    /// They hold everything; their files are being given the newer ones' names.
    Renaming,
}

/// The merge of two neighbouring points' layers into the newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    pub older: DeltaId,
    pub newer: DeltaId,
    pub stage: MergeStage,
}

impl Catalog {
    /// Makes a point and its layers visible, if the relationship's generation and the VM's latest point
    /// still are what the sender expects, and forgets the resume mark of its transfer.
    pub fn commit_point(
        &self,
        vm: VmId,
        expected: &Expected,
        point: &NewPoint,
        layers: &[Layer],
    ) -> std::result::Result<Point, CommitRefused> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        let current = relationships::find(&transaction, vm, expected.index)?.map(|row| row.generation);
        let same = current.as_ref().is_some_and(|generation| {
            (generation.number, generation.nonce) == (expected.generation_number, expected.generation_nonce)
        });
        if !same {
            return Err(CommitRefused::StaleGeneration { current });
        }
        let latest = latest(&transaction, vm)?;
        if latest.as_ref().map(|latest| latest.delta) != expected.base {
            return Err(CommitRefused::WrongBase { latest: latest.map(|latest| latest.delta) });
        }
        let point = Point {
            delta: point.delta,
            base: expected.base,
            sequence: latest.as_ref().map_or(1, |latest| latest.sequence + 1),
            kind: point.kind,
            cut_at_ms: point.cut_at_ms,
            received_at_ms: point.received_at_ms,
            timeline_ms: latest.map_or(point.received_at_ms, |latest| {
                latest.timeline_ms + (point.received_at_ms - latest.received_at_ms).max(0)
            }),
            generation_number: expected.generation_number,
            visible: true,
            note: point.note.clone(),
            json: point.json.clone(),
        };
        insert_point(&transaction, vm, &point)?;
        for layer in layers {
            insert_layer(&transaction, vm, layer)?;
        }
        transaction.execute(
            "DELETE FROM receiving WHERE vm = ?1 AND delta = ?2",
            params![vm.to_string(), point.delta.to_string()],
        )?;
        transaction.commit()?;
        Ok(point)
    }

    /// All points of a VM, hidden ones too, by sequence.
    pub fn points(&self, vm: VmId) -> Result<Vec<Point>> {
        let writer = self.writer();
        let mut query = writer.prepare_cached("SELECT * FROM point WHERE vm = ?1 ORDER BY sequence")?;
        Ok(query.query_map([vm.to_string()], point)?.collect::<rusqlite::Result<_>>()?)
    }

    /// All layers of a VM, by their points' sequence.
    pub fn layers(&self, vm: VmId) -> Result<Vec<Layer>> {
        let writer = self.writer();
        let mut query = writer.prepare_cached(
            "SELECT layer.* FROM layer JOIN point USING (vm, delta) WHERE vm = ?1 ORDER BY sequence, disk",
        )?;
        Ok(query.query_map([vm.to_string()], layer)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Hides points: from here on nobody is offered them.
    pub fn hide_points(&self, vm: VmId, deltas: &[DeltaId]) -> Result<()> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        for delta in deltas {
            transaction.execute(
                "UPDATE point SET visible = 0 WHERE vm = ?1 AND delta = ?2",
                params![vm.to_string(), delta.to_string()],
            )?;
        }
        Ok(transaction.commit()?)
    }

    pub fn set_point_note(&self, vm: VmId, delta: DeltaId, note: &str) -> Result<()> {
        self.writer().execute(
            "UPDATE point SET note = ?3 WHERE vm = ?1 AND delta = ?2",
            params![vm.to_string(), delta.to_string(), note],
        )?;
        Ok(())
    }

    /// Forgets points with their layers. Pinned ones are refused, and then none is forgotten.
    pub fn delete_points(&self, vm: VmId, deltas: &[DeltaId]) -> Result<()> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        for delta in deltas {
            transaction.execute(
                "DELETE FROM point WHERE vm = ?1 AND delta = ?2",
                params![vm.to_string(), delta.to_string()],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// Forgets all points of a VM with whatever hangs on them: layers, merges, pins, overlays, transfers.
    /// Cluster lists stay, since they say what must be sent when the points are gone.
    pub fn delete_all_points(&self, vm: VmId) -> Result<()> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        for table in ["pin", "overlay", "receiving", "point"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE vm = ?1"), [vm.to_string()])?;
        }
        Ok(transaction.commit()?)
    }

    pub fn merge(&self, vm: VmId) -> Result<Option<Merge>> {
        let writer = self.writer();
        let mut query = writer.prepare_cached("SELECT older, newer, stage FROM merge WHERE vm = ?1")?;
        let merge = query.query_row([vm.to_string()], |row| {
            let stage: String = row.get("stage")?;
            let stage = match stage.as_str() {
                "copying" => MergeStage::Copying,
                "renaming" => MergeStage::Renaming,
                _ => return Err(conversion(row, "stage", Box::new(UnknownWord(stage)))),
            };
            Ok(Merge { older: parsed(row, "older")?, newer: parsed(row, "newer")?, stage })
        });
        merge.optional().map_err(CatalogError::from)
    }

    /// Records the merge in progress; there is one per VM.
    pub fn save_merge(&self, vm: VmId, merge: &Merge) -> Result<()> {
        let stage = match merge.stage {
            MergeStage::Copying => "copying",
            MergeStage::Renaming => "renaming",
        };
        self.writer().execute(
            "INSERT OR REPLACE INTO merge (vm, older, newer, stage) VALUES (?1, ?2, ?3, ?4)",
            params![vm.to_string(), merge.older.to_string(), merge.newer.to_string(), stage],
        )?;
        Ok(())
    }

    /// Forgets a merge that was given up while it copied.
    pub fn delete_merge(&self, vm: VmId) -> Result<()> {
        self.writer().execute("DELETE FROM merge WHERE vm = ?1", [vm.to_string()])?;
        Ok(())
    }

    /// Completes a merge: the older point goes, the newer one takes its place in the chain with these
    /// layers, and the record of the merge goes.
    pub fn finish_merge(&self, vm: VmId, merge: &Merge, layers: &[Layer]) -> Result<()> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        let ids = params![vm.to_string(), merge.older.to_string(), merge.newer.to_string()];
        transaction.execute(
            "UPDATE point SET base = (SELECT base FROM point WHERE vm = ?1 AND delta = ?2)
             WHERE vm = ?1 AND delta = ?3",
            ids,
        )?;
        transaction.execute("DELETE FROM layer WHERE vm = ?1 AND delta IN (?2, ?3)", ids)?;
        for layer in layers {
            insert_layer(&transaction, vm, layer)?;
        }
        transaction.execute(
            "DELETE FROM point WHERE vm = ?1 AND delta = ?2",
            params![vm.to_string(), merge.older.to_string()],
        )?;
        transaction.execute("DELETE FROM merge WHERE vm = ?1", [vm.to_string()])?;
        Ok(transaction.commit()?)
    }
}

/// The point with the highest sequence, hidden or not: a delta on top of anything else would fork.
fn latest(connection: &Connection, vm: VmId) -> rusqlite::Result<Option<Point>> {
    connection
        .prepare_cached("SELECT * FROM point WHERE vm = ?1 ORDER BY sequence DESC LIMIT 1")?
        .query_row([vm.to_string()], point)
        .optional()
}

fn insert_point(connection: &Connection, vm: VmId, point: &Point) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO point (vm, delta, base, sequence, kind, cut_at_ms, received_at_ms, timeline_ms,
                            generation_number, visible, note, json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            vm.to_string(),
            point.delta.to_string(),
            point.base.map(|base| base.to_string()),
            point.sequence,
            point.kind.number(),
            point.cut_at_ms,
            point.received_at_ms,
            point.timeline_ms,
            point.generation_number,
            point.visible,
            point.note,
            point.json
        ],
    )?;
    Ok(())
}

fn insert_layer(connection: &Connection, vm: VmId, layer: &Layer) -> rusqlite::Result<()> {
    let path = layer.path.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(layer.path.clone()))?;
    connection.execute(
        "INSERT INTO layer (vm, disk, delta, base, path, format, in_place, size_bytes, data_clusters,
                            stored_bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            vm.to_string(),
            layer.disk.to_string(),
            layer.delta.to_string(),
            layer.base.map(|base| base.to_string()),
            path,
            layer.format.to_string(),
            layer.in_place,
            layer.size_bytes,
            layer.data_clusters,
            layer.stored_bytes
        ],
    )?;
    Ok(())
}

fn point(row: &Row<'_>) -> rusqlite::Result<Point> {
    let kind: u16 = row.get("kind")?;
    let kind = PointKind::ALL.iter().copied().find(|known| known.number() == kind);
    Ok(Point {
        delta: parsed(row, "delta")?,
        base: parsed_option(row, "base")?,
        sequence: row.get("sequence")?,
        kind: kind.ok_or_else(|| conversion(row, "kind", "unknown kind of point".into()))?,
        cut_at_ms: row.get("cut_at_ms")?,
        received_at_ms: row.get("received_at_ms")?,
        timeline_ms: row.get("timeline_ms")?,
        generation_number: row.get("generation_number")?,
        visible: row.get("visible")?,
        note: row.get("note")?,
        json: row.get("json")?,
    })
}

fn layer(row: &Row<'_>) -> rusqlite::Result<Layer> {
    let path: String = row.get("path")?;
    Ok(Layer {
        disk: parsed(row, "disk")?,
        delta: parsed(row, "delta")?,
        base: parsed_option(row, "base")?,
        path: path.into(),
        format: parsed(row, "format")?,
        in_place: row.get("in_place")?,
        size_bytes: row.get("size_bytes")?,
        data_clusters: row.get("data_clusters")?,
        stored_bytes: row.get("stored_bytes")?,
    })
}

impl fmt::Display for LayerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        })
    }
}

impl FromStr for LayerFormat {
    type Err = UnknownWord;
    fn from_str(text: &str) -> std::result::Result<Self, UnknownWord> {
        match text {
            "qcow2" => Ok(Self::Qcow2),
            "raw" => Ok(Self::Raw),
            _ => Err(UnknownWord(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
