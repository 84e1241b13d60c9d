//! Queries against the schema: what they name must be there.

use super::{Condition, EventQuery, Literal, Operand, Select};
use crate::{CimType, Class, Error, Name, Property, Schema, Status};

/// Refuses an unknown class (`InvalidClass`), and with `InvalidQuery` unknown properties and literals that a property
/// cannot be compared with.
pub fn check_select(query: &Select, schema: &Schema) -> Result<(), Error> {
    let class = schema.require(&query.class)?;
    for column in query.columns.iter().flatten() {
        property(class, column)?;
    }
    match &query.condition {
        Some(condition) => check(condition, &|path| match path {
            [name] => property(class, name),
            _ => Err(invalid(format_args!("{} has no embedded instances to look into", class.name))),
        }),
        None => Ok(()),
    }
}

/// As [`check_select`], for what the query says about the instances that events are about. Answers the class of
/// these, where the query limits them by ISA.
pub fn check_event<'a>(query: &'a EventQuery, schema: &Schema) -> Result<Option<&'a Name>, Error> {
    let target = query.target_class();
    let class = target.map(|name| schema.require(name)).transpose()?;
    if let Some(condition) = &query.condition {
        check(condition, &|path| match (path, class) {
            ([_], _) => Ok(None),
            ([_, name], Some(class)) => property(class, name),
            ([_, _], None) => Ok(None),
            _ => Err(invalid("instances in instances of events cannot be looked into")),
        })?;
    }
    Ok(target)
}

impl EventQuery {
    /// The class to which a top-level `TargetInstance ISA '…'` (or `SourceInstance`) limits the query.
    pub fn target_class(&self) -> Option<&Name> {
        let terms = match self.condition.as_ref()? {
            Condition::And(terms) => terms.as_slice(),
            term => std::slice::from_ref(term),
        };
        terms.iter().find_map(|term| match term {
            Condition::Isa(Operand::Property(path), class) => {
                let whole = path.len() == 1 && (path[0].is("TargetInstance") || path[0].is("SourceInstance"));
                whole.then_some(class)
            }
            _ => None,
        })
    }
}

fn invalid(message: impl std::fmt::Display) -> Error {
    Error::new(Status::InvalidQuery, message)
}

/// None for a system property.
fn property<'a>(class: &'a Class, name: &Name) -> Result<Option<&'a Property>, Error> {
    if name.as_str().starts_with("__") {
        return Ok(None);
    }
    let found = class.property(name.as_str());
    found.map(Some).ok_or_else(|| invalid(format_args!("{} has no property {name}", class.name)))
}

type FindProperty<'f, 'a> = dyn Fn(&[Name]) -> Result<Option<&'a Property>, Error> + 'f;

fn check(condition: &Condition, find: &FindProperty<'_, '_>) -> Result<(), Error> {
    let operand = |operand: &Operand| match operand {
        Operand::Property(path) => find(path),
        Operand::Literal(_) => Ok(None),
    };
    match condition {
        Condition::And(terms) | Condition::Or(terms) => terms.iter().try_for_each(|term| check(term, find)),
        Condition::Not(term) => check(term, find),
        Condition::Like(it, _) | Condition::IsNull(it) | Condition::Isa(it, _) => operand(it).map(|_| ()),
        Condition::Compare(left, _, right) => {
            let (own, other) = (operand(left)?, operand(right)?);
            for (property, literal) in [(own, right), (other, left)] {
                if let (Some(property), Operand::Literal(literal)) = (property, literal) {
                    comparable(property, literal)?;
                }
            }
            Ok(())
        }
    }
}

fn comparable(property: &Property, literal: &Literal) -> Result<(), Error> {
    let Property { name, cim_type, .. } = property;
    if property.is_array && *literal != Literal::Null {
        return Err(invalid(format_args!("{name} is an array, which cannot be compared with one value")));
    }
    let Literal::Text(text) = literal else { return Ok(()) };
    let readable = match cim_type {
        CimType::Boolean | CimType::DateTime => cim_type.parse("", text).is_ok(),
        numeric if numeric.is_numeric() => CimType::Real64.parse("", text).is_ok() || integer(text),
        _ => true,
    };
    let refused = || invalid(format_args!("{name} is of type {cim_type}, and {text:?} is not"));
    if readable { Ok(()) } else { Err(refused()) }
}

fn integer(text: &str) -> bool {
    crate::value::integer(text.trim()).is_some()
}
