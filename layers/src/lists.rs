//! What must be sent because layers are about to be forgotten.

use crate::{error::Result, store::Store};
use model::{ClusterSet, DeltaId, DiskId, sums::SumsReader};

impl Store {
    /// The clusters of a disk that the layers after a point hold, up to the latest, hidden ones included.
    pub fn clusters_after(&self, delta: DeltaId, disk: DiskId) -> Result<ClusterSet> {
        let _layers = self.lock_layers()?;
        let sequence = self.point(delta)?.sequence;
        let points = self.catalog.points(self.vm)?;
        let layers = self.catalog.layers(self.vm)?;
        let mut clusters = ClusterSet::new();
        for point in points.iter().filter(|point| point.sequence > sequence) {
            if layers.iter().any(|layer| layer.delta == point.delta && layer.disk == disk) {
                clusters.union(&SumsReader::clusters(&self.sums_path(disk, point.delta))?);
            }
        }
        Ok(clusters)
    }
}
