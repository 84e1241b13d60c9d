//! Types and values, and how text and other types become the type that the schema asks for.

#[cfg(test)]
mod tests;

use crate::text::shorten;
use crate::{Class, DateTime, Instance, Name, ObjectPath};
use std::fmt;
use std::str::FromStr;

/// The intrinsic types of CIM (DSP0004, 5.2). Whether something is an array is said beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CimType {
    Boolean,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Sint8,
    Sint16,
    Sint32,
    Sint64,
    Real32,
    Real64,
    Char16,
    String,
    DateTime,
    /// `Class REF`.
    Reference(Name),
}

/// A value. Embedded instances and classes have the type string in the schema.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Boolean(bool),
    Uint8(u8),
    Uint16(u16),
    Uint32(u32),
    Uint64(u64),
    Sint8(i8),
    Sint16(i16),
    Sint32(i32),
    Sint64(i64),
    Real32(f32),
    Real64(f64),
    /// One UTF-16 code unit.
    Char16(u16),
    String(String),
    DateTime(DateTime),
    Reference(Box<ObjectPath>),
    Instance(Box<Instance>),
    Class(Box<Class>),
    /// Elements are scalars of one type, or NULL.
    Array(Vec<Value>),
}

/// A value that does not fit the type of what it is meant for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {value} is not {expected}")]
pub struct ValueError {
    /// The property, parameter or key.
    pub name: String,
    pub value: String,
    /// What is allowed, with an article: `a uint8 (0 to 255)`.
    pub expected: String,
}

impl CimType {
    /// The type's keyword in MOF and CIM-XML; `reference` for references.
    pub fn keyword(&self) -> &'static str {
        match self {
            CimType::Boolean => "boolean",
            CimType::Uint8 => "uint8",
            CimType::Uint16 => "uint16",
            CimType::Uint32 => "uint32",
            CimType::Uint64 => "uint64",
            CimType::Sint8 => "sint8",
            CimType::Sint16 => "sint16",
            CimType::Sint32 => "sint32",
            CimType::Sint64 => "sint64",
            CimType::Real32 => "real32",
            CimType::Real64 => "real64",
            CimType::Char16 => "char16",
            CimType::String => "string",
            CimType::DateTime => "datetime",
            CimType::Reference(_) => "reference",
        }
    }

    /// The intrinsic type of that keyword, in whatever case; references are not spelt as one.
    pub fn from_keyword(keyword: &str) -> Option<CimType> {
        use CimType::*;
        let all = [
            Boolean, Uint8, Uint16, Uint32, Uint64, Sint8, Sint16, Sint32, Sint64, Real32, Real64, Char16,
            String, DateTime,
        ];
        all.into_iter().find(|it| it.keyword().eq_ignore_ascii_case(keyword))
    }

    /// Smallest and largest value of an integer type.
    pub fn range(&self) -> Option<(i128, i128)> {
        Some(match self {
            CimType::Uint8 => (0, u8::MAX.into()),
            CimType::Uint16 => (0, u16::MAX.into()),
            CimType::Uint32 => (0, u32::MAX.into()),
            CimType::Uint64 => (0, u64::MAX.into()),
            CimType::Sint8 => (i8::MIN.into(), i8::MAX.into()),
            CimType::Sint16 => (i16::MIN.into(), i16::MAX.into()),
            CimType::Sint32 => (i32::MIN.into(), i32::MAX.into()),
            CimType::Sint64 => (i64::MIN.into(), i64::MAX.into()),
            _ => return None,
        })
    }

    pub fn is_numeric(&self) -> bool {
        self.range().is_some() || matches!(self, CimType::Real32 | CimType::Real64)
    }

    /// Reads the text form of a scalar. Numbers may have blanks around them, a sign, and a hexadecimal form;
    /// booleans come in any case or as 1 and 0; a `char16` is one character or a number of several digits; a
    /// reference is a WMI path or a WBEM URI. `name` is what an error speaks of.
    pub fn parse(&self, name: &str, text: &str) -> Result<Value, ValueError> {
        let trimmed = text.trim();
        let value = match self {
            CimType::Boolean => boolean(trimmed).map(Value::Boolean),
            CimType::Real32 => real(trimmed).and_then(real32),
            CimType::Real64 => real(trimmed).map(Value::Real64),
            CimType::Char16 => char16(text).map(Value::Char16),
            CimType::String => Some(Value::String(text.to_owned())),
            CimType::DateTime => DateTime::from_str(trimmed).ok().map(Value::DateTime),
            CimType::Reference(_) => ObjectPath::parse(trimmed).ok().map(Value::from),
            _ => integer(trimmed).and_then(|it| self.integer(it)),
        };
        value.ok_or_else(|| self.refuse(name, &format!("{text:?}")))
    }

    /// The integer as a value of this type; none where it does not fit, or where the type is no integer.
    pub fn integer(&self, integer: i128) -> Option<Value> {
        Some(match self {
            CimType::Uint8 => Value::Uint8(integer.try_into().ok()?),
            CimType::Uint16 => Value::Uint16(integer.try_into().ok()?),
            CimType::Uint32 => Value::Uint32(integer.try_into().ok()?),
            CimType::Uint64 => Value::Uint64(integer.try_into().ok()?),
            CimType::Sint8 => Value::Sint8(integer.try_into().ok()?),
            CimType::Sint16 => Value::Sint16(integer.try_into().ok()?),
            CimType::Sint32 => Value::Sint32(integer.try_into().ok()?),
            CimType::Sint64 => Value::Sint64(integer.try_into().ok()?),
            _ => return None,
        })
    }

    /// Makes `value` one of this type: text is read, numbers change their width where they fit, a lone value
    /// becomes an array of one. NULL fits everything, an embedded instance or class fits a string.
    pub fn conform(&self, name: &str, is_array: bool, value: Value) -> Result<Value, ValueError> {
        match value {
            Value::Null => Ok(Value::Null),
            Value::Array(elements) if is_array => {
                let elements = elements.into_iter().map(|element| self.conform_scalar(name, element));
                Ok(Value::Array(elements.collect::<Result<_, _>>()?))
            }
            Value::Array(elements) => {
                let count = elements.len();
                let value = format!("an array of {count} element{}", if count == 1 { "" } else { "s" });
                Err(self.refuse(name, &value))
            }
            scalar if is_array => Ok(Value::Array(vec![self.conform_scalar(name, scalar)?])),
            scalar => self.conform_scalar(name, scalar),
        }
    }

    fn conform_scalar(&self, name: &str, value: Value) -> Result<Value, ValueError> {
        let fits = match (self, &value) {
            (_, Value::Null) => true,
            (_, Value::Array(_)) => false,
            (CimType::String, Value::Instance(_) | Value::Class(_)) => true,
            _ => value.cim_type().is_some_and(|it| it.keyword() == self.keyword()),
        };
        if fits {
            return Ok(value);
        }
        if let Value::String(text) = &value {
            return self.parse(name, text);
        }
        let converted = match self {
            CimType::Real32 => value.as_f64().and_then(real32),
            CimType::Real64 => value.as_f64().map(Value::Real64),
            _ => value.as_i128().and_then(|it| self.integer(it)),
        };
        converted.ok_or_else(|| self.refuse(name, &value.to_string()))
    }

    fn refuse(&self, name: &str, value: &str) -> ValueError {
        let value = shorten(value);
        ValueError { name: name.to_owned(), value, expected: self.expected() }
    }

    fn expected(&self) -> String {
        match self {
            CimType::Boolean => "a boolean (true or false)".to_owned(),
            CimType::Real32 | CimType::Real64 => format!("a {}", self.keyword()),
            CimType::Char16 => "a char16 (one character)".to_owned(),
            CimType::String => "a string".to_owned(),
            CimType::DateTime => {
                "a datetime (yyyymmddHHMMSS.mmmmmm±UTC, or an interval ddddddddHHMMSS.mmmmmm:000)".to_owned()
            }
            CimType::Reference(class) => format!("a reference to {class} (Class.Key=\"value\")"),
            integer => {
                let (least, most) = integer.range().expect("all that is left are integers");
                format!("a {} ({least} to {most})", integer.keyword())
            }
        }
    }
}

