//! What a WQL text says.

use crate::provider::AssociationFilter;
use crate::{Name, ObjectPath};

#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    Select(Select),
    /// `ASSOCIATORS OF {…}`
    Associators(AssociationQuery),
    /// `REFERENCES OF {…}`
    References(AssociationQuery),
    Event(EventQuery),
}

/// `SELECT columns FROM class WHERE condition`
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    /// The columns, system properties among them; none for `*`.
    pub columns: Option<Vec<Name>>,
    pub class: Name,
    pub condition: Option<Condition>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AssociationQuery {
    /// What stands between the braces; a class where the query asks for `ClassDefsOnly` or `SchemaOnly`.
    pub path: ObjectPath,
    pub filter: AssociationFilter,
    /// `ClassDefsOnly`: classes instead of instances.
    pub class_defs_only: bool,
    /// `KeysOnly`: only key properties.
    pub keys_only: bool,
    /// `SchemaOnly`: the path names a class, and so do the answers.
    pub schema_only: bool,
}

/// `SELECT columns FROM event WITHIN seconds WHERE TargetInstance ISA 'class' AND …`
#[derive(Debug, Clone, PartialEq)]
pub struct EventQuery {
    pub columns: Option<Vec<Name>>,
    /// The class of events, `__InstanceModificationEvent` or `CIM_InstModification` and their like.
    pub event: Name,
    /// How often the writer wants to be asked at most, in milliseconds.
    pub within_ms: Option<u64>,
    pub condition: Option<Condition>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    Compare(Operand, Comparison, Operand),
    /// The pattern with `%`, `_`, `[…]`.
    Like(Operand, String),
    IsNull(Operand),
    /// The operand holds an instance of the class or of a subclass.
    Isa(Operand, Name),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A property, a system property (`__CLASS`), or one of an embedded instance (`TargetInstance.Name`).
    Property(Vec<Name>),
    Literal(Literal),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Null,
    Boolean(bool),
    Integer(i128),
    Real(f64),
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}
