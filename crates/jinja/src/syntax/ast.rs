//! Syntax trees of templates.

use std::sync::Arc;

/// An expression with its line.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) line: usize,
    pub(crate) kind: ExprKind,
    depth: usize,
}

impl Expr {
    pub(crate) fn new(line: usize, kind: ExprKind) -> Self {
        let depth = 1 + kind.depth();
        Self { line, kind, depth }
    }

    /// Returns the number of expressions from this one to its innermost one.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }
}

#[derive(Clone, Debug)]
pub(crate) enum ExprKind {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<Entry>),
    /// `expr.name`
    Attribute(Box<Expr>, String),
    /// `expr[index]`
    Item(Box<Expr>, Box<Expr>),
    /// `expr[start:stop:step]`
    Slice(Box<Expr>, Box<SliceBounds>),
    Call(Box<Expr>, Args),
    Filter(Box<Expr>, String, Args),
    /// `expr is name(args)`, negated if the last part is true.
    Test(Box<Expr>, String, Args, bool),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    /// `first op second op third …`
    Compare(Box<Expr>, Vec<Comparison>),
    Concat(Vec<Expr>),
    Condition(Box<Branches>),
}

impl ExprKind {
    /// Returns the depth of the deepest operand.
    fn depth(&self) -> usize {
        let deepest = |exprs: &[Expr]| exprs.iter().map(Expr::depth).max().unwrap_or(0);
        match self {
            Self::None | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Str(_) | Self::Name(_) => 0,
            Self::List(items) | Self::Tuple(items) | Self::Concat(items) => deepest(items),
            Self::Dict(entries) => {
                entries.iter().map(|entry| entry.key.depth().max(entry.value.depth())).max().unwrap_or(0)
            }
            Self::Attribute(owner, _) => owner.depth(),
            Self::Item(owner, index) => owner.depth().max(index.depth()),
            Self::Slice(owner, bounds) => {
                let bounds = [&bounds.start, &bounds.stop, &bounds.step];
                bounds.into_iter().flatten().map(Expr::depth).fold(owner.depth(), usize::max)
            }
            Self::Call(owner, args) | Self::Filter(owner, _, args) | Self::Test(owner, _, args, _) => {
                owner.depth().max(args.depth())
            }
            Self::Not(inner) | Self::Negative(inner) | Self::Positive(inner) => inner.depth(),
            Self::Binary(_, left, right) | Self::And(left, right) | Self::Or(left, right) => {
                left.depth().max(right.depth())
            }
            Self::Compare(first, chain) => {
                chain.iter().map(|link| link.right.depth()).fold(first.depth(), usize::max)
            }
            Self::Condition(branches) => {
                let otherwise = branches.otherwise.as_ref().map_or(0, Expr::depth);
                branches.test.depth().max(branches.then.depth()).max(otherwise)
            }
        }
    }
}

/// An entry of a dict literal.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Expr,
    pub(crate) value: Expr,
}

/// One step of a chain of comparisons.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) operator: Comparator,
    pub(crate) right: Expr,
}

#[derive(Clone, Debug)]
pub(crate) struct SliceBounds {
    pub(crate) start: Option<Expr>,
    pub(crate) stop: Option<Expr>,
    pub(crate) step: Option<Expr>,
}

/// `then if test else otherwise`
#[derive(Clone, Debug)]
pub(crate) struct Branches {
    pub(crate) test: Expr,
    pub(crate) then: Expr,
    pub(crate) otherwise: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparator {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

/// Arguments of a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args {
    pub(crate) positional: Vec<Expr>,
    pub(crate) named: Vec<NamedArg>,
    /// `*args`
    pub(crate) list: Option<Box<Expr>>,
    /// `**kwargs`
    pub(crate) map: Option<Box<Expr>>,
}

impl Args {
    fn depth(&self) -> usize {
        let named = self.named.iter().map(|arg| &arg.value);
        let starred = self.list.iter().chain(&self.map).map(|expr| &**expr);
        self.positional.iter().chain(named).chain(starred).map(Expr::depth).max().unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct NamedArg {
    pub(crate) name: String,
    pub(crate) value: Expr,
}

/// Target of an assignment by `for` or `set`.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Name(String),
    /// `namespace.name`
    Attribute(String, String),
    Tuple(Vec<Target>),
}

/// A statement with its line.
#[derive(Clone, Debug)]
pub(crate) struct Stmt {
    pub(crate) line: usize,
    pub(crate) kind: StmtKind,
}

pub(crate) type Body = Vec<Stmt>;

#[derive(Clone, Debug)]
pub(crate) enum StmtKind {
    Text(String),
    Output(Expr),
    If(Vec<IfArm>, Body),
    For(Arc<ForLoop>),
    Set(Target, Expr),
    SetBlock(Target, Vec<FilterCall>, Body),
    Macro(Arc<MacroDef>),
    /// `{% call(params) expr %}`
    Call(Arc<MacroDef>, Expr),
    Filter(Vec<FilterCall>, Body),
    With(Vec<Assignment>, Body),
    Block(Body),
    Generation(Body),
    Break,
    Continue,
}

#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) target: Target,
    pub(crate) value: Expr,
}

#[derive(Clone, Debug)]
pub(crate) struct IfArm {
    pub(crate) test: Expr,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) struct ForLoop {
    pub(crate) target: Target,
    pub(crate) over: Expr,
    pub(crate) condition: Option<Expr>,
    pub(crate) recursive: bool,
    pub(crate) body: Body,
    pub(crate) otherwise: Body,
}

#[derive(Clone, Debug)]
pub(crate) struct FilterCall {
    pub(crate) name: String,
    pub(crate) args: Args,
}

#[derive(Clone, Debug)]
pub(crate) struct MacroDef {
    pub(crate) name: String,
    pub(crate) params: Vec<Param>,
    pub(crate) body: Body,
    /// Whether the body mentions `caller`, `varargs` or `kwargs`; without them surplus arguments are errors.
    pub(crate) uses_varargs: bool,
    pub(crate) uses_kwargs: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) default: Option<Expr>,
}
