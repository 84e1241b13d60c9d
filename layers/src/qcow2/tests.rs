use super::*;
use catalog::LayerFormat;
use model::hash_cluster;
use std::{path::Path, process::Command};

const CLUSTER: usize = CLUSTER_BYTES as usize;
const TIB: u64 = 1 << 40;

fn check(path: &Path) {
    let output = Command::new("qemu-img").args(["check", "-q"]).arg(path).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

/// Writes these clusters, each filled with its number.
fn write(path: &Path, size_bytes: u64, backing: Option<Backing>, clusters: &[u32]) {
    let mut writer = Writer::create(path, size_bytes, backing).unwrap();
    writer.truncate().unwrap();
    for cluster in clusters {
        writer.data(*cluster, &vec![*cluster as u8 | 1; CLUSTER]).unwrap();
    }
    writer.finish().unwrap();
    check(path);
}

fn no_fault(_: &'static str) -> io::Result<()> {
    Ok(())
}

fn content(map: &mut Map, cluster: u32) -> Option<u8> {
    let offset = map.data_offset(cluster).unwrap()?;
    let mut bytes = vec![0; CLUSTER];
    map.read(&mut bytes, offset).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    Some(bytes[0])
}

#[test]
fn the_header_is_these_bytes() {
    let header = Header {
        size_bytes: (1 << 30) + 1,
        l1_entries: 8192,
        l1_offset: 0x1_0000,
        refcount_table_offset: 0x5_0000,
        refcount_table_clusters: 1,
        backing: Some(Backing { name: "below.qcow2".into(), format: LayerFormat::Qcow2 }),
    };
    let bytes = header.encode();
    let hex: String = bytes[..139].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "514649fb00000003",
            "0000000000000080", // backing name at 128
            "0000000b00000010", // its length; cluster bits
            "0000000040000200", // size, in whole sectors
            "0000000000002000", // no encryption; L1 entries
            "0000000000010000",
            "0000000000050000",
            "0000000100000000",
            "0000000000000000",
            "0000000000000000",
            "0000000000000000",
            "0000000000000000",
            "0000000400000068", // refcount order; header length
            "e2792aca00000005",
            "71636f7732000000", // "qcow2"
            "0000000000000000",
            "62656c6f772e71636f7732",
        )
    );
    let decoded = Header::decode(&bytes).unwrap();
    assert_eq!(decoded, Header { size_bytes: (1 << 30) + 512, ..header });
}

#[test]
fn foreign_and_damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, vec![0; 1 << 17]).unwrap();
    assert!(Map::open(&path).is_err());
    // An image of QEMU's with another cluster size.
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=4096"]).arg(&path).arg("1M");
    assert!(create.status().unwrap().success());
    assert!(Map::open(&path).is_err());
    // Every single byte of the header and the tables that is wrong is an error or harmless, never a panic.
    write(&path, 1 << 20, None, &[0, 3, 9]);
    let good = std::fs::read(&path).unwrap();
    let tables = (0..160).chain(0x1_0000..0x1_0010).chain((0..good.len()).step_by(4093));
    for at in tables {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        std::fs::write(&path, &bad).unwrap();
        if let Ok(mut map) = Map::open(&path) {
            (0..16).for_each(|cluster| drop(map.data_offset(cluster)));
        }
        if let Ok(mut editor) = Editor::open(&path) {
            drop(editor.data(1, &[1; CLUSTER]).and_then(|()| editor.commit(&no_fault)));
        }
    }
}

