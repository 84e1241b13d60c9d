//! HTTP as a management client speaks it: one connection, kept alive, TLS with Basic authentication. Blocking and
//! small, so that what is measured through it is the server's time.

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
};

/// A connection to a server that holds a certificate of this authority.
pub struct Client {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    authorization: String,
}

/// What a request was answered with.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Client {
    /// `name` is what the certificate must be for, `authority` the PEM of who signed it.
    pub fn connect(
        address: SocketAddr,
        name: &str,
        authority: &Path,
        user: &str,
        password: &str,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authority)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned())?)?;
        let tcp = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        tcp.set_nodelay(true)?;
        let mut stream = StreamOwned::new(tls, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let authorization = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        Ok(Self { stream: BufReader::new(stream), authorization })
    }

    /// The certificate that the server has shown, as DER.
    pub fn certificate(&self) -> Vec<u8> {
        let shown = self.stream.get_ref().conn.peer_certificates();
        shown.and_then(<[_]>::first).map(|certificate| certificate.to_vec()).unwrap_or_default()
    }

    /// Sends a request and reads its answer whole.
    pub fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        let more = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let head =
            self.head(path, &format!("Content-Length: {}\r\n{}", body.len(), more.collect::<String>()));
        self.send((head + body).as_bytes())?;
        self.answer()
    }

    /// The head of a request, for those that go on in their own way.
    pub fn head(&self, path: &str, headers: &str) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n{headers}\r\n",
            self.authorization
        )
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    pub fn answer(&mut self) -> Result<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("{first:?} is no status line"))?;
        let (mut length, mut chunked) = (None, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Some(value.trim().parse()?),
                "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
                _ => {}
            }
        }
        let mut body = vec![];
        if chunked {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16)?;
                self.read(&mut body, size)?;
                ensure!(self.line()?.is_empty(), "a chunk is longer than it says");
                if size == 0 {
                    break;
                }
            }
        } else {
            self.read(&mut body, length.unwrap_or(0))?;
        }
        Ok(Answer { status, body: String::from_utf8(body)? })
    }

    fn read(&mut self, body: &mut Vec<u8>, bytes: usize) -> Result<()> {
        let start = body.len();
        body.resize(start + bytes, 0);
        Ok(self.stream.read_exact(&mut body[start..])?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the server has closed the connection");
        }
        Ok(line.trim_end().to_owned())
    }
}
