//! Forwarding: what a third host is sent makes its points read as those here, whatever was merged meanwhile.

mod support;

use layers::{LayersError, Step, Store};
use model::{CLUSTER_BYTES, ClusterSet, DeltaId, ZERO_CLUSTER};
use std::sync::atomic::AtomicBool;
use support::{Change, Replica, assert_same};

const MIB: u64 = 1 << 20;

fn data(first: u32, count: u32, fill: u8) -> Change {
    Change::Data { first, count, fill }
}

/// What `to` has to be sent of a point: everything, or what is new since `base`.
fn forward(from: &Replica, to: &mut Replica, delta: DeltaId, base: Option<DeltaId>) -> u64 {
    to.now.clone_from(&from.points[&delta]);
    let wanted = |disk| base.map(|base| from.store.clusters_between(base, delta, disk).unwrap());
    let disks: Vec<(_, Option<ClusterSet>)> = from.disks.iter().map(|disk| (*disk, wanted(*disk))).collect();
    let mut writer = to.store.begin(to.incoming(delta)).unwrap();
    let mut sent = 0;
    for chunk in from.store.chunks(delta, disks).unwrap() {
        let chunk = chunk.unwrap();
        sent += u64::from(chunk.count());
        writer.write(&chunk).unwrap();
    }
    to.commit(writer).unwrap();
    to.check(false);
    sent
}

fn merge_all(store: &Store) {
    while let Step::Merged { .. } = store.coalesce_step(&AtomicBool::new(false)).unwrap() {}
}

fn third(from: &Replica, sizes: &[u64]) -> Replica {
    let mut third = Replica::new(sizes);
    third.disks.clone_from(&from.disks);
    third
}

#[test]
fn a_third_host_follows_through_growth_zeroes_and_merges() {
    let sizes = [4 * MIB, MIB + 512];
    let mut replica = Replica::new(&sizes);
    let first = replica.receive(&[vec![data(0, 30, 1)], vec![data(0, 17, 2)]]).unwrap().delta;
    replica.store.bookmark(first).unwrap();
    let mut third = third(&replica, &sizes);
    assert_eq!(forward(&replica, &mut third, first, None), 47);

    let hidden =
        replica.receive(&[vec![data(5, 10, 3), Change::Zero { first: 20, count: 5 }], vec![]]).unwrap().delta;
    let grown = vec![Change::Grow(MIB), data(18, 12, 4)];
    let second = replica.receive(&[vec![data(10, 14, 5)], grown]).unwrap().delta;
    replica.store.bookmark(second).unwrap();
    let newest = replica.receive(&[vec![data(40, 2, 6)], vec![]]).unwrap().delta;
    // All but the newest are to go; only what is between the bookmarks may.
    replica.store.hide(&[first, hidden, second]).unwrap();
    merge_all(&replica.store);
    assert_eq!(replica.store.bookmarks().unwrap(), [first, second]);
    assert!(matches!(
        replica.store.clusters_between(hidden, second, replica.disks[0]),
        Err(LayersError::UnknownPoint { .. })
    ));
    // 5 to 24 of one disk; 18 to 29 and, because the disk grew, its former last cluster of the other.
    assert_eq!(forward(&replica, &mut third, second, Some(first)), 20 + 13);

    replica.store.bookmark(newest).unwrap();
    assert_eq!(forward(&replica, &mut third, newest, Some(second)), 2);
    replica.store.drop_bookmarks(Some(newest)).unwrap();
    merge_all(&replica.store);
    assert_eq!(replica.catalog.layers(replica.vm).unwrap().len(), 2, "bookmarks keep no merge off for good");
    replica.check(true);
    third.check(true);
}

#[test]
fn a_point_that_was_hidden_without_a_bookmark_is_not_read() {
    let mut replica = Replica::new(&[MIB]);
    let first = replica.receive(&[vec![data(0, 4, 1)]]).unwrap().delta;
    replica.receive(&[vec![data(2, 4, 2)]]).unwrap();
    replica.store.hide(&[first]).unwrap();
    assert!(matches!(replica.store.bookmark(first), Err(LayersError::UnknownPoint { .. })));
    assert!(replica.store.chunks(first, vec![(replica.disks[0], None)]).is_err());
}

#[test]
fn what_rots_here_is_not_passed_on() {
    let mut replica = Replica::new(&[MIB]);
    let delta = replica.receive(&[vec![data(0, 8, 1)]]).unwrap().delta;
    let (disk, layers) = replica.store.chain(delta).unwrap().remove(0);
    let path = &layers[0].path;
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(64).position(|window| window == [1 + 4; 64]).unwrap();
    bytes[at + 10] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let mut chunks = replica.store.chunks(delta, vec![(disk, None)]).unwrap();
    assert!(chunks.any(|chunk| matches!(chunk, Err(LayersError::Corrupt { .. }))));
}

#[test]
fn a_cluster_that_is_wanted_and_in_no_layer_is_sent_as_zero() {
    let mut replica = Replica::new(&[MIB]);
    let delta = replica.receive(&[vec![data(3, 1, 1)]]).unwrap().delta;
    let wanted: ClusterSet = [1, 2, 3, 15, 16, 99].into_iter().collect();
    let chunks = replica.store.chunks(delta, vec![(replica.disks[0], Some(wanted))]).unwrap();
    let mut read = vec![0xaa; MIB as usize];
    let mut seen = vec![];
    for chunk in chunks {
        let chunk = chunk.unwrap();
        seen.push((chunk.cluster, chunk.count()));
        if let model::ChunkContent::Data { bytes, hashes } = &chunk.content {
            assert!(hashes.iter().all(|hash| *hash != ZERO_CLUSTER));
            let start = (u64::from(chunk.cluster) * CLUSTER_BYTES) as usize;
            read[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }
    assert_eq!(seen, [(1, 2), (3, 1), (15, 1)]);
    let cluster = CLUSTER_BYTES as usize;
    assert_same(
        &read[3 * cluster..4 * cluster],
        &replica.points[&delta][0][3 * cluster..4 * cluster],
        "the cluster",
    );
}
