//! GetReplicationStatistics and its like.

use super::{Answer, Call, How, Method, Refusal, call::now_ms};
use crate::{
    classes::statistics::statistics,
    errors,
    names::{self, REPLICATION_SERVICE},
};
use cim::{Role, Value, embedded};
use futures::{FutureExt, future::BoxFuture};
use service::api::Command;

pub const METHODS: &[Method] = &[
    Method {
        class: REPLICATION_SERVICE,
        name: "GetReplicationStatistics",
        role: Role::Reader,
        how: How::Works(get),
        note: "sizes and latencies that are not counted are NULL",
    },
    Method {
        class: REPLICATION_SERVICE,
        name: "GetReplicationStatisticsEx",
        role: Role::Reader,
        how: How::Works(get),
        note: "relationship 1 (extended) 32770",
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
        note: "relationship 1 (extended) 32770",
    },
];

fn get<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let replication = call.replication().await?;
        let vm = replication.view.vm;
        call.primary_relationship(vm)?;
        let counted = embedded::write(&statistics(&replication, now_ms()), call.schema);
        let source = names::relationship(vm);
        let issues = replication.view.issues.iter().map(|issue| errors::issue(issue, &source));
        let issues: Vec<Value> = issues.map(|issue| embedded::write(&issue, call.schema).into()).collect();
        let answer = Answer::done().with("ReplicationStatistics", vec![counted]);
        Ok(answer.with("ReplicationHealthIssues", Value::Array(issues)))
    }
    .boxed()
}

fn reset<'a>(call: &'a Call<'a>) -> BoxFuture<'a, Result<Answer, Refusal>> {
    async move {
        let vm = call.replication().await?.view.vm;
        call.primary_relationship(vm)?;
        call.run(Command::ResetStatistics { vm: vm.to_string() }).await
    }
    .boxed()
}
