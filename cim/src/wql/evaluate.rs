//! Conditions over one instance.

use super::like::like;
use super::{Comparison, Condition, Literal, Operand, Select};
use crate::{DateTime, Instance, Name, Schema, Value, value};
use std::cmp::Ordering;

/// What a condition may ask beside the instance.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub schema: &'a Schema,
    /// The value of `__SERVER`.
    pub host: &'a str,
}

/// The instance with the selected columns, if the query selects it.
pub fn select(query: &Select, instance: Instance, context: Context<'_>) -> Option<Instance> {
    let selected = match &query.condition {
        Some(condition) => evaluate(condition, &instance, context) == Some(true),
        None => true,
    };
    let in_class = instance.class == query.class || context.schema.is_a(&instance.class, &query.class);
    (selected && in_class).then(|| project(instance, query.columns.as_deref(), context))
}

/// The instance with these columns only, in the class's own order; system properties (`__PATH`) come after them.
pub fn project(mut instance: Instance, columns: Option<&[Name]>, context: Context<'_>) -> Instance {
    let Some(columns) = columns else { return instance };
    let system = columns.iter().filter(|name| name.as_str().starts_with("__"));
    let system: Vec<_> =
        system.filter_map(|name| Some((name.clone(), system_property(&instance, name, context)?))).collect();
    instance.properties.retain(|(name, _)| columns.contains(name));
    instance.properties.extend(system);
    instance
}

/// True, false, or unknown: a comparison with NULL, or of what cannot be compared. Two properties differ where one
/// of them is NULL, so that changes to and from NULL are seen in `TargetInstance.P <> PreviousInstance.P`.
pub fn evaluate(condition: &Condition, instance: &Instance, context: Context<'_>) -> Option<bool> {
    match condition {
        Condition::And(terms) => all(terms, |term| evaluate(term, instance, context)),
        Condition::Or(terms) => {
            all(terms, |term| evaluate(term, instance, context).map(|it| !it)).map(|none| !none)
        }
        Condition::Not(term) => evaluate(term, instance, context).map(|it| !it),
        Condition::IsNull(operand) => Some(operand_value(operand, instance, context).is_null()),
        Condition::Like(operand, pattern) => match operand_value(operand, instance, context) {
            Value::Null | Value::Array(_) => None,
            value => Some(like(&value.to_string(), pattern)),
        },
        Condition::Isa(operand, class) => match operand_value(operand, instance, context) {
            Value::Instance(inner) => Some(context.schema.is_a(&inner.class, class)),
            Value::String(name) => Some(context.schema.is_a(&name.into(), class)),
            _ => None,
        },
        Condition::Compare(left, comparison, right) => {
            let both_properties = matches!((left, right), (Operand::Property(_), Operand::Property(_)));
            let asks_null = [left, right].iter().any(|it| **it == Operand::Literal(Literal::Null));
            let left = operand_value(left, instance, context);
            let right = operand_value(right, instance, context);
            if left.is_null() || right.is_null() {
                let same = left.is_null() && right.is_null();
                return match comparison {
                    Comparison::Equal if asks_null || both_properties => Some(same),
                    Comparison::NotEqual if asks_null || both_properties => Some(!same),
                    _ => None,
                };
            }
            Some(holds(*comparison, compare(&left, &right)?))
        }
    }
}

/// Conjunction in three values.
fn all(terms: &[Condition], evaluate: impl Fn(&Condition) -> Option<bool>) -> Option<bool> {
    let mut result = Some(true);
    for term in terms {
        match evaluate(term) {
            Some(false) => return Some(false),
            None => result = None,
            Some(true) => {}
        }
    }
    result
}

