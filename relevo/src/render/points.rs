//! Recovery points, and what a verification of them found.

use super::{
    table::Table,
    units::{count, duration, size},
};
use model::PointKind;
use service::api::{PointView, VerifyView};

/// Newest first, with the ids in full: they are typed (their beginning) and pasted (all of it).
pub fn list(views: &[PointView]) -> String {
    if views.is_empty() {
        return "there is no recovery point yet".to_owned();
    }
    let mut views: Vec<&PointView> = views.iter().collect();
    views.sort_by_key(|view| std::cmp::Reverse(view.sequence));
    let mut table = Table::new(&["POINT", "CUT AT", "AGE", "KIND", "STORED", "KEPT FOR"]).right(&[2, 4]);
    for view in views {
        let kept_for = (!view.kept_for.is_empty()).then(|| view.kept_for.join(", "));
        let notes: Vec<String> = kept_for.into_iter().chain(view.note.clone()).collect();
        table.row([
            view.point.to_string(),
            view.cut_at.clone(),
            duration(view.age_s),
            kind(view.kind).to_owned(),
            size(view.stored_bytes),
            notes.join("; "),
        ]);
    }
    table.text()
}

/// What a guest finds when it starts from such a point, in the words of operators.
pub fn kind(kind: PointKind) -> &'static str {
    match kind {
        PointKind::Regular => "crash-consistent",
        PointKind::ApplicationConsistent => "application-consistent",
        PointKind::Planned => "planned",
    }
}

pub fn verify(view: &VerifyView) -> String {
    let read = format!(
        "{} read: {}, {}",
        count(view.points.into(), "point"),
        count(view.clusters, "cluster"),
        size(view.bytes)
    );
    if view.mismatches.is_empty() {
        return format!("{read}; everything is as it was received");
    }
    let mismatches: Vec<String> = view.mismatches.iter().map(|text| format!("  {text}")).collect();
    let verb = if view.mismatches.len() == 1 { "differs" } else { "differ" };
    let what = count(view.mismatches.len() as u64, "cluster");
    format!(
        "{read}; {what} {verb} from what was received:\n{}\nhint: fail over to a point without differences, and check the disks that hold the replica",
        mismatches.join("\n")
    )
}
