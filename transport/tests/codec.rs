//! The frame codec: golden bytes, round trips, and nothing damaged ever comes through.

mod common;

use bytes::Bytes;
use common::{cluster, data, zero};
use expect_test::expect;
use model::{CLUSTER_BYTES, Chunk, ChunkContent, hash_cluster};
use proptest::prelude::*;
use transport::{
    Compression, Mark, Received, Totals,
    decode::Decoder,
    encode::{EncodeError, Encoder},
    fault::frames,
    frame::{DecodeError, HEADER_BYTES},
};

const WHOLE: usize = CLUSTER_BYTES as usize;

fn encode(chunks: &[Chunk], from: Mark, compression: Compression) -> Result<Vec<u8>, EncodeError> {
    let mut encoder = Encoder::new(from, compression)?;
    let mut bytes = vec![];
    for chunk in chunks {
        encoder.push(chunk)?;
        bytes.extend(encoder.take_batch().unwrap_or_default());
    }
    bytes.extend(encoder.finish()?);
    Ok(bytes)
}

/// All that a decoder says of `bytes`, given in pieces of `piece`.
fn decode(
    bytes: &[u8],
    sizes: &[u64],
    from: Mark,
    piece: usize,
) -> Result<(Vec<Received>, bool), DecodeError> {
    let mut decoder = Decoder::new(from, sizes.to_vec()).unwrap();
    let mut received = vec![];
    for piece in bytes.chunks(piece) {
        let mut input = Bytes::copy_from_slice(piece);
        while let Some(item) = decoder.decode(&mut input)? {
            received.push(item);
        }
    }
    let ended = decoder.ended();
    received.extend(decoder.flush());
    Ok((received, ended))
}

/// One entry per cluster: `None` is a zero.
fn content(chunks: impl IntoIterator<Item = Chunk>) -> Vec<(u16, u32, Option<Vec<u8>>)> {
    let mut content = vec![];
    for chunk in chunks {
        match chunk.content {
            ChunkContent::Zero { count } => {
                content.extend((chunk.cluster..chunk.cluster + count).map(|index| (chunk.disk, index, None)));
            }
            ChunkContent::Data { bytes, .. } => {
                for (index, bytes) in (chunk.cluster..).zip(bytes.chunks(WHOLE)) {
                    let bytes = (!model::clusters::is_zero(bytes)).then(|| bytes.to_vec());
                    content.push((chunk.disk, index, bytes));
                }
            }
        }
    }
    content
}

fn chunks_of(received: Vec<Received>) -> (Vec<Chunk>, Option<Totals>) {
    let mut end = None;
    let mut chunks = vec![];
    for item in received {
        assert!(end.is_none(), "nothing follows the end");
        match item {
            Received::Chunk { chunk, .. } => chunks.push(chunk),
            Received::End(totals) => end = Some(totals),
        }
    }
    (chunks, end)
}

fn hex(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
        .collect();
    lines.join("\n")
}

/// Two clusters of zeroes and a short one, so that the example stays short.
fn golden() -> (Vec<Chunk>, Vec<u64>) {
    let chunks = vec![zero(0, 0, 2), data(0, 2, vec![b"relevo\n".to_vec()])];
    (chunks, vec![2 * CLUSTER_BYTES + 7])
}

