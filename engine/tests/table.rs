//! Prints what each operation does in each mode and state, and compares it with the block in
//! docs/states.md. `UPDATE_EXPECT=1` rewrites the block.

use engine::{
    Context, Event, FailedOver, FailoverType, Operation, Refusal, Relationship, Settings, Step, Superseded,
    Token, plan::plan,
};
use model::{DeltaId, Generation, HostName, Mode, PointKind, ReplicationState as S, VmId};
use std::{fmt::Write, path::Path};
use uuid::Uuid;

const BEGIN: &str = "<!-- begin: printed by engine/tests/table.rs -->\n";
const END: &str = "<!-- end -->\n";

/// What can differ within one mode and state.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    token: fn(Generation) -> Token,
    failed_over: Option<FailoverType>,
    superseded: bool,
}

/// The variant of a replica that has received nothing yet.
const EMPTY: &str = "empty";

fn held(generation: Generation) -> Token {
    Token::Held { generation, acknowledged: true }
}

fn released(to: Generation) -> Token {
    Token::Released { to, withdrawing: None }
}

fn offered(generation: Generation) -> Token {
    Token::Offered { generation }
}

fn elsewhere(generation: Generation) -> Token {
    Token::Elsewhere { generation }
}

fn variants(mode: Mode, state: S) -> Vec<Variant> {
    let variant = |name, token, failed_over, superseded| Variant { name, token, failed_over, superseded };
    match (mode, state) {
        (Mode::Replica | Mode::ExtendedReplica, S::Recovered | S::Committed) => vec![
            variant("planned", held, Some(FailoverType::Planned), false),
            variant("unplanned", held, Some(FailoverType::Unplanned), false),
            variant("superseded", elsewhere, Some(FailoverType::Unplanned), true),
            variant("both took over", held, Some(FailoverType::Unplanned), true),
        ],
        (Mode::Replica, S::WaitingForInitialReplication) => vec![
            variant("offered", offered, None, false),
            variant("not offered", elsewhere, None, false),
            variant(EMPTY, elsewhere, None, false),
        ],
        (Mode::Replica | Mode::ExtendedReplica, _) => {
            vec![variant("offered", offered, None, false), variant("not offered", elsewhere, None, false)]
        }
        (_, S::Critical) => {
            vec![variant("may run", held, None, false), variant("superseded", elsewhere, None, true)]
        }
        (_, S::SyncedReplicationComplete) => vec![
            variant("released", released, None, false),
            variant("taken by the replica", elsewhere, None, false),
        ],
        _ => vec![variant("may run", held, None, false), variant("may not run", elsewhere, None, false)],
    }
}

/// Of a relationship that forwards.
fn forwards(state: S) -> Vec<Variant> {
    let variant = |name, superseded| Variant { name, token: elsewhere, failed_over: None, superseded };
    match state {
        S::Critical => vec![variant("the third host took over", true)],
        _ => vec![variant("", false)],
    }
}

/// States in which a record of this mode can be; the others would only lengthen the table.
fn occurs(mode: Mode, index: u16, state: S) -> bool {
    match state {
        // A drill is seen from outside; the engine goes on replicating.
        S::Disabled | S::FireDrill => false,
        S::WaitingForInitialReplication | S::Replicating | S::Suspended | S::Critical => true,
        S::Recovered | S::Committed | S::FailoverInProgress => mode.is_replica(),
        S::FailbackInProgress | S::FailbackComplete => mode == Mode::Replica,
        S::SyncedReplicationComplete => mode == Mode::Primary && index == 0,
        S::Ready => mode == Mode::Primary,
        S::DiskUpdateInProgress | S::DiskUpdateCritical => mode == Mode::Primary && index == 0,
        S::WaitingForResynchronize | S::Resynchronizing | S::ResynchronizeSuspended => mode == Mode::Primary,
    }
}

fn settings() -> Settings {
    Settings {
        interval_s: 300,
        history: 0,
        history_every_s: 3600,
        auto_resynchronize: true,
        ..Settings::default()
    }
}

fn record(mode: Mode, index: u16, state: S, variant: &Variant) -> Relationship {
    let (a, b): (HostName, HostName) = ("a.example".parse().unwrap(), "b.example".parse().unwrap());
    let generation = Generation { number: 1, owner: a.clone(), nonce: Uuid::nil() };
    let mut r = Relationship::primary(VmId(Uuid::nil()), "vm".into(), a, b, settings());
    r.mode = mode;
    r.index = index;
    r.source = Some(DeltaId(Uuid::from_u128(3)));
    r.state = state;
    r.token = (variant.token)(generation.clone());
    let nothing_yet = state == S::Ready
        || variant.name == EMPTY
        || mode == Mode::Primary && state == S::WaitingForInitialReplication;
    r.latest = (!nothing_yet).then_some(DeltaId(Uuid::nil()));
    r.failed_over = variant.failed_over.map(|kind| FailedOver {
        point: DeltaId(Uuid::nil()),
        overlay: 1,
        kind,
        point_kind: PointKind::Regular,
        at_ms: 0,
    });
    r.superseded = variant.superseded.then_some(Superseded { by: generation, at_ms: 0, was_running: true });
    r
}

