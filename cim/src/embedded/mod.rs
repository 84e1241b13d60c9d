//! Instances as text inside a string: the XML of DSP0201 in the dialects that clients write, and MOF.
//!
//! Reading tolerates what WMI's `GetText` and MI's serializer, libvirt, pywbem and people write: a byte order mark, an
//! XML declaration with any encoding, a DOCTYPE (passed over; one with declarations of its own is refused), wrappers
//! around the instance, unknown attributes and children, `__…` system properties, booleans in any case.
//! A property without value is NULL, unless `PROPAGATED="true"` says that nobody set it: then it is absent.

mod class;
mod prologue;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use class::{write_class, write_qualifier_declaration};
pub use prologue::blank_prologue;
pub use read::{instance, path, read, read_as};
pub use write::{write, write_path};

use crate::{ParseError, Schema, Value};

/// The instance that a value of an `EmbeddedInstance` element carries, as text or inline, typed by the schema.
/// None for NULL.
pub fn of_value(value: &Value, schema: &Schema) -> Result<Option<crate::Instance>, ParseError> {
    match value {
        Value::Null => Ok(None),
        Value::Instance(inline) => {
            let conformed = schema.conform(inline).map_err(|error| ParseError::new("", 0, error))?;
            Ok(Some(conformed))
        }
        Value::String(text) => read_as(text, schema).map(Some),
        other => Err(ParseError::new("", 0, format_args!("expected an embedded instance, found {other}"))),
    }
}
