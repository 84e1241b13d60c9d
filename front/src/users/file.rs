//! `users.toml` on disk: read, changed by one at a time, and read again when it has changed.

use super::{Users, UsersError};
use rustix::fs::FlockOperation;
use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

const HEADER: &str = "# Who may log in, and as what. Change it with `relevo user`.\n\n";
const MODE: u32 = 0o600;

/// The users in `path`; none if the file does not exist. Refuses a file that others can read.
pub fn load(path: &Path) -> Result<Users, UsersError> {
    let io = |source| UsersError::Io { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Users::default()),
        Err(error) => return Err(io(error)),
    };
    let mode = file.metadata().map_err(io)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(UsersError::ReadableByOthers { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io)?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Users, UsersError> {
    let users: Users = toml::from_str(text).map_err(|error| UsersError::Damaged {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count()),
        problem: error.message().to_owned(),
    })?;
    let contradictory =
        |problem| UsersError::Contradictory { path: path.to_owned(), problem: Box::new(problem) };
    users.check().map_err(contradictory)?;
    Ok(users)
}

/// Changes the users in `path` durably, or not at all if `change` fails. Two that edit at once do so one after the
/// other.
pub fn edit<T>(
    path: &Path,
    change: impl FnOnce(&mut Users) -> Result<T, UsersError>,
) -> Result<T, UsersError> {
    let io = |source| UsersError::Io { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).map_err(io)?;
    rustix::fs::flock(&folder, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
    let mut users = load(path)?;
    let answer = change(&mut users)?;
    let text = HEADER.to_owned() + &toml::to_string(&users).expect("plain strings in tables");
    model::durable::replace_file_with_mode(path, text.as_bytes(), MODE).map_err(io)?;
    Ok(answer)
}

/// The users in a file, read again when the file has changed.
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    current: RwLock<Current>,
}

/// What was read last.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub users: Arc<Users>,
    /// Counts readings, so that what was concluded from older ones is told apart.
    pub generation: u64,
    /// `None`: there was no file.
    stamp: Option<Stamp>,
}

/// Tells one content of a file from the next without reading it. A change in place is seen by the time of the
/// change, a replacement by the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed_s: i64,
    changed_ns: i64,
}

impl UsersFile {
    /// A file that is not there is no error: it may come.
    pub fn open(path: &Path) -> Result<Self, UsersError> {
        let stamp = stamp(path);
        let users = Arc::new(load(path)?);
        let current = RwLock::new(Current { users, generation: 0, stamp });
        Ok(Self { path: path.to_owned(), current })
    }

    /// As the file is now. While it cannot be read, as it was before: a slip of an editor locks nobody out. A file
    /// that was removed lets nobody in.
    pub(crate) fn current(&self) -> Current {
        // Taken before the content is read: a change in between is seen next time.
        let stamp = stamp(&self.path);
        let current = self.current.read().expect("no code panics under this lock").clone();
        if current.stamp == stamp {
            return current;
        }
        let mut current = self.current.write().expect("no code panics under this lock");
        if current.stamp != stamp {
            current.stamp = stamp;
            match load(&self.path) {
                Ok(users) => {
                    tracing::info!(path = %self.path.display(), "the users were read again");
                    current.users = Arc::new(users);
                    current.generation += 1;
                }
                Err(error) => tracing::error!(%error, "the users stay as they were"),
            }
        }
        current.clone()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let stamp = |found: Metadata| Stamp {
        inode: found.ino(),
        bytes: found.size(),
        changed_s: found.ctime(),
        changed_ns: found.ctime_nsec(),
    };
    fs::metadata(path).ok().map(stamp)
}
