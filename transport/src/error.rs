//! What can go wrong between two hosts, told apart by what an operator does about it.

use model::HostName;
use rustls::{AlertDescription, CertificateError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{error::Error, fmt, io};

type BoxError = Box<dyn Error + Send + Sync>;

/// The link to a peer does not work: who was meant, what was tried, what happened.
#[derive(Debug)]
pub struct LinkError {
    pub host: HostName,
    /// Address and port, and the proxy if there is one.
    pub address: String,
    pub problem: LinkProblem,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkProblem {
    #[error("the name does not resolve")]
    NameUnresolved(#[source] io::Error),
    #[error("connection refused")]
    ConnectionRefused,
    #[error("no answer within {seconds} s")]
    TimedOut { seconds: u64 },
    #[error("cannot connect")]
    Unreachable(#[source] io::Error),
    #[error("the proxy {proxy} does not connect: {reason}")]
    Proxy { proxy: String, reason: String },
    #[error("its certificate was signed by an authority that is not trusted here")]
    UntrustedIssuer,
    #[error("its certificate has expired")]
    Expired,
    #[error("its certificate is not valid yet")]
    NotYetValid,
    #[error("its certificate is for {}, not for this host", if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") })]
    WrongName { presented: Vec<String> },
    #[error("it demands a certificate and this host has none")]
    NoClientCertificate,
    #[error("it rejected this host's certificate: {alert}")]
    RejectedByPeer { alert: String },
    #[error("TLS failed")]
    Tls(#[source] rustls::Error),
    #[error("what listens there does not speak TLS")]
    NotTls,
    #[error("what listens there does not speak HTTP")]
    NotHttp,
    #[error("what listens there speaks HTTP but is not Relevo (status {status})")]
    NotRelevo { status: u16 },
    #[error("it speaks protocol version {theirs}, this host {ours}")]
    ProtocolMismatch { ours: String, theirs: String },
    #[error("Kerberos is not set up on this host")]
    NoKerberos,
    #[error(transparent)]
    Kerberos(kerberos::KerberosError),
    #[error("it refused this host's ticket: {reason}")]
    TicketRefused { reason: String },
    #[error("what came is not what the peer sent: {0}")]
    Record(kerberos::RecordError),
    #[error("the connection was cut")]
    Cut(#[source] BoxError),
    #[error("it could not handle the request (status {status}): {reason}")]
    Failed { status: u16, reason: String },
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer's handler said no.
    #[error("{host} refused: {answer}")]
    Refused { host: HostName, answer: Value },
    #[error("the request to {host} cannot be written as JSON")]
    Request { host: HostName, source: serde_json::Error },
    /// The peer's answer is not what this call expects.
    #[error("the answer of {host} cannot be understood")]
    Answer { host: HostName, source: serde_json::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The peer's handler said no.
    #[error("{host} refused the delta: {answer}")]
    Refused { host: HostName, answer: Value },
    /// What the source yields now is not what the receiver has: start again from [`crate::Mark::START`].
    #[error("the delta differs from what {host} received before frame {frames}; send it from the start")]
    ChainMismatch { host: HostName, frames: u64 },
    #[error("cannot read the delta for {host}")]
    Source { host: HostName, source: BoxError },
    #[error("cannot encode the delta for {host}")]
    Encode { host: HostName, source: crate::encode::EncodeError },
    #[error("the header of the delta for {host} cannot be written as JSON")]
    Header { host: HostName, source: serde_json::Error },
    #[error("sending to {host} was cancelled")]
    Cancelled { host: HostName },
}

/// The body of an answer that the transport gives itself, before or instead of the handler.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TransportAnswer {
    pub transport_error: String,
}

impl TransportAnswer {
    pub fn new(error: impl fmt::Display) -> Self {
        Self { transport_error: error.to_string() }
    }
}

impl LinkProblem {
    /// What an operator does about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NameUnresolved(_) => "correct the host name, the DNS, or set `address` under [peers]",
            Self::ConnectionRefused => "see that `relevo serve` runs there and listens on this port",
            Self::TimedOut { .. } | Self::Unreachable(_) => {
                "see that the host is up and no firewall is between"
            }
            Self::Proxy { .. } => "see that the proxy lets CONNECT through to this port, or bypass it",
            Self::UntrustedIssuer => "give both hosts certificates of one authority",
            Self::Expired => "issue and install a new certificate for that host",
            Self::NotYetValid => "compare the clocks of both hosts",
            Self::WrongName { .. } => "use the name in the certificate, or issue one for this name",
            Self::NoClientCertificate => "install a certificate on this host",
            Self::RejectedByPeer { .. } => "compare this host's certificate with the authority of the peer",
            Self::Tls(_) => "see that both hosts run Relevo and have valid certificates",
            Self::NotTls | Self::NotHttp | Self::NotRelevo { .. } => "correct the address or the port",
            Self::ProtocolMismatch { .. } => "bring both hosts to the same release",
            Self::NoKerberos => "set `keytab` under [kerberos] in the configuration",
            Self::Kerberos(error) => error.hint(),
            Self::TicketRefused { .. } => "compare clocks, principals and keytabs of both hosts",
            Self::Record(_) | Self::Cut(_) => {
                "it is tried again; if it goes on, look at the network and at the peer's log"
            }
            Self::Failed { .. } => "look at the peer's log",
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address, problem } = self;
        write!(f, "no link to {host} at {address}: {problem}; {}", problem.hint())
    }
}

impl Error for LinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The problem's own text is in ours.
        self.problem.source()
    }
}

/// What an error of TLS, HTTP or TCP on an established connection means.
pub(crate) fn classify(error: impl Into<BoxError>) -> LinkProblem {
    let error = error.into();
    if let Some(problem) = find(&*error, |error: &rustls::Error| Some(classify_tls(error))) {
        return problem;
    }
    let record = |error: &kerberos::RecordError| Some(LinkProblem::Record(error.clone()));
    if let Some(problem) = find(&*error, record) {
        return problem;
    }
    let not_http = |error: &hyper::Error| (error.is_parse() || error.is_parse_status()).then_some(());
    if find(&*error, not_http).is_some() {
        return LinkProblem::NotHttp;
    }
    LinkProblem::Cut(error)
}

fn classify_tls(error: &rustls::Error) -> LinkProblem {
    use AlertDescription as Alert;
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    match error {
        InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            LinkProblem::UntrustedIssuer
        }
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            LinkProblem::Expired
        }
        InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            LinkProblem::NotYetValid
        }
        InvalidCertificate(CertificateError::NotValidForName) => LinkProblem::WrongName { presented: vec![] },
        InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            LinkProblem::WrongName { presented: presented.clone() }
        }
        AlertReceived(Alert::CertificateRequired) => LinkProblem::NoClientCertificate,
        AlertReceived(alert) => match alert {
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::DecryptError
            | Alert::AccessDenied => LinkProblem::RejectedByPeer { alert: format!("{alert:?}") },
            _ => LinkProblem::Tls(error.clone()),
        },
        InvalidMessage(_) => LinkProblem::NotTls,
        _ => LinkProblem::Tls(error.clone()),
    }
}

/// The first answer that an error of type `E` in the chain gives. `io::Error` hides what it wraps from
/// `source`, so it is looked into as well.
fn find<E: Error + 'static, T>(
    error: &(dyn Error + Send + Sync + 'static),
    answer: impl Fn(&E) -> Option<T>,
) -> Option<T> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref().and_then(&answer) {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
