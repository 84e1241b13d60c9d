//! Serves the tests' instances over plain HTTP on loopback, to try clients by hand: any user may do everything.
//!
//!     cargo run -p wsman --example serve -- 5985

#[path = "../tests/common/mod.rs"]
mod common;

use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|it| it.parse().ok()).unwrap_or(5985);
    let server = Arc::new(common::server());
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let server = server.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let server = server.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let anonymous = wsman::is_anonymous(&parts);
                    let body = body.collect().await?.to_bytes();
                    let request = hyper::Request::from_parts(parts, body);
                    Ok::<_, hyper::Error>(match anonymous {
                        true => server.identify(&request),
                        false => server.handle(request, &common::caller()).await,
                    })
                }
            });
            _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
