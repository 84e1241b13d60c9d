//! Queries (DSP0200, 5.4.2.13): WQL, and of DMTF's languages what they have in common with it.

use super::{Operation, returned};
use crate::answer::Pieces;
use crate::write::{self, InstanceView};
use cim::wql::{self, Condition, Query, Select};
use cim::{Error, InstanceStream, Name, Status, query};

pub async fn execute(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let language = operation.parameters.required_text("QueryLanguage")?;
    let text = operation.parameters.required_text("Query")?;
    operation.parameters.finish()?;
    let query = parse(&language, &text)?;
    let instances = operation.run_query(query).await?;
    let (schema, host) = (operation.schema, operation.server.host.clone());
    Ok(returned(instances, move |instance| {
        let mut xml = String::new();
        // Queries for some columns answer instances all the same, and each has its path.
        let element = if instance.path.is_some() { "VALUE.OBJECTWITHPATH" } else { "VALUE.OBJECT" };
        xml = xml + "<" + element + ">";
        if let Some(path) = &instance.path {
            write::full_path(&mut xml, path, &host);
        }
        write::instance(&mut xml, &instance, Some(&schema), &InstanceView::default());
        Ok(xml + "</" + element + ">")
    }))
}

impl Operation<'_> {
    pub async fn run_query(&self, query: Query) -> Result<InstanceStream, Error> {
        let Operation { server, caller, namespace, .. } = self;
        query::execute(&*server.provider, caller, namespace, query, &server.host).await
    }
}

/// Reads a query in one of the languages whose common part is spoken here.
pub fn parse(language: &str, text: &str) -> Result<Query, Error> {
    let known = ["WQL", "DMTF:CQL", "CIM:CQL", "CQL"];
    if !known.iter().any(|it| it.eq_ignore_ascii_case(language.trim())) {
        let message = format!("the query language {language} is not known; known are {}", known.join(", "));
        return Err(Error::new(Status::QueryLanguageNotSupported, message));
    }
    wql::parse(text).map_err(|error| Error::new(Status::InvalidQuery, error))
}

/// Reads the filter of an Open operation (DSP0212), a condition on the properties of `class`.
pub fn parse_filter(language: &str, text: &str, class: &Name) -> Result<Select, Error> {
    if !["DMTF:FQL", "WQL"].iter().any(|it| it.eq_ignore_ascii_case(language.trim())) {
        let message = format!("the filter language {language} is not known; known are DMTF:FQL, WQL");
        return Err(Error::new(Status::QueryLanguageNotSupported, message));
    }
    let before = format!("SELECT * FROM {class} WHERE ");
    let parsed = wql::parse(&format!("{before}{text}")).map_err(|mut error| {
        if error.at.line == 1 {
            error.at.column = error.at.column.saturating_sub(before.chars().count() as u32).max(1);
        }
        Error::new(Status::InvalidQuery, error)
    })?;
    let Query::Select(select) = parsed else {
        return Err(Error::new(Status::InvalidQuery, "a filter is a condition on the properties of a class"));
    };
    if !language.trim().eq_ignore_ascii_case("WQL") && select.condition.as_ref().is_some_and(has_like) {
        // Its patterns are regular expressions.
        let message = "LIKE of DMTF:FQL is not supported; the filter language WQL has its own";
        return Err(Error::new(Status::QueryFeatureNotSupported, message));
    }
    Ok(select)
}

fn has_like(condition: &Condition) -> bool {
    match condition {
        Condition::Like(..) => true,
        Condition::And(terms) | Condition::Or(terms) => terms.iter().any(has_like),
        Condition::Not(term) => has_like(term),
        _ => false,
    }
}
