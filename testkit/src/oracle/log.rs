//! What the writer says on the serial console.

use std::{fs, io, path::Path};

/// An op that the writer flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub epoch: u64,
    pub n: u64,
}

/// A serial log, read to its last whole line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub last_ack: Option<Ack>,
    /// Acknowledged ops of all boots together.
    pub acks: u64,
    /// Times that the guest came up.
    pub boots: usize,
    /// Epochs that began, in order.
    pub epochs: Vec<u64>,
    /// The writer came to an end on the power button (in the latest boot).
    pub stopped: bool,
    /// The writer did its last op, or had none to do, and idles (in the latest boot).
    pub idle: bool,
    /// The guest is frozen by its agent.
    pub frozen: bool,
    /// What the writer ended with, such as a failed write.
    pub error: Option<String>,
}

/// Reads a serial log; one that is not there yet is empty.
pub fn read_log(path: &Path) -> io::Result<Log> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        other => other?,
    };
    // A line without its end may be half a number.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut log = Log::default();
    for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
        read_line(line.trim(), &mut log);
    }
    Ok(log)
}

fn read_line(line: &str, log: &mut Log) {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["ack", epoch, n] => {
            if let (Ok(epoch), Ok(n)) = (u64::from_str_radix(epoch, 16), n.parse()) {
                log.last_ack = Some(Ack { epoch, n });
                log.acks += 1;
            }
        }
        ["guest", "up"] => {
            log.boots += 1;
            (log.stopped, log.idle, log.frozen) = (false, false, false);
        }
        ["oracle", "epoch", id, ..] => log.epochs.extend(u64::from_str_radix(id, 16)),
        ["oracle", "idle"] | ["oracle", "done", _] => log.idle = true,
        ["oracle", "stopped"] => log.stopped = true,
        ["oracle", "error:", ..] => log.error = Some(line.to_owned()),
        ["agent", "frozen"] => log.frozen = true,
        ["agent", "thawed"] => log.frozen = false,
        _ => {}
    }
}

/// The op acknowledged last.
pub fn last_ack(path: &Path) -> io::Result<Option<Ack>> {
    Ok(read_log(path)?.last_ack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_to_its_last_whole_line() {
        let root = crate::TempRoot::new().unwrap();
        let path = root.join("serial.log");
        assert_eq!(read_log(&path).unwrap(), Log::default());
        let text = "guest up\r\noracle epoch 00000000000000ff from 1\r\nack 00000000000000ff 1\r\n[ 1.0] noise\r\n\
                    ack 00000000000000ff 12\r\nagent frozen\r\nack 00000000000000ff 1";
        fs::write(&path, text).unwrap();
        let log = read_log(&path).unwrap();
        assert_eq!(log.last_ack, Some(Ack { epoch: 255, n: 12 }));
        assert_eq!((log.acks, log.boots, log.epochs.as_slice()), (2, 1, [255].as_slice()));
        assert!(log.frozen && !log.stopped && log.error.is_none());
        fs::write(&path, text.to_owned() + "\r\nguest up\r\noracle error: header: I/O error\r\n").unwrap();
        let log = read_log(&path).unwrap();
        assert_eq!(log.error.as_deref(), Some("oracle error: header: I/O error"));
        assert!(!log.frozen);
    }
}
