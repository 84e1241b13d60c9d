//! What an operation answers when it cannot be done: a CIM status code and a message in words (DSP0200, annex A).

use crate::{Instance, Name, Namespace, ObjectPath, ValueError};
use std::fmt;

macro_rules! statuses {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $name:literal;)+) => {
        /// CIM status codes with their numbers (DSP0200, annex A).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Status { $($(#[$doc])* $variant = $code,)+ }

        impl Status {
            /// The symbol of DSP0200, such as `CIM_ERR_NOT_FOUND`.
            pub fn name(self) -> &'static str {
                match self { $(Status::$variant => $name,)+ }
            }
        }
    };
}

statuses! {
    Failed = 1 "CIM_ERR_FAILED";
    AccessDenied = 2 "CIM_ERR_ACCESS_DENIED";
    InvalidNamespace = 3 "CIM_ERR_INVALID_NAMESPACE";
    InvalidParameter = 4 "CIM_ERR_INVALID_PARAMETER";
    InvalidClass = 5 "CIM_ERR_INVALID_CLASS";
    NotFound = 6 "CIM_ERR_NOT_FOUND";
    NotSupported = 7 "CIM_ERR_NOT_SUPPORTED";
    ClassHasChildren = 8 "CIM_ERR_CLASS_HAS_CHILDREN";
    ClassHasInstances = 9 "CIM_ERR_CLASS_HAS_INSTANCES";
    InvalidSuperclass = 10 "CIM_ERR_INVALID_SUPERCLASS";
    AlreadyExists = 11 "CIM_ERR_ALREADY_EXISTS";
    NoSuchProperty = 12 "CIM_ERR_NO_SUCH_PROPERTY";
    TypeMismatch = 13 "CIM_ERR_TYPE_MISMATCH";
    QueryLanguageNotSupported = 14 "CIM_ERR_QUERY_LANGUAGE_NOT_SUPPORTED";
    InvalidQuery = 15 "CIM_ERR_INVALID_QUERY";
    MethodNotAvailable = 16 "CIM_ERR_METHOD_NOT_AVAILABLE";
    MethodNotFound = 17 "CIM_ERR_METHOD_NOT_FOUND";
    NamespaceNotEmpty = 20 "CIM_ERR_NAMESPACE_NOT_EMPTY";
    InvalidEnumerationContext = 21 "CIM_ERR_INVALID_ENUMERATION_CONTEXT";
    InvalidOperationTimeout = 22 "CIM_ERR_INVALID_OPERATION_TIMEOUT";
    PullHasBeenAbandoned = 23 "CIM_ERR_PULL_HAS_BEEN_ABANDONED";
    PullCannotBeAbandoned = 24 "CIM_ERR_PULL_CANNOT_BE_ABANDONED";
    FilteredEnumerationNotSupported = 25 "CIM_ERR_FILTERED_ENUMERATION_NOT_SUPPORTED";
    ContinuationOnErrorNotSupported = 26 "CIM_ERR_CONTINUATION_ON_ERROR_NOT_SUPPORTED";
    ServerLimitsExceeded = 27 "CIM_ERR_SERVER_LIMITS_EXCEEDED";
    ServerIsShuttingDown = 28 "CIM_ERR_SERVER_IS_SHUTTING_DOWN";
    QueryFeatureNotSupported = 29 "CIM_ERR_QUERY_FEATURE_NOT_SUPPORTED";
}

impl Status {
    /// The number that goes over the wire.
    pub fn code(self) -> u32 {
        self as u32
    }
}

/// A refused operation: status, message, and `CIM_Error` instances where there is more to say.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub status: Status,
    pub message: String,
    pub details: Vec<Instance>,
}

impl Error {
    pub fn new(status: Status, message: impl fmt::Display) -> Error {
        Error { status, message: message.to_string(), details: vec![] }
    }

    pub fn failed(message: impl fmt::Display) -> Error {
        Error::new(Status::Failed, message)
    }

    pub fn invalid_parameter(message: impl fmt::Display) -> Error {
        Error::new(Status::InvalidParameter, message)
    }

    pub fn invalid_namespace(namespace: &Namespace) -> Error {
        Error::new(Status::InvalidNamespace, format_args!("there is no namespace {namespace}"))
    }

    pub fn invalid_class(namespace: &Namespace, class: &Name) -> Error {
        Error::new(Status::InvalidClass, format_args!("there is no class {class} in {namespace}"))
    }

    pub fn not_found(path: &ObjectPath) -> Error {
        Error::new(Status::NotFound, format_args!("there is no instance {path}"))
    }

    pub fn not_supported(what: impl fmt::Display) -> Error {
        Error::new(Status::NotSupported, format_args!("{what} is not supported"))
    }
}

impl From<ValueError> for Error {
    fn from(error: ValueError) -> Error {
        Error::new(Status::TypeMismatch, error)
    }
}
