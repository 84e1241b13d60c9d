//! XML within bounds: what clients send is held against depth and number of attributes before a tree is made of it,
//! because the tree's builder takes time by the square of both.

use crate::{Location, ParseError};
use roxmltree::{Document, ParsingOptions};

/// How deep elements may stand in each other. An envelope with an instance in an instance has 20.
const DEPTH_MAX: usize = 128;
/// How many attributes an element may have. The most that a client sends is some 20 namespaces.
const ATTRIBUTES_MAX: usize = 256;
/// How many namespaces all elements together may declare: each that declares one copies those in scope.
const DECLARATIONS_MAX: usize = 2000;
/// How many elements, texts and comments a document may have: ten for each property of a thousand instances.
const NODES_MAX: u32 = 500_000;

/// Reads a document without a DOCTYPE. An XML declaration may begin it, nothing else but elements may.
pub fn parse(text: &str) -> Result<Document<'_>, ParseError> {
    check_bounds(text)?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|error| {
        let at = Location { file: None, line: error.pos().row, column: error.pos().col };
        ParseError { at, message: format!("this is no well-formed XML: {error}") }
    })
}

/// The text as XML holds it, in elements and in attributes. Characters that XML cannot hold become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            // A reader makes a line feed of it.
            '\r' => escaped += "&#13;",
            '\t' | '\n' => escaped.push(c),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What is not well-formed is left for the parser to refuse.
fn check_bounds(text: &str) -> Result<(), ParseError> {
    let (mut offset, mut depth, mut declarations) = (0, 0_usize, 0);
    while let Some(found) = text[offset..].find('<') {
        offset += found;
        let rest = &text[offset..];
        let special = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"), ("</", ">"), ("<!", ">")];
        if let Some((start, end)) = special.iter().find(|(start, _)| rest.starts_with(start)) {
            let Some(length) = rest[start.len()..].find(end) else { return Ok(()) };
            if *start == "</" {
                depth = depth.saturating_sub(1);
            }
            offset += start.len() + length + end.len();
            continue;
        }
        let Some((length, attributes)) = tag(rest) else { return Ok(()) };
        if attributes > ATTRIBUTES_MAX {
            let message = format!("an element has more than {ATTRIBUTES_MAX} attributes");
            return Err(ParseError::new(text, offset, message));
        }
        declarations += rest[..length].matches("xmlns").count();
        if declarations > DECLARATIONS_MAX {
            let message = format!("elements declare more than {DECLARATIONS_MAX} namespaces");
            return Err(ParseError::new(text, offset, message));
        }
        depth += usize::from(!rest[..length].ends_with("/>"));
        if depth > DEPTH_MAX {
            return Err(ParseError::new(
                text,
                offset,
                format_args!("elements stand more than {DEPTH_MAX} deep"),
            ));
        }
        offset += length;
    }
    Ok(())
}

/// The length of an opening tag, and how many attributes it has.
fn tag(rest: &str) -> Option<(usize, usize)> {
    let (mut quote, mut attributes) = (None, 0);
    for (at, byte) in rest.bytes().enumerate() {
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'=') => attributes += 1,
            (None, b'>') => return Some((at + 1, attributes)),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn depth_and_attributes_are_bounded() {
        let message = |text: &str| parse(text).unwrap_err().message;
        assert_eq!(message(&"<A>".repeat(1_000_000)), "elements stand more than 128 deep");
        let nested = format!("{}{}", "<A x='>'>".repeat(128), "</A>".repeat(128));
        assert!(parse(&nested).is_ok());
        assert_eq!(message(&format!("<B>{nested}</B>")), "elements stand more than 128 deep");
        let attributes: String = (0..500_000).map(|index| format!(" a{index}=''")).collect();
        assert_eq!(message(&format!("<A{attributes}/>")), "an element has more than 256 attributes");
        let declaring = format!("<A>{}</A>", "<B xmlns:b='urn:b'/>".repeat(2001));
        assert_eq!(message(&declaring), "elements declare more than 2000 namespaces");
        let flat = format!("<A>{}</A>", "<B/>x".repeat(300_000));
        assert!(message(&flat).contains("nodes"), "{}", message(&flat));
        assert!(
            parse(&format!("<A>{}</A>", "<!-- < --><![CDATA[<B><B a='' ]]><?p <C> ?><B/>".repeat(1000)))
                .is_ok()
        );
        assert!(parse("<!DOCTYPE a [<!ENTITY a 'a'>]><a>&a;</a>").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}|(<|>|/|=|'|\"|a| b=|<!--|-->|<!\\[CDATA\\[|\\]\\]>|&lt;|<\\?){0,40}") {
            _ = parse(&text);
            _ = parse(&format!("<a>{text}</a>"));
        }

        #[test]
        fn what_is_escaped_comes_back(text in "[\\t\\n\\r -~\u{a0}-\u{d7ff}]{0,40}") {
            let xml = format!("<a>{}</a>", escape(&text));
            let document = parse(&xml).unwrap();
            prop_assert_eq!(document.root_element().text().unwrap_or_default(), text);
        }
    }
}
