//! Whatever comes in, an answer goes out.

mod common;

use bytes::Bytes;
use common::{caller, server, text};
use http::Request;
use proptest::prelude::*;
use std::sync::{LazyLock, Mutex};
use wsman::Server;

static SERVER: LazyLock<(tokio::runtime::Runtime, Server)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let server = runtime.block_on(async { server() });
    (runtime, server)
});
/// The runtime takes one caller at a time.
static TURN: Mutex<()> = Mutex::new(());

static BODIES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.sort();
    let body = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        let start = bytes.windows(4).position(|it| it == b"\r\n\r\n").map_or(0, |at| at + 4);
        if path.extension().is_some_and(|it| it == "req") { bytes[start..].to_vec() } else { bytes }
    };
    files.iter().map(body).collect()
});

/// Every answer is XML, and no request makes it slow.
fn answered(body: Vec<u8>) {
    let _turn = TURN.lock().unwrap();
    let (runtime, server) = &*SERVER;
    let request = Request::post("/wsman").body(Bytes::from(body)).unwrap();
    let (status, xml) = runtime.block_on(async { text(server.handle(request, &caller()).await).await });
    assert!(matches!(status.as_u16(), 200 | 500), "{status}");
    roxmltree::Document::parse(&xml).unwrap_or_else(|error| panic!("{error} in {xml}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..200)) {
        answered(body);
    }

    #[test]
    fn changed_captures_are_answered(
        index in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..6),
    ) {
        let mut body = index.get(&BODIES).clone();
        for (at, byte, change) in changes {
            if body.is_empty() { break }
            let at = at.index(body.len());
            match change {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                2 => { body.remove(at); }
                _ => body.truncate(at),
            }
        }
        answered(body);
    }

    #[test]
    fn captures_with_other_texts_are_answered(
        index in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        text in "\\PC{0,12}|Msvm_[A-Z]{1,3}|[0-9]{0,20}|PT[0-9]{1,20}S|(<a>|</a>|&#0;|&amp;|x){0,6}|select \\* from [A-Z]",
    ) {
        let body = String::from_utf8(index.get(&BODIES).clone()).unwrap();
        let starts: Vec<usize> = body.match_indices('>').map(|(start, _)| start + 1).collect();
        if !starts.is_empty() {
            let start = *at.get(&starts);
            let end = body[start..].find('<').map_or(body.len(), |end| start + end);
            answered(format!("{}{text}{}", &body[..start], &body[end..]).into_bytes());
        }
    }
}
