//! Serves the tests' instances over plain HTTP on a loopback port, for trying clients by hand:
//! `cargo run -p cimxml --example serve -- 5988 1000` (port, number of virtual machines).

#[path = "../tests/protocol/common/mod.rs"]
mod common;

use cim::memory::Memory;
use cimxml::delivery;
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, body::Incoming};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|it| it.parse::<u32>().expect("a number"));
    let (port, machines) = (arguments.next().unwrap_or(5988), arguments.next().unwrap_or(3));
    let world = Arc::new(common::world());
    (3..machines).for_each(|number| common::add_machine(&world.machines, number));
    let options = delivery::Options { pause: Duration::from_millis(200), ..delivery::Options::default() };
    tokio::spawn(delivery::run(
        world.interop.clone(),
        world.provider.clone(),
        options,
        CancellationToken::new(),
    ));
    tokio::spawn(change(world.machines.clone()));
    let listener = TcpListener::bind(("127.0.0.1", port as u16)).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (tcp, _) = listener.accept().await?;
        let world = world.clone();
        tokio::spawn(async move {
            let serve = service_fn(|request: Request<Incoming>| async {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let answer = world.server.handle(Request::from_parts(head, body), &common::caller()).await;
                Ok::<_, hyper::Error>(answer)
            });
            _ = http1::Builder::new().serve_connection(TokioIo::new(tcp), serve).await;
        });
    }
}

/// Changes an instance every second, so that there is something to be told of.
async fn change(machines: Arc<Memory>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for number in 0u64.. {
        ticks.tick().await;
        common::touch(&machines, number).await;
    }
}
