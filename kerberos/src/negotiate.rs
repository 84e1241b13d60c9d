//! The values of the headers `Authorization` and `WWW-Authenticate` (RFC 4559).

use base64::{Engine, engine::general_purpose::STANDARD};

/// The scheme, and what a 401 says without a token.
pub const SCHEME: &str = "Negotiate";

/// Tokens with the many groups of a directory's users stay below.
const TOKEN_BYTES_MAX: usize = 48 << 10;

/// `Negotiate TOKEN`.
pub fn write(token: &[u8]) -> String {
    format!("{SCHEME} {}", STANDARD.encode(token))
}

/// The token in `Negotiate TOKEN`, and in `Kerberos TOKEN`, as some clients write it (MS-WSMV, 2.2.1). `None`: another
/// scheme, no token, or one that is written wrongly.
pub fn read(value: &[u8]) -> Option<Vec<u8>> {
    let value = std::str::from_utf8(value).ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let known = scheme.eq_ignore_ascii_case(SCHEME) || scheme.eq_ignore_ascii_case("Kerberos");
    let token = token.trim();
    if !known || token.is_empty() || token.len() > TOKEN_BYTES_MAX / 3 * 4 {
        return None;
    }
    STANDARD.decode(token).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_through_and_nothing_else_does() {
        assert_eq!(write(b"abc"), "Negotiate YWJj");
        assert_eq!(read(b"Negotiate YWJj").as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(b"negotiate   YWJj ").as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(b"Kerberos YWJj").as_deref(), Some(&b"abc"[..]));
        for bad in
            ["", "Negotiate", "Negotiate ", "Negotiate !!", "Basic YWJj", "NegotiateYWJj", "\u{ff} YWJj"]
        {
            assert_eq!(read(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(read(write(&vec![0; TOKEN_BYTES_MAX + 3]).as_bytes()), None);
        assert_eq!(read(b"\xff\xfe YWJj"), None);
    }
}