fn holds(comparison: Comparison, ordering: Ordering) -> bool {
    match comparison {
        Comparison::Equal => ordering.is_eq(),
        Comparison::NotEqual => ordering.is_ne(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessOrEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterOrEqual => ordering.is_ge(),
    }
}

fn operand_value(operand: &Operand, instance: &Instance, context: Context<'_>) -> Value {
    match operand {
        Operand::Literal(Literal::Null) => Value::Null,
        Operand::Literal(Literal::Boolean(it)) => Value::Boolean(*it),
        // Wider than any literal that the parser makes.
        Operand::Literal(Literal::Integer(it)) => match u64::try_from(*it) {
            Ok(it) => Value::Uint64(it),
            Err(_) => i64::try_from(*it).map_or(Value::Real64(*it as f64), Value::Sint64),
        },
        Operand::Literal(Literal::Real(it)) => Value::Real64(*it),
        Operand::Literal(Literal::Text(it)) => Value::String(it.clone()),
        Operand::Property(path) => property_value(path, instance, context),
    }
}

fn property_value(path: &[Name], instance: &Instance, context: Context<'_>) -> Value {
    let [name, rest @ ..] = path else { return Value::Null };
    if rest.is_empty() && (name.is("__PATH") || name.is("__RELPATH")) {
        // A path may be written in many ways, and is compared as what it says.
        return instance.path.clone().into();
    }
    if rest.is_empty() && name.as_str().starts_with("__") {
        return system_property(instance, name, context).unwrap_or(Value::Null);
    }
    match instance.get(name.as_str()) {
        Some(Value::Instance(inner)) if !rest.is_empty() => property_value(rest, inner, context),
        Some(value) if rest.is_empty() => value.clone(),
        _ => Value::Null,
    }
}

fn system_property(instance: &Instance, name: &Name, context: Context<'_>) -> Option<Value> {
    let Context { schema, host } = context;
    let above = || schema.superclasses(&instance.class);
    Some(match &*name.folded() {
        "__class" => Value::from(&instance.class),
        "__server" => Value::from(host),
        "__namespace" => Value::from(schema.namespace().with_backslashes()),
        "__relpath" => Value::from(instance.path.as_ref().map(crate::ObjectPath::relative)),
        "__path" => Value::from(instance.path.clone().map(|mut path| {
            path.host = Some(host.to_owned());
            path.namespace.get_or_insert_with(|| schema.namespace().clone());
            path.to_string()
        })),
        "__superclass" => Value::from(above().next().map(|class| &class.name)),
        "__dynasty" => Value::from(above().last().map_or(&instance.class, |class| &class.name)),
        "__derivation" => Value::from(above().map(|class| &class.name).collect::<Vec<_>>()),
        "__property_count" => Value::from(instance.properties.len() as i32),
        "__genus" => Value::from(2i32),
        _ => return None,
    })
}

/// How two values that are not NULL compare; none where they cannot.
fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    use Value::{Array, Boolean, Char16, Reference, String};
    match (left, right) {
        (String(left), String(right)) => Some(compare_texts(left, right)),
        (Boolean(left), Boolean(right)) => Some(left.cmp(right)),
        (Boolean(own), other) => Some(own.cmp(&boolean(other)?)),
        (other, Boolean(own)) => Some(boolean(other)?.cmp(own)),
        (Value::DateTime(left), Value::DateTime(right)) => compare_times(left, right),
        (Value::DateTime(own), String(text)) => compare_times(own, &text.trim().parse().ok()?),
        (String(text), Value::DateTime(own)) => compare_times(&text.trim().parse().ok()?, own),
        (Reference(left), Reference(right)) => {
            left.matches(right).then_some(Ordering::Equal).or(Some(Ordering::Less))
        }
        (Reference(path), String(text)) | (String(text), Reference(path)) => {
            same_or_less(crate::ObjectPath::parse(text).is_ok_and(|other| path.matches(&other)))
        }
        (Char16(left), Char16(right)) => Some(left.cmp(right)),
        (Char16(_), _) | (_, Char16(_)) => Some(compare_texts(&left.to_string(), &right.to_string())),
        (Array(left), Array(right)) => same_or_less(left == right),
        _ => compare_numbers(left, right),
    }
}

/// For what has no order.
fn same_or_less(same: bool) -> Option<Ordering> {
    Some(if same { Ordering::Equal } else { Ordering::Less })
}

/// WMI compares texts without regard to case.
fn compare_texts(left: &str, right: &str) -> Ordering {
    let folded = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<Vec<_>>();
    folded(left).cmp(&folded(right))
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::String(text) => value::boolean(text.trim()),
        number => Some(number.as_i128()? != 0),
    }
}

/// Numbers, one of which may stand in quotes.
fn compare_numbers(left: &Value, right: &Value) -> Option<Ordering> {
    let integer = |value: &Value| value.as_i128().or_else(|| value::integer(value.as_str()?.trim()));
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        return Some(left.cmp(&right));
    }
    let real = |value: &Value| value.as_f64().or_else(|| value::real(value.as_str()?.trim()));
    real(left)?.partial_cmp(&real(right)?)
}

fn compare_times(left: &DateTime, right: &DateTime) -> Option<Ordering> {
    match (left, right) {
        (DateTime::Timestamp(_), DateTime::Timestamp(_)) => Some(left.unix_us()?.cmp(&right.unix_us()?)),
        (DateTime::Interval(_), DateTime::Interval(_)) => {
            Some(left.interval_us()?.cmp(&right.interval_us()?))
        }
        _ => None,
    }
}