#[test]
fn the_bytes_of_version_1_do_not_change() {
    let (chunks, sizes) = golden();
    let bytes = encode(&chunks, Mark::START, Compression::Off).unwrap();
    expect![[r#"
        d2 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        85 51 17 41 4e c3 26 51 d1 00 00 00 02 00 00 00
        07 00 00 00 07 00 00 00 d9 81 8f c7 f2 75 6c 6b
        69 4b 94 24 a8 15 53 d2 9a d4 c5 63 62 eb 63 1e
        72 65 6c 65 76 6f 0a de 00 00 00 00 00 00 00 30
        00 00 00 30 00 00 00 d8 18 32 8f e4 8a 11 b3 c7
        e5 04 88 89 18 78 3a 2d 5b a7 83 17 26 f5 c3 02
        00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 9a
        d4 c5 63 62 eb 63 1e a1 ae 41 17 11 ff 42 25 f1
        63 33 68 74 2f a1 d3 df 8b a7 0c f9 e1 43 ff"#]]
    .assert_eq(&hex(&bytes));
    let documented = include_str!("../../docs/format/wire.md");
    assert!(documented.contains(&hex(&bytes)), "the example in the documentation");
    let (received, ended) = decode(&bytes, &sizes, Mark::START, 7).unwrap();
    assert!(ended);
    assert_eq!(chunks_of(received).0, chunks);
}

#[test]
fn every_truncation_is_seen() {
    let (chunks, sizes) = golden();
    let bytes = encode(&chunks, Mark::START, Compression::Off).unwrap();
    for length in 0..bytes.len() {
        let (received, ended) = decode(&bytes[..length], &sizes, Mark::START, 64).unwrap();
        assert!(!ended && chunks_of(received).1.is_none(), "{length}");
    }
}

#[test]
fn every_damaged_byte_is_refused() {
    let (mut chunks, sizes) = golden();
    chunks.insert(0, data(0, 1, vec![cluster(0, 1, WHOLE)]));
    let bytes = encode(&chunks, Mark::START, Compression::Always(3)).unwrap();
    assert!(bytes.len() < 2000, "the text is compressed, so that every byte can be tried");
    let mut harmless = 0;
    for at in 0..bytes.len() {
        for flip in [1, 0x10, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            // Compressed bytes have spare bits; what the hash covers is never another content.
            if let Ok((received, true)) = decode(&damaged, &sizes, Mark::START, 1 << 20) {
                assert_eq!(content(chunks_of(received).0), content(chunks.clone()), "byte {at} ^ {flip:#x}");
                let compressed_end = bytes.len() - 4 * HEADER_BYTES - 7 - 48 + HEADER_BYTES;
                assert!((HEADER_BYTES..compressed_end).contains(&at), "byte {at} ^ {flip:#x} came through");
                harmless += 1;
            }
        }
    }
    assert!(harmless < 16, "{harmless}");
}

#[test]
fn frames_that_lie_are_refused_before_anything_is_allocated() {
    let sizes = [10 * CLUSTER_BYTES];
    let valid =
        frames(&[data(0, 3, vec![cluster(0, 3, WHOLE)]), zero(0, 5, 2)], Compression::Always(1)).unwrap();
    let check = |frame: usize, at: usize, value: &[u8], expected: &str| {
        let mut frames: Vec<Vec<u8>> = valid.iter().map(|frame| frame.to_vec()).collect();
        frames[frame][at..at + value.len()].copy_from_slice(value);
        let error = decode(&frames.concat(), &sizes, Mark::START, 1 << 20).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(0, 0, &[7], "frame 0 has the unknown kind 0x07");
    check(0, 1, &[2], "frame 0 has the unknown codec 2");
    check(0, 2, &[1, 0], "frame 0 is for disk 1, the delta has 1");
    check(0, 4, &[10], "frame 0: 1 clusters from 10 are outside disk 0 of 655360 bytes");
    let encoded = valid[0].len() - HEADER_BYTES;
    let lie = format!("frame 0 of disk 0 at offset 196608 has a length of 4294967295, {encoded} encoded");
    check(0, 8, &[0xff; 4], &lie);
    check(0, 12, &[0xff; 4], "frame 0 of disk 0 at offset 196608 has a length of 65536, 4294967295 encoded");
    check(0, 4, &[4], "frame 0 of disk 0 at offset 262144 is out of order, repeated, or its header damaged");
    check(0, HEADER_BYTES, &[0; 4], "frame 0 of disk 0 at offset 196608 does not decompress");
    check(1, 8, &[0xff; 4], "frame 1: 4294967295 clusters from 5 are outside disk 0 of 655360 bytes");
    check(1, 8, &[0; 4], "frame 1 of disk 0 at offset 327680 has a length of 0, 0 encoded");
    check(2, 2, &[1], "frame 2 of disk 1 at offset 0 has a length of 48, 48 encoded");
    check(2, HEADER_BYTES + 8, &[9], "the end frame does not agree with the 2 frames before it");
    let error = decode(&[valid.concat(), vec![0; 3]].concat(), &sizes, Mark::START, 1 << 20).unwrap_err();
    assert_eq!(error, DecodeError::AfterEnd { count: 3 });
}

#[test]
fn compressed_data_that_says_something_else_than_its_hash_is_refused() {
    let mut chunk = data(0, 0, vec![cluster(0, 1, WHOLE)]);
    let ChunkContent::Data { hashes, .. } = &mut chunk.content else { unreachable!() };
    hashes[0] = hash_cluster(b"something else");
    let bytes = encode(&[chunk], Mark::START, Compression::Always(1)).unwrap();
    let error = decode(&bytes, &[CLUSTER_BYTES], Mark::START, 1 << 20).unwrap_err();
    assert_eq!(error, DecodeError::WrongHash { frame: 0, disk: 0, offset: 0 });
}

#[test]
fn the_level_follows_the_queue() {
    let text = data(0, 1, vec![cluster(0, 1, WHOLE); 16]);
    let (slow, fast) = (10e6, 1e9);
    let size = |fill: f32, bytes_per_s: f64| {
        let mut encoder = Encoder::new(Mark::START, Compression::Adaptive).unwrap();
        encoder.observe_queue(fill, bytes_per_s);
        encoder.push(&text).unwrap();
        encoder.finish().unwrap().len()
    };
    assert!(size(0.0, slow) > 16 * WHOLE, "an empty queue: the link takes it all, stored");
    assert!(size(1.0, slow) < WHOLE, "a full queue: compressed");
    assert!(size(1.0, fast) > 16 * WHOLE, "a full queue that no link filled: stored");
    assert_eq!(size(0.5, slow), size(0.0, slow), "between: as before");
}

#[test]
fn the_level_changes_after_data_that_does_not_compress() {
    let chunks = [data(0, 0, vec![cluster(0, 0, WHOLE)]), data(0, 1, vec![cluster(0, 1, WHOLE)])];
    let mut encoder = Encoder::new(Mark::START, Compression::Adaptive).unwrap();
    let mut bytes = vec![];
    for fill in [1.0, 1.0, 0.0, 1.0, 1.0, 1.0] {
        encoder.observe_queue(fill, 10e6);
        chunks.iter().for_each(|chunk| encoder.push(chunk).unwrap());
        bytes.extend(encoder.take_batch().unwrap_or_default());
    }
    bytes.extend(encoder.finish().unwrap());
    let (received, ended) = decode(&bytes, &[2 * CLUSTER_BYTES], Mark::START, 1 << 20).unwrap();
    assert!(ended);
    assert!(content(chunks_of(received).0) == content(chunks.iter().cycle().take(12).cloned()));
}

/// Chunks in some order over two disks, the first with a short last cluster.
fn any_chunks() -> impl Strategy<Value = Vec<Chunk>> {
    let length = |disk: u16, index: u32| if (disk, index) == (0, 39) { 777 } else { WHOLE };
    let chunk = (0u16..2, 0u32..40, 1u32..20, 0u8..4).prop_map(move |(disk, first, count, kind)| {
        let count = count.min(40 - first);
        let clusters = (first..first + count).map(|index| match kind {
            0 if index % 3 == 0 => vec![0; length(disk, index)],
            _ => cluster(disk, index, length(disk, index)),
        });
        if kind == 1 { zero(disk, first, count) } else { data(disk, first, clusters.collect()) }
    });
    proptest::collection::vec(chunk, 0..8)
}

const SIZES: [u64; 2] = [39 * CLUSTER_BYTES + 777, 40 * CLUSTER_BYTES];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_encoded_is_decoded(
        chunks in any_chunks(),
        piece in 1usize..200_000,
        level in prop_oneof![Just(Compression::Off), Just(Compression::Always(-5)), Just(Compression::Always(3))],
    ) {
        let bytes = encode(&chunks, Mark::START, level).unwrap();
        let (received, ended) = decode(&bytes, &SIZES, Mark::START, piece.max(bytes.len() / 5000)).unwrap();
        prop_assert!(ended);
        let (decoded, totals) = chunks_of(received);
        let data_bytes: usize = content(chunks.clone()).iter().map(|(.., bytes)| bytes.as_ref().map_or(0, Vec::len)).sum();
        prop_assert_eq!(totals.unwrap().data_bytes, data_bytes as u64);
        for chunk in &decoded {
            if let ChunkContent::Data { bytes, hashes } = &chunk.content {
                prop_assert!(hashes.len() <= 16);
                let own: Vec<_> = bytes.chunks(WHOLE).map(hash_cluster).collect();
                prop_assert_eq!(&own, hashes);
            }
        }
        prop_assert!(content(decoded) == content(chunks));
    }

    #[test]
    fn a_stream_resumed_at_any_mark_and_level_continues_the_same_chain(
        chunks in any_chunks(),
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = encode(&chunks, Mark::START, Compression::Off).unwrap();
        let (received, _) = decode(&bytes, &SIZES, Mark::START, 1 << 20).unwrap();
        let at = at.index(received.len());
        let from = received[..at].iter().rev().find_map(|item| match item {
            Received::Chunk { mark, .. } => Some(*mark),
            Received::End(_) => None,
        }).unwrap_or(Mark::START);
        let rest = encode(&chunks, from, Compression::Always(1)).unwrap();
        let (rest, ended) = decode(&rest, &SIZES, from, 1 << 20).unwrap();
        prop_assert!(ended);
        let (before, _) = chunks_of(received[..at].to_vec());
        let (after, totals) = chunks_of(rest);
        prop_assert!(content(before.into_iter().chain(after)) == content(chunks));
        prop_assert_eq!(Some(&Received::End(totals.unwrap())), received.last());
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..4000), piece in 1usize..500) {
        if let Ok((received, ended)) = decode(&noise, &SIZES, Mark::START, piece) {
            prop_assert!(!ended && received.is_empty());
        }
    }

    #[test]
    fn frames_cut_and_joined_anywhere_never_pass(
        chunks in any_chunks().prop_filter("something", |chunks| !chunks.is_empty()),
        cut in any::<prop::sample::Index>(),
        join in any::<prop::sample::Index>(),
    ) {
        let bytes = encode(&chunks, Mark::START, Compression::Always(1)).unwrap();
        let (cut, join) = (cut.index(bytes.len()), join.index(bytes.len()));
        prop_assume!(cut != join);
        let spliced = [&bytes[..cut], &bytes[join..]].concat();
        let outcome = decode(&spliced, &SIZES, Mark::START, 1 << 20);
        prop_assert!(!matches!(outcome, Ok((_, true))));
    }
}
