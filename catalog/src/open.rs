//! Opening, creating and migrating the file. `user_version` is the schema's version; `application_id`
//! tells a catalog from any other SQLite file.

use crate::error::{CatalogError, Result};
use rusqlite::Connection;
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// "RLVO" in the file's header.
pub const APPLICATION_ID: u32 = 0x524c_564f;

/// Each entry leads from the version that is its index to the next one. Entries are only ever appended.
pub const MIGRATIONS: &[&str] =
    &[include_str!("schema/1.sql"), include_str!("schema/2.sql"), include_str!("schema/3.sql")];

pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// Another process holds the file only for the length of an operator's look into it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

pub fn open(path: &Path, migrations: &[&str]) -> Result<Connection> {
    create_private(path)?;
    let fail = |source| CatalogError::Open { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    // `journal_mode` answers with a row, which `pragma_update` would refuse.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).map_err(fail)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(fail)?;

    let found: u32 = pragma(&connection, "user_version").map_err(fail)?;
    let application: u32 = pragma(&connection, "application_id").map_err(fail)?;
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(fail)?;
    let supported = u32::try_from(migrations.len()).expect("a handful");
    if application != APPLICATION_ID && (application, found, tables) != (0, 0, 0) {
        return Err(CatalogError::Foreign { path: path.to_owned() });
    }
    if found > supported {
        return Err(CatalogError::Newer { path: path.to_owned(), found, supported });
    }
    if found > 0 && found < supported {
        copy(&connection, path, found)?;
    }
    for from in found..supported {
        migrate(&mut connection, from, migrations[from as usize])
            .map_err(|source| CatalogError::Migrate { from, source })?;
    }
    Ok(connection)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<u32> {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}

/// SQLite gives its side files the main file's mode, so only that one has to be made private.
fn create_private(path: &Path) -> Result<()> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match created {
        Ok(_) => model::durable::sync_parent(path),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|source| CatalogError::Create { path: path.to_owned(), source })
}

/// Schema, version and application id change in one transaction: a crash leaves the old version whole.
fn migrate(connection: &mut Connection, from: u32, sql: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", from + 1)?;
    transaction.commit()
}

/// Copies the catalog to `<path>.v<version>`. The name appears only once the copy is whole.
fn copy(connection: &Connection, path: &Path, version: u32) -> Result<()> {
    let target = suffixed(path, &format!(".v{version}"));
    let temporary = suffixed(&target, ".tmp");
    let sync_failed = |source| CatalogError::CopySync { path: target.clone(), source };
    model::durable::remove(&temporary).map_err(sync_failed)?;
    // Not a copy of the file: what is still in the write-ahead log belongs to it too.
    connection
        .execute("VACUUM INTO ?1", [temporary.to_string_lossy()])
        .map_err(|source| CatalogError::Copy { path: target.clone(), source })?;
    let file = File::open(&temporary).map_err(sync_failed)?;
    file.sync_all().map_err(sync_failed)?;
    model::durable::rename(&temporary, &target).map_err(sync_failed)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const FIRST: &str = "CREATE TABLE a (x INTEGER NOT NULL) STRICT; INSERT INTO a VALUES (7);";

    #[test]
    fn a_new_catalog_is_private_durable_and_marked_as_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        let connection = open(&path, MIGRATIONS).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(pragma(&connection, "user_version").unwrap(), SCHEMA_VERSION);
        assert_eq!(pragma(&connection, "application_id").unwrap(), APPLICATION_ID);
        assert_eq!(pragma(&connection, "synchronous").unwrap(), 2);
        assert_eq!(pragma(&connection, "foreign_keys").unwrap(), 1);
        drop(connection);
        open(&path, MIGRATIONS).unwrap();
    }

    #[test]
    fn an_older_catalog_is_copied_and_then_migrated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        // Left open, so that the row is still in the write-ahead log when the copy is made.
        let older = open(&path, &[FIRST]).unwrap();
        older.execute("INSERT INTO a VALUES (8)", []).unwrap();
        let newer =
            open(&path, &[FIRST, "ALTER TABLE a ADD COLUMN y INTEGER; UPDATE a SET y = x + 1"]).unwrap();
        let sum: i64 = newer.query_row("SELECT sum(y) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 17);
        let copy = Connection::open(dir.path().join("catalog.sqlite.v1")).unwrap();
        assert_eq!(pragma(&copy, "user_version").unwrap(), 1);
        let sum: i64 = copy.query_row("SELECT sum(x) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 15);
    }

    #[test]
    fn points_of_before_the_timeline_lie_on_it_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        let older = open(&path, &MIGRATIONS[..2]).unwrap();
        for (vm, sequence, received_at_ms) in [("a", 1, 10), ("a", 2, 90), ("a", 3, 20), ("b", 1, 30)] {
            older
                .execute(
                    "INSERT INTO point (vm, delta, sequence, kind, cut_at_ms, received_at_ms, generation_number,
                                        visible, note, json)
                     VALUES (?1, ?2, ?2, 0, 0, ?3, 1, 1, '', '')",
                    rusqlite::params![vm, sequence, received_at_ms],
                )
                .unwrap();
        }
        let newer = open(&path, MIGRATIONS).unwrap();
        let mut query = newer.prepare("SELECT timeline_ms FROM point ORDER BY vm, sequence").unwrap();
        let timeline: Vec<i64> =
            query.query_map([], |row| row.get(0)).unwrap().map(|it| it.unwrap()).collect();
        assert_eq!(timeline, [10, 90, 90, 30]);
    }

    #[test]
    fn a_failed_migration_leaves_the_older_catalog() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        open(&path, &[FIRST]).unwrap();
        let failed = open(&path, &[FIRST, "CREATE TABLE b (x INTEGER); SELECT * FROM nowhere"]);
        assert!(matches!(failed, Err(CatalogError::Migrate { from: 1, .. })));
        let connection = open(&path, &[FIRST]).unwrap();
        assert_eq!(pragma(&connection, "user_version").unwrap(), 1);
        assert!(connection.prepare("SELECT * FROM b").is_err());
    }

    #[test]
    fn a_newer_a_foreign_and_a_damaged_file_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.sqlite");
        open(&path, &[FIRST, "CREATE TABLE b (x INTEGER)"]).unwrap();
        assert!(matches!(open(&path, &[FIRST]), Err(CatalogError::Newer { found: 2, supported: 1, .. })));

        let foreign = dir.path().join("foreign.sqlite");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(matches!(open(&foreign, MIGRATIONS), Err(CatalogError::Foreign { .. })));

        let damaged = dir.path().join("damaged.sqlite");
        std::fs::write(&damaged, [b'x'; 5000]).unwrap();
        assert!(matches!(open(&damaged, MIGRATIONS), Err(CatalogError::Open { .. })));
    }
}