fn operations() -> Vec<Operation> {
    let point = DeltaId(Uuid::nil());
    vec![
        Operation::StartReplication,
        Operation::Export,
        Operation::CancelStart,
        Operation::UpdateDisks,
        Operation::Suspend,
        Operation::Resume,
        Operation::Resynchronize,
        Operation::Scrub,
        Operation::CancelResynchronize,
        Operation::Prepare { force: false, then_fail_over: Some(true), keep: false },
        Operation::CancelPrepare,
        Operation::PlannedFailover { start: true },
        Operation::Failover { point: Some(point), start: true },
        Operation::Revert,
        Operation::Commit,
        Operation::Reverse,
        Operation::ChangeToPrimary {
            peer: "x.example".parse().unwrap(),
            base: point,
            settings: Box::new(settings()),
        },
        Operation::Failback { point: None },
        Operation::CompleteFailback { point: None, force: false },
        Operation::CancelFailback,
        Operation::Seed { id: point },
        Operation::Yield,
        Operation::Feed { base: DeltaId(Uuid::from_u128(1)), point: None },
        Operation::Feed { base: DeltaId(Uuid::from_u128(1)), point: Some(point) },
    ]
}

/// What becomes of it; `None`: refused because of mode and state alone.
fn outcome(r: &Relationship, operation: &Operation) -> Option<String> {
    let fresh = Uuid::from_u128(2);
    match r.permit(operation) {
        Err(Refusal::State { .. }) => return None,
        Err(refusal) => return Some(format!("refused: {refusal}")),
        Ok(()) => {}
    }
    if let Some(work) = plan(r, operation, fresh) {
        let steps: Vec<String> = work.plan.iter().map(step).collect();
        return Some(steps.join(", "));
    }
    // Without a plan it takes effect at once; a wait keeps the turn that is due out of sight.
    let mut after = r.clone();
    after.retry.until_ms = Some(i64::MAX);
    let _ = after.apply(Context { now_ms: 0, utc_offset_min: 0, fresh }, Event::Operation(operation.clone()));
    Some(format!("state {}", after.state.number()))
}

fn step(step: &Step) -> String {
    match step {
        Step::Set(state) => format!("state {}", state.number()),
        Step::Become(mode) => format!("mode {mode}"),
        other => other.name().to_owned(),
    }
}

/// The kinds of records: mode and index, and what the table calls them.
const KINDS: [(Mode, u16, &str); 4] = [
    (Mode::Primary, 0, "primary"),
    (Mode::Replica, 0, "replica"),
    (Mode::ExtendedReplica, 0, "extended replica"),
    (Mode::Primary, 1, "forwards"),
];

/// Rows of one operation: situations with the same outcome share one.
fn rows(operation: &Operation) -> Vec<(String, Vec<String>)> {
    let mut rows: Vec<(String, Vec<String>)> = vec![];
    for (mode, index, name) in KINDS {
        for &state in S::ALL.iter().filter(|state| occurs(mode, index, **state)) {
            let variants = if index == 0 { variants(mode, state) } else { forwards(state) };
            let of = |mode, variant| outcome(&record(mode, index, state, variant), operation);
            let outcomes: Vec<_> = variants.iter().map(|variant| of(mode, variant)).collect();
            let alike = outcomes.iter().all(|outcome| *outcome == outcomes[0]);
            for (variant, outcome) in variants.iter().zip(outcomes).take(if alike { 1 } else { usize::MAX }) {
                // The table says nothing of what an extended replica does as any other.
                if mode == Mode::ExtendedReplica && of(Mode::Replica, variant) == outcome {
                    continue;
                }
                let Some(outcome) = outcome else { continue };
                let condition = if alike { String::new() } else { format!(" ({})", variant.name) };
                let situation = format!("{name} {}{condition}", state.number());
                match rows.iter_mut().find(|(known, _)| *known == outcome) {
                    Some((_, situations)) => situations.push(situation),
                    None => rows.push((outcome, vec![situation])),
                }
            }
        }
    }
    rows
}

fn table() -> String {
    let mut table = String::from("| operation | where | what is done |\n|---|---|---|\n");
    for operation in operations() {
        for (index, (outcome, situations)) in rows(&operation).into_iter().enumerate() {
            let name = if index == 0 { operation.name() } else { "" };
            writeln!(table, "| {name} | {} | {outcome} |", situations.join(", ")).unwrap();
        }
    }
    table
}

#[test]
fn the_table_in_the_documentation_is_what_the_engine_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/states.md");
    let page = std::fs::read_to_string(&path).expect("docs/states.md");
    let (head, rest) = page.split_once(BEGIN).expect("the block's begin");
    let (written, tail) = rest.split_once(END).expect("the block's end");
    let printed = table();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{printed}{END}{tail}")).expect("docs/states.md");
        return;
    }
    assert!(
        written == printed,
        "docs/states.md differs from the engine; UPDATE_EXPECT=1 rewrites it. The engine's:\n{printed}"
    );
}

#[test]
fn every_state_of_the_documentation_has_its_number_and_text() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/states.md");
    let page = std::fs::read_to_string(path).expect("docs/states.md");
    for state in S::ALL {
        let row = format!("| {} | {} |", state.number(), state.text());
        assert!(page.contains(&row), "docs/states.md lacks `{row}`");
    }
}
