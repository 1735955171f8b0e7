//! Parses expressions, with the precedence of Jinja2.

use crate::error::{Error, Result};
use crate::syntax::ast::{
    Args, Branches, Comparator, Comparison, Entry, Expr, ExprKind, NamedArg, Operator, SliceBounds,
};
use crate::syntax::lexer::TokenKind;
use crate::syntax::parser::Parser;

/// Most links of one chain, such as `a + b + c` or `a.b.c`.
const MAX_LINKS: usize = 400;
/// Deepest nesting of expressions; long chains are deep as well.
const MAX_EXPRESSION_DEPTH: usize = 600;

impl Parser {
    /// Counts one more link of a chain.
    fn link(&self, links: &mut usize) -> Result<()> {
        *links += 1;
        if *links > MAX_LINKS {
            return Err(Error::syntax(self.line(), "the expression is too long"));
        }
        Ok(())
    }

    /// Makes an expression, unless it is nested too deeply to be evaluated.
    fn node(&self, line: usize, kind: ExprKind) -> Result<Expr> {
        let expr = Expr::new(line, kind);
        if expr.depth() > MAX_EXPRESSION_DEPTH {
            return Err(Error::syntax(self.line(), "the expression is nested too deeply"));
        }
        Ok(expr)
    }

    /// Parses `a` or the tuple `a, b`.
    pub(crate) fn tuple_or_expression(&mut self) -> Result<Expr> {
        self.tuple(Self::expression)
    }

    /// As [`Self::tuple_or_expression`], but `if` belongs to the caller.
    pub(crate) fn tuple_without_condition(&mut self) -> Result<Expr> {
        self.tuple(Self::or_expression)
    }

    fn tuple(&mut self, item: fn(&mut Self) -> Result<Expr>) -> Result<Expr> {
        let line = self.line();
        let first = item(self)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_op(",") {
            let ended = matches!(self.kind(), TokenKind::EndBlock | TokenKind::EndVariable);
            if ended || self.is_op(")") || self.is_op("]") {
                break;
            }
            items.push(item(self)?);
        }
        self.node(line, ExprKind::Tuple(items))
    }

    pub(crate) fn expression(&mut self) -> Result<Expr> {
        self.nested(Self::condition)
    }

    fn condition(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut then = self.or_expression()?;
        while self.skip_name("if") {
            let test = self.or_expression()?;
            let otherwise = if self.skip_name("else") { Some(self.expression()?) } else { None };
            then = self.node(line, ExprKind::Condition(Box::new(Branches { test, then, otherwise })))?;
        }
        Ok(then)
    }

