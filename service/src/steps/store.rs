//! What a point carries beside its layers, and how far a transfer has come.

use crate::api::Failure;
use catalog::Catalog;
use layers::{DOMAIN_XML, Store};
use model::{DeltaId, VmId};
use serde::Deserialize;
use std::path::PathBuf;

pub fn domain_xml_path(store: &Store, point: DeltaId) -> PathBuf {
    store.folder().join(format!("{point}.{DOMAIN_XML}"))
}

/// The domain as it was at the point's cut.
pub fn domain_xml(store: &Store, point: DeltaId) -> Result<String, Failure> {
    let path = domain_xml_path(store, point);
    std::fs::read_to_string(&path)
        .map_err(|error| Failure::internal(&format!("read {}", path.display()), &error))
}

/// NVRAM and TPM state at the point's cut: (name, content).
pub fn small_files(store: &Store, point: DeltaId) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let prefix = format!("{point}.");
    let fail =
        |error: std::io::Error| Failure::internal(&format!("read {}", store.folder().display()), &error);
    let mut files = vec![];
    for entry in std::fs::read_dir(store.folder()).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(&prefix).filter(|rest| *rest != DOMAIN_XML) else { continue };
        if entry.file_type().map_err(fail)?.is_file() {
            files.push((rest.to_owned(), std::fs::read(entry.path()).map_err(fail)?));
        }
    }
    Ok(files)
}

/// Where an interrupted transfer of `delta` can go on.
pub fn transfer_mark(catalog: &Catalog, vm: VmId, delta: DeltaId) -> Option<layers::Mark> {
    #[derive(Deserialize)]
    struct Progress {
        mark: layers::Mark,
    }
    let row = catalog.receiving(vm, delta).ok().flatten()?;
    serde_json::from_str::<Progress>(&row.json).ok().map(|progress| progress.mark)
}
