//! Answers of any length: what is held does not grow with them, and what fails on the way is not passed over.

use crate::common::{HOST, V2, caller, class, count, error_of, intrinsic};
use cim::{
    AssociationFilter, Caller, Error, Instance, InstanceStream, MethodResult, Name, Namespace, ObjectPath,
    Provider, Schema, Served, Status, Value,
};
use cimxml::{Limits, Server};
use futures::{FutureExt, StreamExt, future, stream};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Instances without end, or up to a failure; counts how many were asked for.
struct Endless {
    schema: Arc<Schema>,
    made: Arc<AtomicUsize>,
    fails_at: Option<usize>,
}

impl Provider for Endless {
    fn namespaces(&self) -> Vec<Namespace> {
        vec![V2.into()]
    }

    fn schema(&self, _: &Namespace) -> Result<Arc<Schema>, Error> {
        Ok(self.schema.clone())
    }

    fn enumerate<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a Namespace,
        class: &'a Name,
    ) -> Served<'a, InstanceStream> {
        let (class, made, fails_at) = (class.clone(), self.made.clone(), self.fails_at);
        let instances = stream::iter(0usize..).map(move |number| {
            made.fetch_add(1, Ordering::Relaxed);
            if fails_at == Some(number) {
                return Err(Error::new(Status::Failed, "the hypervisor went away"));
            }
            let path = ObjectPath::class(V2, &class).with("InstanceID", number.to_string());
            Ok(Instance::new(&class)
                .with("InstanceID", number.to_string())
                .with("ElementName", "x".repeat(100))
                .at(path))
        });
        future::ready(Ok(instances.boxed())).boxed()
    }

    fn get<'a>(&'a self, _: &'a Caller, path: &'a ObjectPath) -> Served<'a, Instance> {
        future::ready(Err(Error::not_found(path))).boxed()
    }

    fn associators<'a>(
        &'a self,
        _: &'a Caller,
        path: &'a ObjectPath,
        _: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        future::ready(Err(Error::not_found(path))).boxed()
    }

    fn references<'a>(
        &'a self,
        _: &'a Caller,
        path: &'a ObjectPath,
        _: &'a AssociationFilter,
    ) -> Served<'a, InstanceStream> {
        future::ready(Err(Error::not_found(path))).boxed()
    }

    fn invoke<'a>(
        &'a self,
        _: &'a Caller,
        target: &'a ObjectPath,
        _: &'a Name,
        _: Vec<(Name, Value)>,
    ) -> Served<'a, MethodResult> {
        future::ready(Err(Error::not_found(target))).boxed()
    }
}

fn server(fails_at: Option<usize>) -> (Server, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let provider = Endless { schema: Arc::new(crate::common::schema(V2)), made: made.clone(), fails_at };
    (Server::new(Arc::new(provider), HOST, Limits::default(), Arc::new(Instant::now)), made)
}

fn enumerate() -> hyper::Request<bytes::Bytes> {
    intrinsic(V2, "EnumerateInstances", &class("ClassName", "Msvm_ConcreteJob"))
}

#[tokio::test]
async fn instances_are_made_as_they_are_read() {
    let (server, made) = server(None);
    let mut body = server.handle(enumerate(), &caller()).await.into_body();
    let (mut chunks, mut longest) = (0, 0);
    for _ in 0..50 {
        let before = made.load(Ordering::Relaxed);
        let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
        chunks += 1;
        longest = longest.max(chunk.len());
        assert!(made.load(Ordering::Relaxed) - before < 300);
    }
    assert_eq!(chunks, 50);
    assert!(longest < 128 << 10, "{longest}");
    assert!(!body.is_end_stream());
}

#[tokio::test]
async fn a_failure_is_an_error_while_it_can_be_and_a_break_later() {
    let (early, _) = server(Some(5));
    let answer = crate::common::body(early.handle(enumerate(), &caller()).await).await;
    assert_eq!(error_of(&answer), Some((1, "the hypervisor went away".into())));
    assert_eq!(count(&answer, "INSTANCE"), 0);
    let (late, _) = server(Some(5000));
    let response = late.handle(enumerate(), &caller()).await;
    assert_eq!(response.status(), 200);
    let broken = response.into_body().collect().await.unwrap_err();
    assert_eq!(broken.to_string(), "the hypervisor went away");
}
