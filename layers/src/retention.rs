//! Which points are to go.
//!
//! Kept are the latest point, the oldest point of each of the last `history` buckets that have points, and
//! application-consistent points as far back as those reach. Buckets are `spacing_s` long, by the time of
//! receipt, and only buckets with points count: neither a pause in replication nor a clock that jumps
//! forward throws history away. A clock that jumps back expires nothing: points that claim to be older than
//! one before them share the bucket of that one.

use catalog::Point;
use model::{DeltaId, PointKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Points kept besides the latest, 0 to 24.
    pub history: u8,
    pub spacing_s: u64,
}

/// The points to hide. `points` are the visible ones, by sequence; hidden ones are passed over.
pub fn retention(points: &[Point], policy: Policy) -> Vec<DeltaId> {
    let visible: Vec<&Point> = points.iter().filter(|point| point.visible).collect();
    let spacing_ms = i64::try_from(policy.spacing_s.max(1).saturating_mul(1000)).unwrap_or(i64::MAX);
    let mut latest_ms = i64::MIN;
    let mut firsts = vec![];
    let mut bucket = None;
    for (index, point) in visible.iter().enumerate() {
        latest_ms = latest_ms.max(point.received_at_ms);
        let this = Some(latest_ms.div_euclid(spacing_ms));
        if this != bucket {
            firsts.push(index);
            bucket = this;
        }
    }
    let firsts = &firsts[firsts.len().saturating_sub(usize::from(policy.history))..];
    let oldest = firsts.first().copied().unwrap_or(visible.len());
    let is_kept = |index: usize| {
        index + 1 == visible.len()
            || firsts.binary_search(&index).is_ok()
            || (index >= oldest && visible[index].kind == PointKind::ApplicationConsistent)
    };
    (0..visible.len()).filter(|index| !is_kept(*index)).map(|index| visible[index].delta).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use uuid::Uuid;

    fn point(sequence: u64, received_at_ms: i64, kind: PointKind) -> Point {
        Point {
            delta: DeltaId(Uuid::from_u128(u128::from(sequence))),
            base: None,
            sequence,
            kind,
            cut_at_ms: 0,
            received_at_ms,
            generation_number: 1,
            visible: true,
            note: String::new(),
            json: String::new(),
        }
    }

    /// Points at these seconds; the indices of those that stay.
    fn kept(seconds: &[i64], policy: Policy) -> Vec<usize> {
        let points: Vec<_> =
            (0..).zip(seconds).map(|(sequence, s)| point(sequence, s * 1000, PointKind::Regular)).collect();
        let gone: HashSet<_> = retention(&points, policy).into_iter().collect();
        (0..points.len()).filter(|index| !gone.contains(&points[*index].delta)).collect()
    }

    #[test]
    fn the_oldest_point_of_each_bucket_and_the_latest_stay() {
        let policy = Policy { history: 2, spacing_s: 10 };
        assert_eq!(kept(&[0, 3, 6, 10, 13, 20, 23, 26], policy), [3, 5, 7]);
        assert_eq!(kept(&[0, 3, 6], Policy { history: 0, spacing_s: 10 }), [2]);
        assert_eq!(kept(&[], policy), [0usize; 0]);
    }

    #[test]
    fn a_long_pause_keeps_the_history_before_it() {
        assert_eq!(kept(&[0, 10, 20, 1_000_000], Policy { history: 4, spacing_s: 10 }), [0, 1, 2, 3]);
    }

    #[test]
    fn a_clock_that_jumps_back_expires_nothing_that_was_kept() {
        let policy = Policy { history: 3, spacing_s: 10 };
        let before = kept(&[100, 110, 120], policy);
        let after = kept(&[100, 110, 120, 5, 15, 25, 35, 45], policy);
        assert!(before.iter().all(|index| after.contains(index)), "{after:?}");
    }

    #[test]
    fn application_consistent_points_stay_as_long_as_the_history_reaches() {
        let points = [
            point(1, 0, PointKind::ApplicationConsistent),
            point(2, 10_000, PointKind::Regular),
            point(3, 11_000, PointKind::ApplicationConsistent),
            point(4, 12_000, PointKind::Regular),
            point(5, 13_000, PointKind::Regular),
        ];
        let gone = retention(&points, Policy { history: 1, spacing_s: 10 });
        assert_eq!(gone, [points[0].delta, points[3].delta]);
    }

    proptest! {
        #[test]
        fn retention_is_bounded_idempotent_and_keeps_the_latest(
            times in proptest::collection::vec(0i64..200, 1..60), history in 0u8..=24, spacing_s in 0u64..40
        ) {
            let policy = Policy { history, spacing_s };
            let points: Vec<_> =
                (0..).zip(&times).map(|(n, s)| point(n, s * 1000, PointKind::Regular)).collect();
            let gone: HashSet<_> = retention(&points, policy).into_iter().collect();
            let left: Vec<_> = points.iter().filter(|p| !gone.contains(&p.delta)).cloned().collect();
            prop_assert!(left.len() <= usize::from(history) + 1);
            prop_assert_eq!(left.last().unwrap(), points.last().unwrap());
            prop_assert!(retention(&left, policy).is_empty());
        }

        #[test]
        fn what_goes_now_goes_later_too(
            times in proptest::collection::vec(0i64..200, 2..60), history in 1u8..=24, cut in 1usize..59
        ) {
            // Applied after each point or only once: the same history, apart from the then latest points.
            let policy = Policy { history, spacing_s: 10 };
            let points: Vec<_> =
                (0..).zip(&times).map(|(n, s)| point(n, s * 1000, PointKind::Regular)).collect();
            let cut = cut.min(points.len());
            let early: HashSet<_> = retention(&points[..cut], policy).into_iter().collect();
            let all: HashSet<_> = retention(&points, policy).into_iter().collect();
            prop_assert!(early.is_subset(&all));
        }
    }
}
