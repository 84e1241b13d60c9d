//! Carrying out the engine's steps: each idempotent, each in the file of its family. A step gets a copy of the
//! record as it was persisted, and answers with a result or a classified failure.

mod ask;
mod disks;
mod domain;
mod forward;
mod inplace;
mod recover;
mod store;
pub mod takeover;
mod turn;

pub use ask::{ask, ask_host, operate, target};
pub use inplace::{own_changes, record_peer_changes};
pub use recover::{recover, recover_tracking};
pub use store::{domain_xml, domain_xml_path, small_files, transfer_mark};
pub use turn::{Trust, hashes, receiving_mark};

use crate::{
    api::{ErrorKind, Failure, error::chain},
    host::Host,
    jobs::Progress,
    owner::blocking,
};
use capture::CaptureError;
use engine::{Relationship, Step, StepFailure, StepResult};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub struct StepContext {
    pub host: Arc<Host>,
    pub record: Relationship,
    pub progress: Arc<Progress>,
    pub cancel: CancellationToken,
}

pub type StepOutcome = Result<StepResult, StepFailure>;

/// Carries one step out.
pub async fn run(context: StepContext, step: Step) -> StepOutcome {
    match step {
        Step::TakeDisks => local(context, disks::take).await,
        Step::Cut { delta, base, how } => turn::cut(context, delta, base, how).await,
        Step::Ship { delta } => turn::ship(context, delta).await,
        Step::Export { delta } => turn::export(context, delta).await,
        Step::Settle { delta } => turn::settle(context, delta).await,
        Step::Abandon { delta } => turn::abandon(context, delta).await,
        Step::SendPoint { point, base } => turn::send_point(context, point, base).await,
        Step::StopGuest { force } => local(context, move |c| domain::stop_guest(c, force)).await,
        Step::DestroyVm => local(context, domain::destroy).await,
        Step::Undefine => local(context, domain::undefine).await,
        Step::DefineOwn => local(context, domain::define_own).await,
        Step::StartVm => local(context, domain::start).await,
        Step::ResumeVm => local(context, domain::resume).await,
        Step::MakeOverlay { point, overlay } => {
            blocking(move || takeover::make_overlay(&context, point, overlay)).await
        }
        Step::DefineOverlay => local(context, takeover::define_overlay).await,
        Step::Track => local(context, takeover::track).await,
        Step::DropOverlay { overlay } => local(context, move |c| takeover::drop_overlay(c, overlay)).await,
        Step::RecordLists => local(context, takeover::record_lists).await,
        Step::HidePoints => local(context, takeover::hide_points).await,
        Step::Promote => local(context, takeover::promote).await,
        Step::Flatten { .. } => blocking(move || takeover::flatten(&context)).await,
        Step::Rehash { id } => local(context, move |c| inplace::rehash(c, id)).await,
        Step::Adopt { id } => local(context, move |c| inplace::adopt(c, id)).await,
        Step::TellRelease => ask::tell_release(context).await,
        Step::TellWithdraw { instead } => ask::tell_withdraw(context, instead).await,
        Step::AskPrepare { force, keep } => ask::prepare(context, force, keep).await,
        Step::AskFailover { start } => ask::fail_over(context, start).await,
        Step::AskSeed { id } => ask::seed(context, id).await,
        Step::AskYield => ask::yield_to_us(context).await,
        Step::AskFeed { base, point } => ask::feed(context, base, point).await,
        Step::Set(_)
        | Step::Become(_)
        | Step::Claim(_)
        | Step::Take
        | Step::Release(_)
        | Step::Reclaim(_)
        | Step::Repeer { .. } => {
            Err(StepFailure::Fatal(format!("{} is not carried out by the host", step.name())))
        }
    }
}

async fn local(
    context: StepContext,
    work: impl FnOnce(&StepContext) -> Result<(), StepFailure> + Send + 'static,
) -> StepOutcome {
    blocking(move || work(&context)).await.map(|()| StepResult::Plain)
}

/// What an operator has to mend, or what mends itself: worth another try.
fn recoverable(failure: &Failure) -> StepFailure {
    match failure.kind {
        ErrorKind::PeerUnreachable => StepFailure::Unreachable(failure.message.clone()),
        _ => StepFailure::Recoverable(failure.message.clone()),
    }
}

fn hypervisor_failure(doing: &str, error: &hypervisor::Error) -> StepFailure {
    StepFailure::Recoverable(format!("cannot {doing}: {}", chain(error)))
}

fn capture_failure(error: &CaptureError) -> StepFailure {
    match error {
        CaptureError::SpoolFull { path, needed_bytes, free_bytes } => StepFailure::NoSpace(format!(
            "the spool {} lacks {} bytes: the cut needs {needed_bytes}, {free_bytes} are free",
            path.display(),
            needed_bytes.saturating_sub(*free_bytes)
        )),
        CaptureError::NotTracked { .. } | CaptureError::Shrunk { .. } | CaptureError::Disturbed { .. } => {
            StepFailure::ResyncNeeded(chain(error))
        }
        _ => StepFailure::Recoverable(chain(error)),
    }
}

fn layers_failure(doing: &str, error: &layers::LayersError) -> StepFailure {
    StepFailure::Recoverable(format!("cannot {doing}: {}", chain(error)))
}

fn internal(doing: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(ErrorKind::Failed, "failed", format!("cannot {doing}: {}", chain(error)))
}
