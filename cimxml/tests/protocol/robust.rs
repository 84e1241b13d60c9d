//! No bytes make the server panic, whatever they are and wherever they stand.

use crate::common::{World, caller, captured, captures, world};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::header::{HeaderName, HeaderValue};
use proptest::prelude::*;
use std::sync::LazyLock;

static WORLD: LazyLock<World> = LazyLock::new(world);
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let files = std::fs::read_dir(captures()).unwrap();
    let mut names: Vec<_> = files.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.iter().filter_map(|it| it.strip_suffix(".req").map(str::to_owned)).collect()
});

/// What an answer is: an answer of the protocol, or a refusal of HTTP's.
fn handle(request: Request<Bytes>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let status = runtime.block_on(async {
        let response = WORLD.server.handle(request, &caller()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        if status == 200 {
            crate::common::dtd::assert_valid(std::str::from_utf8(&body).unwrap());
        }
        status
    });
    assert!([200, 400, 405, 415, 501, 510].contains(&status), "{status}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_bodies(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        handle(captured("pywbem-GetInstance-01").map(|_| Bytes::from(body)));
    }

    #[test]
    fn random_headers(name in 0usize..4, value in "[ -~]{0,40}") {
        let header = ["cimoperation", "cimmethod", "cimobject", "content-type"][name];
        let mut request = captured("pywbem-GetInstance-01");
        request.headers_mut().insert(HeaderName::from_static(header), HeaderValue::try_from(value).unwrap());
        handle(request);
    }

    #[test]
    fn changed_captures(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..30, "[ -~]{0,12}|&#[0-9]{1,6};|<[A-Z.]{1,12}/?>"), 1..4),
    ) {
        let name = &NAMES[which.index(NAMES.len())];
        let request = captured(name).map(|body| {
            let mut body = body.to_vec();
            for (at, length, text) in changes {
                let start = at.index(body.len());
                let end = (start + length).min(body.len());
                body.splice(start..end, text.into_bytes());
            }
            Bytes::from(body)
        });
        handle(request);
    }

    #[test]
    fn exchanged_texts(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), text in "\\PC{0,20}") {
        let name = &NAMES[which.index(NAMES.len())];
        let request = captured(name).map(|body| {
            let body = String::from_utf8(body.into()).unwrap();
            let places: Vec<_> = body.match_indices("<VALUE>").map(|(place, it)| place + it.len()).collect();
            if places.is_empty() {
                return Bytes::from(body);
            }
            let start = places[at.index(places.len())];
            let end = start + body[start..].find("</VALUE>").unwrap();
            Bytes::from(format!("{}{}{}", &body[..start], cim::xml::escape(&text), &body[end..]))
        });
        handle(request);
    }
}
