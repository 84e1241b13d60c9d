//! Holds answers to the DTD of DSP0203: elements, their content, their attributes.

use roxmltree::{Document, Node};
use std::collections::HashMap;
use std::sync::LazyLock;

static DTD: LazyLock<Dtd> = LazyLock::new(|| Dtd::read(include_str!("../dtd/DSP0203_2.4.0.dtd")));

struct Dtd {
    content: HashMap<String, Model>,
    attributes: HashMap<String, Vec<Attribute>>,
}

struct Attribute {
    name: String,
    /// Empty where any text may stand.
    values: Vec<String>,
    required: bool,
}

#[derive(Debug)]
enum Model {
    Empty,
    Text,
    Element(String),
    Sequence(Vec<Model>),
    Choice(Vec<Model>),
    Repeated(Box<Model>, char),
}

/// Panics where the text is no valid document, with the place.
pub fn assert_valid(xml: &str) {
    let document = Document::parse(xml).unwrap_or_else(|error| panic!("{error}: {xml}"));
    for node in document.descendants().filter(Node::is_element) {
        DTD.check(node).unwrap_or_else(|error| panic!("{error}\n{}", &xml[node.range()]));
    }
}

impl Dtd {
    fn read(text: &str) -> Dtd {
        let text = without_comments(text);
        let mut entities: Vec<(String, String)> = vec![];
        let (mut content, mut attributes) = (HashMap::new(), HashMap::new());
        for declaration in text.split("<!").skip(1) {
            let declaration = declaration.trim_end().trim_end_matches('>');
            let expanded =
                entities.iter().fold(declaration.to_owned(), |text, (name, value)| text.replace(name, value));
            let (keyword, rest) = expanded.split_once(char::is_whitespace).unwrap();
            let (name, rest) = rest.trim().split_once(char::is_whitespace).unwrap();
            match keyword {
                "ENTITY" => {
                    let (name, value) = rest.trim().split_once(char::is_whitespace).unwrap();
                    entities.push((format!("%{name};"), value.trim().trim_matches('"').to_owned()));
                }
                "ELEMENT" => _ = content.insert(name.to_owned(), model(rest)),
                _ => _ = attributes.insert(name.to_owned(), attribute_list(rest)),
            }
        }
        Dtd { content, attributes }
    }

    fn check(&self, node: Node<'_, '_>) -> Result<(), String> {
        let name = node.tag_name().name();
        let model = self.content.get(name).ok_or_else(|| format!("{name} is not declared"))?;
        let children: Vec<_> =
            node.children().filter(Node::is_element).map(|it| it.tag_name().name()).collect();
        if !matches(model, &children).contains(&children.len()) {
            return Err(format!("{name} cannot hold {children:?}"));
        }
        let text =
            node.children().any(|it| it.is_text() && it.text().is_some_and(|text| !text.trim().is_empty()));
        if text && !matches!(model, Model::Text) {
            return Err(format!("{name} cannot hold text"));
        }
        let declared = self.attributes.get(name).map_or(&[][..], Vec::as_slice);
        for given in node.attributes() {
            let known = declared.iter().find(|it| it.name == given.name());
            let known = known.ok_or_else(|| format!("{name} has no attribute {}", given.name()))?;
            if !known.values.is_empty() && !known.values.iter().any(|it| it == given.value()) {
                return Err(format!("{name}: {}={:?}", given.name(), given.value()));
            }
        }
        let missing = declared.iter().find(|it| it.required && !node.has_attribute(&*it.name));
        missing.map_or(Ok(()), |it| Err(format!("{name} lacks {}", it.name)))
    }
}

fn without_comments(text: &str) -> String {
    let mut parts = text.split("<!--");
    let before = parts.next().unwrap_or_default().to_owned();
    parts.fold(before, |kept, part| kept + part.split_once("-->").map_or("", |(_, after)| after))
}

fn attribute_list(text: &str) -> Vec<Attribute> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('|', " ");
    let mut words = spaced.split_whitespace().peekable();
    let mut list = vec![];
    while let Some(name) = words.next() {
        let mut values = vec![];
        if words.next() == Some("(") {
            values.extend(words.by_ref().take_while(|word| *word != ")").map(str::to_owned));
        }
        let required = words.next() == Some("#REQUIRED");
        list.push(Attribute { name: name.to_owned(), values, required });
    }
    list
}

