//! A TCP connection whose every byte is sealed for the other side: records of a length and a message that GSS-API
//! sealed. What is damaged, repeated, lost or out of order ends the connection; so does an end that was not announced.
//!
//! ```text
//! 0  u32  length of the sealed message in bytes, little-endian
//! 4  …    the sealed message; one with nothing in it announces the end
//! ```

use bytes::{Buf as _, BytesMut};
use kerberos::{RecordError, SEAL_BYTES_MAX, Session};
use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Most that one record carries.
pub(crate) const CONTENT_BYTES_MAX: usize = 64 << 10;
/// Longest sealed message.
const RECORD_BYTES_MAX: usize = CONTENT_BYTES_MAX + SEAL_BYTES_MAX;
const LENGTH_BYTES: usize = 4;

pub(crate) struct Sealed {
    tcp: TcpStream,
    session: Session,
    /// Came, and was not opened.
    incoming: BytesMut,
    /// The last message, and what of it was not read.
    opened: Option<(kerberos::Message, Range<usize>)>,
    /// The other side announced its end.
    ended: bool,
    /// Sealed, and not sent.
    outgoing: BytesMut,
    /// We announced our end.
    closed: bool,
    /// What goes into one record from several buffers.
    gathered: Vec<u8>,
}

impl Sealed {
    /// `early`: what came behind the last token.
    pub fn new(tcp: TcpStream, session: Session, early: &[u8]) -> Self {
        Self {
            tcp,
            session,
            incoming: BytesMut::from(early),
            opened: None,
            ended: false,
            outgoing: BytesMut::with_capacity(LENGTH_BYTES + RECORD_BYTES_MAX),
            closed: false,
            gathered: Vec::new(),
        }
    }

    /// How long the ticket is good for, as of the beginning.
    pub fn good_for(&self) -> Duration {
        self.session.good_for
    }

    /// The next record, if all of it is here.
    fn next_record(&mut self) -> io::Result<Option<BytesMut>> {
        let Some(length) = self.incoming.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > RECORD_BYTES_MAX {
            return Err(refused(RecordError::Damaged { words: format!("it claims {length} bytes") }));
        }
        if self.incoming.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.incoming.advance(LENGTH_BYTES);
        Ok(Some(self.incoming.split_to(length)))
    }

    fn seal(&mut self, content: &[u8]) -> io::Result<()> {
        let sealed = self.session.seal(content).map_err(io::Error::other)?;
        let length = u32::try_from(sealed.len()).expect("bounded");
        self.outgoing.extend_from_slice(&length.to_le_bytes());
        self.outgoing.extend_from_slice(&sealed);
        Ok(())
    }

    /// Sends what is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.outgoing))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

fn refused(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for Sealed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some((message, rest)) = &mut this.opened {
                let count = rest.len().min(to.remaining());
                to.put_slice(&message[rest.start..rest.start + count]);
                rest.start += count;
                if rest.start == rest.end {
                    this.opened = None;
                }
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(record) = this.next_record()? {
                let message = this.session.open(&record).map_err(refused)?;
                if message.is_empty() {
                    this.ended = true;
                } else {
                    let all = 0..message.len();
                    this.opened = Some((message, all));
                }
                continue;
            }
            this.incoming.reserve(LENGTH_BYTES + RECORD_BYTES_MAX);
            let came = tokio_util::io::poll_read_buf(Pin::new(&mut this.tcp), cx, &mut this.incoming);
            if ready!(came)? == 0 {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without saying so");
                return Poll::Ready(Err(error));
            }
        }
    }
}

impl AsyncWrite for Sealed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        // An empty message would announce the end.
        if from.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = from.len().min(CONTENT_BYTES_MAX);
        self.seal(&from[..count])?;
        // It counts as written from here on; what the socket does not take now goes with the next call.
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    /// One record from several buffers.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(first) = from.first().filter(|first| from.len() == 1 || first.len() >= CONTENT_BYTES_MAX)
        {
            return self.poll_write(cx, first);
        }
        ready!(self.poll_send(cx))?;
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.clear();
        for slice in from {
            let count = slice.len().min(CONTENT_BYTES_MAX - gathered.len());
            gathered.extend_from_slice(&slice[..count]);
        }
        let written = self.as_mut().poll_write(cx, &gathered);
        self.gathered = gathered;
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            self.seal(b"")?;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
