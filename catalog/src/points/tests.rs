use super::*;
use model::Generation;
use std::path::Path;

struct Host {
    catalog: Catalog,
    vm: VmId,
    disk: DiskId,
    generation: Generation,
    _dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let (vm, disk) = (VmId::random(), DiskId::random());
        let generation = Generation::first("a.example".parse().unwrap());
        catalog.save_relationship(vm, 0, "{}", &generation).unwrap();
        Self { catalog, vm, disk, generation, _dir: dir }
    }

    fn expected(&self, base: Option<DeltaId>) -> Expected {
        Expected {
            index: 0,
            generation_number: self.generation.number,
            generation_nonce: self.generation.nonce,
            base,
        }
    }

    fn commit(&self, base: Option<DeltaId>) -> std::result::Result<Point, CommitRefused> {
        let (point, layer) = (new_point(), self.layer(DeltaId::random(), base));
        let layer = Layer { delta: point.delta, ..layer };
        self.catalog.commit_point(self.vm, &self.expected(base), &point, &[layer])
    }

    fn layer(&self, delta: DeltaId, base: Option<DeltaId>) -> Layer {
        Layer {
            disk: self.disk,
            delta,
            base,
            path: "x.qcow2".into(),
            format: LayerFormat::Qcow2,
            in_place: false,
            size_bytes: 1 << 30,
            data_clusters: 2,
            stored_bytes: 3 << 16,
        }
    }
}

fn new_point() -> NewPoint {
    NewPoint {
        delta: DeltaId::random(),
        kind: PointKind::ApplicationConsistent,
        cut_at_ms: 5,
        received_at_ms: 6,
        note: String::new(),
        json: "{}".into(),
    }
}

#[test]
fn a_commit_makes_point_and_layers_visible_and_ends_the_transfer() {
    let host = Host::new();
    let (new, vm) = (new_point(), host.vm);
    host.catalog.save_receiving(&crate::Receiving { vm, delta: new.delta, json: String::new() }).unwrap();
    let layer = host.layer(new.delta, None);
    let point =
        host.catalog.commit_point(vm, &host.expected(None), &new, std::slice::from_ref(&layer)).unwrap();
    assert_eq!((point.sequence, point.visible, point.generation_number), (1, true, 1));
    let second = host.commit(Some(point.delta)).unwrap();
    assert_eq!(host.catalog.points(vm).unwrap(), [point, second]);
    assert_eq!(host.catalog.layers(vm).unwrap()[0], layer);
    assert!(host.catalog.all_receiving(vm).unwrap().is_empty());
}

#[test]
fn the_timeline_stands_where_the_clock_goes_back_and_goes_on_from_there() {
    let host = Host::new();
    let mut base = None;
    let mut at = |received_at_ms| {
        let (point, layer) =
            (NewPoint { received_at_ms, ..new_point() }, host.layer(DeltaId::random(), base));
        let layer = Layer { delta: point.delta, ..layer };
        let point = host.catalog.commit_point(host.vm, &host.expected(base), &point, &[layer]).unwrap();
        base = Some(point.delta);
        point.timeline_ms
    };
    // A clock that is a year ahead for one point does not hold up the history for a year.
    assert_eq!([100, 110, 1_000_110, 120, 130].map(&mut at), [100, 110, 1_000_110, 1_000_110, 1_000_120]);
    assert_eq!([5, 15].map(&mut at), [1_000_120, 1_000_130]);
}

#[test]
fn a_stale_generation_or_a_wrong_base_changes_nothing() {
    let host = Host::new();
    let first = host.commit(None).unwrap();
    assert!(matches!(host.commit(None),
        Err(CommitRefused::WrongBase { latest: Some(latest) }) if latest == first.delta));

    let next = host.generation.next("b.example".parse().unwrap());
    host.catalog.save_relationship(host.vm, 0, "{}", &next).unwrap();
    assert!(matches!(host.commit(Some(first.delta)),
        Err(CommitRefused::StaleGeneration { current: Some(current) }) if current == next));
    // The same number from another host that took the right on its own is as stale.
    let tied = Generation { nonce: Uuid::from_u128(7), ..host.generation.clone() };
    host.catalog.save_relationship(host.vm, 0, "{}", &tied).unwrap();
    assert!(matches!(host.commit(Some(first.delta)), Err(CommitRefused::StaleGeneration { .. })));
    host.catalog.delete_relationship(host.vm, 0).unwrap();
    assert!(matches!(host.commit(Some(first.delta)), Err(CommitRefused::StaleGeneration { current: None })));
    assert_eq!(host.catalog.points(host.vm).unwrap(), [first]);
    assert_eq!(host.catalog.layers(host.vm).unwrap().len(), 1);
}

#[test]
fn a_refused_layer_takes_its_point_with_it() {
    let host = Host::new();
    let new = new_point();
    let layer = host.layer(new.delta, None);
    let twice = [layer.clone(), layer];
    assert!(matches!(
        host.catalog.commit_point(host.vm, &host.expected(None), &new, &twice),
        Err(CommitRefused::Catalog(_))
    ));
    assert!(host.catalog.points(host.vm).unwrap().is_empty());
}

#[test]
fn a_hidden_latest_point_is_still_the_base() {
    let host = Host::new();
    let first = host.commit(None).unwrap();
    host.catalog.hide_points(host.vm, &[first.delta]).unwrap();
    assert!(host.commit(None).is_err());
    assert!(host.commit(Some(first.delta)).is_ok());
    assert!(!host.catalog.points(host.vm).unwrap()[0].visible);
}

#[test]
fn a_finished_merge_closes_the_chain() {
    let host = Host::new();
    let a = host.commit(None).unwrap();
    let b = host.commit(Some(a.delta)).unwrap();
    let c = host.commit(Some(b.delta)).unwrap();
    let mut merge = Merge { older: b.delta, newer: c.delta, stage: MergeStage::Copying };
    host.catalog.save_merge(host.vm, &merge).unwrap();
    merge.stage = MergeStage::Renaming;
    host.catalog.save_merge(host.vm, &merge).unwrap();
    assert_eq!(host.catalog.merge(host.vm).unwrap(), Some(merge));
    let merged = Layer { data_clusters: 4, ..host.layer(c.delta, Some(a.delta)) };
    host.catalog.finish_merge(host.vm, &merge, std::slice::from_ref(&merged)).unwrap();
    assert_eq!(host.catalog.merge(host.vm).unwrap(), None);
    let points = host.catalog.points(host.vm).unwrap();
    assert_eq!(points, [a.clone(), Point { base: Some(a.delta), ..c.clone() }]);
    assert_eq!(host.catalog.layers(host.vm).unwrap()[1], merged);
    // The next delta still builds on c.
    host.commit(Some(c.delta)).unwrap();
    host.catalog.delete_all_points(host.vm).unwrap();
    assert!(host.catalog.layers(host.vm).unwrap().is_empty());
}

#[test]
fn what_was_committed_is_there_after_a_reopen() {
    let host = Host::new();
    let first = host.commit(None).unwrap();
    host.catalog.set_point_note(host.vm, first.delta, "before the upgrade").unwrap();
    // A second handle on the same file sees what a restart would find.
    let again = Catalog::open(Path::new(host.catalog.path())).unwrap();
    assert_eq!(again.points(host.vm).unwrap()[0].note, "before the upgrade");
}
