//! The control socket: one JSON request a line, one or more JSON responses. Who may open the socket may
//! operate the host; the caller's credentials are written to the log.

use crate::{
    accounts,
    api::{Command, ErrorKind, Failure, Reply, Request, Response},
    commands,
    config::Dirs,
    host::Host,
};
use model::JobId;
use std::{os::unix::fs::PermissionsExt, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

/// Longest request: a domain's XML.
const REQUEST_BYTES_MAX: u64 = 16 << 20;
/// Between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Opens the socket (0660, root:relevo where that group exists). A socket that nobody listens on is replaced.
pub fn bind(dirs: &Dirs) -> Result<UnixListener, Failure> {
    let path = &dirs.socket;
    let fail = |error: std::io::Error| {
        Failure::new(
            ErrorKind::Failed,
            "control-socket",
            format!("cannot open the control socket {}: {error}", path.display()),
        )
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Failure::new(
            ErrorKind::InUse,
            "already-running",
            format!("another `relevo serve` listens on {}", path.display()),
        ));
    }
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(fail)?;
    if let Some(group) = accounts::group_id("relevo") {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(fail)?;
    }
    Ok(listener)
}

pub async fn serve(host: Arc<Host>, listener: UnixListener) {
    loop {
        let accepted = tokio::select! {
            () = host.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let copy = host.clone();
                host.tasks.spawn(async move {
                    let shutdown = copy.shutdown.clone();
                    tokio::select! {
                        result = converse(copy, stream) => {
                            if let Err(error) = result {
                                tracing::debug!(%error, "a control connection ended");
                            }
                        }
                        () = shutdown.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(PROGRESS_EVERY).await;
            }
        }
    }
}

async fn converse(host: Arc<Host>, mut stream: UnixStream) -> std::io::Result<()> {
    let who = stream.peer_cred().ok();
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        if (&mut reader).take(REQUEST_BYTES_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match serde_json::from_str::<Request>(&line) {
            Ok(request) => {
                if changes_something(&request) {
                    let (uid, pid) = who.as_ref().map_or((None, None), |w| (Some(w.uid()), w.pid()));
                    tracing::info!(?uid, ?pid, command = ?summary(&request.command), "command");
                }
                answer(&host, &request, &mut writer).await?;
            }
            Err(error) => {
                let failure = Failure::new(
                    ErrorKind::InvalidParameter,
                    "malformed",
                    format!("malformed request: {error}"),
                );
                write(&mut writer, &Response::Failure(failure)).await?;
            }
        }
    }
}

fn changes_something(request: &Request) -> bool {
    let reads = matches!(
        request.command,
        Command::Host
            | Command::VmList
            | Command::VmShow { .. }
            | Command::AuthorizeList
            | Command::Status { .. }
            | Command::Points { .. }
            | Command::JobList
            | Command::JobShow { .. }
            | Command::JobWatch { .. }
    );
    !reads && !request.dry_run
}

/// The command without a domain's whole XML.
fn summary(command: &Command) -> Command {
    match command {
        Command::VmDefine { xml } => Command::VmDefine { xml: format!("{} bytes", xml.len()) },
        other => other.clone(),
    }
}

async fn answer(
    host: &Arc<Host>,
    request: &Request,
    writer: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<()> {
    let watches = request.wait || matches!(request.command, Command::JobWatch { .. });
    let response = match commands::execute(host, request).await {
        Ok(Reply::Job(job)) if watches && !request.dry_run => match watch(host, job.job, writer).await? {
            Some(job) => Response::Reply(Box::new(Reply::Job(Box::new(job)))),
            None => Response::Failure(Failure::new(ErrorKind::NotFound, "job-unknown", "the job is gone")),
        },
        Ok(reply) => Response::Reply(Box::new(reply)),
        Err(failure) => Response::Failure(failure),
    };
    write(writer, &response).await
}

/// Streams a job's progress until it has ended.
async fn watch(
    host: &Host,
    job: JobId,
    writer: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<Option<crate::api::JobView>> {
    if let Some(mut ended) = host.jobs.watch(job) {
        loop {
            tokio::select! {
                changed = ended.changed() => {
                    if changed.is_err() || *ended.borrow() {
                        break;
                    }
                }
                () = tokio::time::sleep(PROGRESS_EVERY) => {
                    if let Some(view) = host.jobs.view(job) {
                        write(writer, &Response::Progress(view)).await?;
                    }
                }
            }
        }
    }
    Ok(host.jobs.view(job))
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), response: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(response).map_err(std::io::Error::other)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await
}
