//! The control socket, from the operator's side: one request line, then response lines until the reply or
//! the failure. One connection per request. Blocking, because the command line does nothing else meanwhile.

use service::{
    api::{Command, ErrorKind, Failure, JobView, Reply, Request, Response},
    config::Dirs,
};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the daemon may be silent on a request that only looks. Some of these ask the other host first, so
/// this is longer than any of the daemon's own timeouts towards a peer.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// No answer is longer; a line without end must not fill the memory.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Where the daemon of this instance listens.
pub struct Client {
    pub socket: PathBuf,
    /// The instance's folder, if it is not the system's.
    root: Option<PathBuf>,
}

impl Client {
    pub fn new(root: Option<&Path>) -> Self {
        let Dirs { socket, root, .. } = Dirs::new(root);
        Self { socket, root }
    }

    /// Asks something that is answered at once.
    pub fn look(&self, command: Command) -> Result<Reply, Failure> {
        self.ask(&Request { command, dry_run: false, wait: false }, &mut |_| {})
    }

    /// Sends `request` and calls `on_progress` for each step of its job until the answer is there.
    pub fn ask(&self, request: &Request, on_progress: &mut dyn FnMut(&JobView)) -> Result<Reply, Failure> {
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| self.no_connection(&error))?;
        if request.dry_run || only_looks(&request.command) {
            stream.set_read_timeout(Some(SILENCE_MAX)).map_err(|error| self.broken(&error))?;
        }
        let mut line = serde_json::to_vec(request).expect("a request is plain data");
        line.push(b'\n');
        stream.write_all(&line).map_err(|error| self.broken(&error))?;
        let mut lines = BufReader::new(stream);
        loop {
            match self.response(&mut lines)? {
                Response::Progress(job) => on_progress(&job),
                Response::Reply(reply) => return Ok(*reply),
                Response::Failure(failure) => return Err(failure),
            }
        }
    }

    fn response(&self, lines: &mut BufReader<UnixStream>) -> Result<Response, Failure> {
        let mut line = Vec::new();
        let length = lines
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .map_err(|error| self.broken(&error))?;
        if length == 0 || line.last() != Some(&b'\n') && (length as u64) < LINE_BYTES_MAX {
            return Err(self.broken(&io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|error| {
            Failure::new(
                ErrorKind::Failed,
                "answer-not-understood",
                format!("cannot understand the answer on {}: {error}", self.socket.display()),
            )
            .hint("the daemon may be of another version than this command: restart it after an upgrade")
        })
    }

    fn no_connection(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let what =
                    if error.kind() == io::ErrorKind::NotFound { "no" } else { "no daemon behind the" };
                let text = format!("`relevo serve` is not running: there is {what} socket {socket}");
                Failure::new(ErrorKind::DaemonUnavailable, "daemon-not-running", text)
                    .hint(self.how_to_start())
            }
            io::ErrorKind::PermissionDenied => Failure::new(
                ErrorKind::AccessDenied,
                "socket-denied",
                format!("you are not allowed to use the socket {socket}"),
            )
            .hint("run the command as root or as a member of the group `relevo`"),
            io::ErrorKind::InvalidInput => Failure::new(
                ErrorKind::InvalidParameter,
                "socket-path-too-long",
                format!("the path of the socket {socket} is too long for a unix socket"),
            )
            .hint("choose a shorter folder for `--root`"),
            _ => Failure::new(
                ErrorKind::DaemonUnavailable,
                "daemon-unreachable",
                format!("cannot connect to the socket {socket}: {error}"),
            ),
        }
    }

    /// The connection was there and failed: what the daemon did with the request is unknown.
    fn broken(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::new(
                ErrorKind::Timeout,
                "daemon-silent",
                format!("`relevo serve` did not answer on {socket} within {} s", SILENCE_MAX.as_secs()),
            )
            .hint("its log says what it waits for: journalctl -u relevo"),
            _ => Failure::new(
                ErrorKind::DaemonUnavailable,
                "daemon-gone",
                format!("`relevo serve` closed the connection on {socket} before it answered"),
            )
            .hint("a job that had started goes on when the daemon is back: see `relevo job list`"),
        }
    }

    fn how_to_start(&self) -> String {
        match &self.root {
            Some(root) => format!("start it with `relevo --root {} serve`", root.display()),
            None => "start it with `systemctl start relevo`, or `relevo serve` in a terminal".to_owned(),
        }
    }
}

/// Commands that change nothing that takes long: they are answered soon, or the daemon is stuck. Others may take
/// as long as a guest takes to shut down, with or without a job.
pub fn only_looks(command: &Command) -> bool {
    use Command as C;
    matches!(
        command,
        C::Host
            | C::CertReload
            | C::VmList
            | C::VmShow { .. }
            | C::AuthorizeList
            | C::Status { .. }
            | C::Points { .. }
            | C::JobList
            | C::JobShow { .. }
    )
}
