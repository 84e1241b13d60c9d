//! Receiving deltas: what is refused, what is resumed, what QEMU makes of the files.

mod support;

use layers::{CHAIN_LAYERS_MAX, LayersError};
use model::{CLUSTER_BYTES, Chunk, ChunkContent, DeltaId};
use support::{Change, Replica, mark, run};

const MIB: u64 = 1 << 20;

fn data(first: u32, count: u32, fill: u8) -> Change {
    Change::Data { first, count, fill }
}

fn chunk(disk: u16, cluster: u32, clusters: usize) -> Chunk {
    let hashes = vec![[1; 16]; clusters];
    let bytes = vec![1; clusters * CLUSTER_BYTES as usize];
    Chunk { disk, cluster, content: ChunkContent::Data { bytes, hashes } }
}

#[test]
fn points_read_as_they_were_sent_and_qemu_agrees() {
    let mut replica = Replica::new(&[8 * MIB, 3 * MIB + 512]);
    replica.receive(&[vec![data(0, 40, 1), data(100, 28, 2)], vec![data(47, 2, 3)]]).unwrap();
    replica.receive(&[vec![Change::Zero { first: 10, count: 20 }, data(15, 1, 9)], vec![]]).unwrap();
    replica.receive(&[vec![], vec![Change::Grow(2 * MIB), data(60, 4, 8)]]).unwrap();
    replica.check(true);
    replica.check_images();
    let points = replica.store.points().unwrap();
    assert_eq!(points.iter().map(|point| point.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(replica.store.latest().unwrap().unwrap(), points[2]);
    let xml = replica.folder().join(format!("{}.domain.xml", points[1].delta));
    assert_eq!(std::fs::read_to_string(xml).unwrap(), "<domain/>");
    assert!(replica.store.recover().unwrap().removed.is_empty());
}

/// What `docs/format/layers.md` says about names and bounds.
#[test]
fn files_have_their_documented_names() {
    let mut replica = Replica::new(&[MIB]);
    let chunks = replica.change(&[vec![data(0, 1, 1)]]);
    let incoming = replica.incoming(DeltaId::random());
    let (delta, disk) = (incoming.delta, replica.disks[0]);
    let mut writer = replica.store.begin(incoming).unwrap();
    writer.write(&chunks[0]).unwrap();
    let partial = [format!("{disk}/{delta}.entries.partial"), format!("{disk}/{delta}.qcow2.partial")];
    assert_eq!(replica.files(), partial);
    replica.commit(writer).unwrap();
    let mut complete = [
        format!("{disk}/{delta}.qcow2"),
        format!("{disk}/{delta}.sums"),
        format!("{delta}.domain.xml"),
        format!("{delta}.nvram"),
    ];
    complete.sort();
    assert_eq!(replica.files(), complete);
    assert_eq!(replica.folder(), replica.dir.path().join("storage").join(replica.vm.to_string()));
    assert_eq!((CHAIN_LAYERS_MAX, layers::NODE_LEAVES), (64, 1024));
}

#[test]
fn a_layer_names_the_one_below_by_a_relative_name_and_its_format() {
    let mut replica = Replica::new(&[MIB]);
    let first = replica.receive(&[vec![data(0, 4, 1)]]).unwrap();
    let second = replica.receive(&[vec![data(2, 4, 2)]]).unwrap();
    let (_, chain) = replica.store.chain(second.delta).unwrap().remove(0);
    let info = run("qemu-img", &["info", "--output=json", chain[1].path.to_str().unwrap()]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["backing-filename"], format!("{}.qcow2", first.delta));
    assert_eq!(info["backing-filename-format"], "qcow2");
    assert_eq!(info["cluster-size"], CLUSTER_BYTES);
    assert_eq!(info["format-specific"]["data"]["compat"], "1.1");
}

#[test]
fn a_grown_disks_short_last_cluster_keeps_its_bytes_and_gets_a_new_hash() {
    // The sender touches nothing near the old end.
    let mut replica = Replica::new(&[MIB + 1024]);
    replica.receive(&[vec![data(16, 1, 1)]]).unwrap();
    replica.receive(&[vec![Change::Grow(MIB), data(0, 1, 2)]]).unwrap();
    replica.check(true);
    replica.check_images();
    // Nor here, where it does not come by in ascending order.
    replica.receive(&[vec![Change::Grow(512), data(30, 1, 2)]]).unwrap();
    replica.check(true);
}

#[test]
fn an_interrupted_transfer_goes_on_at_its_mark() {
    let mut replica = Replica::new(&[4 * MIB, 2 * MIB]);
    replica.receive(&[vec![data(0, 64, 1)], vec![data(0, 32, 1)]]).unwrap();
    let zero = Change::Zero { first: 40, count: 6 };
    let chunks = replica.change(&[vec![data(3, 30, 2), zero], vec![data(5, 7, 3)]]);
    let incoming = replica.incoming(DeltaId::random());
    let mut writer = replica.store.begin(incoming.clone()).unwrap();
    assert_eq!(writer.resume_mark(), mark(0));
    for chunk in &chunks[..6] {
        writer.write(chunk).unwrap();
    }
    writer.mark(mark(6)).unwrap();
    for chunk in &chunks[6..8] {
        writer.write(chunk).unwrap();
    }
    drop(writer);
    replica.reopen(None);
    assert!(replica.store.recover().unwrap().removed.is_empty());
    let mut writer = replica.store.begin(incoming.clone()).unwrap();
    assert_eq!(writer.resume_mark(), mark(6));
    for chunk in &chunks[6..] {
        writer.write(chunk).unwrap();
    }
    writer.mark(mark(chunks.len() as u64)).unwrap();
    // Sealed, but the daemon ends before the commit.
    drop(writer.seal().unwrap());
    replica.reopen(None);
    replica.store.recover().unwrap();
    let writer = replica.store.begin(incoming).unwrap();
    assert_eq!(writer.resume_mark(), mark(chunks.len() as u64));
    replica.commit(writer).unwrap();
    replica.check(true);
    replica.check_images();
    assert!(replica.store.recover().unwrap().removed.is_empty());
}

#[test]
fn a_transfer_whose_parts_are_gone_or_short_starts_over() {
    for shorten in [false, true] {
        let mut replica = Replica::new(&[4 * MIB]);
        let chunks = replica.change(&[vec![data(0, 32, 1)]]);
        let incoming = replica.incoming(DeltaId::random());
        let mut writer = replica.store.begin(incoming.clone()).unwrap();
        chunks.iter().for_each(|chunk| writer.write(chunk).unwrap());
        writer.mark(mark(9)).unwrap();
        drop(writer);
        let disk = replica.folder().join(replica.disks[0].to_string());
        let image = disk.join(format!("{}.qcow2.partial", incoming.delta));
        if shorten {
            std::fs::File::options().write(true).open(&image).unwrap().set_len(MIB).unwrap();
        } else {
            std::fs::remove_file(&image).unwrap();
        }
        let mut writer = replica.store.begin(incoming).unwrap();
        assert_eq!(writer.resume_mark(), mark(0));
        chunks.iter().for_each(|chunk| writer.write(chunk).unwrap());
        replica.commit(writer).unwrap();
        replica.check(true);
    }
}

#[test]
fn another_delta_replaces_an_unfinished_one() {
    let mut replica = Replica::new(&[MIB]);
    let chunks = replica.change(&[vec![data(0, 4, 1)]]);
    let mut writer = replica.store.begin(replica.incoming(DeltaId::random())).unwrap();
    writer.write(&chunks[0]).unwrap();
    writer.mark(mark(1)).unwrap();
    let second = replica.incoming(DeltaId::random());
    assert!(matches!(replica.store.begin(second.clone()), Err(LayersError::Receiving)));
    drop(writer);
    let mut writer = replica.store.begin(second).unwrap();
    chunks.iter().for_each(|chunk| writer.write(chunk).unwrap());
    replica.commit(writer).unwrap();
    replica.check(false);
    assert!(replica.store.recover().unwrap().removed.is_empty());
    assert_eq!(replica.files().len(), 4, "{:?}", replica.files());
}

#[test]
fn chunks_that_do_not_fit_are_refused_and_change_nothing() {
    let mut replica = Replica::new(&[MIB, MIB]);
    let chunks = replica.change(&[vec![data(2, 3, 1)], vec![data(5, 1, 1)]]);
    let mut writer = replica.store.begin(replica.incoming(DeltaId::random())).unwrap();
    writer.write(&chunks[0]).unwrap();
    let short = Chunk {
        disk: 0,
        cluster: 8,
        content: ChunkContent::Data { bytes: vec![1; 512], hashes: vec![[1; 16]] },
    };
    let zero = |cluster, count| Chunk { disk: 0, cluster, content: ChunkContent::Zero { count } };
    let wrong =
        [chunk(0, 4, 1), chunk(0, 15, 2), chunk(2, 0, 1), zero(0, 1), zero(u32::MAX, u32::MAX), short];
    for chunk in &wrong {
        assert!(matches!(writer.write(chunk), Err(LayersError::Chunk { .. })), "{}", chunk.cluster);
    }
    writer.write(&chunks[1]).unwrap();
    assert!(matches!(writer.write(&chunk(0, 9, 1)), Err(LayersError::Chunk { .. })));
    replica.commit(writer).unwrap();
    replica.check(true);
}

#[test]
fn deltas_that_do_not_fit_are_refused_by_name() {
    let mut replica = Replica::new(&[MIB]);
    let first = replica.receive(&[vec![data(0, 4, 1)]]).unwrap();
    let refused = |incoming| replica.store.begin(incoming).err().unwrap();
    let good = replica.incoming(DeltaId::random());

    let error = refused(layers::Incoming { base: None, ..good.clone() });
    assert!(matches!(error, LayersError::WrongBase { latest } if latest == Some(first.delta)));
    let error = refused(layers::Incoming { delta: first.delta, ..good.clone() });
    assert!(matches!(error, LayersError::PointExists { .. }));
    let mut shrunk = good.clone();
    shrunk.disks[0].size_bytes -= 512;
    assert!(matches!(refused(shrunk), LayersError::Shrunk { .. }));
    for name in ["../x", "", "domain.xml", "a/b", "x.partial"] {
        let incoming = layers::Incoming { small_files: vec![(name.into(), vec![])], ..good.clone() };
        assert!(matches!(refused(incoming), LayersError::FileName { .. }), "{name}");
    }
    // A refusal leaves the place free.
    drop(replica.store.begin(good).unwrap());
}

#[test]
fn a_commit_by_a_superseded_sender_is_refused_and_leaves_no_files() {
    let mut replica = Replica::new(&[MIB]);
    replica.receive(&[vec![data(0, 4, 1)]]).unwrap();
    let files = replica.files();
    let now = replica.now.clone();
    let next = replica.generation.next("b.example".parse().unwrap());
    replica.catalog.save_relationship(replica.vm, 0, "{}", &next).unwrap();
    let error = replica.receive(&[vec![data(1, 4, 2)]]).unwrap_err();
    assert!(matches!(error, LayersError::CommitRefused(_)), "{error}");
    replica.now = now;
    assert_eq!(replica.files(), files);
    replica.check(false);
}

#[test]
fn a_full_chain_answers_busy_until_something_is_merged() {
    let mut replica = Replica::new(&[MIB]);
    for index in 0..CHAIN_LAYERS_MAX {
        replica.receive(&[vec![data(index as u32 % 16, 1, index as u8)]]).unwrap();
    }
    let error = replica.store.begin(replica.incoming(DeltaId::random())).err().unwrap();
    assert!(matches!(error, LayersError::ChainFull { layers: CHAIN_LAYERS_MAX, .. }));
    replica.check(false);
    let points = replica.store.points().unwrap();
    replica.store.hide(&[points[7].delta]).unwrap();
    replica.store.coalesce_step(&false.into()).unwrap();
    replica.receive(&[vec![data(0, 1, 99)]]).unwrap();
    replica.check(false);
}

#[test]
fn a_disk_that_comes_and_goes_has_layers_only_where_it_was() {
    let mut replica = Replica::new(&[MIB, MIB]);
    replica.receive(&[vec![data(0, 4, 1)], vec![data(0, 4, 2)]]).unwrap();
    let all = replica.disks.clone();
    let without = |replica: &Replica| {
        let mut incoming = replica.incoming(DeltaId::random());
        incoming.disks.pop();
        incoming
    };
    let writer = replica.store.begin(without(&replica)).unwrap();
    let second = replica.commit(writer).unwrap();
    assert_eq!(replica.store.disks(second.delta).unwrap(), all[..1]);
    let third = replica.receive(&[vec![], vec![data(3, 2, 3)]]).unwrap();
    let chain = replica.store.chain(third.delta).unwrap();
    let length = |disk| chain.iter().find(|(id, _)| *id == disk).unwrap().1.len();
    assert_eq!((length(all[0]), length(all[1])), (3, 1));
}
