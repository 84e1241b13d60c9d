//! The `Authorization` header.

use crate::users::{NAME_BYTES_MAX, PASSWORD_BYTES_MAX};
use base64::{Engine, alphabet, engine::GeneralPurpose, engine::general_purpose};
use http::HeaderValue;

/// The scheme that a client names when its certificate is to speak for it (MS-WSMV, 2.2.1).
const CERTIFICATE_SCHEME: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual";

/// Clients that leave the padding out are understood.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    general_purpose::PAD.with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// What a request says about who sends it. No `Debug`: it holds a password.
pub(crate) enum Credentials {
    Basic {
        user: String,
        password: String,
    },
    /// The certificate of the connection, named or not.
    Certificate,
    /// A scheme that we do not speak, or one that is written wrongly.
    Unreadable,
}

pub(crate) fn credentials(header: Option<&HeaderValue>) -> Credentials {
    match header {
        None => Credentials::Certificate,
        Some(value) if value.as_bytes() == CERTIFICATE_SCHEME.as_bytes() => Credentials::Certificate,
        Some(value) => basic(value.as_bytes()).unwrap_or(Credentials::Unreadable),
    }
}

/// RFC 7617. The challenge asks for UTF-8; clients that send Latin-1 all the same are understood.
fn basic(value: &[u8]) -> Option<Credentials> {
    let (scheme, token) = value.split_at_checked("basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = BASE64.decode(token.trim_ascii()).ok()?;
    let text = String::from_utf8(decoded)
        .unwrap_or_else(|latin1| latin1.into_bytes().into_iter().map(char::from).collect());
    let (user, password) = text.split_once(':')?;
    if user.is_empty() || user.len() > NAME_BYTES_MAX || password.len() > PASSWORD_BYTES_MAX {
        return None;
    }
    Some(Credentials::Basic { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(value: &[u8]) -> Option<(String, String)> {
        match credentials(Some(&HeaderValue::from_bytes(value).unwrap())) {
            Credentials::Basic { user, password } => Some((user, password)),
            Credentials::Certificate | Credentials::Unreadable => None,
        }
    }

    fn some(user: &str, password: &str) -> Option<(String, String)> {
        Some((user.to_owned(), password.to_owned()))
    }

    #[test]
    fn what_clients_send_is_read() {
        assert_eq!(read(b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), some("Aladdin", "open sesame"));
        assert_eq!(read(b"basic   QWxhZGRpbjpvcGVuIHNlc2FtZQ"), some("Aladdin", "open sesame"));
        // RFC 7617's example in UTF-8, and the same in Latin-1.
        assert_eq!(read(b"Basic dGVzdDoxMjPCow=="), some("test", "123£"));
        assert_eq!(read(b"Basic dGVzdDoxMjOj"), some("test", "123£"));
        // `a:b:c`: the password may have colons. `a:`: it may be empty.
        assert_eq!(read(b"Basic YTpiOmM="), some("a", "b:c"));
        assert_eq!(read(b"Basic YTo="), some("a", ""));
    }

    #[test]
    fn what_is_no_basic_authentication_is_not_read() {
        let long = BASE64.encode(format!("{}:x", "a".repeat(NAME_BYTES_MAX + 1)));
        let endless = BASE64.encode(format!("a:{}", "x".repeat(PASSWORD_BYTES_MAX + 1)));
        let values =
            ["", "Basic", "Basic ", "BasicYTpi", "Negotiate YTpi", "Basic !!!!", "Basic YWI=", "Basic OmI="];
        for value in
            values.map(str::to_owned).into_iter().chain([long, endless].map(|token| format!("Basic {token}")))
        {
            assert_eq!(read(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn a_certificate_is_meant_by_its_scheme_and_by_silence() {
        assert!(matches!(credentials(None), Credentials::Certificate));
        let named = HeaderValue::from_static(CERTIFICATE_SCHEME);
        assert!(matches!(credentials(Some(&named)), Credentials::Certificate));
    }

    proptest! {
        #[test]
        fn names_and_passwords_come_through(user in "[^:]{1,20}", password in ".{0,30}") {
            let value = format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
            prop_assert_eq!(read(value.as_bytes()), Some((user, password)));
        }

        #[test]
        fn no_header_panics(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            basic(&value);
            basic(&[b"Basic ".as_slice(), &value].concat());
        }
    }
}
