//! Which points are to go.
//!
//! Kept are the latest point, the oldest point of each of the last `history` buckets that have points, and
//! application-consistent points as far back as those reach; besides, for each tier, the oldest point of each of the
//! tier's last buckets that have points. Buckets are `spacing_s` long, or as the tier says, on the points' timeline,
//! and only buckets with points count: neither a pause in replication nor a clock that jumps forward throws
//! history away. The timeline stands where the host's clock goes back, and goes on with it from there
//! ([`Point::timeline_ms`]): that expires nothing, and does not keep new points from becoming history until
//! the clock is where it was.
//!
//! The oldest point of a bucket was kept by it since it came, whatever other tiers did to those around it: what is kept
//! does not depend on how often one looks.

use catalog::Point;
use model::{DeltaId, PointKind, Tier};
use std::{collections::HashSet, fmt};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Points kept besides the latest, 0 to 24.
    pub history: u8,
    pub spacing_s: u64,
    pub tiers: Vec<Tier>,
}

/// What a point is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Latest,
    History,
    /// As far back as the history reaches.
    ApplicationConsistent,
    Tier(Tier),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::History => f.write_str("history"),
            Self::ApplicationConsistent => f.write_str("application-consistent"),
            Self::Tier(tier) => write!(f, "every {}", tier.every()),
        }
    }
}

/// The points to hide. `points` are the visible ones, by sequence; hidden ones are passed over.
pub fn retention(points: &[Point], policy: &Policy) -> Vec<DeltaId> {
    let gone = reasons(points, policy).into_iter().filter(|(_, reasons)| reasons.is_empty());
    gone.map(|(delta, _)| delta).collect()
}

/// What each visible point is kept for, by sequence; one with nothing is to go.
pub fn reasons(points: &[Point], policy: &Policy) -> Vec<(DeltaId, Vec<Reason>)> {
    let visible: Vec<&Point> = points.iter().filter(|point| point.visible).collect();
    let history = firsts(&visible, policy.spacing_s, usize::from(policy.history));
    let reach = history.first().copied().unwrap_or(visible.len());
    let history: HashSet<usize> = history.into_iter().collect();
    let tiers: Vec<(Tier, HashSet<usize>)> = policy
        .tiers
        .iter()
        .map(|tier| (*tier, firsts(&visible, tier.every_s.into(), tier.count as usize).into_iter().collect()))
        .collect();
    let of = |(index, point): (usize, &&Point)| {
        let consistent = index >= reach && point.kind == PointKind::ApplicationConsistent;
        let mut reasons = vec![];
        reasons.extend((index + 1 == visible.len()).then_some(Reason::Latest));
        reasons.extend(history.contains(&index).then_some(Reason::History));
        reasons.extend(consistent.then_some(Reason::ApplicationConsistent));
        reasons.extend(
            tiers.iter().filter(|(_, kept)| kept.contains(&index)).map(|(tier, _)| Reason::Tier(*tier)),
        );
        (point.delta, reasons)
    };
    visible.iter().enumerate().map(of).collect()
}