impl fmt::Display for CimType {
    /// As MOF writes it: `uint32`, `CIM_Job REF`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CimType::Reference(class) => write!(f, "{class} REF"),
            other => f.write_str(other.keyword()),
        }
    }
}

impl Value {
    /// The type of a scalar; of an array that of its first element that is not NULL; none for NULL and for arrays
    /// without one.
    pub fn cim_type(&self) -> Option<CimType> {
        Some(match self {
            Value::Null => return None,
            Value::Boolean(_) => CimType::Boolean,
            Value::Uint8(_) => CimType::Uint8,
            Value::Uint16(_) => CimType::Uint16,
            Value::Uint32(_) => CimType::Uint32,
            Value::Uint64(_) => CimType::Uint64,
            Value::Sint8(_) => CimType::Sint8,
            Value::Sint16(_) => CimType::Sint16,
            Value::Sint32(_) => CimType::Sint32,
            Value::Sint64(_) => CimType::Sint64,
            Value::Real32(_) => CimType::Real32,
            Value::Real64(_) => CimType::Real64,
            Value::Char16(_) => CimType::Char16,
            Value::String(_) | Value::Instance(_) | Value::Class(_) => CimType::String,
            Value::DateTime(_) => CimType::DateTime,
            Value::Reference(path) => CimType::Reference(path.class.clone()),
            Value::Array(elements) => return elements.iter().find_map(Value::cim_type),
        })
    }

