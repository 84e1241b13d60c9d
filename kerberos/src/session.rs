//! Messages between two sides that know each other, sealed: encrypted, authentic, numbered (RFC 4121, 4.2).

use crate::{KerberosError, Principal, error::words};
use libgssapi::{
    context::{ClientCtx, SecurityContext, ServerCtx},
    error::{Error, MajorFlags},
    util::Buf,
};
use std::time::Duration;

/// A sealed message is at most this much longer than what is in it: 16 bytes before it, a block of 16 to begin with,
/// the 16 again, and a checksum of at most 24 behind it.
pub const SEAL_BYTES_MAX: usize = 80;

/// `KG_TOK_WRAP_MSG` and its flag for encrypted content (RFC 4121, 4.2.6.2 and 4.2.2).
const WRAP_TOKEN: [u8; 2] = [0x05, 0x04];
const FLAG_SEALED: u8 = 0x02;

/// Bytes that GSS-API made: sealed, or opened.
pub type Message = Buf;

/// One end of an established connection. Used by one thread at a time; may go from one to another.
#[derive(Debug)]
pub struct Session {
    pub(crate) context: Context,
    pub peer: Principal,
    /// How long the ticket is still good for, as of now.
    pub good_for: Duration,
}

#[derive(Debug)]
pub(crate) enum Context {
    Initiator(ClientCtx),
    Acceptor(ServerCtx),
}

/// A message that is not taken. Nothing after it can be trusted either.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record is not encrypted")]
    Plain,
    #[error("a record came again")]
    Repeated,
    #[error("a record is missing or out of order")]
    OutOfOrder,
    #[error("a record was damaged: {words}")]
    Damaged { words: String },
}

impl Session {
    /// Encrypts a message for the other side, as its next one.
    pub fn seal(&mut self, message: &[u8]) -> Result<Message, KerberosError> {
        let sealed = match &mut self.context {
            Context::Initiator(context) => context.wrap(true, message),
            Context::Acceptor(context) => context.wrap(true, message),
        };
        sealed.map_err(|error| KerberosError::Other { words: words(&error) })
    }

    /// Takes the other side's next message.
    pub fn open(&mut self, record: &[u8]) -> Result<Message, RecordError> {
        // The library opens messages that are signed and not encrypted just as well. The flag is itself signed.
        if record.get(..2) != Some(&WRAP_TOKEN) || record.get(2).is_none_or(|flags| flags & FLAG_SEALED == 0)
        {
            return Err(RecordError::Plain);
        }
        let opened = match &mut self.context {
            Context::Initiator(context) => context.unwrap(record),
            Context::Acceptor(context) => context.unwrap(record),
        };
        opened.map_err(|error| record_error(&error))
    }
}

fn record_error(error: &Error) -> RecordError {
    let major = error.major;
    if major.intersects(MajorFlags::GSS_S_DUPLICATE_TOKEN | MajorFlags::GSS_S_OLD_TOKEN) {
        RecordError::Repeated
    } else if major.intersects(MajorFlags::GSS_S_UNSEQ_TOKEN | MajorFlags::GSS_S_GAP_TOKEN) {
        RecordError::OutOfOrder
    } else {
        RecordError::Damaged { words: words(error) }
    }
}
