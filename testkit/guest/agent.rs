//! As much of the QEMU guest agent as an application-consistent cut needs: ping, sync, freeze, thaw,
//! status, shutdown refused. A freeze takes the writer's gate, so it falls between two ops and the frozen
//! disks hold a whole number of them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

const PORT_NAME: &str = "org.qemu.guest_agent.0";

/// Answers on the agent's port, if this guest has one.
pub fn serve(gate: Arc<Mutex<()>>) {
    thread::spawn(move || {
        let Some(path) = port() else { return };
        if let Ok(port) = OpenOptions::new().read(true).write(true).open(path) {
            let error = converse(&port, &gate);
            println!("agent error: {error:?}");
        }
    });
}

/// The agent's port appears soon after the virtio console's module is loaded, or never.
fn port() -> Option<String> {
    for _ in 0..100 {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == PORT_NAME {
                return Some(format!("/dev/{}", entry.file_name().to_string_lossy()));
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    None
}

fn converse(mut port: &File, gate: &Mutex<()>) -> io::Result<()> {
    let mut frozen: Option<MutexGuard<'_, ()>> = None;
    let mut line = vec![];
    loop {
        let mut byte = [0; 1];
        match port.read(&mut byte)? {
            // Nobody has the other end open.
            0 => thread::sleep(Duration::from_millis(20)),
            _ if byte[0] == b'\n' => {
                let answer = answer(&String::from_utf8_lossy(&line), gate, &mut frozen);
                line.clear();
                port.write_all(&answer)?;
            }
            // The client resets the parser with 0xff before it syncs.
            _ if byte[0] == 0xff => line.clear(),
            _ => line.push(byte[0]),
        }
    }
}

fn answer<'a>(request: &str, gate: &'a Mutex<()>, frozen: &mut Option<MutexGuard<'a, ()>>) -> Vec<u8> {
    let mut answer = vec![];
    let value = match field(request, "execute").trim_matches('"') {
        "guest-ping" => "{}".to_owned(),
        "guest-sync" => field(request, "id").to_owned(),
        "guest-sync-delimited" => {
            answer.push(0xff);
            field(request, "id").to_owned()
        }
        "guest-info" => {
            let names = ["guest-ping", "guest-sync", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"];
            let list = names.map(|n| format!(r#"{{"name":"{n}","enabled":true,"success-response":true}}"#));
            format!(r#"{{"version":"7.2.0","supported_commands":[{}]}}"#, list.join(","))
        }
        "guest-fsfreeze-status" => if frozen.is_some() { r#""frozen""# } else { r#""thawed""# }.to_owned(),
        "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list" => {
            if frozen.is_none() {
                *frozen = gate.lock().ok();
                println!("agent frozen");
            }
            "1".to_owned()
        }
        "guest-fsfreeze-thaw" => {
            let count = usize::from(frozen.take().is_some());
            println!("agent thawed");
            count.to_string()
        }
        _ => return b"{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"not in this guest\"}}\n".to_vec(),
    };
    answer.extend_from_slice(format!("{{\"return\":{value}}}\n").as_bytes());
    answer
}

/// The raw JSON value after `"name":`. Requests are flat, and come from our own host.
fn field<'a>(request: &'a str, name: &str) -> &'a str {
    let Some((_, rest)) = request.split_once(&format!("\"{name}\"")) else { return "" };
    let rest = rest.trim_start_matches([':', ' ']);
    rest.split([',', '}', ' ', '\r']).next().unwrap_or("")
}