fn model(text: &str) -> Model {
    let spaced = text.replace(char::is_whitespace, "");
    match &*spaced {
        "EMPTY" => Model::Empty,
        "(#PCDATA)" => Model::Text,
        group => particle(&mut &*group),
    }
}

fn particle(rest: &mut &str) -> Model {
    let inner = if let Some(inside) = rest.strip_prefix('(') {
        *rest = inside;
        let mut parts = vec![particle(rest)];
        let separator = rest.chars().next().unwrap();
        while let Some(after) = rest.strip_prefix(['|', ',']) {
            *rest = after;
            parts.push(particle(rest));
        }
        *rest = rest.strip_prefix(')').expect("a group ends");
        if separator == '|' { Model::Choice(parts) } else { Model::Sequence(parts) }
    } else {
        let end = rest.find(|c: char| "|,()?*+".contains(c)).unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        *rest = &rest[end..];
        Model::Element(name)
    };
    match rest.chars().next() {
        Some(sign @ ('?' | '*' | '+')) => {
            *rest = &rest[1..];
            Model::Repeated(Box::new(inner), sign)
        }
        _ => inner,
    }
}

/// How many of the children the model can take from the front.
fn matches(model: &Model, children: &[&str]) -> Vec<usize> {
    match model {
        Model::Empty | Model::Text => vec![0],
        Model::Element(name) => {
            children.first().filter(|it| **it == name.as_str()).map(|_| 1).into_iter().collect()
        }
        Model::Choice(parts) => parts.iter().flat_map(|part| matches(part, children)).collect(),
        Model::Sequence(parts) => parts.iter().fold(vec![0], |taken, part| {
            let mut next: Vec<_> = taken
                .iter()
                .flat_map(|at| matches(part, &children[*at..]).into_iter().map(move |it| at + it))
                .collect();
            next.sort_unstable();
            next.dedup();
            next
        }),
        Model::Repeated(part, sign) => {
            let mut reached = if *sign == '+' { matches(part, children) } else { vec![0] };
            let mut edge = reached.clone();
            while let Some(at) = edge.pop().filter(|_| *sign != '?') {
                let further = matches(part, &children[at..]).into_iter().map(|it| at + it);
                let new: Vec<_> = further.filter(|it| !reached.contains(it)).collect();
                reached.extend(&new);
                edge.extend(new);
            }
            if *sign == '?' {
                reached.extend(matches(part, children));
            }
            reached
        }
    }
}

#[test]
fn a_document_that_does_not_fit_is_found() {
    let wrong = |xml: &str| {
        let document = Document::parse(xml).unwrap();
        document
            .descendants()
            .filter(Node::is_element)
            .find_map(|node| DTD.check(node).err())
            .unwrap_or_default()
    };
    assert_eq!(wrong("<VALUE.ARRAY><VALUE>x</VALUE><VALUE.NULL/></VALUE.ARRAY>"), "");
    assert_eq!(wrong("<INSTANCE CLASSNAME='X'><PROPERTY NAME='A' TYPE='string'/></INSTANCE>"), "");
    assert_eq!(wrong("<INSTANCE/>"), "INSTANCE lacks CLASSNAME");
    assert_eq!(wrong("<PROPERTY NAME='A' TYPE='text'/>"), "PROPERTY: TYPE=\"text\"");
    assert_eq!(
        wrong("<PROPERTY NAME='A' TYPE='string' MODIFIED='true'/>"),
        "PROPERTY has no attribute MODIFIED"
    );
    assert_eq!(wrong("<VALUE.NAMEDINSTANCE/>"), "VALUE.NAMEDINSTANCE cannot hold []");
    assert!(
        wrong("<IRETURNVALUE><CLASSNAME NAME='A'/><INSTANCE CLASSNAME='A'/></IRETURNVALUE>")
            .contains("cannot")
    );
    assert_eq!(wrong("<VALUE.NULL>x</VALUE.NULL>"), "VALUE.NULL cannot hold text");
}
