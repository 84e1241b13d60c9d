//! Faults: what went wrong, and how each protocol that a client may understand spells it (DSP0226, clause 14; DSP0227,
//! clause 10; MS-WSMV, 2.2.4.43).
//!
//! A fault carries DMTF's subcode and detail, Windows' `WSManFault` with its code, and where a CIM operation was
//! refused an `MSFT_WmiError` with the CIM status.

use crate::ns;
use cim::Status;
use cim::xml::escape;
use std::fmt::{self, Write};

/// A refused request.
#[derive(Debug)]
pub struct Fault {
    pub kind: Kind,
    /// In words, for people.
    pub reason: String,
    /// The CIM operation's own refusal.
    pub cim: Option<Box<cim::Error>>,
}

/// The faults that we give, each a row of [`Kind::row`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    AccessDenied,
    ActionNotSupported,
    AlreadyExists,
    CannotProcessFilter,
    CharacterSet,
    Concurrency,
    DeliveryModeUnavailable,
    DuplicateSelectors,
    EndpointUnavailable,
    FilterDialectUnavailable,
    InsufficientSelectors,
    Internal,
    InvalidBookmark,
    InvalidEnumerationContext,
    InvalidEventingMessage,
    InvalidExpirationTime,
    InvalidHeader,
    InvalidNamespace,
    InvalidParameterName,
    InvalidParameterType,
    InvalidRepresentation,
    InvalidResource,
    InvalidSelectorValue,
    InvalidXml,
    MaxEnvelopeSizeExceeded,
    MinimumEnvelopeLimit,
    MissingHeader,
    MissingParameter,
    /// Namespace and name of the header.
    MustUnderstand(String, String),
    NotFound,
    OptionNotSupported,
    QuotaLimit,
    TimedOut,
    UnableToRenew,
    UnexpectedSelectors,
    /// The last part of the detail's URI, such as `FragmentLevelAccess`.
    Unsupported(&'static str),
    VersionMismatch,
    WrongRepresentation,
}

struct Row {
    subcode: &'static str,
    detail: &'static str,
    /// Of wsmerror.h, or a Win32 error.
    windows: u32,
}

impl Kind {
    #[rustfmt::skip]
    fn row(&self) -> Row {
        let (subcode, detail, windows) = match self {
            Kind::AccessDenied => ("w:AccessDenied", "", 5),
            Kind::ActionNotSupported => ("a:ActionNotSupported", "ActionMismatch", 0x8033_8013),
            Kind::AlreadyExists => ("w:AlreadyExists", "", 0x8033_8033),
            Kind::CannotProcessFilter => ("n:CannotProcessFilter", "", 0x8033_801a),
            Kind::CharacterSet => ("w:EncodingLimit", "CharacterSet", 0x8033_8035),
            Kind::Concurrency => ("w:Concurrency", "", 0x8033_8032),
            Kind::DeliveryModeUnavailable => ("e:DeliveryModeRequestedUnavailable", "", 0x8033_801e),
            Kind::DuplicateSelectors => ("w:InvalidSelectors", "DuplicateSelectors", 0x8033_805f),
            Kind::EndpointUnavailable => ("a:EndpointUnavailable", "", 0x8033_8014),
            Kind::FilterDialectUnavailable => ("n:FilterDialectRequestedUnavailable", "", 0x8033_8019),
            Kind::InsufficientSelectors => ("w:InvalidSelectors", "InsufficientSelectors", 0x8033_805a),
            Kind::Internal => ("w:InternalError", "", 1359),
            Kind::InvalidBookmark => ("w:InvalidBookmark", "InvalidFormat", 0x8033_8038),
            Kind::InvalidEnumerationContext => ("n:InvalidEnumerationContext", "", 0x8033_801b),
            Kind::InvalidEventingMessage => ("e:InvalidMessage", "", 0x8033_8025),
            Kind::InvalidExpirationTime => ("e:InvalidExpirationTime", "", 0x8033_801f),
            Kind::InvalidHeader => ("a:InvalidMessageInformationHeader", "", 0x8033_800f),
            Kind::InvalidNamespace => ("a:DestinationUnreachable", "InvalidNamespace", 0x8033_8000),
            Kind::InvalidParameterName => ("w:InvalidParameter", "InvalidName", 0x8033_8055),
            Kind::InvalidParameterType => ("w:InvalidParameter", "TypeMismatch", 0x8033_8054),
            Kind::InvalidRepresentation => ("x:InvalidRepresentation", "InvalidValues", 0x8033_8056),
            Kind::InvalidResource => ("a:DestinationUnreachable", "InvalidResourceURI", 0x8033_8000),
            Kind::InvalidSelectorValue => ("w:InvalidSelectors", "TypeMismatch", 0x8033_805c),
            Kind::InvalidXml => ("w:SchemaValidationError", "", 0x8033_8041),
            Kind::MaxEnvelopeSizeExceeded => ("w:EncodingLimit", "MaxEnvelopeSizeExceeded", 0x8033_8047),
            Kind::MinimumEnvelopeLimit => ("w:EncodingLimit", "MinimumEnvelopeLimit", 0x8033_8035),
            Kind::MissingHeader => ("a:MessageInformationHeaderRequired", "", 0x8033_8011),
            Kind::MissingParameter => ("w:InvalidParameter", "MissingValues", 0x8033_803a),
            Kind::MustUnderstand(..) => ("", "", 0x8033_8010),
            Kind::NotFound => ("a:DestinationUnreachable", "InvalidResourceURI", 0x8033_8000),
            Kind::OptionNotSupported => ("w:InvalidOptions", "NotSupported", 0x8033_8051),
            Kind::QuotaLimit => ("w:QuotaLimit", "", 0x8033_803f),
            Kind::TimedOut => ("w:TimedOut", "", 0x8033_8029),
            Kind::UnableToRenew => ("e:UnableToRenew", "", 0x8033_8024),
            Kind::UnexpectedSelectors => ("w:InvalidSelectors", "UnexpectedSelectors", 0x8033_805b),
            Kind::Unsupported(feature) => ("w:UnsupportedFeature", *feature, 0x8033_8042),
            Kind::VersionMismatch => ("", "", 0x8033_800d),
            Kind::WrongRepresentation => ("x:InvalidRepresentation", "InvalidNamespace", 0x8033_8058),
        };
        Row { subcode, detail, windows }
    }

