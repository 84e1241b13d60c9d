//! A real KDC (MIT's) in a folder of its own, on a free port of loopback: realm, principals, keytabs.

use crate::{free_port, host::kill_9};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub const REALM: &str = "RELEVO.TEST";

/// Names the folder of the KDC to a test that runs again in its realm.
const FOLDER: &str = "RELEVO_TEST_KDC";

/// What Debian does not put on the path of everybody.
const SBIN: &str = "/usr/sbin";

/// Turns the clock of a process (Debian's `faketime`; the dynamic linker finds its folder).
pub const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A realm and its KDC, which is stopped when the one who started it drops it.
#[derive(Debug)]
pub struct Kdc {
    folder: PathBuf,
    is_ours: bool,
}

impl Kdc {
    /// Makes the realm [`REALM`] in `folder` and starts its KDC.
    pub fn start(folder: &Path) -> Result<Self> {
        let kdc = Self { folder: folder.to_owned(), is_ours: true };
        fs::create_dir_all(folder)?;
        let port = free_port()?;
        let path = |name: &str| folder.join(name).display().to_string();
        fs::write(
            folder.join("krb5.conf"),
            format!(
                "[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n \
                 dns_canonicalize_hostname = false\n rdns = false\n udp_preference_limit = 1\n\
                 [realms]\n {REALM} = {{\n  kdc = 127.0.0.1:{port}\n }}\n\
                 [logging]\n kdc = FILE:{}\n",
                path("kdc.log")
            ),
        )?;
        fs::write(
            folder.join("kdc.conf"),
            format!(
                "[kdcdefaults]\n kdc_listen = \"\"\n kdc_tcp_listen = 127.0.0.1:{port}\n\
                 [realms]\n {REALM} = {{\n  database_name = {}\n  key_stash_file = {}\n  acl_file = {}\n }}\n",
                path("principals"),
                path("stash"),
                path("acl")
            ),
        )?;
        kdc.run("kdb5_util", &["create", "-s", "-r", REALM, "-P", "of no use to anybody"])?;
        kdc.resume()?;
        Ok(kdc)
    }

    /// Goes on after [`Self::stop`]. The KDC listens when this returns.
    pub fn resume(&self) -> Result<()> {
        let pid_file = self.pid_file();
        self.run("krb5kdc", &["-P", &pid_file.to_string_lossy()]).map(drop)
    }

    /// Kills the KDC.
    pub fn stop(&self) -> Result<()> {
        let pid = fs::read_to_string(self.pid_file())?;
        kill_9(pid.trim().parse().context("the KDC's pid file")?)?;
        Ok(fs::remove_file(self.pid_file())?)
    }

    /// `kadmin.local -q`.
    pub fn admin(&self, request: &str) -> Result<String> {
        let answer = self.run("kadmin.local", &["-r", REALM, "-q", request])?;
        // It exits with 0 whatever happened.
        ensure!(!answer.contains("while "), "kadmin.local: {request}: {answer}");
        Ok(answer)
    }

    /// Makes principals with random keys (those that are there get new ones) and exports them to a keytab.
    pub fn keytab(&self, name: &str, principals: &[&str]) -> Result<PathBuf> {
        let keytab = self.folder.join(name);
        for principal in principals {
            let _ = self.admin(&format!("addprinc -randkey {principal}"));
            self.admin(&format!("ktadd -k {} {principal}", keytab.display()))?;
        }
        Ok(keytab)
    }

    /// For programs that are to live in this realm: `KRB5_CONFIG`.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("krb5.conf")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("kdc.pid")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(Path::new(SBIN).join(program))
            .args(arguments)
            .env("KRB5_CONFIG", self.configuration())
            .env("KRB5_KDC_PROFILE", self.folder.join("kdc.conf"))
            .env("KRB5RCACHENAME", "none:")
            .env_remove("LD_PRELOAD")
            .output()
            .with_context(|| format!("{program}: `cargo xtask setup` installs it"))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        ensure!(output.status.success(), "{program} {arguments:?}: {text}");
        Ok(text)
    }
}

impl Drop for Kdc {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = self.stop();
        }
    }
}

/// Runs `body` in a realm of its own: starts a KDC and runs the test `name` again, in a process whose environment says
/// where that is, because MIT's libraries look there and a process cannot safely change its own.
pub fn in_realm(name: &str, body: impl FnOnce(&Kdc)) {
    again_in_realm(&["--exact", name, "--nocapture"], &[], body);
}

/// As [`in_realm`], with the test's clock ahead of the KDC's (`+1h`).
pub fn in_realm_ahead(name: &str, by: &str, body: impl FnOnce(&Kdc)) {
    let environment = [("LD_PRELOAD", LIBFAKETIME), ("FAKETIME", by), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    again_in_realm(&["--exact", name, "--nocapture"], &environment, body);
}

/// Runs this program again with `arguments` and `environment`; `body` is what it does then.
pub fn again_in_realm(arguments: &[&str], environment: &[(&str, &str)], body: impl FnOnce(&Kdc)) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return body(&Kdc { folder: folder.into(), is_ours: false });
    }
    let root = crate::TempRoot::new().expect("a folder");
    let kdc = Kdc::start(&root.join("kdc")).expect("a KDC");
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(arguments)
        .envs(environment.iter().copied())
        .env("KRB5_CONFIG", kdc.configuration())
        .env(FOLDER, kdc.folder())
        .status()
        .expect("this program again");
    assert!(status.success(), "{arguments:?}, in its realm: {status}");
}
