//! The one function of GSS-API that no crate wraps: credentials from a keytab and a cache that are named, where the
//! library would take those that the environment names.
#![allow(unsafe_code)]

use libgssapi::{
    credential::Cred,
    error::{Error, MajorFlags},
};
use libgssapi_sys as sys;
use std::{
    ffi::{CStr, CString, c_int},
    ptr,
};

#[derive(Clone, Copy)]
pub enum Usage {
    Initiate,
    Accept,
}

/// SPNEGO, 1.3.6.1.5.5.2 (RFC 4178).
const SPNEGO: &[u8] = b"\x2b\x06\x01\x05\x05\x02";
/// Kerberos itself, 1.2.840.113554.1.2.2 (RFC 4121).
const KRB5: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02";
/// A principal's name as text, 1.2.840.113554.1.2.2.1 (RFC 1964, 2.1.1).
const PRINCIPAL_NAME: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01";

/// Credentials for SPNEGO with Kerberos in it. `store`: the keys and values of MIT's credential store.
pub fn acquire(principal: Option<&str>, usage: Usage, store: &[(&CStr, CString)]) -> Result<Cred, Error> {
    acquire_for(SPNEGO, principal, usage, store).map_err(|error| {
        // SPNEGO says no more than that no mechanism is left; Kerberos says why.
        acquire_for(KRB5, principal, usage, store).err().unwrap_or(error)
    })
}

/// `gss_acquire_cred_from`.
fn acquire_for(
    mechanism: &'static [u8],
    principal: Option<&str>,
    usage: Usage,
    store: &[(&CStr, CString)],
) -> Result<Cred, Error> {
    let name = principal.map(ImportedName::new).transpose()?;
    let mut elements: Vec<_> = store
        .iter()
        .map(|(key, value)| sys::gss_key_value_element_desc { key: key.as_ptr(), value: value.as_ptr() })
        .collect();
    let count = u32::try_from(elements.len()).expect("a handful");
    let store = sys::gss_key_value_set_desc { count, elements: elements.as_mut_ptr() };
    let mut mechanism = oid(mechanism);
    let mut mechanisms = sys::gss_OID_set_desc { count: 1, elements: &raw mut mechanism };
    let usage = match usage {
        Usage::Initiate => sys::GSS_C_INITIATE,
        Usage::Accept => sys::GSS_C_ACCEPT,
    };
    let mut minor = 0;
    let mut credential = ptr::null_mut();
    // SAFETY: everything that is pointed to lives until the call returns; the library copies what it keeps, and does
    // not write to what the set of mechanisms and the store point to. The last two results are optional.
    let major = unsafe {
        sys::gss_acquire_cred_from(
            &raw mut minor,
            name.as_ref().map_or(ptr::null_mut(), |name| name.0),
            sys::_GSS_C_INDEFINITE,
            &raw mut mechanisms,
            usage as c_int,
            &raw const store,
            &raw mut credential,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    check(major, minor)?;
    // SAFETY: the call gave it to us, and nothing else has it.
    Ok(unsafe { Cred::from_c(credential) })
}

struct ImportedName(sys::gss_name_t);

impl ImportedName {
    fn new(principal: &str) -> Result<Self, Error> {
        let mut text =
            sys::gss_buffer_desc { length: principal.len(), value: principal.as_ptr().cast_mut().cast() };
        let mut kind = oid(PRINCIPAL_NAME);
        let (mut minor, mut name) = (0, ptr::null_mut());
        // SAFETY: text and kind live until the call returns, which reads and copies them.
        let major =
            unsafe { sys::gss_import_name(&raw mut minor, &raw mut text, &raw mut kind, &raw mut name) };
        check(major, minor).map(|()| Self(name))
    }
}

impl Drop for ImportedName {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the name is ours and is released once.
        unsafe { sys::gss_release_name(&raw mut minor, &raw mut self.0) };
    }
}

fn oid(bytes: &'static [u8]) -> sys::gss_OID_desc {
    sys::gss_OID_desc { length: bytes.len() as u32, elements: bytes.as_ptr().cast_mut().cast() }
}

fn check(major: u32, minor: u32) -> Result<(), Error> {
    if major == sys::GSS_S_COMPLETE {
        return Ok(());
    }
    Err(Error { major: MajorFlags::from_bits_retain(major), minor })
}