    /// The code of SOAP, without prefix.
    fn code(&self) -> &'static str {
        match self {
            Kind::MustUnderstand(..) => "MustUnderstand",
            Kind::VersionMismatch => "VersionMismatch",
            Kind::TimedOut | Kind::Internal | Kind::EndpointUnavailable => "Receiver",
            _ => "Sender",
        }
    }
}

impl Fault {
    pub fn new(kind: Kind, reason: impl fmt::Display) -> Fault {
        Fault { kind, reason: reason.to_string(), cim: None }
    }

    /// A CIM operation's refusal as this kind of fault.
    pub fn of(kind: Kind, error: cim::Error) -> Fault {
        Fault { kind, reason: error.message.clone(), cim: Some(Box::new(error)) }
    }

    /// What is wrong with an instance in a Put or a Create.
    pub fn representation(error: cim::Error) -> Fault {
        match error.status {
            Status::NoSuchProperty | Status::TypeMismatch | Status::InvalidParameter => {
                Fault::of(Kind::InvalidRepresentation, error)
            }
            _ => Fault::from(error),
        }
    }

    /// The URI of the `Action` header.
    pub fn action(&self) -> String {
        let namespace = match self.kind.row().subcode.split(':').next() {
            Some("w") => "http://schemas.dmtf.org/wbem/wsman/1/wsman",
            Some("n") => ns::ENUMERATION,
            Some("x") => ns::TRANSFER,
            Some("e") => ns::EVENTING,
            _ => ns::ADDRESSING,
        };
        format!("{namespace}/fault")
    }

    /// A header block that belongs to the fault, or nothing.
    pub fn header(&self) -> String {
        match &self.kind {
            Kind::MustUnderstand(namespace, name) => {
                format!("<s:NotUnderstood qname=\"q:{}\" xmlns:q=\"{}\"/>", escape(name), escape(namespace))
            }
            _ => String::new(),
        }
    }

