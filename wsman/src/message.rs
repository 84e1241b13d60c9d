//! A request's envelope: its header blocks as data, and the element in its body (DSP0226, clauses 5 to 7).

use crate::duration::parse_duration;
use crate::fault::{Fault, Kind};
use crate::ns;
use roxmltree::{Document, Node};

/// The smallest envelope that a client may ask for (DSP0226, R6.2-3).
const ENVELOPE_BYTES_MIN: usize = 8192;

/// What the header blocks say. Text is without the blanks around it, which clients pad it with.
#[derive(Debug, Default)]
pub struct Header {
    pub action: String,
    pub resource_uri: Option<String>,
    pub options: Vec<(String, String)>,
    pub max_envelope_bytes: Option<usize>,
    pub timeout_ms: Option<u64>,
    /// As in RFC 4646.
    pub locale: Option<String>,
    /// The property to which a Get is limited.
    pub fragment: Option<String>,
    pub wants_count: bool,
    /// Of the subscription.
    pub identifier: Option<String>,
    /// Blocks of `wsman.xsd` of Microsoft that come back as they are.
    pub echoed: Vec<(&'static str, String)>,
}

/// An envelope.
pub struct Message<'a, 'i> {
    pub header: Header,
    pub selectors: Option<Node<'a, 'i>>,
    /// The first element in the body.
    pub body: Option<Node<'a, 'i>>,
}

/// The headers that we act upon or may pass over, and that a client may therefore insist on.
const UNDERSTOOD: [(&str, &[&str]); 4] = [
    (ns::ADDRESSING, &["To", "Action", "MessageID", "ReplyTo", "FaultTo", "From", "RelatesTo"]),
    (
        ns::WSMAN,
        &[
            "ResourceURI",
            "SelectorSet",
            "OptionSet",
            "MaxEnvelopeSize",
            "OperationTimeout",
            "Locale",
            "FragmentTransfer",
            "RequestTotalItemsCountEstimate",
        ],
    ),
    (ns::WSMV, &["DataLocale", "ActivityId", "SessionId", "OperationID", "SequenceId"]),
    (ns::EVENTING, &["Identifier"]),
];

/// The `MessageID`, as far as one can be found.
pub fn message_id(document: &Document<'_>) -> Option<String> {
    let header = child(document.root_element(), ns::SOAP, "Header")?;
    child(header, ns::ADDRESSING, "MessageID").map(text).filter(|id| !id.is_empty())
}

/// The content of the body of an envelope, which may have no header.
pub fn body<'a, 'i>(document: &'a Document<'i>) -> Result<Option<Node<'a, 'i>>, Fault> {
    let envelope = document.root_element();
    if envelope.tag_name().name() != "Envelope" {
        let found = envelope.tag_name().name();
        return Err(Fault::new(Kind::InvalidXml, format_args!("expected a SOAP envelope, found {found}")));
    }
    if envelope.tag_name().namespace() != Some(ns::SOAP) {
        return Err(Fault::new(Kind::VersionMismatch, "the request is not SOAP 1.2"));
    }
    match child(envelope, ns::SOAP, "Body") {
        Some(body) => Ok(elements(body).next()),
        None => Err(Fault::new(Kind::InvalidXml, "the envelope has no body")),
    }
}

/// Reads the header blocks, and refuses those that we would have to understand and do not.
pub fn read<'a, 'i>(document: &'a Document<'i>) -> Result<Message<'a, 'i>, Fault> {
    let body = body(document)?;
    let missing = |name: &str| Fault::new(Kind::MissingHeader, format_args!("the header {name} is missing"));
    let blocks = child(document.root_element(), ns::SOAP, "Header").ok_or_else(|| missing("Action"))?;
    let mut header = Header::default();
    let mut selectors = None;
    for block in elements(blocks) {
        let name = block.tag_name().name();
        match block.tag_name().namespace().unwrap_or_default() {
            ns::ADDRESSING => read_addressing(&mut header, block, name)?,
            ns::WSMAN if name == "SelectorSet" => selectors = Some(block),
            ns::WSMAN => read_wsman(&mut header, block, name)?,
            ns::WSMV => {
                if let Some(name) =
                    ["ActivityId", "OperationID", "SequenceId"].into_iter().find(|it| *it == name)
                {
                    header.echoed.push((name, text(block)));
                }
            }
            ns::EVENTING if name == "Identifier" => header.identifier = Some(text(block)),
            _ => {}
        }
        refuse_unless_understood(block)?;
    }
    if header.action.is_empty() {
        return Err(missing("Action"));
    }
    message_id(document).ok_or_else(|| missing("MessageID"))?;
    Ok(Message { header, selectors, body })
}

fn refuse_unless_understood(block: Node<'_, '_>) -> Result<(), Fault> {
    let insists = block.attributes().any(|it| {
        it.name() == "mustUnderstand"
            && it.namespace() == Some(ns::SOAP)
            && matches!(it.value().trim(), "true" | "1")
    });
    let (namespace, name) = (block.tag_name().namespace().unwrap_or_default(), block.tag_name().name());
    let understood = UNDERSTOOD.iter().any(|(known, names)| *known == namespace && names.contains(&name));
    if insists && !understood {
        let kind = Kind::MustUnderstand(namespace.to_owned(), name.to_owned());
        return Err(Fault::new(kind, format_args!("the header {name} is not understood")));
    }
    Ok(())
}

fn read_addressing(header: &mut Header, block: Node<'_, '_>, name: &str) -> Result<(), Fault> {
    match name {
        "Action" => header.action = text(block),
        "ReplyTo" | "FaultTo" => {
            let address = child(block, ns::ADDRESSING, "Address").map(text).unwrap_or_default();
            if address != ns::ANONYMOUS {
                return Err(Fault::new(
                    Kind::Unsupported("AddressingMode"),
                    format_args!("answers go back over the same connection, not to {address:?}"),
                ));
            }
        }
        _ => {}
    }
    Ok(())
}

fn read_wsman(header: &mut Header, block: Node<'_, '_>, name: &str) -> Result<(), Fault> {
    let text = text(block);
    match name {
        "ResourceURI" => header.resource_uri = Some(text),
        "OptionSet" => header.options = read_options(block)?,
        "MaxEnvelopeSize" => {
            let bytes: usize = text.parse().map_err(|_| {
                Fault::new(
                    Kind::InvalidHeader,
                    format_args!("MaxEnvelopeSize is a number of bytes, not {text:?}"),
                )
            })?;
            if bytes < ENVELOPE_BYTES_MIN {
                return Err(Fault::new(
                    Kind::MinimumEnvelopeLimit,
                    format_args!("MaxEnvelopeSize is at least {ENVELOPE_BYTES_MIN}"),
                ));
            }
            header.max_envelope_bytes = Some(bytes);
        }
        "OperationTimeout" => {
            let timeout = parse_duration(&text).ok_or_else(|| {
                let what = format_args!("OperationTimeout is a duration such as PT60S, not {text:?}");
                Fault::new(Kind::Unsupported("OperationTimeout"), what)
            })?;
            header.timeout_ms = Some(timeout);
        }
        "Locale" => header.locale = attribute(block, "lang").map(str::to_owned),
        "FragmentTransfer" => header.fragment = Some(text),
        "RequestTotalItemsCountEstimate" => header.wants_count = true,
        _ => {}
    }
    Ok(())
}

/// Options by name, without prefix. One that must be complied with has to be one of ours.
fn read_options(set: Node<'_, '_>) -> Result<Vec<(String, String)>, Fault> {
    let mut options = vec![];
    for option in elements(set).filter(|it| it.tag_name().name() == "Option") {
        let full = attribute(option, "Name").unwrap_or_default().trim();
        let name = full.rsplit_once(':').map_or(full, |(_, name)| name);
        let insists = attribute(option, "MustComply").is_some_and(|it| matches!(it.trim(), "true" | "1"));
        if insists && !HONOURED_OPTIONS.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Err(Fault::new(Kind::OptionNotSupported, format_args!("there is no option {full}")));
        }
        options.push((name.to_owned(), text(option)));
    }
    Ok(options)
}

