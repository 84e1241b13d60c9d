//! Namespaces, actions and dialects, by the prefixes under which they are written.

/// s
pub const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
/// a
pub const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
/// x
pub const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
/// n
pub const ENUMERATION: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration";
/// e
pub const EVENTING: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing";
/// w
pub const WSMAN: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
/// p in headers; on bodies p is the class
pub const WSMV: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd";
/// b
pub const BINDING: &str = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd";
/// cim
pub const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/common";
/// xsi
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// f
pub const FAULT: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault";
/// cfg
pub const CONFIG: &str = "http://schemas.microsoft.com/wbem/wsman/1/config";

/// Clients write it in two ways (DSP0226 has the first).
pub const IDENTITY: [&str; 2] = [
    "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd",
    "http://schemas.dmtf.org/wbem/wsman/identify/1/wsmanidentity.xsd",
];

/// What the envelope declares. Clients look for these prefixes literally, and wsl copies parts of an answer into its
/// next request without them.
pub const PREFIXES: [(&str, &str); 10] = [
    ("s", SOAP),
    ("a", ADDRESSING),
    ("x", TRANSFER),
    ("n", ENUMERATION),
    ("e", EVENTING),
    ("w", WSMAN),
    ("p", WSMV),
    ("b", BINDING),
    ("cim", CIM),
    ("xsi", XSI),
];

pub const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";

pub const WQL: &str = "http://schemas.microsoft.com/wbem/wsman/1/WQL";
pub const SELECTOR_FILTER: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter";
pub const ASSOCIATION_FILTER: &str = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter";

pub const DELIVERY_PULL: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/Pull";

pub const FAULT_DETAIL: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/";
