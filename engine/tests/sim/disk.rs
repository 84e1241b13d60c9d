//! A disk of eight clusters, each holding a number: enough for every way in which sets of changed clusters
//! can be wrong, and small enough that guests rewrite old content all the time.

pub const COUNT: usize = 8;

pub type Content = [u32; COUNT];

/// A set of clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clusters(u8);

impl Clusters {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u8::MAX);

    pub fn insert(&mut self, cluster: usize) {
        self.0 |= 1 << cluster;
    }

    pub fn contains(self, cluster: usize) -> bool {
        self.0 >> cluster & 1 == 1
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The clusters in which two contents differ.
pub fn difference(one: &Content, other: &Content) -> Clusters {
    let mut clusters = Clusters::NONE;
    for cluster in (0..COUNT).filter(|&cluster| one[cluster] != other[cluster]) {
        clusters.insert(cluster);
    }
    clusters
}

/// `below` with these clusters of `above` on top.
pub fn patched(below: &Content, above: &Content, clusters: Clusters) -> Content {
    std::array::from_fn(|cluster| if clusters.contains(cluster) { above[cluster] } else { below[cluster] })
}