const HONOURED_OPTIONS: [&str; 6] = [
    "UsePreciseArrays",
    "__MIInstanceModifiedPropertiesList",
    "IncludeInheritanceHierarchy",
    "IncludeInheritedElements",
    "IncludeQualifiers",
    "IncludeClassOrigin",
];

impl Header {
    /// Whether a boolean option is set; none where the client does not say.
    pub fn flag(&self, name: &str) -> Option<bool> {
        let (_, value) = self.options.iter().find(|(own, _)| own.eq_ignore_ascii_case(name))?;
        Some(matches!(&*value.to_ascii_lowercase(), "" | "true" | "1"))
    }

    /// All values of an option.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let own = self.options.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        own.map(|(_, value)| value.as_str()).collect()
    }
}

pub fn elements<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

pub fn child<'a, 'i>(node: Node<'a, 'i>, namespace: &str, name: &str) -> Option<Node<'a, 'i>> {
    elements(node).find(|it| it.tag_name().namespace() == Some(namespace) && it.tag_name().name() == name)
}

/// The child of that name in any namespace of the protocol: clients write what belongs to WS-Management into
/// WS-Enumeration, and the other way round.
pub fn protocol_child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    let known = |it: &Node<'_, '_>| {
        let namespace = it.tag_name().namespace();
        ns::PREFIXES.iter().any(|(_, known)| Some(*known) == namespace)
    };
    elements(node).find(|it| it.tag_name().name() == name && known(it))
}

/// An attribute by its local name: Windows' clients do not always bind the prefix that they mean.
pub fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes().find(|it| it.name() == name).map(|it| it.value())
}

/// The text of an element, without blanks around it.
pub fn text(node: Node<'_, '_>) -> String {
    raw_text(node).trim().to_owned()
}

/// The text of an element, CDATA sections included.
pub fn raw_text(node: Node<'_, '_>) -> String {
    node.children().filter(Node::is_text).filter_map(|it| it.text()).collect()
}
