//! libvirt's own calls and nothing else: what the benchmark compares Relevo with. Takes commands on standard
//! input, one a line, and answers each with one line.
//!
//! ```text
//! open FOLDER             an embedded libvirt below the folder
//! define FILE             a domain
//! start | destroy         the domain; answers with milliseconds
//! cut SPOOL TARGET...     an incremental backup of these disks from the last cut (the first one makes only a
//!                         checkpoint), and the older checkpoint away; answers with milliseconds and bytes
//! ```

use hypervisor::Hypervisor;
use model::VmId;
use std::{
    error::Error,
    fs,
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
    time::Instant,
};

#[derive(Default)]
struct Bare {
    hypervisor: Option<Hypervisor>,
    vm: Option<VmId>,
    cuts: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut bare = Bare::default();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = bare.carry_out(&words).unwrap_or_else(|error| format!("error {error}"));
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

impl Bare {
    fn carry_out(&mut self, words: &[&str]) -> Result<String, Box<dyn Error>> {
        if let ["open", folder] = words {
            let uri = hypervisor::prepare_embedded_root(Path::new(folder))?;
            self.hypervisor = Some(Hypervisor::connect(&uri)?);
            return Ok("ok".to_owned());
        }
        let hypervisor = self.hypervisor.as_ref().ok_or("open first")?;
        if let ["define", file] = words {
            self.vm = Some(hypervisor.define(&fs::read_to_string(file)?)?);
            return Ok("ok".to_owned());
        }
        let vm = self.vm.ok_or("define first")?;
        let began = Instant::now();
        let bytes = match words {
            ["start"] => {
                hypervisor.start(vm)?;
                0
            }
            ["destroy"] => {
                hypervisor.destroy(vm)?;
                0
            }
            ["cut", spool, targets @ ..] => {
                let bytes = cut(hypervisor, vm, self.cuts, Path::new(spool), targets)?;
                self.cuts += 1;
                bytes
            }
            _ => return Err("what?".into()),
        };
        Ok(format!("{} {bytes}", began.elapsed().as_secs_f64() * 1000.0))
    }
}

fn cut(
    hypervisor: &Hypervisor,
    vm: VmId,
    index: u32,
    spool: &Path,
    targets: &[&str],
) -> Result<u64, Box<dyn Error>> {
    let name = |index: u32| format!("bare-{index}");
    let Some(last) = index.checked_sub(1) else {
        hypervisor.create_checkpoint(vm, &name(0), targets)?;
        return Ok(0);
    };
    let files: Vec<PathBuf> = targets.iter().map(|target| spool.join(target)).collect();
    let pairs: Vec<(&str, &Path)> = targets.iter().copied().zip(files.iter().map(PathBuf::as_path)).collect();
    hypervisor.backup_begin(vm, Some(&name(last)), Some(&name(index)), &pairs)?;
    let outcome = hypervisor.wait_backup(vm)?;
    if !outcome.success {
        return Err(format!("the backup failed: {:?}", outcome.error).into());
    }
    hypervisor.delete_checkpoint(vm, &name(last))?;
    for file in files {
        fs::remove_file(file)?;
    }
    Ok(outcome.bytes)
}
