//! Every method in every situation, through the provider: what is possible does what the table says, everything else
//! answers 32775 and changes nothing.
//!
//! The table is Microsoft's description of the methods, and for what that leaves open our own decisions; it knows
//! nothing of the engine's. It stands in docs/states.md, too: `UPDATE_EXPECT=1` writes it there.

#[path = "support/situations.rs"]
mod situations;
mod support;

use cim::{Instance, ObjectPath, Provider, Value, embedded};
use futures::StreamExt;
use hvr::schema::V2;
use model::{ReplicationState, VmId};
use serde_json::json;
use service::api::Command;
use situations::{index, make, state};
use std::{collections::HashSet, path::Path};
use support::{BOUND, Stage, code, job, number, vm_path};

/// *where*: how the host stands to the VM, and the state; `any relationship` is all of them. *answer*: a job of this type
/// (with return code 4096), or another return code. *then*: the state that follows; `-` the same. A star: with the other
/// host's help. Two: the other host is asked before anything is begun.
const TABLE: &str = "\
| method | where | answer | then |
|---|---|---|---|
| CreateReplicationRelationship | none | job 91 | 1* |
|  | replica 3, replica 21 | job 91 | 1* |
| ModifyReplicationSettings | any primary, any forwards, replica 6 (forwards) | job 92 | -* |
| RemoveReplicationRelationship | any relationship | job 93 | 0 |
|  | any forwards, replica 6 (forwards) | 32775 | - |
| RemoveReplicationRelationshipEx | any relationship | job 93 | 0 |
|  | replica 6 (forwards) | 32775 | - |
| StartReplication 1 | primary 1, primary 1 (scheduled), forwards 1 | job 94 | 2 |
|  | primary 1 (seeded) | job 117 | 2 |
| StartReplication 2 | primary 1, primary 1 (scheduled) | job 118 | 2 |
|  | any forwards, replica 6 (forwards) | 32770 | - |
| StartReplication 3 | primary 1 (seeded) | job 117 | 2 |
|  | any forwards, replica 6 (forwards) | 32770 | - |
| ImportInitialReplica | replica 2, extended replica 2 | 32779 | - |
| InitiateFailover | replica 3, replica 7, replica 8, replica 13, replica 14, replica 21, extended replica 3, extended replica 7, extended replica 8 | job 97 | 5 |
|  | replica 12, extended replica 12 | 32774 | - |
| RevertFailover | replica 5 (planned), replica 5 (unplanned), extended replica 5 | job 98 | 3 |
|  | replica 13 | job 124 | 2 |
|  | replica 14 | job 124 | 3 |
|  | replica 12, extended replica 12 | 32774 | - |
| CommitFailover | replica 5 (planned), replica 5 (unplanned), extended replica 5 | job 99 | 6 |
|  | replica 14 | job 124 | 3* |
|  | replica 12, extended replica 12 | 32774 | - |
| ReverseReplicationRelationship | replica 5 (planned), replica 6 (planned), replica 6 (unplanned), replica 6 (forwards) | job 104 | 3* |
|  | replica 12, extended replica 12 | 32774 | - |
| ChangeReplicationModeToPrimary | replica 6 (forwards) | job 123 | 10 |
| InitiateFailback | primary 2 (taken over), primary 3 (taken over), primary 7 (taken over), primary 8 (taken over), primary 9 (taken over) | job 124 | 13** |
|  | replica 12, extended replica 12 | 32774 | - |
| TestReplicaSystem | replica 3, replica 7, replica 8, replica 14, extended replica 3, extended replica 7, extended replica 8 | job 102 | - |
|  | replica 21 | 32774 | - |
| Resynchronize | primary 3, primary 7, primary 8, primary 9 | job 107 | 10 |
|  | forwards 3, forwards 7, forwards 9 | job 121 | 10 |
|  | replica 6 (forwards) | job 121 | - |
| RequestReplicationStateChange 1 | primary 1 (scheduled), primary 2, forwards 2 | job 109 | 1 |
|  | replica 12, extended replica 12 | 32774 | - |
| RequestReplicationStateChange 2 | none | 0 | 2 |
|  | primary 2 (taken over), primary 3 (taken over), primary 7 (taken over), primary 8 (taken over), primary 9 (taken over) | job 96 | 2 |
|  | primary 4 | job 96 | 3 |
|  | replica 12, extended replica 12 | 32774 | - |
| RequestReplicationStateChange 3 | primary 7, primary 8, replica 7, replica 8, extended replica 7, extended replica 8, forwards 7 | job 96 | 3 |
|  | primary 9, primary 11, forwards 9, forwards 11 | job 96 | 10 |
|  | primary 16 | job 96 | 15 |
|  | primary 4 | job 101 | 3* |
| RequestReplicationStateChange 4 | primary 3, primary 10 | job 100 | 4* |
|  | replica 12, extended replica 12 | 32774 | - |
| RequestReplicationStateChange 5 | any relationship | 32773 | - |
| RequestReplicationStateChange 7 | primary 3, replica 3, replica 21, extended replica 3, forwards 3 | job 96 | 7 |
|  | primary 10, forwards 10 | job 96 | 11 |
|  | replica 12, extended replica 12 | 32774 | - |
| RequestReplicationStateChange 9 | primary 10, primary 11, forwards 10, forwards 11 | job 110 | 9 |
|  | replica 12, extended replica 12 | 32774 | - |
| GetReplicationStatistics | any relationship | 0 | - |
| GetReplicationStatisticsEx | any relationship | 0 | - |
| ResetReplicationStatistics | any relationship | job 119 | - |
| ResetReplicationStatisticsEx | any relationship | job 119 | - |
| SetFailoverNetworkAdapterSettings | any relationship | 0 | - |
| SetAuthorizationEntry | none, any replica, any extended | 0 | - |
";