    fn or_expression(&mut self) -> Result<Expr> {
        let line = self.line();
        let (mut left, mut links) = (self.and_expression()?, 0);
        while self.skip_name("or") {
            self.link(&mut links)?;
            let right = self.and_expression()?;
            left = self.node(line, ExprKind::Or(Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn and_expression(&mut self) -> Result<Expr> {
        let line = self.line();
        let (mut left, mut links) = (self.not_expression()?, 0);
        while self.skip_name("and") {
            self.link(&mut links)?;
            let right = self.not_expression()?;
            left = self.node(line, ExprKind::And(Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn not_expression(&mut self) -> Result<Expr> {
        let line = self.line();
        if self.skip_name("not") {
            let inner = self.nested(Self::not_expression)?;
            return self.node(line, ExprKind::Not(Box::new(inner)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut chain = Vec::new();
        while let Some(operator) = self.comparator() {
            chain.push(Comparison { operator, right: self.sum()? });
        }
        if chain.is_empty() {
            return Ok(first);
        }
        self.node(line, ExprKind::Compare(Box::new(first), chain))
    }

    fn comparator(&mut self) -> Option<Comparator> {
        let operator = match self.kind() {
            TokenKind::Op("==") => Comparator::Equal,
            TokenKind::Op("!=") => Comparator::NotEqual,
            TokenKind::Op("<") => Comparator::Less,
            TokenKind::Op("<=") => Comparator::LessEqual,
            TokenKind::Op(">") => Comparator::Greater,
            TokenKind::Op(">=") => Comparator::GreaterEqual,
            TokenKind::Name(name) if name == "in" => Comparator::In,
            TokenKind::Name(name) if name == "not" && self.is_second_name("in") => {
                self.next();
                Comparator::NotIn
            }
            _ => return None,
        };
        self.next();
        Some(operator)
    }

    fn sum(&mut self) -> Result<Expr> {
        self.binary(Self::concatenation, |operator| match operator {
            "+" => Some(Operator::Add),
            "-" => Some(Operator::Subtract),
            _ => None,
        })
    }

    fn concatenation(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_op("~") {
            parts.push(self.product()?);
        }
        self.node(line, ExprKind::Concat(parts))
    }

    fn product(&mut self) -> Result<Expr> {
        self.binary(Self::power, |operator| match operator {
            "*" => Some(Operator::Multiply),
            "/" => Some(Operator::Divide),
            "//" => Some(Operator::FloorDivide),
            "%" => Some(Operator::Modulo),
            _ => None,
        })
    }

    fn power(&mut self) -> Result<Expr> {
        self.binary(|parser| parser.unary(true), |operator| (operator == "**").then_some(Operator::Power))
    }

    fn binary(
        &mut self,
        operand: fn(&mut Self) -> Result<Expr>,
        operator: fn(&str) -> Option<Operator>,
    ) -> Result<Expr> {
        let line = self.line();
        let (mut left, mut links) = (operand(self)?, 0);
        while let TokenKind::Op(found) = self.kind()
            && let Some(found) = operator(found)
        {
            self.link(&mut links)?;
            self.next();
            let right = operand(self)?;
            left = self.node(line, ExprKind::Binary(found, Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let line = self.line();
        let node = if self.skip_op("-") {
            let inner = self.nested(|parser| parser.unary(false))?;
            self.node(line, ExprKind::Negative(Box::new(inner)))?
        } else if self.skip_op("+") {
            let inner = self.nested(|parser| parser.unary(false))?;
            self.node(line, ExprKind::Positive(Box::new(inner)))?
        } else {
            self.primary()?
        };
        let node = self.postfix(node)?;
        if with_filters { self.filters(node) } else { Ok(node) }
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let kind = match self.kind().clone() {
            TokenKind::Name(name) => {
                self.next();
                match name.as_str() {
                    "true" | "True" => ExprKind::Bool(true),
                    "false" | "False" => ExprKind::Bool(false),
                    "none" | "None" => ExprKind::None,
                    _ => ExprKind::Name(name),
                }
            }
            TokenKind::Str(mut text) => {
                self.next();
                while let TokenKind::Str(more) = self.kind() {
                    text.push_str(more);
                    self.next();
                }
                ExprKind::Str(text)
            }
            TokenKind::Int(number) => {
                self.next();
                ExprKind::Int(number)
            }
            TokenKind::Float(number) => {
                self.next();
                ExprKind::Float(number)
            }
            TokenKind::Op("(") => return self.nested(Self::parenthesized),
            TokenKind::Op("[") => {
                self.next();
                ExprKind::List(self.items("]")?)
            }
            TokenKind::Op("{") => self.nested(Self::dict)?,
            _ => return Err(self.unexpected()),
        };
        self.node(line, kind)
    }

    fn parenthesized(&mut self) -> Result<Expr> {
        let line = self.line();
        self.expect_op("(")?;
        if self.skip_op(")") {
            return self.node(line, ExprKind::Tuple(Vec::new()));
        }
        let inner = self.tuple_or_expression()?;
        self.expect_op(")")?;
        Ok(inner)
    }

    fn items(&mut self, end: &str) -> Result<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.is_op(end) {
            items.push(self.expression()?);
            if !self.skip_op(",") {
                break;
            }
        }
        self.expect_op(end)?;
        Ok(items)
    }

    fn dict(&mut self) -> Result<ExprKind> {
        self.expect_op("{")?;
        let mut entries = Vec::new();
        while !self.is_op("}") {
            let key = self.expression()?;
            self.expect_op(":")?;
            entries.push(Entry { key, value: self.expression()? });
            if !self.skip_op(",") {
                break;
            }
        }
        self.expect_op("}")?;
        Ok(ExprKind::Dict(entries))
    }

    fn postfix(&mut self, mut node: Expr) -> Result<Expr> {
        let mut links = 0;
        loop {
            self.link(&mut links)?;
            let line = self.line();
            let kind = if self.skip_op(".") {
                match self.next() {
                    TokenKind::Name(name) => ExprKind::Attribute(Box::new(node), name),
                    TokenKind::Int(index) => {
                        ExprKind::Item(Box::new(node), Box::new(Expr::new(line, ExprKind::Int(index))))
                    }
                    _ => return Err(Error::syntax(line, "expected name or number")),
                }
            } else if self.is_op("[") {
                self.nested(|parser| parser.subscript(node))?
            } else if self.is_op("(") {
                ExprKind::Call(Box::new(node), self.call_args()?)
            } else {
                return Ok(node);
            };
            node = self.node(line, kind)?;
        }
    }

    fn subscript(&mut self, node: Expr) -> Result<ExprKind> {
        self.expect_op("[")?;
        let start = if self.is_op(":") { None } else { Some(self.tuple_or_expression()?) };
        if let Some(index) = start.clone().filter(|_| !self.is_op(":")) {
            self.expect_op("]")?;
            return Ok(ExprKind::Item(Box::new(node), Box::new(index)));
        }
        let mut bounds = SliceBounds { start, stop: None, step: None };
        self.expect_op(":")?;
        if !self.is_op(":") && !self.is_op("]") {
            bounds.stop = Some(self.expression()?);
        }
        if self.skip_op(":") && !self.is_op("]") {
            bounds.step = Some(self.expression()?);
        }
        self.expect_op("]")?;
        Ok(ExprKind::Slice(Box::new(node), Box::new(bounds)))
    }

    fn filters(&mut self, mut node: Expr) -> Result<Expr> {
        let mut links = 0;
        loop {
            self.link(&mut links)?;
            let line = self.line();
            let kind = if self.skip_op("|") {
                let name = self.dotted_name()?;
                let args = if self.is_op("(") { self.call_args()? } else { Args::default() };
                ExprKind::Filter(Box::new(node), name, args)
            } else if self.is_name("is") {
                self.next();
                self.test(node)?
            } else if self.is_op("(") {
                ExprKind::Call(Box::new(node), self.call_args()?)
            } else {
                return Ok(node);
            };
            node = self.node(line, kind)?;
        }
    }

    pub(crate) fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.skip_op(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }

    fn test(&mut self, node: Expr) -> Result<ExprKind> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut args = Args::default();
        let takes_operand = match self.kind() {
            TokenKind::Name(word) => {
                !["else", "or", "and", "if", "is", "not", "in", "recursive"].contains(&word.as_str())
            }
            TokenKind::Str(_) | TokenKind::Int(_) | TokenKind::Float(_) => true,
            TokenKind::Op(operator) => matches!(*operator, "[" | "{"),
            _ => false,
        };
        if self.is_op("(") {
            args = self.call_args()?;
        } else if takes_operand {
            let operand = self.primary()?;
            args.positional.push(self.postfix(operand)?);
        }
        Ok(ExprKind::Test(Box::new(node), name, args, negated))
    }

    pub(crate) fn call_args(&mut self) -> Result<Args> {
        self.nested(|parser| {
            parser.expect_op("(")?;
            let mut args = Args::default();
            while !parser.is_op(")") {
                parser.one_arg(&mut args)?;
                if !parser.skip_op(",") {
                    break;
                }
            }
            parser.expect_op(")")?;
            Ok(args)
        })
    }

    fn one_arg(&mut self, args: &mut Args) -> Result<()> {
        if self.skip_op("**") {
            args.map = Some(Box::new(self.expression()?));
        } else if self.skip_op("*") {
            args.list = Some(Box::new(self.expression()?));
        } else if matches!(self.kind(), TokenKind::Name(_)) && self.is_second_op("=") {
            let name = self.name()?;
            self.next();
            args.named.push(NamedArg { name, value: self.expression()? });
        } else if args.named.is_empty() {
            args.positional.push(self.expression()?);
        } else {
            return Err(self.unexpected());
        }
        Ok(())
    }
}
