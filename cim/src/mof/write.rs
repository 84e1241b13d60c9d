//! Classes back as MOF.

use crate::class::Flavor;
use crate::{Class, Parameter, Property, Qualifier, QualifierDecl, Value};
use std::fmt::Write;

impl Class {
    /// The class as MOF declares it: its own elements and qualifiers, without what it inherits.
    pub fn to_mof(&self) -> String {
        let mut mof = qualifiers(&self.qualifiers, "");
        let superclass = self.superclass.as_ref().map(|name| format!(" : {name}")).unwrap_or_default();
        _ = writeln!(mof, "class {}{superclass} {{", self.name);
        for property in self.properties.iter().filter(|property| !property.propagated) {
            mof += &qualifiers(&property.qualifiers, "    ");
            _ = writeln!(mof, "    {};", declaration(property));
        }
        for method in self.methods.iter().filter(|method| !method.propagated) {
            mof += &qualifiers(&method.qualifiers, "    ");
            let parameters: Vec<_> = method.parameters.iter().map(parameter).collect();
            let parameters = parameters.join(",");
            _ = writeln!(mof, "    {} {}({parameters});", method.return_type, method.name);
        }
        mof + "};\n"
    }
}

impl QualifierDecl {
    /// The declaration in MOF.
    pub fn to_mof(&self) -> String {
        let scopes: Vec<_> = self.scopes.iter().map(|scope| scope.keyword()).collect();
        let default =
            if self.default.is_null() { String::new() } else { format!(" = {}", literal(&self.default)) };
        let brackets = if self.is_array { "[]" } else { "" };
        let (name, cim_type, scopes) = (&self.name, &self.cim_type, scopes.join(", "));
        let flavor = flavors(self.flavor).join(", ");
        format!("Qualifier {name} : {cim_type}{brackets}{default}, Scope({scopes}), Flavor({flavor});\n")
    }
}

fn qualifiers(all: &[Qualifier], indent: &str) -> String {
    let own: Vec<_> = all.iter().filter(|it| !it.propagated).map(qualifier).collect();
    if own.is_empty() && !indent.is_empty() {
        return String::new();
    }
    match own.is_empty() {
        true => String::new(),
        false => format!("{indent}[{}]\n", own.join(&format!(",\n{indent} "))),
    }
}

fn qualifier(qualifier: &Qualifier) -> String {
    let value = match &qualifier.value {
        Value::Boolean(true) => String::new(),
        array @ Value::Array(_) => format!(" {}", literal(array)),
        value => format!("({})", literal(value)),
    };
    // All flavors are written: what a reader would assume is known only to the qualifier's declaration.
    format!("{}{value} : {}", qualifier.name, flavors(qualifier.flavor).join(" "))
}

fn flavors(flavor: Flavor) -> Vec<&'static str> {
    let mut flavors = vec![
        if flavor.overridable { "EnableOverride" } else { "DisableOverride" },
        if flavor.to_subclass { "ToSubclass" } else { "Restricted" },
    ];
    flavors.extend(flavor.translatable.then_some("Translatable"));
    flavors.extend(flavor.to_instance.then_some("ToInstance"));
    flavors
}

fn declaration(property: &Property) -> String {
    let default =
        if property.default.is_null() { String::new() } else { format!(" = {}", literal(&property.default)) };
    let brackets = brackets(property.is_array, property.array_size);
    format!("{} {}{brackets}{default}", property.cim_type, property.name)
}

fn parameter(parameter: &Parameter) -> String {
    let own = qualifiers(&parameter.qualifiers, "        ");
    let brackets = brackets(parameter.is_array, parameter.array_size);
    format!("\n{own}        {} {}{brackets}", parameter.cim_type, parameter.name)
}

fn brackets(is_array: bool, array_size: Option<u32>) -> String {
    match (is_array, array_size) {
        (false, _) => String::new(),
        (true, None) => "[]".to_owned(),
        (true, Some(size)) => format!("[{size}]"),
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::Array(elements) => {
            let elements: Vec<_> = elements.iter().map(literal).collect();
            format!("{{{}}}", elements.join(", "))
        }
        Value::Char16(unit) => match char::from_u32((*unit).into()) {
            Some(c) if !c.is_control() && c != '\'' && c != '\\' => format!("'{c}'"),
            _ => format!("'\\x{unit:04X}'"),
        },
        // `1e0` has no dot, which MOF wants.
        Value::Real32(real) => format!("{real:?}"),
        Value::Real64(real) => format!("{real:?}"),
        Value::Null | Value::Boolean(_) => value.to_string(),
        _ if value.as_i128().is_some() => value.to_string(),
        other => quoted(&other.to_string()),
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted += "\\n",
            '\r' => quoted += "\\r",
            '\t' => quoted += "\\t",
            c if c.is_control() => _ = write!(quoted, "\\x{:04X}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
