//! What a client may take of us.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest body of a request of a known user.
    pub body_bytes_max: usize,
    /// Longest body of a request of somebody unknown.
    pub stranger_body_bytes_max: usize,
    /// Longest head of a request, request line and all headers; at least 8192.
    pub head_bytes_max: usize,
    pub headers_max: usize,
    /// From the first byte to a finished TLS handshake.
    pub handshake_time: Duration,
    /// For the head of a request; also how long a connection may idle between two.
    pub head_time: Duration,
    /// For the whole body of a request.
    pub body_time: Duration,
    /// All connections of a listener. Those beyond are closed at once.
    pub connections_max: usize,
    /// Of one IPv4 address or one IPv6 network (/64).
    pub connections_per_address_max: usize,
    /// How long a shutdown waits for answers on their way.
    pub shutdown_time: Duration,
}

impl Default for Limits {
    /// Wide for management consoles, narrow for a host's memory.
    fn default() -> Self {
        Self {
            body_bytes_max: 16 << 20,
            stranger_body_bytes_max: 64 << 10,
            head_bytes_max: 64 << 10,
            headers_max: 100,
            handshake_time: Duration::from_secs(10),
            head_time: Duration::from_secs(60),
            body_time: Duration::from_secs(60),
            connections_max: 512,
            connections_per_address_max: 128,
            shutdown_time: Duration::from_secs(10),
        }
    }
}
