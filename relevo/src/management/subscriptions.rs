//! The subscriptions of management clients, kept over a restart in a file of their own.

use cimxml::interop::Store;
use std::{io, path::PathBuf};

/// A JSON array of instances as XML text.
pub struct File(pub PathBuf);

impl Store for File {
    fn load(&self) -> io::Result<Vec<String>> {
        match std::fs::read(&self.0) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            Err(error) => Err(error),
        }
    }

    fn save(&self, instances: &[String]) -> io::Result<()> {
        model::durable::replace_file(&self.0, &serde_json::to_vec(instances)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_last_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = File(folder.path().join("subscriptions.json"));
        assert_eq!(file.load().unwrap(), Vec::<String>::new());
        file.save(&["<INSTANCE/>".to_owned()]).unwrap();
        file.save(&["<INSTANCE A=\"1\"/>".to_owned(), "x".to_owned()]).unwrap();
        assert_eq!(file.load().unwrap(), ["<INSTANCE A=\"1\"/>", "x"]);
        std::fs::write(&file.0, "{").unwrap();
        assert!(file.load().is_err(), "a damaged file is not an empty one");
    }
}
