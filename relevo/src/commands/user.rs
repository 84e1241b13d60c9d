//! `relevo user`: who may log in to the management listeners, and as what. Works on the file of the users, without
//! the daemon; a running one takes changes up by itself.

use crate::{cli::Options, output, render::table::Table};
use cim::Role;
use clap::{Args, Subcommand, ValueEnum};
use front::users::{self, CertificateMapping, PasswordHash, User, UsersError};
use serde_json::{Value, json};
use service::{
    api::{ErrorKind, Failure, Reply, error::chain},
    config::{self, Dirs},
};
use std::{
    io::{self, BufRead, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What a principal is told apart from a certificate by.
const PRINCIPAL: &str = "principal:";

#[derive(Debug, Subcommand)]
pub enum UserAction {
    Add(AddArgs),
    Passwd(PasswdArgs),
    Role(RoleArgs),
    Map(MapArgs),
    Unmap(UnmapArgs),
    Remove(RemoveArgs),
    List(ListArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    /// Sees everything, changes nothing
    Reader,
    /// Fails over, suspends, resumes, starts and stops VMs
    Operator,
    /// All that, and settings, authorizations and removal
    Administrator,
}

/// Let a user log in to the management listeners
///
/// The password is asked for, or read from standard input where that is not a terminal. With `--no-password`
/// the user logs in by client certificate only; with `--principal` by Kerberos.
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host whose listeners are meant.\n\n\
                        Example:\n  relevo user add anna --role operator\n  relevo user add anna --principal anna@EXAMPLE.ORG")]
pub struct AddArgs {
    /// The name to log in with
    name: String,
    /// What the user may do
    #[arg(long, value_enum, default_value = "reader")]
    role: RoleName,
    /// Log in by certificate or by ticket only
    #[arg(long)]
    no_password: bool,
    /// Let who has tickets of this Kerberos principal log in, without a password
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
}

/// Set a user's password
#[derive(Debug, Args)]
#[command(
    after_help = "Run it on the host whose listeners are meant.\n\nExample:\n  relevo user passwd anna"
)]
pub struct PasswdArgs {
    /// The user
    name: String,
}

/// Change what a user may do
#[derive(Debug, Args)]
#[command(
    after_help = "Run it on the host whose listeners are meant.\n\nExample:\n  relevo user role anna administrator"
)]
pub struct RoleArgs {
    /// The user
    name: String,
    /// What the user may do
    #[arg(value_enum)]
    role: RoleName,
}

/// Let a client certificate or a Kerberos principal log in as a user
///
/// A thumbprint counts whoever signed the certificate; a name counts only under the authorities that the
/// configuration names. A principal is written with its realm.
#[derive(Debug, Args)]
#[command(
    after_help = "Run it on the host whose listeners are meant.\n\nExample:\n  relevo user map anna sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
)]
pub struct MapArgs {
    /// The user
    name: String,
    /// `sha256:HEX`, `sha1:HEX`, `name:NAME` or `principal:NAME@REALM`
    certificate: String,
}

/// Take a client certificate or a principal away from a user
#[derive(Debug, Args)]
#[command(
    after_help = "Run it on the host whose listeners are meant.\n\nExample:\n  relevo user unmap anna name:anna.example"
)]
pub struct UnmapArgs {
    /// The user
    name: String,
    /// `sha256:HEX`, `sha1:HEX`, `name:NAME` or `principal:NAME@REALM`
    certificate: String,
}

/// Remove a user
#[derive(Debug, Args)]
#[command(
    after_help = "Run it on the host whose listeners are meant.\n\nExample:\n  relevo user remove anna"
)]
pub struct RemoveArgs {
    /// The user
    name: String,
}

/// List the users: role, password or not, certificates, principals
#[derive(Debug, Args)]
#[command(after_help = "Run it on the host whose listeners are meant.\n\nExample:\n  relevo user list")]
pub struct ListArgs {}

