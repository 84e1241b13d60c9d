//! Declarations of qualifiers and classes.

use super::Declared;
use super::lex::Token;
use super::parse::Parser;
use crate::{
    CimType, Class, Flavor, Location, Method, Parameter, ParseError, Property, Qualifier, QualifierDecl,
    Scope, Value,
};

impl Parser<'_, '_> {
    pub(super) fn qualifier_declaration(&mut self) -> Result<QualifierDecl, ParseError> {
        let name = self.name("the qualifier's name")?;
        self.want(':')?;
        let cim_type = self.intrinsic()?;
        let (is_array, _) = self.array()?;
        let default = if self.eat('=') { self.typed(&name, &cim_type, is_array)? } else { Value::Null };
        let (mut scopes, mut flavor) = (vec![], Flavor::default());
        while self.eat(',') {
            let list = self.name("Scope or Flavor")?;
            self.want('(')?;
            loop {
                match () {
                    () if list.is("scope") => scopes.push(self.scope()?),
                    () if list.is("flavor") => self.flavor(&mut flavor)?,
                    () => return Err(self.refuse(format_args!("expected Scope or Flavor, found {list}"))),
                }
                if !self.eat(',') {
                    break;
                }
            }
            self.want(')')?;
        }
        if scopes.is_empty() {
            return Err(self.expected("the qualifier's Scope(...)"));
        }
        self.want(';')?;
        Ok(QualifierDecl { name, cim_type, is_array, default, scopes, flavor })
    }

    fn scope(&mut self) -> Result<Scope, ParseError> {
        let known = Scope::ALL.iter().find(|scope| self.at_word(scope.keyword()));
        let scope = *known.ok_or_else(|| self.expected("a scope (class, property, method, any, …)"))?;
        self.next();
        Ok(scope)
    }

    fn flavor(&mut self, flavor: &mut Flavor) -> Result<(), ParseError> {
        match () {
            () if self.at_word("EnableOverride") => flavor.overridable = true,
            () if self.at_word("DisableOverride") => flavor.overridable = false,
            () if self.at_word("ToSubclass") => flavor.to_subclass = true,
            () if self.at_word("Restricted") => flavor.to_subclass = false,
            () if self.at_word("Translatable") => flavor.translatable = true,
            () if self.at_word("ToInstance") => flavor.to_instance = true,
            () if self.at_word("Amended") => {}
            () => {
                return Err(
                    self.expected("a flavor (EnableOverride, DisableOverride, ToSubclass, Restricted, …)")
                );
            }
        }
        self.next();
        Ok(())
    }

    pub(super) fn class(&mut self) -> Result<(), ParseError> {
        let qualifiers = self.qualifiers()?;
        let at = self.here();
        self.next();
        let name = self.name("the class's name")?;
        if self.eat_word("as") {
            self.alias()?;
        }
        let superclass = if self.eat(':') { Some(self.name("the superclass's name")?) } else { None };
        let mut class = Class { name, superclass, qualifiers, properties: vec![], methods: vec![] };
        let (mut properties_at, mut methods_at) = (vec![], vec![]);
        self.want('{')?;
        while !self.eat('}') {
            self.feature(&mut class, &mut properties_at, &mut methods_at)?;
        }
        self.want(';')?;
        properties_at.append(&mut methods_at);
        let declared = Declared { elements_at: properties_at, ..self.state.declared(class, at) };
        self.state.mof.classes.push(declared);
        Ok(())
    }

    fn feature(
        &mut self,
        class: &mut Class,
        properties_at: &mut Vec<Location>,
        methods_at: &mut Vec<Location>,
    ) -> Result<(), ParseError> {
        let qualifiers = self.qualifiers()?;
        let cim_type = self.data_type("a property, a method or }")?;
        let (at, position) = (self.here(), self.position);
        let name = self.name("the name of a property or method")?;
        if class.property(name.as_str()).is_some() || class.method(name.as_str()).is_some() {
            self.position = position;
            return Err(self.refuse(format_args!("class {} has two elements named {name}", class.name)));
        }
        if self.eat('(') {
            let parameters = self.parameters()?;
            methods_at.push(at);
            let (return_type, class_origin) = (cim_type, None);
            class.methods.push(Method {
                name,
                return_type,
                parameters,
                qualifiers,
                class_origin,
                propagated: false,
            });
        } else {
            let (is_array, array_size) = self.array()?;
            let default = if self.eat('=') { self.typed(&name, &cim_type, is_array)? } else { Value::Null };
            properties_at.push(at);
            class.properties.push(Property {
                name,
                cim_type,
                is_array,
                array_size,
                default,
                qualifiers,
                class_origin: None,
                propagated: false,
            });
        }
        self.want(';')
    }

