//! From the properties that are known to a whole instance: typed, spelt as declared, with its path, and NULL for all
//! that is not known. The schema's defaults are for clients that make instances; they fill nothing here.

use cim::{DateTime, Error, Instance, Schema, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The whole instance. A property that its class does not have, or of another type, is a mistake of this crate.
pub fn finish(instance: &Instance, schema: &Schema) -> Result<Instance, Error> {
    let known = schema.conform(instance).map_err(Error::failed)?;
    let class = schema.require(&known.class)?;
    let mut whole = Instance::new(&class.name);
    for property in &class.properties {
        let value = known.get(property.name.as_str()).cloned().unwrap_or(Value::Null);
        whole.properties.push((property.name.clone(), value));
    }
    let path = schema.path_of(&whole).map_err(Error::failed)?;
    Ok(whole.at(path))
}

/// RFC 3339 as CIM writes it.
pub fn datetime(text: &str) -> Option<DateTime> {
    Some(DateTime::from_unix_ms(unix_ms(text)?))
}

pub fn unix_ms(text: &str) -> Option<i64> {
    let instant = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(instant.unix_timestamp_nanos() / 1_000_000).ok()
}

pub fn interval(seconds: f64) -> DateTime {
    DateTime::from_interval_ms((seconds.max(0.0) * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn what_is_not_known_is_null_whatever_the_class_defaults_are() {
        let schema = schema::schema(schema::V2);
        let known = Instance::new("Msvm_ReplicationServiceSettingData").with("InstanceID", "x");
        let whole = finish(&known, &schema).unwrap();
        assert_eq!(whole.get("HttpPort"), Some(&Value::Null));
        assert_eq!(whole.properties.len(), schema.require(&known.class).unwrap().properties.len());
        let wrong = known.with("NoSuchThing", 1u8);
        assert!(finish(&wrong, &schema).unwrap_err().message.contains("NoSuchThing"));
    }

    #[test]
    fn times_are_converted() {
        assert_eq!(datetime("2026-05-04T03:12:07.25Z").unwrap().to_string(), "20260504031207.250000+000");
        assert_eq!(interval(61.5).to_string(), "00000000000101.500000:000");
        assert_eq!(datetime("yesterday"), None);
    }
}
