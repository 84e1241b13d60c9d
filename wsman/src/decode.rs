//! The text of a request's body: UTF-8 or UTF-16, as the content type, a byte order mark or the first `<` says.

use crate::fault::{Fault, Kind};
use std::borrow::Cow;

/// `charset` is what the content type says.
pub fn decode<'a>(body: &'a [u8], charset: Option<&str>) -> Result<Cow<'a, str>, Fault> {
    let refuse = |what: String| Err(Fault::new(Kind::CharacterSet, what));
    let charset = charset.map(str::to_ascii_lowercase);
    let utf16 = charset.as_deref().is_some_and(|it| it.starts_with("utf-16"));
    match (body, charset.as_deref()) {
        ([0xff, 0xfe, rest @ ..], _) => decode_utf16(rest, u16::from_le_bytes),
        ([0xfe, 0xff, rest @ ..], _) => decode_utf16(rest, u16::from_be_bytes),
        ([b'<', 0, ..], _) => decode_utf16(body, u16::from_le_bytes),
        ([0, b'<', ..], _) | (_, Some("utf-16be")) => decode_utf16(body, u16::from_be_bytes),
        _ if utf16 => decode_utf16(body, u16::from_le_bytes),
        (_, None | Some("utf-8" | "utf8" | "us-ascii")) => {
            let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
            match std::str::from_utf8(body) {
                Ok(text) => Ok(Cow::Borrowed(text)),
                Err(error) => {
                    refuse(format!("the request is not UTF-8 from byte {} on", error.valid_up_to()))
                }
            }
        }
        (_, Some(other)) => refuse(format!("requests are UTF-8 or UTF-16, not {other}")),
    }
}

fn decode_utf16(body: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'_, str>, Fault> {
    let (pairs, rest) = body.as_chunks::<2>();
    let text = String::from_utf16(&pairs.iter().map(|pair| unit(*pair)).collect::<Vec<_>>());
    match text {
        Ok(text) if rest.is_empty() => Ok(Cow::Owned(text)),
        _ => Err(Fault::new(Kind::CharacterSet, "the request is not UTF-16")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_are_read() {
        let little: Vec<u8> = "<ä/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "<ä/>".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let with_mark = [&[0xff, 0xfe], &*little].concat();
        for (body, charset) in [
            ("<ä/>".as_bytes(), None),
            ("\u{feff}<ä/>".as_bytes(), Some("UTF-8")),
            (&little, Some("utf-16")),
            (&little, None),
            (&with_mark, Some("UTF-16")),
            (&big, None),
        ] {
            assert_eq!(decode(body, charset).unwrap(), "<ä/>", "{charset:?}");
        }
        for (body, charset) in
            [(&b"<\xe4/>"[..], None), (&little[..3], Some("utf-16")), (b"<a/>", Some("iso-8859-1"))]
        {
            assert_eq!(decode(body, charset).unwrap_err().kind, Kind::CharacterSet);
        }
    }
}
