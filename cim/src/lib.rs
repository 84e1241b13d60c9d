//! CIM itself: types and values, object paths, classes and their schema, MOF, embedded instances, WQL, and the
//! [`Provider`] that a protocol serves and a namespace's owner writes.
//!
//! It knows no protocol and no particular schema. Sources: DSP0004 (model, MOF, datetime), DSP0200 and DSP0201
//! (operations, status codes, XML forms), DSP0207 (WBEM URIs), and for WQL, object paths and embedded texts what
//! Windows' WMI documents and its clients send.

mod class;
mod datetime;
pub mod embedded;
mod error;
mod instance;
pub mod memory;
pub mod mof;
mod name;
mod path;
mod provider;
pub mod query;
mod schema;
mod text;
mod union;
mod value;
pub mod walk;
pub mod wql;
pub mod xml;

pub use class::{Class, ClassView, Flavor, Method, Parameter, Property, Qualifier, QualifierDecl, Scope};
pub use datetime::{DateTime, Interval, Microseconds, Timestamp};
pub use error::{Error, Status};
pub use instance::Instance;
pub use name::{Name, Namespace};
pub use path::{Keys, ObjectPath};
pub use provider::{AssociationFilter, Caller, InstanceStream, MethodResult, Provider, Role, Served};
pub use schema::{Schema, SchemaError};
pub use text::{Location, ParseError};
pub use union::Union;
pub use value::{CimType, Value, ValueError};