    /// The content of the body. `host` is the machine that Windows names.
    pub fn body(&self, host: &str) -> String {
        let row = self.kind.row();
        let reason = escape(&self.reason);
        let mut xml = format!("<s:Fault><s:Code><s:Value>s:{}</s:Value>", self.kind.code());
        if !row.subcode.is_empty() {
            _ = write!(xml, "<s:Subcode><s:Value>{}</s:Value></s:Subcode>", row.subcode);
        }
        _ = write!(
            xml,
            "</s:Code><s:Reason><s:Text xml:lang=\"en-US\">{reason}</s:Text></s:Reason><s:Detail>"
        );
        if !row.detail.is_empty() {
            _ = write!(xml, "<w:FaultDetail>{}{}</w:FaultDetail>", ns::FAULT_DETAIL, row.detail);
        }
        match self.kind {
            Kind::FilterDialectUnavailable => {
                for dialect in [ns::WQL, ns::SELECTOR_FILTER, ns::ASSOCIATION_FILTER] {
                    _ = write!(xml, "<n:SupportedDialect>{dialect}</n:SupportedDialect>");
                }
            }
            Kind::DeliveryModeUnavailable => {
                _ = write!(xml, "<e:SupportedDeliveryMode>{}</e:SupportedDeliveryMode>", ns::DELIVERY_PULL);
            }
            _ => {}
        }
        _ = write!(
            xml,
            "<f:WSManFault xmlns:f=\"{}\" Code=\"{}\" Machine=\"{}\"><f:Message>",
            ns::FAULT,
            row.windows,
            escape(host)
        );
        match &self.cim {
            Some(_) => _ = write!(xml, "<f:ProviderFault provider=\"CIM\">{reason}</f:ProviderFault>"),
            None => xml.push_str(&reason),
        }
        xml.push_str("</f:Message></f:WSManFault>");
        if let Some(error) = &self.cim {
            write_cim_error(&mut xml, error);
        }
        xml + "</s:Detail></s:Fault>"
    }
}

/// The CIM error of DSP0227 in the class that Windows uses: PowerShell shows `CIMStatusCode` and `MessageID`.
fn write_cim_error(xml: &mut String, error: &cim::Error) {
    const CLASS: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/MSFT_WmiError";
    let code = windows_code(error.status);
    let properties = [
        ("CIMStatusCode", error.status.code().to_string()),
        ("ErrorType", "0".to_owned()),
        ("Message", escape(&error.message)),
        ("MessageID", format!("HRESULT 0x{code:08x}")),
        ("OwningEntity", "Microsoft Corporation".to_owned()),
        ("PerceivedSeverity", "2".to_owned()),
        ("ProbableCause", "0".to_owned()),
        ("ProbableCauseDescription", error.status.name().to_owned()),
        ("error_Category", "0".to_owned()),
        ("error_Code", code.to_string()),
        ("error_Type", "HRESULT".to_owned()),
        ("error_WindowsErrorMessage", escape(&error.message)),
    ];
    _ = write!(
        xml,
        "<p:MSFT_WmiError b:IsCIM_Error=\"true\" xmlns:p=\"{CLASS}\" xsi:type=\"p:MSFT_WmiError_Type\">"
    );
    for (name, value) in properties {
        _ = write!(xml, "<p:{name}>{value}</p:{name}>");
    }
    xml.push_str("</p:MSFT_WmiError>");
}

/// What WMI calls the status (wbemcli.h); for an unknown namespace what virt-who falls back on.
fn windows_code(status: Status) -> u32 {
    match status {
        Status::AccessDenied => 0x8004_1003,
        Status::InvalidNamespace => 0x8033_801a,
        Status::InvalidParameter => 0x8004_1008,
        Status::InvalidClass => 0x8004_1010,
        Status::NotFound => 0x8004_1002,
        Status::NotSupported => 0x8004_100c,
        Status::AlreadyExists => 0x8004_1019,
        Status::NoSuchProperty => 0x8004_1031,
        Status::TypeMismatch => 0x8004_1005,
        Status::QueryLanguageNotSupported => 0x8004_1018,
        Status::InvalidQuery => 0x8004_1017,
        Status::MethodNotAvailable => 0x8004_1055,
        Status::MethodNotFound => 0x8004_102e,
        Status::ServerLimitsExceeded => 0x8004_106c,
        Status::ServerIsShuttingDown => 0x8004_1033,
        _ => 0x8004_1001,
    }
}

impl From<cim::Error> for Fault {
    fn from(error: cim::Error) -> Fault {
        let kind = match error.status {
            Status::AccessDenied => Kind::AccessDenied,
            Status::InvalidNamespace => Kind::InvalidNamespace,
            Status::InvalidParameter | Status::NoSuchProperty => Kind::InvalidParameterName,
            Status::InvalidClass => Kind::InvalidResource,
            Status::NotFound => Kind::NotFound,
            Status::NotSupported | Status::MethodNotAvailable | Status::MethodNotFound => {
                Kind::ActionNotSupported
            }
            Status::AlreadyExists => Kind::AlreadyExists,
            Status::TypeMismatch => Kind::InvalidParameterType,
            Status::QueryLanguageNotSupported => Kind::FilterDialectUnavailable,
            Status::InvalidQuery => Kind::CannotProcessFilter,
            Status::InvalidEnumerationContext => Kind::InvalidEnumerationContext,
            Status::ServerLimitsExceeded => Kind::QuotaLimit,
            Status::ServerIsShuttingDown => Kind::EndpointUnavailable,
            _ => Kind::Internal,
        };
        Fault::of(kind, error)
    }
}
