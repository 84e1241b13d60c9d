//! Calling qemu-img, for the few things that it should do and nobody else.

use crate::error::{LayersError, Result};
use std::{
    ffi::OsString,
    process::{Command, Stdio},
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

fn failed(arguments: &[OsString], message: String) -> LayersError {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    LayersError::QemuImg { arguments: words.join(" "), message }
}
