//! `relevo cert`: the certificates with which hosts know each other. Works on files, without the daemon, so
//! that the first host can be set up before anything runs.

use crate::{
    cli::Options,
    client::Client,
    output,
    render::table::{fields, indented},
};
use clap::{Args, Subcommand};
use service::{
    api::{Command, ErrorKind, Failure, Reply},
    certs,
    config::Dirs,
};
use std::{path::PathBuf, process::ExitCode};

#[derive(Debug, Subcommand)]
pub enum CertAction {
    Init(InitArgs),
    Issue(IssueArgs),
    Install(InstallArgs),
    Show(ShowArgs),
}

/// Make a certificate authority on this host
///
/// Its key stays on this host. It issues the certificates of all hosts, this one's included.
#[derive(Debug, Args)]
#[command(after_help = "Run it once, on the first host.\n\nExample:\n  relevo cert init")]
pub struct InitArgs {}

/// Issue a certificate for a host, as a bundle to carry there
///
/// The bundle holds that host's private key: carry it over a safe channel and delete it afterwards.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host where `relevo cert init` was run.\n\n\
                        Example:\n  relevo cert issue b.example --out b.bundle")]
pub struct IssueArgs {
    /// That host's full DNS name
    host: model::HostName,
    /// The file to write
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
}

/// Install the bundle that was issued for this host; a running daemon takes it up at once
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host for which the bundle was issued.\n\n\
                        Example:\n  relevo cert install b.bundle")]
pub struct InstallArgs {
    /// The bundle
    bundle: PathBuf,
    /// Beside the certificate that is shown, to be chosen later: `relevo host --certificate THUMBPRINT`
    #[arg(long, value_name = "NAME")]
    beside: Option<String>,
}

/// Show the certificates that are installed: names, issuer, how long they are valid
#[derive(Debug, Args)]
#[command(after_help = "Run it on any host.\n\nExample:\n  relevo cert show")]
pub struct ShowArgs {}

pub fn run(action: CertAction, client: &Client, options: &Options) -> Result<ExitCode, Failure> {
    super::refuse_dry_run(options, "relevo cert")?;
    let dirs = Dirs::new(options.root.as_deref());
    let message = match action {
        CertAction::Init(_) => {
            certs::init(&dirs)?;
            "this host is a certificate authority now; issue a certificate for every host, this one included"
                .to_owned()
        }
        CertAction::Issue(IssueArgs { host, out }) => {
            certs::issue(&dirs, &host, &out)?;
            format!(
                "{} holds the key and certificate of {host}: carry it there, install it, delete it",
                out.display()
            )
        }
        CertAction::Install(InstallArgs { bundle, beside: Some(name) }) => {
            certs::install(&dirs, &bundle, Some(&name))?;
            format!("installed as {name}; `relevo host --certificate THUMBPRINT` chooses it")
        }
        CertAction::Install(InstallArgs { bundle, beside: None }) => {
            certs::install(&dirs, &bundle, None)?;
            format!("installed; {}", take_up(client)?)
        }
        CertAction::Show(_) => return show(&dirs, options.json),
    };
    Ok(output::reply(&Reply::Done { message }, output::Detail::Short, options.json))
}

fn show(dirs: &Dirs, as_json: bool) -> Result<ExitCode, Failure> {
    let views = certs::show(dirs)?;
    if as_json {
        output::print(&output::pretty(&views));
        return Ok(ExitCode::SUCCESS);
    }
    let shown = views.iter().map(|view| {
        let facts = fields(&[
            ("names", view.sans.join(", ")),
            ("issuer", view.issuer.clone()),
            ("valid", format!("{} to {}", view.not_before.date(), view.not_after.date())),
            ("purpose", view.purpose.join(", ")),
            ("sha256", view.sha256.clone()),
            ("sha1", view.sha1.clone()),
        ]);
        format!("{}: {}\n{}", view.path.display(), view.subject, indented(&facts))
    });
    let text = shown.collect::<Vec<_>>().join("\n\n");
    output::print(if text.is_empty() {
        "no certificate is installed; see `relevo cert --help`"
    } else {
        &text
    });
    Ok(ExitCode::SUCCESS)
}

/// Lets a running daemon take up what was installed. None running is as good: it reads it when it starts.
fn take_up(client: &Client) -> Result<String, Failure> {
    match client.look(Command::CertReload) {
        Ok(_) => Ok("the running daemon uses it from now on".to_owned()),
        Err(failure) if failure.kind == ErrorKind::DaemonUnavailable => {
            Ok("the daemon is not running; it uses it when it starts".to_owned())
        }
        Err(failure) => Err(Failure {
            message: format!(
                "the bundle is installed, but the running daemon did not take it up: {}",
                failure.message
            ),
            ..failure
        }),
    }
}
