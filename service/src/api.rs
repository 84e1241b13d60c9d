//! What can be asked of a host and what it answers: commands, views and errors as plain data. The command
//! line speaks these as JSON lines over the control socket; the management protocols map onto them.

pub mod command;
pub mod error;
pub mod view;

pub use command::{
    AdapterAddresses, Command, FailoverKind, FirstCopy, Request, ServiceChange, SettingsChange,
};
pub use engine::Window;
pub use error::{ErrorKind, Failure};
pub use view::{
    AuthorizationView, DiskView, DrillView, HostView, InterfaceView, IntervalView, Issue, JobState, JobView,
    PlanView, PointView, RelationshipView, Reply, Response, ScrubView, TransfersView, VerifyView, VmView,
};
