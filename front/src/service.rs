//! What a listener serves.

use bytes::Bytes;
use cim::Caller;
use futures::future::BoxFuture;
use http::{Request, Response, request};
use http_body_util::combinators::UnsyncBoxBody;
use std::io;

/// The body of an answer, made as the client takes it.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Whom a resource is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// There is no such resource.
    Absent,
    /// Whoever has logged in; what each may do is decided behind it.
    Users,
    /// Anybody. The body is short ([`Limits::stranger_body_bytes_max`](crate::Limits)).
    Anybody,
}

/// A protocol over HTTP.
pub trait Service: Send + Sync + 'static {
    /// Decides by the head of a request, before its body is read.
    fn access(&self, head: &request::Parts) -> Access;

    /// Answers a request. `caller` is `None` where [`Service::access`] said [`Access::Anybody`], and only there;
    /// its locale is what `Accept-Language` asks for. The request has no `Authorization` header any more. The future
    /// runs on a task of its own and is not dropped when the connection breaks.
    fn handle<'a>(
        &'a self,
        request: Request<Bytes>,
        caller: Option<&'a Caller>,
    ) -> BoxFuture<'a, Response<Body>>;
}