    fn parameters(&mut self) -> Result<Vec<Parameter>, ParseError> {
        let mut parameters: Vec<Parameter> = vec![];
        if self.eat(')') {
            return Ok(parameters);
        }
        loop {
            let qualifiers = self.qualifiers()?;
            let cim_type = self.data_type("the type of a parameter")?;
            let position = self.position;
            let name = self.name("the name of a parameter")?;
            if parameters.iter().any(|other| other.name == name) {
                self.position = position;
                return Err(self.refuse(format_args!("two parameters are named {name}")));
            }
            let (is_array, array_size) = self.array()?;
            parameters.push(Parameter { name, cim_type, is_array, array_size, qualifiers });
            if !self.eat(',') {
                self.want(')')?;
                return Ok(parameters);
            }
        }
    }

    fn intrinsic(&mut self) -> Result<CimType, ParseError> {
        let Token::Word(word) = self.peek() else { return Err(self.expected("a type")) };
        let cim_type =
            CimType::from_keyword(word).ok_or_else(|| self.expected("a type (uint32, string, …)"))?;
        self.next();
        Ok(cim_type)
    }

    /// An intrinsic type, or `Class REF`.
    fn data_type(&mut self, what: &str) -> Result<CimType, ParseError> {
        let position = self.position;
        let word = self.name(what)?;
        if self.eat_word("ref") {
            return Ok(CimType::Reference(word));
        }
        self.position = position;
        self.intrinsic()
    }

    fn array(&mut self) -> Result<(bool, Option<u32>), ParseError> {
        if !self.eat('[') {
            return Ok((false, None));
        }
        let size = match self.peek() {
            Token::Literal(Value::Uint64(size)) => {
                let size = u32::try_from(*size).map_err(|_| self.expected("the size of an array"))?;
                self.next();
                Some(size)
            }
            _ => None,
        };
        self.want(']')?;
        Ok((true, size))
    }

    fn qualifiers(&mut self) -> Result<Vec<Qualifier>, ParseError> {
        let mut qualifiers: Vec<Qualifier> = vec![];
        if !self.eat('[') {
            return Ok(qualifiers);
        }
        loop {
            let position = self.position;
            let name = self.name("the name of a qualifier")?;
            let declared = self.state.mof.qualifiers.iter().find(|it| it.item.name == name);
            let refused = match declared {
                None => Some(format!("qualifier {name} is not declared")),
                Some(_) if qualifiers.iter().any(|it| it.name == name) => {
                    Some(format!("qualifier {name} is given twice"))
                }
                Some(_) => None,
            };
            let (Some(declared), None) = (declared, &refused) else {
                self.position = position;
                return Err(self.refuse(refused.unwrap_or_default()));
            };
            let declared = declared.item.clone();
            let value = if self.eat('(') {
                let value = self.typed(&name, &declared.cim_type, declared.is_array)?;
                self.want(')')?;
                value
            } else if *self.peek() == Token::Sign('{') {
                self.typed(&name, &declared.cim_type, declared.is_array)?
            } else if declared.cim_type == CimType::Boolean && !declared.is_array {
                Value::Boolean(true)
            } else {
                declared.default.clone()
            };
            let mut flavor = declared.flavor;
            if self.eat(':') {
                self.flavor(&mut flavor)?;
                while matches!(self.peek(), Token::Word(_)) {
                    self.flavor(&mut flavor)?;
                }
            }
            qualifiers.push(Qualifier {
                name: declared.name,
                cim_type: declared.cim_type,
                value,
                flavor,
                propagated: false,
            });
            if !self.eat(',') {
                self.want(']')?;
                return Ok(qualifiers);
            }
        }
    }
}
