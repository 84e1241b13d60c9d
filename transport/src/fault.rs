//! Faults for tests, of this room and of others; no part of a running host.
//!
//! A [`FaultProxy`] stands between two hosts and mistreats their TCP connections. TLS hides the frames from it,
//! so [`frames`] and [`send_frames`] let a test reorder or damage the frames themselves before they are sealed.

use crate::{
    client::{Answer, Client},
    encode::{Compression, EncodeError, Encoder},
    header::DeltaHeader,
    stream::header_bytes,
};
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use model::{Chunk, HostName};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What happens to a connection. Offsets count bytes from the client to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Both directions are reset after this many bytes.
    CutAfter(u64),
    /// The byte at this offset has its lowest bit flipped.
    FlipAt(u64),
    /// The byte at this offset is sent twice.
    DuplicateAt(u64),
    /// The byte at this offset is left out.
    DropAt(u64),
    /// Each read is held back this long, in both directions.
    Delay(Duration),
    /// Bytes are taken and never delivered, in both directions.
    BlackHole,
}

/// A TCP proxy on a free loopback port. The fault in force when a connection is accepted stays with it.
#[derive(Debug)]
pub struct FaultProxy {
    pub address: SocketAddr,
    fault: Arc<Mutex<Fault>>,
    /// Ends the connections that there are.
    cut: Arc<Mutex<CancellationToken>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl FaultProxy {
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let proxy = Self {
            address,
            fault: Arc::default(),
            cut: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (fault, stop, tasks) = (proxy.fault.clone(), proxy.stop.clone(), proxy.tasks.clone());
        let cut = proxy.cut.clone();
        proxy.tasks.spawn(async move {
            loop {
                let client = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                let Ok((client, _)) = client else { return };
                let fault = *fault.lock().expect("no code panics under this lock");
                let stop = stop.clone();
                let cut = cut.lock().expect("no code panics under this lock").clone();
                tasks.spawn(async move {
                    tokio::select! {
                        _ = relay(client, target, fault) => {}
                        () = stop.cancelled() => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        Ok(proxy)
    }

    /// For connections accepted from now on.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().expect("no code panics under this lock") = fault;
    }

    /// Cuts the connections that there are: a client that keeps them meets a fault only on a new one.
    pub fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().expect("no code panics under this lock")).cancel();
    }

    /// Cuts every connection and stops listening.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn relay(client: TcpStream, target: SocketAddr, fault: Fault) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let back = match fault {
        Fault::Delay(_) | Fault::BlackHole => fault,
        _ => Fault::None,
    };
    let there = copy(&mut client_read, &mut server_write, fault);
    let back = copy(&mut server_read, &mut client_write, back);
    // A cut ends both directions at once; a close of one side lets the other finish.
    tokio::try_join!(there, back).map(drop)
}

async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    fault: Fault,
) -> io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    let mut offset = 0;
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let mut bytes = buffer[..count].to_vec();
        // Where in these bytes the fault's offset lies.
        let at = |place: u64| place.checked_sub(offset).map(|at| at as usize).filter(|at| *at < count);
        match fault {
            Fault::None => {}
            Fault::CutAfter(place) => {
                if let Some(at) = at(place) {
                    to.write_all(&bytes[..at]).await?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            Fault::FlipAt(place) => {
                if let Some(at) = at(place) {
                    bytes[at] ^= 1;
                }
            }
            Fault::DuplicateAt(place) => {
                if let Some(at) = at(place) {
                    bytes.insert(at, bytes[at]);
                }
            }
            Fault::DropAt(place) => {
                if let Some(at) = at(place) {
                    bytes.remove(at);
                }
            }
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::BlackHole => bytes.clear(),
        }
        to.write_all(&bytes).await?;
        offset += count as u64;
    }
}

/// The frames of a delta, each for itself, the end frame last.
pub fn frames(chunks: &[Chunk], compression: Compression) -> Result<Vec<Bytes>, EncodeError> {
    let mut encoder = Encoder::new(crate::Mark::START, compression)?;
    for chunk in chunks {
        encoder.push(chunk)?;
    }
    let mut bytes = Vec::new();
    while let Some(batch) = encoder.take_batch() {
        bytes.extend(batch);
    }
    bytes.extend(encoder.finish()?);
    let mut bytes = Bytes::from(bytes);
    let mut frames = vec![];
    while !bytes.is_empty() {
        let encoded = u32::from_le_bytes(bytes[12..16].try_into().expect("four")) as usize;
        frames.push(bytes.split_to(crate::frame::HEADER_BYTES + encoded));
    }
    Ok(frames)
}

/// Sends these frames as they are behind a header, and returns what the peer answers.
pub async fn send_frames(client: &Client, to: &HostName, header: &DeltaHeader, frames: Vec<Bytes>) -> Answer {
    let prefix = header_bytes(header).expect("plain data");
    let pieces = std::iter::once(prefix).chain(frames).map(|piece| Ok(Frame::data(piece)));
    client
        .post(to.into(), "/delta", StreamBody::new(stream::iter(pieces.collect::<Vec<_>>())).boxed_unsync())
        .await
}