#[test]
fn clusters_far_apart_and_at_table_borders_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let clusters = [0, 8190, 8191, 8192, 5 << 20, (16 << 20) + 7, (5 << 24) - 1];
    write(&path, 5 * TIB, None, &clusters);
    let mut map = Map::open(&path).unwrap();
    for cluster in clusters {
        assert_eq!(content(&mut map, cluster), Some(cluster as u8 | 1));
    }
    assert_eq!(content(&mut map, 1), None);
    assert_eq!(content(&mut map, (5 << 24) - 2), None);
    // A run across the border of two tables is one call.
    let path = dir.path().join("b");
    let mut writer = Writer::create(&path, TIB, None).unwrap();
    writer.data(8190, &vec![9; 5 * CLUSTER]).unwrap();
    writer.finish().unwrap();
    check(&path);
    let mut map = Map::open(&path).unwrap();
    assert!((8190..8195).all(|cluster| content(&mut map, cluster) == Some(9)));
}

#[test]
fn a_replayed_file_is_the_file_byte_by_byte() {
    let dir = tempfile::tempdir().unwrap();
    let backing = || Some(Backing { name: "x".into(), format: LayerFormat::Raw });
    let steps = [(3, false), (4, true), (9000, true), (9001, false), (20_000, false)];
    let step = |writer: &mut Writer, (cluster, zero)| match zero {
        true => writer.zero(cluster, 1).unwrap(),
        false => writer.data(cluster, &[cluster as u8; CLUSTER]).unwrap(),
    };
    let whole = dir.path().join("whole");
    let mut writer = Writer::create(&whole, 1 << 40, backing()).unwrap();
    steps.iter().for_each(|s| step(&mut writer, *s));
    writer.finish().unwrap();
    for resumed in 0..=steps.len() {
        let path = dir.path().join(resumed.to_string());
        let mut writer = Writer::create(&path, 1 << 40, backing()).unwrap();
        // What came after the mark differed, and was longer.
        steps[..resumed].iter().for_each(|s| step(&mut writer, *s));
        writer.data(30_000, &[0xff; 3 * CLUSTER]).unwrap();
        writer.finish().unwrap();
        let mut writer = Writer::create(&path, 1 << 40, backing()).unwrap();
        steps[..resumed].iter().for_each(|(cluster, zero)| writer.replay(*cluster, *zero).unwrap());
        writer.truncate().unwrap();
        steps[resumed..].iter().for_each(|s| step(&mut writer, *s));
        writer.finish().unwrap();
        assert!(std::fs::read(&path).unwrap() == std::fs::read(&whole).unwrap(), "resumed at {resumed}");
    }
}

#[test]
fn an_edited_file_holds_old_and_new_and_reuses_its_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    write(&path, 1 << 30, None, &[1, 2, 3]);
    let before = std::fs::metadata(&path).unwrap().len();
    let mut editor = Editor::open(&path).unwrap();
    editor.data(2, &vec![0x22; 2 * CLUSTER]).unwrap();
    editor.zero(1).unwrap();
    editor.zero(5).unwrap();
    editor.commit(&no_fault).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), before);
    editor.data(1, &vec![0x11; CLUSTER]).unwrap();
    editor.data(10_000, &vec![0x33; CLUSTER]).unwrap();
    editor.commit(&no_fault).unwrap();
    check(&path);
    let mut map = Map::open(&path).unwrap();
    let expected = [(1, Some(0x11)), (2, Some(0x22)), (3, Some(0x22)), (5, None), (10_000, Some(0x33))];
    for (cluster, byte) in expected {
        assert_eq!(content(&mut map, cluster), byte, "{cluster}");
    }
    // Two clusters and a table of its own: the data and its L2 table.
    assert_eq!(std::fs::metadata(&path).unwrap().len(), before + 2 * CLUSTER_BYTES);
}

