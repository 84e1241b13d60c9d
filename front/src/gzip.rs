//! gzip, made as the client takes it: what is held is one window and one piece, however long the answer.

use crate::service::Body;
use bytes::{Buf, Bytes};
use flate2::{Compression, write::GzEncoder};
use futures::ready;
use http::{
    HeaderMap, HeaderValue, Response,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY},
};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame};
use std::{
    io::{self, Write},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

/// Shorter answers are not worth it.
const BYTES_MIN: u64 = 1024;
/// What is compressed before others get their turn.
const PIECE_BYTES_MAX: usize = 32 << 10;

/// Whether the client takes gzip (RFC 9110, section 12.5.3).
pub(crate) fn is_offered(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut any = false;
    for offer in offers.flat_map(|value| value.split(',')) {
        let (coding, weight) = offer.split_once(';').unwrap_or((offer, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
        let wanted = weight.is_some_and(|weight| weight > 0.0);
        match coding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => return wanted,
            "*" => any = wanted,
            _ => {}
        }
    }
    any
}

/// The answer compressed, unless it is short or has an encoding already.
pub(crate) fn compress(mut response: Response<Body>) -> Response<Body> {
    let is_short = response.body().size_hint().upper().is_some_and(|bytes| bytes < BYTES_MIN);
    if is_short || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    response.map(|body| {
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Gzip { body, piece: Bytes::new(), encoder: Some(encoder) }.boxed_unsync()
    })
}

struct Gzip {
    body: Body,
    /// What came from the body and is not compressed yet.
    piece: Bytes,
    /// `None` at the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl hyper::body::Body for Gzip {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        loop {
            let Some(encoder) = &mut this.encoder else { return Poll::Ready(None) };
            if this.piece.is_empty() {
                match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                    // Trailers have no place in what we serve.
                    Some(Ok(frame)) => this.piece = frame.into_data().unwrap_or_default(),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => {
                        let rest = this.encoder.take().map(GzEncoder::finish).transpose()?;
                        return Poll::Ready(rest.map(|rest| Ok(Frame::data(rest.into()))));
                    }
                }
                continue;
            }
            let bytes = this.piece.len().min(PIECE_BYTES_MAX);
            encoder.write_all(&this.piece[..bytes])?;
            this.piece.advance(bytes);
            if !encoder.get_ref().is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(mem::take(encoder.get_mut()).into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use futures::{StreamExt, stream};
    use http_body_util::{Full, StreamBody};
    use std::{
        io::Read,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    fn offered(value: &'static str) -> bool {
        let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
        is_offered(&headers)
    }

    #[test]
    fn gzip_is_used_where_it_is_offered() {
        for value in ["gzip", "gzip, deflate", "deflate,GZIP;q=0.5", "*", "identity;q=0.1, *;q=1"] {
            assert!(offered(value), "{value}");
        }
        for value in ["", "identity", "deflate, br", "gzip;q=0", "*, gzip; q=0.0", "gzip;q=x", "gzipped"] {
            assert!(!offered(value), "{value}");
        }
        assert!(!is_offered(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn what_comes_out_is_what_went_in() {
        let text: String = (0..100_000).map(|number| format!("<I>{number}</I>")).collect();
        let body = Full::new(Bytes::from(text.clone())).map_err(|never| match never {}).boxed_unsync();
        let response = compress(Response::new(body));
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let compressed = response.into_body().collect().await.unwrap().to_bytes();
        let mut read = String::new();
        GzDecoder::new(&*compressed).read_to_string(&mut read).unwrap();
        assert!(read == text && compressed.len() < text.len() / 2);
    }

    #[tokio::test]
    async fn short_and_encoded_answers_stay() {
        let short = Full::new(Bytes::from("short")).map_err(|never| match never {}).boxed_unsync();
        assert!(compress(Response::new(short)).headers().is_empty());
        let long = Full::new(Bytes::from(vec![0; 10_000])).map_err(|never| match never {}).boxed_unsync();
        let encoded = Response::builder().header(CONTENT_ENCODING, "br").body(long).unwrap();
        assert_eq!(compress(encoded).into_body().collect().await.unwrap().to_bytes().len(), 10_000);
    }

    /// The body is not asked for more than the client took.
    #[tokio::test]
    async fn nothing_is_made_ahead() {
        const NOISE_BYTES: usize = 16 << 10;
        let made = Arc::new(AtomicUsize::new(0));
        let counter = made.clone();
        let pieces = stream::iter(0_u64..).map(move |number| {
            counter.fetch_add(1, Ordering::Relaxed);
            // Cannot be compressed: each piece comes out at once.
            let mut noise = vec![0; NOISE_BYTES];
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut noise);
            Ok(Frame::data(Bytes::from(noise)))
        });
        let mut body = compress(Response::new(StreamBody::new(pieces).boxed_unsync())).into_body();
        let mut taken = 0;
        while taken < 1 << 20 {
            taken += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        let ahead = made.load(Ordering::Relaxed) * NOISE_BYTES - taken;
        assert!(ahead < 256 << 10, "{ahead}");
    }

    #[tokio::test]
    async fn a_broken_answer_breaks_for_the_client_too() {
        let pieces =
            stream::iter([Ok(Frame::data(Bytes::from(vec![1; 5000]))), Err(io::Error::other("broken"))]);
        let body = compress(Response::new(StreamBody::new(pieces).boxed_unsync())).into_body();
        assert_eq!(body.collect().await.unwrap_err().to_string(), "broken");
    }
}
