//! Classes and qualifiers, read-only (DSP0200, 5.4.2.1, 9, 10, 21 and 23).

use super::{Operation, returned_items, whole};
use crate::answer::Pieces;
use crate::write;
use cim::embedded::{write_class, write_qualifier_declaration};
use cim::{ClassView, Error, Name, Status};
use futures::{StreamExt, stream};

pub fn get(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let name = operation.parameters.required_class("ClassName")?;
    let view = operation.class_view()?;
    operation.parameters.finish()?;
    let mut xml = "<IRETURNVALUE>".to_owned();
    xml += &write_class(&find(&operation, &name, Status::NotFound)?.view(&view), &[]);
    Ok(whole(xml + "</IRETURNVALUE>"))
}

pub fn enumerate(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let names = operation.below()?;
    let view = operation.class_view()?;
    operation.parameters.finish()?;
    let schema = operation.schema;
    let classes = names.into_iter().filter_map(move |name| {
        let mut xml = String::new();
        xml += &write_class(&schema.class(&name)?.view(&view), &[]);
        Some(Ok(xml))
    });
    Ok(returned_items(stream::iter(classes).boxed()))
}

pub fn enumerate_names(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let names = operation.below()?;
    operation.parameters.finish()?;
    let mut xml = "<IRETURNVALUE>".to_owned();
    for name in names {
        write::name(&mut xml, &cim::ObjectPath::class(operation.namespace.clone(), name));
    }
    Ok(whole(xml + "</IRETURNVALUE>"))
}

pub fn get_qualifier(mut operation: Operation<'_>) -> Result<Pieces, Error> {
    let name = operation.parameters.required_text("QualifierName")?;
    operation.parameters.finish()?;
    let unknown = || Error::new(Status::NotFound, format_args!("there is no qualifier {name}"));
    let declared = operation.schema.qualifier(&name).ok_or_else(unknown)?;
    let mut xml = "<IRETURNVALUE>".to_owned();
    xml += &write_qualifier_declaration(declared);
    Ok(whole(xml + "</IRETURNVALUE>"))
}

pub fn enumerate_qualifiers(operation: Operation<'_>) -> Result<Pieces, Error> {
    operation.parameters.finish()?;
    let mut xml = "<IRETURNVALUE>".to_owned();
    for declared in operation.schema.qualifiers() {
        xml += &write_qualifier_declaration(declared);
    }
    Ok(whole(xml + "</IRETURNVALUE>"))
}

impl Operation<'_> {
    /// What of classes is wanted, with DSP0200's defaults.
    fn class_view(&mut self) -> Result<ClassView, Error> {
        Ok(ClassView {
            local_only: self.parameters.boolean("LocalOnly", true)?,
            include_qualifiers: self.parameters.boolean("IncludeQualifiers", true)?,
            include_class_origin: self.parameters.boolean("IncludeClassOrigin", false)?,
            properties: self.parameters.names("PropertyList")?,
        })
    }

    /// The classes below `ClassName`, or all from the roots; directly below, or all with `DeepInheritance`.
    fn below(&mut self) -> Result<Vec<Name>, Error> {
        let class = self.parameters.class("ClassName")?.filter(|class| !class.as_str().is_empty());
        let deep = self.parameters.boolean("DeepInheritance", false)?;
        let schema = &self.schema;
        Ok(match class {
            Some(class) => {
                find(self, &class, Status::InvalidClass)?;
                if deep { schema.descendants(&class) } else { schema.children(&class).to_vec() }
            }
            None => {
                let wanted = schema.classes().filter(|class| deep || class.superclass.is_none());
                wanted.map(|class| class.name.clone()).collect()
            }
        })
    }
}

/// DSP0200 has other codes for a class that is asked for than for one that an operation builds on.
fn find<'a>(operation: &'a Operation<'_>, name: &Name, status: Status) -> Result<&'a cim::Class, Error> {
    let found = operation.schema.require(name);
    found.map(|class| &**class).map_err(|error| Error { status, ..error })
}
