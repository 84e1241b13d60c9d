//! Identify: what speaks here (DSP0226, clause 11). The one request that needs no user.

use crate::fault::Fault;
use crate::message;
use crate::ns;
use crate::settings::Settings;
use cim::xml::escape;
use roxmltree::Document;
use std::fmt::Write;

/// The path where a request for it needs no credentials.
pub const ANONYMOUS_PATH: &str = "/wsman-anon/identify";
/// With it, and with the value `unauthenticated`, it needs none on any path (MS-WSMV, 2.2.4.20).
pub const ANONYMOUS_HEADER: &str = "wsmanidentify";

/// The answer, in the namespace of the question, if the envelope holds this question.
pub fn answer(document: &Document<'_>, settings: &Settings) -> Result<Option<String>, Fault> {
    let asked = message::body(document)?.filter(|it| it.tag_name().name() == "Identify");
    let namespace = asked.and_then(|it| it.tag_name().namespace());
    let Some(namespace) = namespace.filter(|it| ns::IDENTITY.contains(it)) else { return Ok(None) };
    let mut xml = format!(
        "<wsmid:IdentifyResponse xmlns:wsmid=\"{namespace}\"><wsmid:ProtocolVersion>{}</wsmid:ProtocolVersion>\
         <wsmid:ProductVendor>{}</wsmid:ProductVendor>\
         <wsmid:ProductVersion>OS: 0.0.0 SP: 0.0 Stack: 3.0 ({})</wsmid:ProductVersion>",
        ns::WSMAN,
        escape(&settings.product_vendor),
        escape(&settings.product_version)
    );
    if !settings.security_profiles.is_empty() {
        xml += "<wsmid:SecurityProfiles>";
        for profile in &settings.security_profiles {
            let profile = escape(profile);
            _ = write!(xml, "<wsmid:SecurityProfileName>{profile}</wsmid:SecurityProfileName>");
        }
        xml += "</wsmid:SecurityProfiles>";
    }
    Ok(Some(xml + "</wsmid:IdentifyResponse>"))
}