/// Those of the class that are about no VM.
const OF_THE_HOST: [&str; 9] = [
    "AddAuthorizationEntry",
    "ModifyAuthorizationEntry",
    "RemoveAuthorizationEntry",
    "TestReplicationConnection",
    "GetSystemCertificates",
    "ModifyServiceSettings",
    "RequestStateChange",
    "StartService",
    "StopService",
];

/// States of `Msvm_ReplicationRelationship` that do not come about here, and numbers that have no meaning.
const NEVER: [u16; 6] = [17, 18, 19, 20, 22, 23];

/// Jobs that go on until the other host has what is copied: first copies and comparisons.
const COPIES: [i128; 4] = [94, 107, 117, 121];

const RELATIONSHIPS: &str = "SELECT * FROM __InstanceOperationEvent WITHIN 1 WHERE \
                             TargetInstance ISA 'Msvm_ReplicationRelationship'";

#[derive(Clone, Debug, PartialEq)]
enum Expected {
    Job { kind: i128, then: Option<u16>, help: Help },
    Code { code: i128, then: Option<u16> },
}

/// What is needed of the other host, which is silent here.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Help {
    None,
    Later,
    First,
}

const REFUSED: Expected = Expected::Code { code: 32775, then: None };

/// The method, and its cell for each situation.
fn rows() -> Vec<(String, Vec<(&'static str, Expected)>)> {
    let mut rows: Vec<(String, Vec<(&str, Expected)>)> = vec![];
    for line in TABLE.lines().skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [method, places, answer, then] = cells[..] else { panic!("{line}") };
        if !method.is_empty() {
            let refused = situations::ALL.iter().map(|situation| (*situation, REFUSED)).collect();
            rows.push((method.to_owned(), refused));
        }
        let row = &mut rows.last_mut().unwrap().1;
        for place in places.split(", ") {
            let mut found = 0;
            for (situation, cell) in row.iter_mut() {
                let is = match place.strip_prefix("any ") {
                    Some("relationship") => *situation != "none",
                    Some(kind) => situation.starts_with(kind),
                    None => place == *situation,
                };
                if is {
                    *cell = expected(answer, then);
                    found += 1;
                }
            }
            assert!(found > 0, "no situation is called {place}");
        }
    }
    rows
}

fn expected(answer: &str, then: &str) -> Expected {
    let help = match then.matches('*').count() {
        0 => Help::None,
        1 => Help::Later,
        _ => Help::First,
    };
    let then = then.trim_end_matches('*').parse().ok();
    match answer.strip_prefix("job ") {
        Some(kind) => Expected::Job { kind: kind.parse().unwrap(), then, help },
        None => Expected::Code { code: answer.parse().unwrap(), then },
    }
}

/// What a situation is compared by: records without what only time changes, points, jobs, domains.
async fn picture(stage: &Stage, vm: VmId) -> serde_json::Value {
    let host = &stage.host;
    let records = [0, 1].map(|index| {
        let mut record = host.relationship(vm, index)?.record();
        record.retry = engine::retry::Retry::default();
        record.statistics = engine::Statistics::default();
        record.next_cycle_ms = 0;
        Some(serde_json::to_value(record).unwrap())
    });
    let jobs: Vec<_> = host.jobs.views().into_iter().filter(|view| view.vm == Some(vm)).collect();
    let jobs: Vec<_> = jobs.iter().map(|view| json!([view.job, format!("{:?}", view.state)])).collect();
    let points: Vec<_> = host.catalog.points(vm).unwrap().iter().map(|point| point.delta).collect();
    let domain = host.hypervisor.domain(vm).unwrap().map(|domain| domain.state.to_string());
    let seed: Option<serde_json::Value> = host.document(vm, service::document::SEED).unwrap();
    json!([records, jobs, points, domain, seed])
}

