//! GetReplicationStatistics and its like.

use super::{
    Answer, Call, How, Method, Refusal,
    call::{command_of, now_ms},
};
use crate::{
    classes::statistics::statistics,
    errors,
    names::{self, REPLICATION_SERVICE},
};
use cim::{Role, Value, embedded};
use futures::{FutureExt, future::BoxFuture};
use service::{api::Command, inventory::Parts};

/// `Msvm_ConcreteJob.JobType`.
const RESET_STATISTICS: u16 = 119;

pub const METHODS: &[Method] = &[
    Method {
        class: REPLICATION_SERVICE,
        name: "GetReplicationStatistics",
        role: Role::Reader,
        how: How::Works(get),
        note: "the monitoring interval under way, and the one before; what a replica does not count is NULL",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "GetReplicationStatisticsEx",
        role: Role::Reader,
        how: How::Works(get),
        note: "",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ResetReplicationStatistics",
        role: Role::Operator,
        how: How::Works(reset),
        note: "",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "ResetReplicationStatisticsEx",
        role: Role::Operator,
        how: How::Works(reset),
        note: "",
    },
];

fn get<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let replication = call.relationship(call.machine(Parts::default()).await?)?;
        let view = &replication.view;
        let counted = statistics(&replication, now_ms());
        let counted: Vec<String> = counted.iter().map(|it| embedded::write(it, call.schema)).collect();
        let source = names::relationship(view.vm, view.index);
        let issues = replication.view.issues.iter().map(|issue| errors::issue(issue, &source));
        let issues: Vec<Value> = issues.map(|issue| embedded::write(&issue, call.schema).into()).collect();
        let answer = Answer::done().with("ReplicationStatistics", counted);
        Ok(answer.with("ReplicationHealthIssues", Value::Array(issues)))
    }
    .boxed()
}

fn reset<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let view = call.relationship(call.machine(Parts::default()).await?)?.view;
        let command = command_of(view.index, Command::ResetStatistics { vm: view.vm.to_string() });
        call.in_background(Some((view.vm, &view.name)), "reset statistics", RESET_STATISTICS, command)
    }
    .boxed()
}
