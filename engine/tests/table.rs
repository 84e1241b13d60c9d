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
        (Mode::Replica, S::Recovered | S::Committed) => vec![
            variant("planned", held, Some(FailoverType::Planned), false),
            variant("unplanned", held, Some(FailoverType::Unplanned), false),
            variant("superseded", elsewhere, Some(FailoverType::Unplanned), true),
            variant("both took over", held, Some(FailoverType::Unplanned), true),
        ],
        (Mode::Replica, _) => {
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

/// States in which a record of this mode can be; the others would only lengthen the table.
fn occurs(mode: Mode, state: S) -> bool {
    match state {
        S::Disabled => false,
        S::WaitingForInitialReplication | S::Replicating | S::Suspended | S::Critical => true,
        S::Recovered | S::Committed => mode == Mode::Replica,
        S::FailoverInProgress | S::FailbackInProgress | S::FailbackComplete => mode == Mode::Replica,
        S::Ready | S::SyncedReplicationComplete => mode == Mode::Primary,
        S::WaitingForResynchronize | S::Resynchronizing | S::ResynchronizeSuspended => mode == Mode::Primary,
    }
}

fn record(mode: Mode, state: S, variant: &Variant) -> Relationship {
    let (a, b): (HostName, HostName) = ("a.example".parse().unwrap(), "b.example".parse().unwrap());
    let generation = Generation { number: 1, owner: a.clone(), nonce: Uuid::nil() };
    let settings = Settings {
        interval_s: 300,
        history: 0,
        history_every_s: 3600,
        bandwidth_bytes_per_s: None,
        auto_resynchronize: true,
    };
    let mut r = Relationship::primary(VmId(Uuid::nil()), "vm".into(), a, b, settings);
    r.mode = mode;
    r.state = state;
    r.token = (variant.token)(generation.clone());
    let nothing_yet = state == S::Ready || mode == Mode::Primary && state == S::WaitingForInitialReplication;
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
        Operation::Suspend,
        Operation::Resume,
        Operation::Resynchronize,
        Operation::CancelResynchronize,
        Operation::Prepare { force: false, then_fail_over: Some(true) },
        Operation::CancelPrepare,
        Operation::PlannedFailover { start: true },
        Operation::Failover { point, start: true },
        Operation::Revert,
        Operation::Commit,
        Operation::Reverse,
        Operation::Failback,
        Operation::CompleteFailback { point: None, force: false },
        Operation::CancelFailback,
        Operation::Yield,
        Operation::Feed { base: DeltaId(Uuid::from_u128(1)) },
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
    let _ = after.apply(Context { now_ms: 0, fresh }, Event::Operation(operation.clone()));
    Some(format!("state {}", after.state.number()))
}

fn step(step: &Step) -> String {
    match step {
        Step::Set(state) => format!("state {}", state.number()),
        Step::Become(mode) => format!("mode {mode}"),
        other => other.name().to_owned(),
    }
}

/// Rows of one operation: situations with the same outcome share one.
fn rows(operation: &Operation) -> Vec<(String, Vec<String>)> {
    let mut rows: Vec<(String, Vec<String>)> = vec![];
    for mode in [Mode::Primary, Mode::Replica] {
        for &state in S::ALL.iter().filter(|state| occurs(mode, **state)) {
            let variants = variants(mode, state);
            let outcomes: Vec<_> =
                variants.iter().map(|variant| outcome(&record(mode, state, variant), operation)).collect();
            let alike = outcomes.iter().all(|outcome| *outcome == outcomes[0]);
            for (variant, outcome) in variants.iter().zip(outcomes).take(if alike { 1 } else { usize::MAX }) {
                let Some(outcome) = outcome else { continue };
                let condition = if alike { String::new() } else { format!(" ({})", variant.name) };
                let situation = format!("{mode} {}{condition}", state.number());
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
