//! WQL, the query language of WMI: read, checked against a schema, and evaluated over one instance at a time.
//!
//! Keywords, names and the comparison of strings take no notice of case. A condition is true, false or unknown, and
//! only what is true is selected: comparing NULL with a literal is unknown, as in SQL.

mod ast;
mod check;
mod evaluate;
mod lex;
mod like;
mod parse;

#[cfg(test)]
mod tests;

pub use ast::{AssociationQuery, Comparison, Condition, EventQuery, Literal, Operand, Query, Select};
pub use check::{check_event, check_select};
pub use evaluate::{Context, evaluate, project, select};
pub use parse::parse;
