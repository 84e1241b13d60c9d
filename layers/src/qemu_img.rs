//! Calling qemu-img, for the few things that it should do and nobody else.

use crate::error::{LayersError, Result};
use std::{
    ffi::OsString,
    io,
    process::{Child, Command, Stdio},
};

/// Runs all of these at once and waits for each, whatever the others do; the first that failed is told.
pub fn qemu_img_at_once(calls: Vec<Vec<OsString>>) -> Result<()> {
    let begin = |arguments: Vec<OsString>| {
        let mut command = Command::new("qemu-img");
        command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        (command.spawn(), arguments)
    };
    let begun: Vec<_> = calls.into_iter().map(begin).collect();
    let end = |(child, arguments): (io::Result<Child>, Vec<OsString>)| {
        let output = child.and_then(Child::wait_with_output);
        let output = output.map_err(|error| failed(&arguments, error.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(&arguments, String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    };
    let ended: Vec<_> = begun.into_iter().map(end).collect();
    ended.into_iter().collect()
}

fn failed(arguments: &[OsString], message: String) -> LayersError {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    LayersError::QemuImg { arguments: words.join(" "), message }
}
