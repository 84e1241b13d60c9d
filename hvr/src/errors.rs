//! Failures in CIM's words: return code, status code, and `Msvm_Error`.

use crate::schema::V2;
use cim::{Instance, ObjectPath, Status, Value};
use service::api::{ErrorKind, Failure, Issue};

/// What a kind of failure is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// Of the replication service's methods.
    pub return_code: u32,
    pub status: Status,
    /// `CIM_Error.ErrorType`.
    pub error_type: u16,
}

/// The one table.
pub fn codes(failure: &Failure) -> Codes {
    let (status, error_type) = match failure.kind {
        ErrorKind::Failed => (Status::Failed, SOFTWARE),
        ErrorKind::InvalidParameter | ErrorKind::Configuration => (Status::InvalidParameter, OTHER),
        ErrorKind::NotFound => (Status::NotFound, OTHER),
        ErrorKind::InvalidState | ErrorKind::WrongHost | ErrorKind::InUse => (Status::Failed, OTHER),
        ErrorKind::AlreadyExists => (Status::AlreadyExists, OTHER),
        ErrorKind::PeerUnreachable
        | ErrorKind::DaemonUnavailable
        | ErrorKind::Timeout
        | ErrorKind::StatusUnknown => (Status::Failed, COMMUNICATIONS),
        ErrorKind::AccessDenied => (Status::AccessDenied, SECURITY),
        ErrorKind::NoSpace | ErrorKind::NoMemory => (Status::Failed, UNAVAILABLE_RESOURCE),
        ErrorKind::Cancelled => (Status::Failed, OTHER),
        ErrorKind::NotSupported | ErrorKind::IncompatiblePeer => (Status::NotSupported, UNSUPPORTED),
        ErrorKind::Corrupt => (Status::Failed, SOFTWARE),
    };
    let return_code = match failure.id.as_str() {
        // The system that was named is not there; 32779 is for files and points.
        UNKNOWN_VM => SYSTEM_NOT_AVAILABLE,
        _ => failure.kind.return_code(),
    };
    Codes { return_code, status, error_type }
}

/// The id of the failure that no such VM is here.
pub const UNKNOWN_VM: &str = "vm-unknown";

const SYSTEM_NOT_AVAILABLE: u32 = 32777;

// `CIM_Error.ErrorType`.
const OTHER: u16 = 1;
const COMMUNICATIONS: u16 = 2;
const SOFTWARE: u16 = 4;
const SECURITY: u16 = 7;
const UNAVAILABLE_RESOURCE: u16 = 9;
const UNSUPPORTED: u16 = 10;

/// `CIM_Error.ErrorSourceFormat`: an object path.
const OBJECT_HANDLE: u16 = 2;

/// A failure as `Msvm_Error`; `source` is what it happened to.
pub fn error(failure: &Failure, source: &ObjectPath) -> Instance {
    let Codes { status, error_type, .. } = codes(failure);
    let severity = if failure.kind == ErrorKind::Corrupt { 5 } else { 4 };
    message(&failure.id, &failure.message, failure.hint.as_deref(), severity, source)
        .with("ErrorType", error_type)
        .with("OtherErrorType", (error_type == OTHER).then(|| failure.id.clone()))
        .with("CIMStatusCode", status.code())
        .with("CIMStatusCodeDescription", status.name())
}

/// An entry of a relationship's health as `Msvm_Error`.
pub fn issue(issue: &Issue, source: &ObjectPath) -> Instance {
    let severity = match issue.severity {
        model::Health::Critical => 4,
        model::Health::Warning => 3,
        model::Health::Normal | model::Health::NotApplicable => 2,
    };
    message(&issue.id, &issue.message, issue.hint.as_deref(), severity, source)
        .with("ErrorType", OTHER)
        .with("OtherErrorType", issue.id.as_str())
}

fn message(id: &str, message: &str, hint: Option<&str>, severity: u16, source: &ObjectPath) -> Instance {
    let source = ObjectPath { namespace: Some(V2.into()), ..source.clone() };
    Instance::new("Msvm_Error")
        .with("OwningEntity", "Relevo")
        .with("MessageID", id)
        .with("Message", message)
        .with("PerceivedSeverity", severity)
        .with("ProbableCause", 0u16)
        .with("RecommendedActions", hint.map_or(Value::Null, |hint| vec![hint].into()))
        .with("ErrorSource", source.to_string())
        .with("ErrorSourceFormat", OBJECT_HANDLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names, schema};
    use expect_test::expect;

    #[test]
    fn every_kind_of_failure_has_its_codes() {
        let rows: Vec<String> = ErrorKind::ALL
            .iter()
            .map(|kind| {
                let codes = codes(&Failure::new(*kind, "x", ""));
                format!("{kind:?}: {} {} {}", codes.return_code, codes.status.name(), codes.error_type)
            })
            .collect();
        expect![[r#"
            Failed: 32768 CIM_ERR_FAILED 4
            InvalidParameter: 32773 CIM_ERR_INVALID_PARAMETER 1
            NotFound: 32779 CIM_ERR_NOT_FOUND 1
            InvalidState: 32775 CIM_ERR_FAILED 1
            WrongHost: 32775 CIM_ERR_FAILED 1
            AlreadyExists: 32775 CIM_ERR_ALREADY_EXISTS 1
            PeerUnreachable: 32777 CIM_ERR_FAILED 2
            AccessDenied: 32769 CIM_ERR_ACCESS_DENIED 7
            NoSpace: 32768 CIM_ERR_FAILED 9
            Cancelled: 32768 CIM_ERR_FAILED 1
            DaemonUnavailable: 32777 CIM_ERR_FAILED 2
            Configuration: 32773 CIM_ERR_INVALID_PARAMETER 1
            NotSupported: 32770 CIM_ERR_NOT_SUPPORTED 10
            Timeout: 32772 CIM_ERR_FAILED 2
            InUse: 32774 CIM_ERR_FAILED 1
            IncompatiblePeer: 32770 CIM_ERR_NOT_SUPPORTED 10
            Corrupt: 32768 CIM_ERR_FAILED 4
            StatusUnknown: 32771 CIM_ERR_FAILED 2
            NoMemory: 32778 CIM_ERR_FAILED 9"#]]
        .assert_eq(&rows.join("\n"));
        let unknown = Failure::new(ErrorKind::NotFound, UNKNOWN_VM, "");
        assert_eq!(codes(&unknown).return_code, 32777);
    }

    #[test]
    fn an_error_tells_what_happened_to_what_and_what_to_do() {
        let schema = schema::schema(schema::V2);
        let failure = Failure::new(ErrorKind::InUse, "busy", "web: revert is under way").hint("wait");
        let written = cim::embedded::write(&error(&failure, &names::computer_system("a.example")), &schema);
        let read = cim::embedded::read_as(&written, &schema).unwrap();
        assert_eq!(read.text("Message"), Some("web: revert is under way"));
        assert_eq!(read.get("RecommendedActions"), Some(&vec!["wait"].into()));
        assert!(read.text("ErrorSource").unwrap().ends_with("Name=\"a.example\""));
    }
}