/// The whole of the method's arguments, for this relationship.
fn arguments(stage: &Stage, method: &str, vm: VmId, index: u16) -> Vec<(&'static str, Value)> {
    let embed = |instance: Instance| -> Value {
        let schema = stage.hvr.schema(&V2.into()).unwrap();
        embedded::write(&schema.conform(&instance).unwrap(), &schema).into()
    };
    let own = ("ComputerSystem", Value::from(vm_path(vm)));
    let id = format!("Microsoft:{}\\HVR\\{index}", vm.to_string().to_uppercase());
    let relationship = Instance::new("Msvm_ReplicationRelationship").with("InstanceID", id);
    let settings = |to: &str| {
        let settings = Instance::new("Msvm_ReplicationSettingData").with("AuthenticationType", 2u16);
        ("ReplicationSettingData", embed(settings.with("RecoveryConnectionPoint", to)))
    };
    let (name, number) = method.split_once(' ').unwrap_or((method, "0"));
    let number: u16 = number.parse().unwrap();
    match name {
        "CreateReplicationRelationship" => vec![own, settings("c.example")],
        "ModifyReplicationSettings" if index == 1 => vec![own, settings("c.example")],
        "ModifyReplicationSettings" => {
            let peer = stage.host.extended(vm).map_or("b.example", |_| "c.example");
            vec![own, settings(peer)]
        }
        "RemoveReplicationRelationshipEx" | "GetReplicationStatisticsEx" | "ResetReplicationStatisticsEx" => {
            vec![own, ("ReplicationRelationship", embed(relationship))]
        }
        "StartReplication" => {
            let folder = stage.root().join("export");
            std::fs::create_dir_all(&folder).unwrap();
            let folder = folder.display().to_string();
            vec![
                own,
                ("InitialReplicationType", number.into()),
                ("InitialReplicationExportLocation", folder.into()),
            ]
        }
        "ImportInitialReplica" => vec![own, ("InitialReplicationImportLocation", "/nowhere".into())],
        "SetFailoverNetworkAdapterSettings" => vec![own, ("NetworkSettings", Value::Array(vec![]))],
        "SetAuthorizationEntry" => {
            let entry = Instance::new("Msvm_ReplicationAuthorizationSettingData");
            let entry = entry.with("AllowedPrimaryHostSystem", "*");
            vec![own, ("AuthorizationEntry", embed(entry))]
        }
        "RequestReplicationStateChange" => vec![("RequestedState", number.into())],
        "RequestReplicationStateChangeEx" => {
            vec![("ReplicationRelationship", embed(relationship)), ("RequestedState", number.into())]
        }
        _ => vec![own],
    }
}

/// Does the method know a relationship 1, or is it about the VM's relationship 0 whatever the situation.
fn concerns(method: &str, situation: &str) -> bool {
    index(situation) == 0
        || method.contains("Ex")
        || ["StartReplication", "Resynchronize", "ModifyReplicationSettings"]
            .iter()
            .any(|name| method.starts_with(name))
        || method == "RemoveReplicationRelationship"
}

struct Walk {
    stage: Stage,
    service: ObjectPath,
    wrong: Vec<String>,
    walked: usize,
}

impl Walk {
    /// Walks one cell in a VM that is in the situation. True where the VM is as it was before.
    async fn cell(&mut self, method: &str, situation: &str, vm: VmId, expected: &Expected) -> bool {
        self.walked += 1;
        let stage = &self.stage;
        let name = method.split(' ').next().unwrap();
        let target = if name.starts_with("Request") { vm_path(vm) } else { self.service.clone() };
        let before = picture(stage, vm).await;
        let given = arguments(stage, method, vm, index(situation));
        let result = stage.call(&target, name, &given).await;
        let said = match expected {
            Expected::Code { code: wanted, then: None } => {
                let after = picture(stage, vm).await;
                if code(&result) != *wanted {
                    Err(format!("{result:?}"))
                } else if before != after {
                    Err(format!("{wanted} changed something:\n{before:#}\n{after:#}"))
                } else {
                    Ok(())
                }
            }
            Expected::Code { code: wanted, then: Some(then) } => match code(&result) == *wanted {
                true => self.comes_to(vm, 0, *then).await,
                false => Err(format!("{result:?}")),
            },
            Expected::Job { help: Help::First, .. } => match code(&result) {
                32777 => Ok(()),
                _ => Err(format!("{result:?}")),
            },
            Expected::Job { kind, then, help } if code(&result) == 4096 => {
                let view = stage.get(&job(&result)).await.unwrap();
                if number(&view, "JobType") != *kind {
                    Err(format!("{view:?}"))
                } else if let (Some(then), Help::None) = (then, help) {
                    let came = self.comes_to(vm, index(situation), *then).await;
                    match COPIES.contains(kind) {
                        true => came,
                        false => came.and(self.ends_well(&job(&result)).await),
                    }
                } else {
                    Ok(())
                }
            }
            Expected::Job { .. } => Err(format!("{result:?}")),
        };
        let refused = matches!(expected, Expected::Code { then: None, .. });
        let right = said.is_ok();
        if let Err(said) = said {
            self.wrong.push(format!("{method} in {situation}: {expected:?}, but: {said}"));
        }
        refused && right
    }

