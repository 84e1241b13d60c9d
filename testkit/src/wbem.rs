//! Requests of management clients, as short as they may be.

use crate::http::{Answer, Client};
use anyhow::Result;

pub const V2: &str = "root/virtualization/v2";
/// What URIs of classes begin with.
pub const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi";
const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
const ENUMERATION: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration";

/// Asks over WS-Management. `keys` are selectors, `body` is XML whose prefixes `n`, `w`, `a` and `x` are known.
pub fn wsman(
    client: &mut Client,
    action: &str,
    uri: &str,
    keys: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let keys = keys.iter().map(|(name, value)| format!("<w:Selector Name=\"{name}\">{value}</w:Selector>"));
    let text = format!(
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\" xmlns:n=\"{ENUMERATION}\" xmlns:x=\"{TRANSFER}\"><s:Header>\
         <a:To>http://localhost/wsman</a:To><w:ResourceURI s:mustUnderstand=\"true\">{uri}</w:ResourceURI>\
         <a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>\
         <a:Action s:mustUnderstand=\"true\">{action}</a:Action><a:MessageID>uuid:0c0ffee0-0000-4000-8000-000000000000</a:MessageID>\
         <w:SelectorSet>{}</w:SelectorSet></s:Header><s:Body>{body}</s:Body></s:Envelope>",
        keys.collect::<String>()
    );
    client.post("/wsman", &[("Content-Type", "application/soap+xml;charset=UTF-8")], &text)
}

/// An instance over WS-Management.
pub fn wsman_get(client: &mut Client, class: &str, keys: &[(&str, &str)]) -> Result<Answer> {
    wsman(client, &format!("{TRANSFER}/Get"), &format!("{WMI}/{V2}/{class}"), keys, "")
}

/// Calls a method over WS-Management; `arguments` is XML in the prefix `p`.
pub fn wsman_call(
    client: &mut Client,
    class: &str,
    keys: &[(&str, &str)],
    method: &str,
    arguments: &str,
) -> Result<Answer> {
    let uri = format!("{WMI}/{V2}/{class}");
    let body = format!("<p:{method}_INPUT xmlns:p=\"{uri}\">{arguments}</p:{method}_INPUT>");
    wsman(client, &format!("{uri}/{method}"), &uri, keys, &body)
}

/// All instances of a class over WS-Management, pulled to the end: how many there were, and the bytes of the answers.
pub fn wsman_all(client: &mut Client, class: &str) -> Result<(usize, usize)> {
    let uri = format!("{WMI}/{V2}/{class}");
    let mut answer = wsman(
        client,
        &format!("{ENUMERATION}/Enumerate"),
        &uri,
        &[],
        "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>32000</w:MaxElements></n:Enumerate>",
    )?;
    let (mut count, mut bytes) = (0, 0);
    loop {
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
        count += answer.body.matches(&format!("<p:{class} ")).count();
        bytes += answer.body.len();
        let context = between(&answer.body, "<n:EnumerationContext>", "</n:EnumerationContext>");
        let context = context.filter(|context| !context.is_empty()).map(str::to_owned);
        let ended = ["<w:EndOfSequence/>", "<n:EndOfSequence/>"].iter().any(|end| answer.body.contains(end));
        let Some(context) = context.filter(|_| !ended) else { return Ok((count, bytes)) };
        let body = format!(
            "<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext><n:MaxElements>32000</n:MaxElements></n:Pull>"
        );
        answer = wsman(client, &format!("{ENUMERATION}/Pull"), &uri, &[], &body)?;
    }
}

/// Asks over CIM-XML: `call` is an `IMETHODCALL` or `METHODCALL` element, `object` what the header says that it is for.
pub fn cimxml(client: &mut Client, method: &str, object: &str, call: &str) -> Result<Answer> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><MESSAGE ID=\"1\" \
         PROTOCOLVERSION=\"1.0\"><SIMPLEREQ>{call}</SIMPLEREQ></MESSAGE></CIM>"
    );
    let headers = [
        ("Content-Type", "application/xml; charset=\"utf-8\""),
        ("CIMOperation", "MethodCall"),
        ("CIMMethod", method),
        ("CIMObject", object),
    ];
    client.post("/cimom", &headers, &text)
}

/// An intrinsic operation on the namespace; `parameters` are `IPARAMVALUE` elements.
pub fn cimxml_intrinsic(
    client: &mut Client,
    namespace: &str,
    method: &str,
    parameters: &str,
) -> Result<Answer> {
    let spaces: String = namespace.split('/').map(|name| format!("<NAMESPACE NAME=\"{name}\"/>")).collect();
    let call = format!(
        "<IMETHODCALL NAME=\"{method}\"><LOCALNAMESPACEPATH>{spaces}</LOCALNAMESPACEPATH>{parameters}</IMETHODCALL>"
    );
    cimxml(client, method, namespace, &call)
}

/// An instance over CIM-XML.
pub fn cimxml_get(client: &mut Client, class: &str, keys: &[(&str, &str)]) -> Result<Answer> {
    let name = instance_name(class, keys);
    let parameters = format!("<IPARAMVALUE NAME=\"InstanceName\">{name}</IPARAMVALUE>");
    cimxml_intrinsic(client, V2, "GetInstance", &parameters)
}

/// All instances of a class over CIM-XML: how many, and the bytes of the answer.
pub fn cimxml_all(client: &mut Client, class: &str) -> Result<(usize, usize)> {
    let parameters = format!("<IPARAMVALUE NAME=\"ClassName\"><CLASSNAME NAME=\"{class}\"/></IPARAMVALUE>");
    let answer = cimxml_intrinsic(client, V2, "EnumerateInstances", &parameters)?;
    anyhow::ensure!(answer.status == 200 && !answer.body.contains("<ERROR"), "{}", answer.body);
    Ok((answer.body.matches("<VALUE.NAMEDINSTANCE>").count(), answer.body.len()))
}

/// Calls a method over CIM-XML; `arguments` are `PARAMVALUE` elements.
pub fn cimxml_call(
    client: &mut Client,
    class: &str,
    keys: &[(&str, &str)],
    method: &str,
    arguments: &str,
) -> Result<Answer> {
    let spaces: String = V2.split('/').map(|name| format!("<NAMESPACE NAME=\"{name}\"/>")).collect();
    let call = format!(
        "<METHODCALL NAME=\"{method}\"><LOCALINSTANCEPATH><LOCALNAMESPACEPATH>{spaces}</LOCALNAMESPACEPATH>{}\
         </LOCALINSTANCEPATH>{arguments}</METHODCALL>",
        instance_name(class, keys)
    );
    cimxml(client, method, &format!("{V2}:{class}"), &call)
}

fn instance_name(class: &str, keys: &[(&str, &str)]) -> String {
    let keys = keys.iter().map(|(name, value)| {
        format!("<KEYBINDING NAME=\"{name}\"><KEYVALUE VALUETYPE=\"string\">{value}</KEYVALUE></KEYBINDING>")
    });
    format!("<INSTANCENAME CLASSNAME=\"{class}\">{}</INSTANCENAME>", keys.collect::<String>())
}

/// What stands between two texts.
pub fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inside, _)| inside)
}
