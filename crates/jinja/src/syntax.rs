//! The grammar of templates: from source to a syntax tree.

pub(crate) mod ast;
mod expressions;
pub(crate) mod lexer;
pub(crate) mod parser;