    pub fn is_null(&self) -> bool {
        *self == Value::Null
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Boolean(it) => Some(*it),
            _ => None,
        }
    }

    /// Any integer.
    pub fn as_i128(&self) -> Option<i128> {
        Some(match self {
            Value::Uint8(it) => (*it).into(),
            Value::Uint16(it) => (*it).into(),
            Value::Uint32(it) => (*it).into(),
            Value::Uint64(it) => (*it).into(),
            Value::Sint8(it) => (*it).into(),
            Value::Sint16(it) => (*it).into(),
            Value::Sint32(it) => (*it).into(),
            Value::Sint64(it) => (*it).into(),
            _ => return None,
        })
    }

    /// Any number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Real32(it) => Some((*it).into()),
            Value::Real64(it) => Some(*it),
            _ => self.as_i128().map(|it| it as f64),
        }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(elements) => Some(elements),
            _ => None,
        }
    }

    pub fn as_path(&self) -> Option<&ObjectPath> {
        match self {
            Value::Reference(path) => Some(path),
            _ => None,
        }
    }

    pub fn as_instance(&self) -> Option<&Instance> {
        match self {
            Value::Instance(instance) => Some(instance),
            _ => None,
        }
    }
}

/// The text that stands between `<VALUE>` and `</VALUE>` (DSP0201, 5.2.4), unescaped: booleans in capitals, reals
/// such that they read back the same, references as WMI paths, embedded instances as their XML. Arrays are for
/// messages only.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("NULL"),
            Value::Boolean(it) => f.write_str(if *it { "TRUE" } else { "FALSE" }),
            Value::Uint8(it) => it.fmt(f),
            Value::Uint16(it) => it.fmt(f),
            Value::Uint32(it) => it.fmt(f),
            Value::Uint64(it) => it.fmt(f),
            Value::Sint8(it) => it.fmt(f),
            Value::Sint16(it) => it.fmt(f),
            Value::Sint32(it) => it.fmt(f),
            Value::Sint64(it) => it.fmt(f),
            Value::Real32(it) if it.is_finite() => write!(f, "{it:e}"),
            Value::Real64(it) if it.is_finite() => write!(f, "{it:e}"),
            Value::Real32(it) => f.write_str(not_finite((*it).into())),
            Value::Real64(it) => f.write_str(not_finite(*it)),
            Value::Char16(it) => write!(f, "{}", char::from_u32((*it).into()).unwrap_or('\u{fffd}')),
            Value::String(it) => f.write_str(it),
            Value::DateTime(it) => it.fmt(f),
            Value::Reference(it) => it.fmt(f),
            Value::Instance(it) => write!(f, "instance of {}", it.class),
            Value::Class(it) => write!(f, "class {}", it.name),
            Value::Array(elements) => {
                f.write_str("{")?;
                for (index, element) in elements.iter().enumerate() {
                    write!(f, "{}{element}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}

fn not_finite(real: f64) -> &'static str {
    match real {
        it if it.is_nan() => "NaN",
        it if it > 0.0 => "INF",
        _ => "-INF",
    }
}

pub(crate) fn boolean(text: &str) -> Option<bool> {
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    match text {
        _ if is("true") || is("1") => Some(true),
        _ if is("false") || is("0") => Some(false),
        _ => None,
    }
}

pub(crate) fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((digits, 10), |hex| (hex, 16));
    // A second sign is what `from_str_radix` would take.
    let magnitude = u64::from_str_radix(digits.strip_prefix('+').map_or(digits, |_| ""), radix).ok()?;
    Some(sign * i128::from(magnitude))
}

pub(crate) fn real(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    match text {
        "INF" | "+INF" => Some(f64::INFINITY),
        "-INF" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ if plain => text.parse().ok().filter(|it: &f64| it.is_finite()),
        _ => None,
    }
}

/// None where it is too large for 32 bits.
fn real32(real: f64) -> Option<Value> {
    let narrow = real as f32;
    (narrow.is_finite() || !real.is_finite()).then_some(Value::Real32(narrow))
}

fn char16(text: &str) -> Option<u16> {
    let mut units = text.encode_utf16();
    match (units.next(), units.next()) {
        (Some(unit), None) => Some(unit),
        _ => integer(text.trim()).and_then(|it| it.try_into().ok()),
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident),+ $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Value {
                Value::$variant(value.into())
            }
        }
    )+};
}

from! {
    bool => Boolean,
    u8 => Uint8,
    u16 => Uint16,
    u32 => Uint32,
    u64 => Uint64,
    i8 => Sint8,
    i16 => Sint16,
    i32 => Sint32,
    i64 => Sint64,
    f32 => Real32,
    f64 => Real64,
    String => String,
    &str => String,
    &Name => String,
    DateTime => DateTime,
    ObjectPath => Reference,
    Instance => Instance,
    Class => Class,
}

impl From<&Name> for String {
    fn from(name: &Name) -> String {
        name.as_str().to_owned()
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Value {
        Value::Array(values.into_iter().map(Into::into).collect())
    }
}
