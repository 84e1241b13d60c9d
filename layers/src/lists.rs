//! Cluster lists: what must be sent because layers or overlays are about to be forgotten.

use crate::{
    error::{LayersError, Result},
    store::Store,
};
use catalog::ClusterList;
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

    /// Keeps a list durably, in place of the one with its label and disk.
    pub fn record_list(&self, label: &str, disk: DiskId, source: &str, clusters: ClusterSet) -> Result<()> {
        let label = label.to_owned();
        let list = ClusterList { disk, label, delta: None, source: source.to_owned(), clusters };
        Ok(self.catalog.save_cluster_lists(self.vm, &[list])?)
    }

    pub fn lists(&self) -> Result<Vec<ClusterList>> {
        Ok(self.catalog.cluster_lists(self.vm)?)
    }

    pub fn forget_lists(&self, label: &str) -> Result<()> {
        self.catalog.delete_cluster_lists(self.vm, label).map_err(LayersError::from)
    }
}
