//! The step that takes another set of disks into the primary's records. The replica learns of it from the deltas.

use super::{StepContext, recoverable};
use crate::host::{DiskRecord, document};
use engine::StepFailure;

pub fn take(c: &StepContext) -> Result<(), StepFailure> {
    let (host, vm) = (&c.host, c.record.vm);
    let wanted: Option<Vec<DiskRecord>> =
        host.document(vm, document::DISKS).map_err(|failure| recoverable(&failure))?;
    let Some(wanted) = wanted else { return Ok(()) };
    host.save_disks(vm, &wanted)
        .and_then(|()| host.drop_document(vm, document::DISKS))
        .map_err(|failure| recoverable(&failure))
}
