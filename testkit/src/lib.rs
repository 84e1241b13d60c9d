//! Tiny guests, the write oracle and what real-VM tests share.

pub mod oracle {
    pub mod history;
}
