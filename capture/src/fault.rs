//! The seam through which tests stop a step midway, as a crash would: production never sets it.

use crate::error::{CaptureError, Result};
use std::sync::Arc;

/// Asked at each named step; `true` stops there.
#[derive(Clone, Default)]
pub struct Fault(Option<Arc<dyn Fn(&'static str) -> bool + Send + Sync>>);

impl Fault {
    pub fn new(stops: impl Fn(&'static str) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(stops)))
    }

    pub(crate) fn at(&self, step: &'static str) -> Result<()> {
        match &self.0 {
            Some(stops) if stops(step) => Err(CaptureError::Stopped { step }),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Fault(set)" } else { "Fault(none)" })
    }
}
