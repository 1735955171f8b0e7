//! Parses statements; `expressions.rs` parses expressions.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::syntax::ast::{
    Args, Assignment, Body, Expr, FilterCall, ForLoop, IfArm, MacroDef, Param, Stmt, StmtKind, Target,
};
use crate::syntax::lexer::{Token, TokenKind, tokens};

/// Deepest nesting of statements and expressions.
const MAX_DEPTH: usize = 120;
/// Stack that a nested part finds at least, and that is added when less is left, in bytes.
const MIN_STACK: usize = 256 << 10;
const MORE_STACK: usize = 2 << 20;

/// Parses a template.
pub(crate) fn parse(source: &str) -> Result<Body> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, depth: 0, loops: 0 };
    let (body, end) = parser.body(&[])?;
    debug_assert!(end.is_empty(), "only the end of the template ends it");
    Ok(body)
}

pub(crate) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    loops: usize,
}

impl Parser {
    pub(crate) fn kind(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    pub(crate) fn line(&self) -> usize {
        self.tokens[self.at].line
    }

    pub(crate) fn next(&mut self) -> TokenKind {
        let kind = self.tokens[self.at].kind.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        kind
    }

    pub(crate) fn unexpected(&self) -> Error {
        let found = match self.kind() {
            TokenKind::Text(_) => "text".to_owned(),
            TokenKind::Name(name) => format!("`{name}`"),
            TokenKind::Str(_) => "a string".to_owned(),
            TokenKind::Int(_) | TokenKind::Float(_) => "a number".to_owned(),
            TokenKind::Op(operator) => format!("`{operator}`"),
            TokenKind::BeginVariable => "`{{`".to_owned(),
            TokenKind::EndVariable => "end of print statement".to_owned(),
            TokenKind::BeginBlock => "`{%`".to_owned(),
            TokenKind::EndBlock => "end of block".to_owned(),
            TokenKind::End => "end of template".to_owned(),
        };
        Error::syntax(self.line(), format!("unexpected {found}"))
    }

    pub(crate) fn is_op(&self, operator: &str) -> bool {
        matches!(self.kind(), TokenKind::Op(found) if *found == operator)
    }

    pub(crate) fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), TokenKind::Name(found) if found == name)
    }

    /// Returns whether the token after the next is the operator.
    pub(crate) fn is_second_op(&self, operator: &str) -> bool {
        let second = self.tokens.get(self.at + 1).map(|token| &token.kind);
        matches!(second, Some(TokenKind::Op(found)) if *found == operator)
    }

    /// Returns whether the token after the next is the name.
    pub(crate) fn is_second_name(&self, name: &str) -> bool {
        let second = self.tokens.get(self.at + 1).map(|token| &token.kind);
        matches!(second, Some(TokenKind::Name(found)) if found == name)
    }

    pub(crate) fn skip_op(&mut self, operator: &str) -> bool {
        let found = self.is_op(operator);
        if found {
            self.next();
        }
        found
    }

    pub(crate) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    pub(crate) fn expect_op(&mut self, operator: &str) -> Result<()> {
        if self.skip_op(operator) { Ok(()) } else { Err(self.unexpected()) }
    }

    pub(crate) fn name(&mut self) -> Result<String> {
        match self.kind() {
            TokenKind::Name(_) => match self.next() {
                TokenKind::Name(name) => Ok(name),
                _ => unreachable!("the kind was just seen"),
            },
            _ => Err(self.unexpected()),
        }
    }

    /// Runs `parse` one level deeper.
    pub(crate) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::syntax(self.line(), "nested too deeply"));
        }
        self.depth += 1;
        let parsed = stacker::maybe_grow(MIN_STACK, MORE_STACK, || parse(self));
        self.depth -= 1;
        parsed
    }

    fn end_block(&mut self) -> Result<()> {
        match self.kind() {
            TokenKind::EndBlock => {
                self.next();
                Ok(())
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Parses statements up to a tag that is one of `ends`, and returns its name; the rest of that tag follows. If `ends`
    /// is empty, parses the whole template.
    fn body(&mut self, ends: &[&str]) -> Result<(Body, String)> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.next() {
                TokenKind::Text(text) => StmtKind::Text(text),
                TokenKind::BeginVariable => {
                    let value = self.tuple_or_expression()?;
                    if *self.kind() != TokenKind::EndVariable {
                        return Err(self.unexpected());
                    }
                    self.next();
                    StmtKind::Output(value)
                }
                TokenKind::BeginBlock => {
                    let name = self.name()?;
                    if ends.contains(&name.as_str()) {
                        return Ok((body, name));
                    }
                    self.nested(|parser| parser.statement(&name, line))?
                }
                TokenKind::End if ends.is_empty() => return Ok((body, String::new())),
                TokenKind::End => {
                    return Err(Error::syntax(
                        line,
                        format!("unexpected end of template, expected `{}`", ends[0]),
                    ));
                }
                _ => return Err(Error::syntax(line, "unexpected token")),
            };
            body.push(Stmt { line, kind });
        }
    }

    /// Parses statements up to `{% end %}`.
    fn body_to(&mut self, end: &str) -> Result<Body> {
        let (body, _) = self.body(&[end])?;
        if end == "endblock" && matches!(self.kind(), TokenKind::Name(_)) {
            self.next();
        }
        self.end_block()?;
        Ok(body)
    }

    fn statement(&mut self, name: &str, line: usize) -> Result<StmtKind> {
        match name {
            "if" => self.if_statement(),
            "for" => self.for_statement(),
            "set" => self.set_statement(),
            "macro" => self.macro_statement(),
            "call" => self.call_statement(),
            "filter" => {
                let filters = self.filter_calls(true)?;
                self.end_block()?;
                Ok(StmtKind::Filter(filters, self.body_to("endfilter")?))
            }
            "with" => self.with_statement(),
            "generation" => {
                self.end_block()?;
                Ok(StmtKind::Generation(self.body_to("endgeneration")?))
            }
            "block" => {
                self.name()?;
                while !matches!(self.kind(), TokenKind::EndBlock) {
                    self.name()?;
                }
                self.end_block()?;
                Ok(StmtKind::Block(self.body_to("endblock")?))
            }
            "autoescape" => {
                self.expression()?;
                self.end_block()?;
                Ok(StmtKind::Block(self.body_to("endautoescape")?))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(Error::syntax(line, format!("`{name}` outside a loop")));
                }
                self.end_block()?;
                Ok(if name == "break" { StmtKind::Break } else { StmtKind::Continue })
            }
            _ => Err(Error::syntax(line, format!("Encountered unknown tag '{name}'."))),
        }
    }

    fn if_statement(&mut self) -> Result<StmtKind> {
        let mut arms = Vec::new();
        loop {
            let test = self.tuple_or_expression()?;
            self.end_block()?;
            let (body, end) = self.body(&["endif", "elif", "else"])?;
            arms.push(IfArm { test, body });
            match end.as_str() {
                "elif" => {}
                "else" => {
                    self.end_block()?;
                    return Ok(StmtKind::If(arms, self.body_to("endif")?));
                }
                _ => {
                    self.end_block()?;
                    return Ok(StmtKind::If(arms, Vec::new()));
                }
            }
        }
    }

    fn for_statement(&mut self) -> Result<StmtKind> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            return Err(self.unexpected());
        }
        let over = self.tuple_without_condition()?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.end_block()?;
        self.loops += 1;
        let parsed = self.body(&["endfor", "else"]);
        self.loops -= 1;
        let (body, end) = parsed?;
        self.end_block()?;
        let otherwise = if end == "else" { self.body_to("endfor")? } else { Vec::new() };
        Ok(StmtKind::For(Arc::new(ForLoop { target, over, condition, recursive, body, otherwise })))
    }

    fn set_statement(&mut self) -> Result<StmtKind> {
        let target = self.target(true)?;
        if self.skip_op("=") {
            let value = self.tuple_or_expression()?;
            self.end_block()?;
            return Ok(StmtKind::Set(target, value));
        }
        let filters = if self.is_op("|") { self.filter_calls(false)? } else { Vec::new() };
        self.end_block()?;
        Ok(StmtKind::SetBlock(target, filters, self.body_to("endset")?))
    }

    /// Parses `a`, `a, b` or `(a, b)`; with `namespace` also `a.b`.
    fn target(&mut self, namespace: bool) -> Result<Target> {
        let first = self.single_target(namespace)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.skip_op(",") {
            if self.is_name("in") || self.is_op("=") {
                break;
            }
            targets.push(self.single_target(namespace)?);
        }
        Ok(Target::Tuple(targets))
    }

    fn single_target(&mut self, namespace: bool) -> Result<Target> {
        if self.skip_op("(") {
            let target = self.nested(|parser| parser.target(namespace))?;
            self.expect_op(")")?;
            return Ok(target);
        }
        let name = self.name()?;
        if namespace && self.skip_op(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        if ["true", "false", "none", "True", "False", "None"].contains(&name.as_str()) {
            return Err(Error::syntax(self.line(), format!("can't assign to `{name}`")));
        }
        Ok(Target::Name(name))
    }

    fn filter_calls(&mut self, first: bool) -> Result<Vec<FilterCall>> {
        let mut calls = Vec::new();
        let mut more = first || self.skip_op("|");
        while more {
            let name = self.dotted_name()?;
            let args = if self.is_op("(") { self.call_args()? } else { Args::default() };
            calls.push(FilterCall { name, args });
            more = self.skip_op("|");
        }
        Ok(calls)
    }

    fn with_statement(&mut self) -> Result<StmtKind> {
        let mut assignments = Vec::new();
        while !matches!(self.kind(), TokenKind::EndBlock) {
            let target = self.single_target(false)?;
            self.expect_op("=")?;
            assignments.push(Assignment { target, value: self.expression()? });
            if !self.skip_op(",") {
                break;
            }
        }
        self.end_block()?;
        Ok(StmtKind::With(assignments, self.body_to("endwith")?))
    }

    fn macro_statement(&mut self) -> Result<StmtKind> {
        let name = self.name()?;
        let params = self.params()?;
        self.end_block()?;
        Ok(StmtKind::Macro(Arc::new(self.macro_body(name, params, "endmacro")?)))
    }

    fn call_statement(&mut self) -> Result<StmtKind> {
        let params = if self.is_op("(") { self.params()? } else { Vec::new() };
        let call: Expr = self.expression()?;
        self.end_block()?;
        Ok(StmtKind::Call(Arc::new(self.macro_body("caller".to_owned(), params, "endcall")?), call))
    }

    fn macro_body(&mut self, name: String, params: Vec<Param>, end: &str) -> Result<MacroDef> {
        let (from, loops) = (self.at, std::mem::take(&mut self.loops));
        let body = self.body_to(end);
        self.loops = loops;
        let body = body?;
        let mentions = |wanted: &str| {
            self.tokens[from..self.at]
                .iter()
                .any(|token| matches!(&token.kind, TokenKind::Name(name) if name == wanted))
        };
        let (uses_varargs, uses_kwargs) = (mentions("varargs"), mentions("kwargs"));
        Ok(MacroDef { name, params, body, uses_varargs, uses_kwargs })
    }

    fn params(&mut self) -> Result<Vec<Param>> {
        self.expect_op("(")?;
        let mut params: Vec<Param> = Vec::new();
        while !self.is_op(")") {
            let name = self.name()?;
            let default = if self.skip_op("=") { Some(self.expression()?) } else { None };
            if default.is_none() && params.last().is_some_and(|param| param.default.is_some()) {
                return Err(Error::syntax(self.line(), "non-default argument follows default argument"));
            }
            params.push(Param { name, default });
            if !self.skip_op(",") {
                break;
            }
        }
        self.expect_op(")")?;
        Ok(params)
    }
}