/// The indices of the oldest points of the last `count` buckets that have points, in order.
fn firsts(visible: &[&Point], spacing_s: u64, count: usize) -> Vec<usize> {
    let spacing_ms = i64::try_from(spacing_s.max(1).saturating_mul(1000)).unwrap_or(i64::MAX);
    let mut firsts = vec![];
    let mut bucket = None;
    for (index, point) in visible.iter().enumerate() {
        let this = Some(point.timeline_ms.div_euclid(spacing_ms));
        if this != bucket {
            firsts.push(index);
            bucket = this;
        }
    }
    firsts.split_off(firsts.len().saturating_sub(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn policy(history: u8, spacing_s: u64, tiers: &[&str]) -> Policy {
        let tiers = tiers.iter().map(|tier| tier.parse().unwrap()).collect();
        Policy { history, spacing_s, tiers }
    }

    fn point(sequence: u64, timeline_ms: i64, kind: PointKind) -> Point {
        Point {
            delta: DeltaId(Uuid::from_u128(u128::from(sequence))),
            base: None,
            sequence,
            kind,
            cut_at_ms: 0,
            received_at_ms: 0,
            timeline_ms,
            generation_number: 1,
            visible: true,
            note: String::new(),
            json: String::new(),
        }
    }

    /// Points at these seconds; the indices of those that stay.
    fn kept(seconds: &[i64], policy: &Policy) -> Vec<usize> {
        let points: Vec<_> =
            (0..).zip(seconds).map(|(sequence, s)| point(sequence, s * 1000, PointKind::Regular)).collect();
        let gone: HashSet<_> = retention(&points, policy).into_iter().collect();
        (0..points.len()).filter(|index| !gone.contains(&points[*index].delta)).collect()
    }

    #[test]
    fn the_oldest_point_of_each_bucket_and_the_latest_stay() {
        let policy = &policy(2, 10, &[]);
        assert_eq!(kept(&[0, 3, 6, 10, 13, 20, 23, 26], policy), [3, 5, 7]);
        assert_eq!(kept(&[0, 3, 6], &self::policy(0, 10, &[])), [2]);
        assert_eq!(kept(&[], policy), [0usize; 0]);
    }

    #[test]
    fn a_long_pause_keeps_the_history_before_it() {
        assert_eq!(kept(&[0, 10, 20, 1_000_000], &policy(4, 10, &[])), [0, 1, 2, 3]);
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
        let gone = retention(&points, &policy(1, 10, &[]));
        assert_eq!(gone, [points[0].delta, points[3].delta]);
    }

    #[test]
    fn tiers_keep_points_beside_the_history() {
        let seconds: Vec<i64> = (0..100).map(|n| n * 5).collect();
        let kept = |tiers: &[&str]| -> Vec<i64> {
            kept(&seconds, &policy(2, 10, tiers)).into_iter().map(|index| seconds[index]).collect()
        };
        assert_eq!(kept(&[]), [480, 490, 495]);
        assert_eq!(kept(&["3x60s"]), [360, 420, 480, 490, 495]);
        assert_eq!(kept(&["3x60s", "4x200s"]), [0, 200, 360, 400, 420, 480, 490, 495]);
    }

    #[test]
    fn a_point_is_kept_for_all_that_it_serves() {
        let points: Vec<_> =
            (0..).zip([0, 10, 13]).map(|(n, s)| point(n, s * 1000, PointKind::Regular)).collect();
        let said = |tiers: &[&str]| -> Vec<String> {
            let all = reasons(&points, &policy(1, 10, tiers));
            let one =
                |reasons: &[Reason]| reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join(", ");
            all.iter().map(|(_, reasons)| one(reasons)).collect()
        };
        assert_eq!(said(&[]), ["", "history", "latest"]);
        assert_eq!(said(&["2x10s", "1x1h"]), ["every 10s, every 1h", "history, every 10s", "latest"]);
    }

    fn tiers() -> impl Strategy<Value = Vec<Tier>> {
        let tier = (1u32..8, 1u32..60).prop_map(|(count, every_s)| Tier { count, every_s });
        proptest::collection::vec(tier, 0..4)
    }

    fn timeline() -> impl Strategy<Value = Vec<i64>> {
        proptest::collection::vec(0i64..200, 1..60).prop_map(|mut times| {
            times.sort_unstable();
            times
        })
    }

    fn regular(times: &[i64]) -> Vec<Point> {
        (0..).zip(times).map(|(n, s)| point(n, s * 1000, PointKind::Regular)).collect()
    }

    fn without(points: &[Point], gone: &[DeltaId]) -> Vec<Point> {
        points.iter().filter(|point| !gone.contains(&point.delta)).cloned().collect()
    }

    proptest! {
        #[test]
        fn retention_is_bounded_idempotent_and_keeps_the_latest(
            times in timeline(), history in 0u8..=24, spacing_s in 0u64..40,
            tiers in tiers()
        ) {
            let bound = 1 + usize::from(history) + tiers.iter().map(|tier| tier.count as usize).sum::<usize>();
            let policy = Policy { history, spacing_s, tiers };
            let points = regular(&times);
            let left = without(&points, &retention(&points, &policy));
            prop_assert!(left.len() <= bound);
            prop_assert_eq!(left.last().unwrap(), points.last().unwrap());
            prop_assert!(retention(&left, &policy).is_empty());
        }

        #[test]
        fn what_goes_now_goes_later_too(
            times in timeline(), history in 1u8..=24, cut in 1usize..59,
            tiers in tiers()
        ) {
            let policy = Policy { history, spacing_s: 10, tiers };
            let points = regular(&times);
            let cut = cut.min(points.len());
            let early: HashSet<_> = retention(&points[..cut], &policy).into_iter().collect();
            let all: HashSet<_> = retention(&points, &policy).into_iter().collect();
            prop_assert!(early.is_subset(&all));
        }

        #[test]
        fn looking_after_each_point_keeps_what_looking_once_does(
            times in timeline(), history in 0u8..=24, tiers in tiers()
        ) {
            let policy = Policy { history, spacing_s: 10, tiers };
            let points = regular(&times);
            let mut left: Vec<Point> = vec![];
            for point in &points {
                left.push(point.clone());
                left = without(&left, &retention(&left, &policy));
            }
            prop_assert_eq!(left, without(&points, &retention(&points, &policy)));
        }

        #[test]
        fn another_tier_or_a_longer_one_drops_nothing_that_was_kept(
            times in timeline(), history in 0u8..=24, tiers in tiers(),
            more in (1u32..8, 1u32..60)
        ) {
            let points = regular(&times);
            let gone = |tiers: Vec<Tier>| -> HashSet<DeltaId> {
                retention(&points, &Policy { history, spacing_s: 10, tiers }).into_iter().collect()
            };
            let before = gone(tiers.clone());
            let longer = tiers.iter().map(|tier| Tier { count: tier.count + 1, ..*tier }).collect();
            prop_assert!(gone(longer).is_subset(&before));
            let another = tiers.into_iter().chain([Tier { count: more.0, every_s: more.1 }]).collect();
            prop_assert!(gone(another).is_subset(&before));
        }
    }
}
