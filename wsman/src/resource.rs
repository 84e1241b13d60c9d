//! Resource URIs: which class in which namespace, and in which of the families that clients use (MS-WSMV,
//! 3.1.4.1.1; DSP0230).

use crate::fault::{Fault, Kind};
use cim::{Name, Namespace};

/// How a client spells class URIs; the answer spells them the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The namespace in the URI: WMI's clients.
    Wmi,
    /// The namespace in the selector `__cimnamespace`: DMTF, and Windows' newer clients.
    Dmtf,
    /// As [`Family::Dmtf`], as Microsoft's first clients of that kind spelt it.
    MicrosoftDmtf,
}

/// What a resource URI names.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// A class, or none where the URI ends in `*`. The namespace is that of the URI.
    Instances { family: Family, namespace: Option<Namespace>, class: Option<Name> },
    /// Class declarations; the selectors say which.
    Declarations,
    /// What WinRM tells about itself.
    Config,
}

const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/";
const DMTF: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/";
const DMTF_ALL: &str = "http://schemas.dmtf.org/wbem/wscim/1/*";
const MICROSOFT_DMTF: &str = "http://schemas.microsoft.com/wbem/wscim/1/cim-schema/2/";
const DECLARATIONS: &str = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*";
/// Class declarations as XML schemas.
const XML_SCHEMAS: &str = "http://schemas.dmtf.org/wbem/ws-cim/1/cim-schema/2/";

impl Resource {
    /// Reads a URI, in whatever case.
    pub fn parse(uri: &str) -> Result<Resource, Fault> {
        let refuse = |kind, what: &str| Err(Fault::new(kind, format_args!("{what}: {uri}")));
        let after = |prefix: &str| {
            let found = uri.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix));
            found.then(|| &uri[prefix.len()..])
        };
        let class = |text: &str| match text {
            "*" => Ok(None),
            _ if is_identifier(text) => Ok(Some(Name::from(text))),
            _ => Err(Fault::new(
                Kind::InvalidResource,
                format_args!("the resource URI does not end in the name of a class: {uri}"),
            )),
        };
        if uri.eq_ignore_ascii_case(DECLARATIONS) {
            return Ok(Resource::Declarations);
        }
        if uri.eq_ignore_ascii_case(crate::ns::CONFIG) {
            return Ok(Resource::Config);
        }
        if uri.eq_ignore_ascii_case(DMTF_ALL) {
            return Ok(Resource::Instances { family: Family::Dmtf, namespace: None, class: None });
        }
        if let Some(rest) = after(WMI) {
            let Some((namespace, last)) = rest.rsplit_once('/') else {
                return refuse(Kind::InvalidResource, "the resource URI names no namespace");
            };
            let namespace = Some(Namespace::from(namespace));
            return Ok(Resource::Instances { family: Family::Wmi, namespace, class: class(last)? });
        }
        for (family, prefix) in [(Family::Dmtf, DMTF), (Family::MicrosoftDmtf, MICROSOFT_DMTF)] {
            if let Some(last) = after(prefix) {
                return Ok(Resource::Instances { family, namespace: None, class: class(last)? });
            }
        }
        if after(XML_SCHEMAS).is_some() {
            return refuse(Kind::Unsupported("ResourceURI"), "class declarations are given as CIM-XML only");
        }
        refuse(Kind::InvalidResource, "there is no such resource")
    }
}

impl Family {
    /// The URI of a class, which is the XML namespace of its elements, too.
    pub fn class_uri(self, namespace: &Namespace, class: &Name) -> String {
        match self {
            Family::Wmi => format!("{WMI}{namespace}/{class}"),
            Family::Dmtf => format!("{DMTF}{class}"),
            Family::MicrosoftDmtf => format!("{MICROSOFT_DMTF}{class}"),
        }
    }
}

fn is_identifier(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    starts && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_of_uris_are_told_apart() {
        let instances = |uri: &str| match Resource::parse(uri).unwrap() {
            Resource::Instances { family, namespace, class } => {
                (family, namespace.map(|it| it.to_string()), class.map(|it| it.to_string()))
            }
            other => panic!("{other:?}"),
        };
        let some = |text: &str| Some(text.to_owned());
        let wmi = "HTTP://schemas.microsoft.com/wbem/WSMAN/1/wmi/root/virtualization/v2/Msvm_X";
        assert_eq!(instances(wmi), (Family::Wmi, some("root/virtualization/v2"), some("Msvm_X")));
        assert_eq!(instances(&wmi.replace("Msvm_X", "*")).2, None);
        assert_eq!(instances("http://schemas.dmtf.org/wbem/wscim/1/*"), (Family::Dmtf, None, None));
        assert_eq!(
            instances("http://schemas.microsoft.com/wbem/wscim/1/cim-schema/2/X"),
            (Family::MicrosoftDmtf, None, some("X"))
        );
        assert_eq!(Resource::parse(DECLARATIONS).unwrap(), Resource::Declarations);
        for uri in ["", "urn:x", &format!("{WMI}X"), &format!("{DMTF}X Y"), DMTF, &format!("{DMTF}é/")] {
            assert_eq!(Resource::parse(uri).unwrap_err().kind, Kind::InvalidResource, "{uri}");
        }
    }
}