#[test]
fn a_file_outgrows_its_tables() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    write(&path, 1 << 20, None, &[1, 2]);
    let mut editor = Editor::open(&path).unwrap();
    editor.grow(100 * TIB).unwrap();
    editor.data((100 << 24) - 1, &vec![0x44; CLUSTER]).unwrap();
    editor.commit(&no_fault).unwrap();
    // What the old L1 table took is used again.
    editor.data(77, &vec![0x55; CLUSTER]).unwrap();
    editor.commit(&no_fault).unwrap();
    check(&path);
    let mut map = Map::open(&path).unwrap();
    assert_eq!(map.header.size_bytes, 100 * TIB);
    let expected = [(1, 1), (2, 3), (77, 0x55), ((100 << 24) - 1, 0x44)];
    for (cluster, byte) in expected {
        assert_eq!(content(&mut map, cluster), Some(byte), "{cluster}");
    }
}

#[test]
fn a_file_outgrows_a_refcount_block() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    write(&path, 1 << 30, None, &[1]);
    // Sparse up to just before the first block's reach.
    let length = (BLOCK_ENTRIES as u64 - 3) * CLUSTER_BYTES;
    std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
    let mut editor = Editor::open(&path).unwrap();
    for cluster in 10..16 {
        editor.data(cluster, &vec![cluster as u8; CLUSTER]).unwrap();
    }
    editor.commit(&no_fault).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() > BLOCK_ENTRIES as u64 * CLUSTER_BYTES);
    check(&path);
    let mut map = Map::open(&path).unwrap();
    assert!((10..16).all(|cluster| content(&mut map, cluster) == Some(cluster as u8)));
}

#[test]
fn an_edit_ended_anywhere_leaves_a_sound_file_and_reclaim_finds_the_rest() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("a");
    let edit = |editor: &mut Editor, step: &dyn Fn(&'static str) -> io::Result<()>| {
        editor.grow(9 * TIB)?;
        editor.data(3, &vec![0x33; 3 * CLUSTER])?;
        editor.data(9000, &vec![0x99; CLUSTER])?;
        editor.data(100 << 20, &vec![0xaa; CLUSTER])?;
        editor.commit(step)
    };
    for n in 0.. {
        write(&path, 1 << 30, None, &[1, 3, 8000]);
        let count = std::cell::Cell::new(0);
        let step = |_| {
            count.set(count.get() + 1);
            if count.get() > n { Err(io::Error::other("end")) } else { Ok(()) }
        };
        let ended = edit(&mut Editor::open(&path).unwrap(), &step).is_err();
        // Leaks are allowed now; errors are not: 3 is qemu-img's code for leaks alone.
        let code = Command::new("qemu-img").args(["check", "-q"]).arg(&path).output().unwrap().status.code();
        assert!(matches!(code, Some(0 | 3)), "after {n} steps: {code:?}");
        let mut map = Map::open(&path).unwrap();
        assert_eq!((content(&mut map, 1), content(&mut map, 8000)), (Some(1), Some(8000u32 as u8 | 1)));
        let mut editor = Editor::open(&path).unwrap();
        editor.reclaim().unwrap();
        editor.commit(&no_fault).unwrap();
        check(&path);
        edit(&mut editor, &no_fault).unwrap();
        check(&path);
        let mut map = Map::open(&path).unwrap();
        assert_eq!(content(&mut map, 100 << 20), Some(0xaa));
        if !ended {
            assert!(n >= 6, "only {n} steps");
            break;
        }
    }
}

#[test]
fn a_short_last_cluster_is_padded_with_zeroes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let mut writer = Writer::create(&path, CLUSTER_BYTES + 512, None).unwrap();
    writer.data(1, &[7; 512]).unwrap();
    writer.finish().unwrap();
    let mut editor = Editor::open(&path).unwrap();
    editor.data(1, &[8; 512]).unwrap();
    editor.commit(&no_fault).unwrap();
    let mut map = Map::open(&path).unwrap();
    let offset = map.data_offset(1).unwrap().unwrap();
    let mut bytes = vec![0xff; CLUSTER];
    map.read(&mut bytes, offset).unwrap();
    let mut expected = vec![0; CLUSTER];
    expected[..512].fill(8);
    assert_eq!(hash_cluster(&bytes), hash_cluster(&expected));
    check(&path);
}
