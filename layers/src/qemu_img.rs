//! Calling qemu-img, for the few things that it should do and nobody else.

use crate::error::{LayersError, Result};
use std::{
    ffi::OsString,
    io::Read,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

pub fn qemu_img(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let output = Command::new("qemu-img").args(&arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(&arguments, error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(&arguments, String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// As [`qemu_img`], with `-p` among the arguments: tells the percentage as it goes and ends the program
/// when it is cancelled.
pub fn qemu_img_with_progress(
    arguments: &[OsString],
    progress: &mut dyn FnMut(f64),
    cancel: &AtomicBool,
) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let fail = |error: std::io::Error| failed(arguments, error.to_string());
    let mut child = command.spawn().map_err(fail)?;
    let mut stdout = child.stdout.take().expect("piped");
    let mut text = String::new();
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = stdout.read(&mut buffer) {
        // "    (12.34/100%)\r"
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if let Some(start) = text.rfind('(')
            && let Some(percent) = text[start + 1..].split_once('/')
        {
            percent.0.trim().parse().ok().into_iter().for_each(&mut *progress);
            text.clear();
        }
        if cancel.load(Ordering::Relaxed) {
            child.kill().and_then(|()| child.wait()).map_err(fail)?;
            return Err(LayersError::Cancelled);
        }
    }
    let output = child.wait_with_output().map_err(fail)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(arguments, String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

fn failed(arguments: &[OsString], message: String) -> LayersError {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    LayersError::QemuImg { arguments: words.join(" "), message }
}
