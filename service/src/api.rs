//! What can be asked of a host and what it answers: commands, views and errors as plain data. The command
//! line speaks these as JSON lines over the control socket; the management protocols map onto them.

pub mod command;
pub mod error;
pub mod view;

pub use command::{Command, FailoverKind, Request, SettingsChange};
pub use error::{ErrorKind, Failure};
pub use view::{
    AuthorizationView, DiskView, HostView, InterfaceView, Issue, JobState, JobView, PlanView, PointView,
    RelationshipView, Reply, Response, VerifyView, VmView,
};
