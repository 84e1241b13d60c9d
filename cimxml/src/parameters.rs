//! The parameters of an intrinsic method, taken one after the other by the names that DSP0200 gives them.

use crate::message::Argument;
use cim::{CimType, Error, Instance, Name, Namespace, ObjectPath, Schema, Value};

/// What was given and not yet taken.
pub struct Parameters {
    method: String,
    given: Vec<(Name, Argument)>,
}

impl Parameters {
    /// A parameter that is given twice is refused.
    pub fn new(method: &str, given: Vec<(Name, Argument)>) -> Result<Parameters, Error> {
        for (index, (name, _)) in given.iter().enumerate() {
            if given[..index].iter().any(|(other, _)| other == name) {
                return Err(refuse(method, name.as_str(), "is given twice"));
            }
        }
        Ok(Parameters { method: method.to_owned(), given })
    }

    /// Refuses what no one took: an operation takes all that it knows before it does anything.
    pub fn finish(&self) -> Result<(), Error> {
        match self.given.first() {
            Some((name, _)) => Err(refuse(&self.method, name.as_str(), "is not known")),
            None => Ok(()),
        }
    }

    /// Takes parameters that mean nothing here.
    pub fn ignore(&mut self, names: &[&str]) {
        self.given.retain(|(given, _)| !names.iter().any(|name| given.is(name)));
    }

    pub fn boolean(&mut self, name: &str, default: bool) -> Result<bool, Error> {
        let value = self.scalar(name, &CimType::Boolean)?;
        Ok(value.and_then(|value| value.as_bool()).unwrap_or(default))
    }

    pub fn uint32(&mut self, name: &str) -> Result<Option<u32>, Error> {
        let value = self.scalar(name, &CimType::Uint32)?;
        Ok(value.and_then(|value| u32::try_from(value.as_i128()?).ok()))
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        let value = self.scalar(name, &CimType::String)?;
        Ok(value.and_then(|value| value.as_str().map(str::to_owned)))
    }

    pub fn required_text(&mut self, name: &str) -> Result<String, Error> {
        let text = self.text(name)?;
        text.ok_or_else(|| self.missing(name))
    }

    /// A name given as a text, such as a role; a blank one counts as none.
    pub fn name(&mut self, name: &str) -> Result<Option<Name>, Error> {
        let text = self.text(name)?;
        Ok(text.filter(|text| !text.trim().is_empty()).map(|text| Name::from(text.trim())))
    }

    /// A list of names, such as `PropertyList`.
    pub fn names(&mut self, name: &str) -> Result<Option<Vec<Name>>, Error> {
        let elements = match self.take(name) {
            None | Some(Argument::Value(Value::Null)) => return Ok(None),
            Some(Argument::Value(Value::Array(elements))) => elements,
            Some(Argument::Value(text @ Value::String(_))) => vec![text],
            Some(_) => return Err(self.refuse(name, "is not a list of names")),
        };
        let named = elements.iter().map(|element| element.as_str().map(Name::from));
        named.collect::<Option<_>>().map(Some).ok_or_else(|| self.refuse(name, "holds a NULL"))
    }

    /// The name of a class, given as `CLASSNAME` or as a text.
    pub fn class(&mut self, name: &str) -> Result<Option<Name>, Error> {
        match self.take(name) {
            None | Some(Argument::Value(Value::Null)) => Ok(None),
            Some(Argument::Path(path)) if path.is_class() => Ok(Some(path.class)),
            Some(Argument::Value(Value::String(text))) => Ok(Some(text.trim().into())),
            Some(_) => Err(self.refuse(name, "is not the name of a class")),
        }
    }

    pub fn required_class(&mut self, name: &str) -> Result<Name, Error> {
        let class = self.class(name)?;
        class.ok_or_else(|| self.missing(name))
    }

    /// The path of a class or of an instance, typed and complete.
    pub fn object(&mut self, name: &str, schema: &Schema) -> Result<ObjectPath, Error> {
        let path = match self.take(name) {
            Some(Argument::Path(path)) => path,
            Some(Argument::Value(Value::String(text))) => {
                ObjectPath::parse(&text).map_err(|error| self.refuse(name, &error.to_string()))?
            }
            None | Some(Argument::Value(Value::Null)) => return Err(self.missing(name)),
            Some(_) => return Err(self.refuse(name, "is not a path")),
        };
        require_here(&path, schema.namespace())?;
        schema.resolve(&path)
    }

    /// The path of an instance, typed and complete.
    pub fn instance_path(&mut self, name: &str, schema: &Schema) -> Result<ObjectPath, Error> {
        let path = self.object(name, schema)?;
        if path.is_class() {
            return Err(self.refuse(name, "names a class, not an instance"));
        }
        Ok(path)
    }

    /// An instance as it is spelt.
    pub fn instance(&mut self, name: &str) -> Result<Instance, Error> {
        match self.take(name) {
            Some(Argument::Instance(instance)) => Ok(instance),
            None => Err(self.missing(name)),
            Some(_) => Err(self.refuse(name, "is not an instance")),
        }
    }

    /// A value as it is spelt; NULL where none is given.
    pub fn value(&mut self, name: &str) -> Result<Value, Error> {
        match self.take(name) {
            None => Ok(Value::Null),
            Some(Argument::Value(value)) => Ok(value),
            Some(Argument::Path(path)) => Ok(path.into()),
            Some(_) => Err(self.refuse(name, "is not a value")),
        }
    }

    pub fn refuse(&self, name: &str, what: &str) -> Error {
        refuse(&self.method, name, what)
    }

    pub fn missing(&self, name: &str) -> Error {
        self.refuse(name, "is missing")
    }

    fn take(&mut self, name: &str) -> Option<Argument> {
        let position = self.given.iter().position(|(given, _)| given.is(name))?;
        Some(self.given.swap_remove(position).1)
    }

    fn scalar(&mut self, name: &str, cim_type: &CimType) -> Result<Option<Value>, Error> {
        match self.take(name) {
            None | Some(Argument::Value(Value::Null)) => Ok(None),
            Some(Argument::Value(value)) => {
                let value = cim_type.conform(name, false, value);
                value.map(Some).map_err(|error| self.refuse(name, &error.to_string()))
            }
            Some(_) => Err(self.refuse(name, &format!("is not a {}", cim_type.keyword()))),
        }
    }
}

/// A path that names a namespace names the one that the operation is for.
fn require_here(path: &ObjectPath, namespace: &Namespace) -> Result<(), Error> {
    match &path.namespace {
        Some(other) if other != namespace => {
            let message = format!("{path} is not in {namespace}, for which the operation is");
            Err(Error::invalid_parameter(message))
        }
        _ => Ok(()),
    }
}

fn refuse(method: &str, name: &str, what: &str) -> Error {
    Error::invalid_parameter(format_args!("{method}: parameter {name} {what}"))
}
