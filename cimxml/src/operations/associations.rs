//! From an instance or a class to its neighbours (DSP0200, 5.4.2.14 to 17).

use super::{Operation, path_of, require_class, returned, returned_items, whole};
use crate::answer::Pieces;
use crate::write;
use cim::embedded::write_class;
use cim::{AssociationFilter, Class, ClassView, Error, InstanceStream, ObjectPath, walk};
use futures::{StreamExt, stream};
use std::sync::Arc;

/// Which neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// What stands at the other ends.
    Associators,
    /// The associations themselves.
    References,
}

pub async fn objects(mut operation: Operation<'_>, walk: Walk) -> Result<Pieces, Error> {
    let path = operation.parameters.object("ObjectName", &operation.schema)?;
    let filter = operation.association_filter(walk)?;
    let include_qualifiers = operation.parameters.boolean("IncludeQualifiers", false)?;
    let view = operation.instance_view()?;
    operation.parameters.finish()?;
    let host = operation.server.host.clone();
    if path.is_class() {
        let view = ClassView {
            local_only: false,
            include_qualifiers,
            include_class_origin: view.class_origin,
            properties: view.properties,
        };
        let (classes, namespace) = (operation.classes(&path, &filter, walk), operation.namespace);
        let written = classes.into_iter().map(move |class| {
            let mut xml = "<VALUE.OBJECTWITHPATH>".to_owned();
            write::full_path(&mut xml, &ObjectPath::class(namespace.clone(), &class.name), &host);
            xml += &write_class(&class.view(&view), &[]);
            Ok(xml + "</VALUE.OBJECTWITHPATH>")
        });
        return Ok(returned_items(stream::iter(written).boxed()));
    }
    let instances = operation.neighbours(&path, &filter, walk).await?;
    let schema = operation.schema;
    Ok(returned(instances, move |instance| {
        let mut xml = "<VALUE.OBJECTWITHPATH>".to_owned();
        write::full_path(&mut xml, path_of(&instance)?, &host);
        write::instance(&mut xml, &instance, Some(&schema), &view);
        Ok(xml + "</VALUE.OBJECTWITHPATH>")
    }))
}

pub async fn names(mut operation: Operation<'_>, walk: Walk) -> Result<Pieces, Error> {
    let path = operation.parameters.object("ObjectName", &operation.schema)?;
    let filter = operation.association_filter(walk)?;
    operation.parameters.finish()?;
    let host = operation.server.host.clone();
    if path.is_class() {
        let mut xml = "<IRETURNVALUE>".to_owned();
        for class in operation.classes(&path, &filter, walk) {
            xml.push_str("<OBJECTPATH>");
            write::full_path(&mut xml, &ObjectPath::class(operation.namespace.clone(), &class.name), &host);
            xml.push_str("</OBJECTPATH>");
        }
        return Ok(whole(xml + "</IRETURNVALUE>"));
    }
    let instances = operation.neighbours(&path, &filter, walk).await?;
    Ok(returned(instances, move |instance| {
        let mut xml = "<OBJECTPATH>".to_owned();
        write::full_path(&mut xml, path_of(&instance)?, &host);
        Ok(xml + "</OBJECTPATH>")
    }))
}

impl Operation<'_> {
    /// The refinements of a walk; the classes that they name must be there.
    pub fn association_filter(&mut self, walk: Walk) -> Result<AssociationFilter, Error> {
        let filter = match walk {
            Walk::Associators => AssociationFilter {
                assoc_class: self.parameters.class("AssocClass")?,
                result_class: self.parameters.class("ResultClass")?,
                role: self.parameters.name("Role")?,
                result_role: self.parameters.name("ResultRole")?,
            },
            Walk::References => AssociationFilter {
                assoc_class: self.parameters.class("ResultClass")?,
                role: self.parameters.name("Role")?,
                ..AssociationFilter::default()
            },
        };
        require_class(&self.schema, filter.assoc_class.as_ref())?;
        require_class(&self.schema, filter.result_class.as_ref())?;
        Ok(filter)
    }

    pub async fn neighbours(
        &self,
        path: &ObjectPath,
        filter: &AssociationFilter,
        walk: Walk,
    ) -> Result<InstanceStream, Error> {
        let provider = &self.server.provider;
        match walk {
            Walk::Associators => provider.associators(self.caller, path, filter).await,
            Walk::References => provider.references(self.caller, path, filter).await,
        }
    }

    fn classes(&self, path: &ObjectPath, filter: &AssociationFilter, walk: Walk) -> Vec<Arc<Class>> {
        let found = match walk {
            Walk::Associators => walk::associated_classes(&self.schema, &path.class, filter),
            Walk::References => walk::association_classes(&self.schema, &path.class, filter),
        };
        found.into_iter().cloned().collect()
    }
}