pub fn run(action: UserAction, options: &Options) -> Result<ExitCode, Failure> {
    super::refuse_dry_run(options, "relevo user")?;
    let path = path(&Dirs::new(options.root.as_deref()))?;
    let message = match action {
        UserAction::Add(AddArgs { name, role, no_password, principal }) => {
            let password = if no_password || principal.is_some() { None } else { Some(ask(&name)?) };
            edit(&path, |users| {
                users.add(&name, role.into())?;
                if let Some(principal) = &principal {
                    users.map_principal(&name, principal)?;
                }
                users.set_password(&name, password)
            })?;
            format!("{name} may log in as {}", role.text())
        }
        UserAction::Passwd(PasswdArgs { name }) => {
            let known = users::load(&path).map_err(|error| refused(&error))?;
            if known.get(&name).is_none() {
                return Err(refused(&UsersError::Unknown { name }));
            }
            let password = ask(&name)?;
            edit(&path, |users| users.set_password(&name, Some(password)))?;
            format!("the password of {name} is changed")
        }
        UserAction::Role(RoleArgs { name, role }) => {
            edit(&path, |users| users.set_role(&name, role.into()))?;
            format!("{name} is {} now", role.text())
        }
        UserAction::Map(MapArgs { name, certificate }) => {
            match certificate.strip_prefix(PRINCIPAL) {
                Some(principal) => edit(&path, |users| users.map_principal(&name, principal))?,
                None => {
                    let mapping = mapping(&certificate)?;
                    edit(&path, |users| users.map(&name, mapping))?;
                }
            }
            format!("{certificate} logs in as {name}")
        }
        UserAction::Unmap(UnmapArgs { name, certificate }) => {
            match certificate.strip_prefix(PRINCIPAL) {
                Some(principal) => edit(&path, |users| users.unmap_principal(&name, principal))?,
                None => {
                    let mapping = mapping(&certificate)?;
                    edit(&path, |users| users.unmap(&name, &mapping))?;
                }
            }
            format!("{certificate} does not log in any more")
        }
        UserAction::Remove(RemoveArgs { name }) => {
            edit(&path, |users| users.remove(&name))?;
            format!("{name} is removed")
        }
        UserAction::List(_) => {
            let users = users::load(&path).map_err(|error| refused(&error))?;
            let users: Vec<(String, User)> =
                users.list().map(|(n, user)| (n.to_owned(), user.clone())).collect();
            if options.json {
                let list: Vec<Value> = users.iter().map(|(name, user)| view(name, user)).collect();
                output::print(&output::pretty(&list));
            } else {
                output::print(&render(&users));
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    Ok(output::reply(&Reply::Done { message }, output::Detail::Short, options.json))
}

fn path(dirs: &Dirs) -> Result<PathBuf, Failure> {
    let config = config::load(&dirs.config)?;
    Ok(config.management.users.unwrap_or_else(|| crate::management::users_path(&dirs.config)))
}

fn edit(
    path: &Path,
    change: impl FnOnce(&mut users::Users) -> Result<(), UsersError>,
) -> Result<(), Failure> {
    users::edit(path, change).map_err(|error| refused(&error))
}

fn refused(error: &UsersError) -> Failure {
    let kind = match error {
        UsersError::Unknown { .. } | UsersError::NotMapped { .. } | UsersError::PrincipalNotMapped { .. } => {
            ErrorKind::NotFound
        }
        UsersError::Exists { .. } | UsersError::Mapped { .. } | UsersError::PrincipalMapped { .. } => {
            ErrorKind::InvalidState
        }
        UsersError::Io { .. } => ErrorKind::Failed,
        UsersError::ReadableByOthers { .. }
        | UsersError::Damaged { .. }
        | UsersError::Contradictory { .. } => ErrorKind::Configuration,
        UsersError::Name { .. } | UsersError::Principal { .. } | UsersError::Password(_) => {
            ErrorKind::InvalidParameter
        }
    };
    let failure = Failure::new(kind, "user", chain(error));
    match error {
        UsersError::Unknown { .. } => failure.hint("`relevo user list` shows all"),
        UsersError::Exists { .. } => failure.hint("`relevo user passwd` and `relevo user role` change one"),
        _ => failure,
    }
}

fn mapping(text: &str) -> Result<CertificateMapping, Failure> {
    text.parse().map_err(|error: users::MappingError| {
        Failure::new(ErrorKind::InvalidParameter, "certificate-mapping", error.to_string())
    })
}

/// Asked for twice at a terminal, without echo; otherwise the first line of standard input.
fn ask(name: &str) -> Result<PasswordHash, Failure> {
    let failed = |error: io::Error| {
        Failure::new(ErrorKind::InvalidParameter, "password", format!("cannot read the password: {error}"))
    };
    let password = if io::stdin().is_terminal() {
        let first = rpassword::prompt_password(format!("Password of {name}: ")).map_err(failed)?;
        if rpassword::prompt_password("Once more: ").map_err(failed)? != first {
            return Err(failed(io::Error::other("the two differ")));
        }
        first
    } else {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(failed)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    PasswordHash::new(&password).map_err(|error| refused(&error.into()))
}

fn view(name: &str, user: &User) -> Value {
    let certificates: Vec<String> = user.certificates.iter().map(ToString::to_string).collect();
    json!({
        "name": name,
        "role": role_text(user.role),
        "password": user.password.is_some(),
        "certificates": certificates,
        "principals": user.principals,
    })
}

fn render(users: &[(String, User)]) -> String {
    if users.is_empty() {
        return "nobody may log in; `relevo user add` lets somebody".to_owned();
    }
    let mut table = Table::new(&["USER", "ROLE", "PASSWORD", "CERTIFICATES, PRINCIPALS"]);
    for (name, user) in users {
        let certificates: Vec<String> = user.certificates.iter().map(ToString::to_string).collect();
        let password = if user.password.is_some() { "yes" } else { "no" };
        let role = role_text(user.role).to_owned();
        let others = [certificates, user.principals.clone()].concat();
        table.row([name.clone(), role, password.to_owned(), others.join(" ")]);
    }
    table.text()
}

impl RoleName {
    fn text(self) -> &'static str {
        role_text(self.into())
    }
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Reader => Self::Reader,
            RoleName::Operator => Self::Operator,
            RoleName::Administrator => Self::Administrator,
        }
    }
}

fn role_text(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Operator => "operator",
        Role::Administrator => "administrator",
    }
}