    async fn ends_well(&self, job: &ObjectPath) -> Result<(), String> {
        let ended = self.stage.ended(job).await;
        if number(&ended, "JobState") == 7 { Ok(()) } else { Err(format!("{ended:?}")) }
    }

    /// The relationship comes to this state; 0: it goes.
    async fn comes_to(&self, vm: VmId, index: u16, then: u16) -> Result<(), String> {
        let now = async || {
            let view = self.stage.get(&vm_path(vm)).await.ok();
            match (self.stage.host.relationship(vm, index), view) {
                (Some(owner), _) => owner.record().state.number(),
                // Marked as a seed, it is one of a replica that is to come.
                (None, Some(view)) if index == 0 => u16::try_from(number(&view, "ReplicationState")).unwrap(),
                (None, _) => 0,
            }
        };
        let mut events = self.stage.events(RELATIONSHIPS).await;
        while now().await != then {
            if tokio::time::timeout(BOUND, events.next()).await.is_err() {
                return Err(format!("it is in state {}", now().await));
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_in_every_situation_does_what_the_table_says() {
    let stage = Stage::with(situations::CONFIG).await;
    let service = stage.service().await;
    let storage = stage.root().to_owned();
    stage.run(Command::Authorize { host: "*".into(), storage, trust_group: None }).await;
    let mut walk = Walk { stage, service, wrong: vec![], walked: 0 };
    let rows = rows();
    for &situation in situations::ALL {
        let mut fresh = None;
        for (method, cells) in &rows {
            let (_, expected) = cells.iter().find(|(at, _)| *at == situation).unwrap();
            for method in [method.clone(), method.replace("StateChange ", "StateChangeEx ")] {
                let twice = !method.contains("Ex ") && method.starts_with("Request");
                if !concerns(&method, situation) || twice && index(situation) == 1 {
                    continue;
                }
                let vm = match fresh {
                    Some(vm) => vm,
                    None => make(&walk.stage, situation).await,
                };
                fresh = walk.cell(&method, situation, vm, expected).await.then_some(vm);
                if fresh.is_none()
                    && let Some(owner) = walk.stage.host.owner(vm)
                {
                    owner.stop().await;
                }
                if !method.starts_with("Request") {
                    break;
                }
            }
        }
    }
    assert!(walk.wrong.is_empty(), "{} of {}:\n{}", walk.wrong.len(), walk.walked, walk.wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_has_every_method_and_every_state() {
    let schema = hvr::schema::schema(V2);
    let class = schema.require(&"Msvm_ReplicationService".into()).unwrap();
    let rows = rows();
    let named: HashSet<&str> = rows.iter().map(|(method, _)| method.split(' ').next().unwrap()).collect();
    for method in &class.methods {
        let name = method.name.as_str();
        assert!(
            named.contains(name) != OF_THE_HOST.contains(&name),
            "{name} is in the table or about no VM, and not both"
        );
    }
    for number in 0..=23 {
        let known = ReplicationState::ALL.iter().any(|state| state.number() == number);
        let walked = situations::ALL.iter().any(|situation| state(situation) == number);
        assert_eq!(known, walked, "state {number}");
        assert_ne!(known, NEVER.contains(&number), "state {number}");
    }
}

#[test]
fn the_documentation_has_the_table() {
    const BEGIN: &str = "<!-- begin: printed by hvr/tests/cells.rs -->\n";
    const END: &str = "<!-- end -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/states.md");
    let page = std::fs::read_to_string(&path).expect("docs/states.md");
    let (head, rest) = page.split_once(BEGIN).expect("the block's begin");
    let (written, tail) = rest.split_once(END).expect("the block's end");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{TABLE}{END}{tail}")).expect("docs/states.md");
        return;
    }
    assert!(written == TABLE, "docs/states.md differs from the table; UPDATE_EXPECT=1 writes it there");
}
