//! The strict loader: hands out the tensors of a model and collects every problem.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_rs::{Array, Dtype, ops};

use crate::error::{Error, Result};

/// Hands out tensors by name and collects problems, so that one error names all of them.
///
/// Taking a tensor never fails: a missing one is replaced by zeros, and [`Loader::finish`] fails afterwards.
pub(crate) struct Loader {
    tensors: BTreeMap<String, Array>,
    taken: RefCell<BTreeSet<String>>,
    problems: RefCell<Vec<String>>,
    dtype: Option<Dtype>,
}

impl Loader {
    /// Starts with a set of tensors, whose floats are cast to `dtype` if given.
    pub(crate) fn new(tensors: BTreeMap<String, Array>, dtype: Option<Dtype>) -> Self {
        Self { tensors, taken: RefCell::default(), problems: RefCell::default(), dtype }
    }

    /// Returns whether a tensor of this name exists.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns whether no tensor is quantized: all are plain floats, and none holds scales.
    pub(crate) fn has_only_floats(&self) -> bool {
        !self.tensors.is_empty()
            && self.tensors.iter().all(|(name, array)| array.dtype().is_float() && !name.ends_with(".scales"))
    }

    /// Takes a float tensor of a known shape; returns zeros and records a problem if there is none.
    pub(crate) fn take(&self, name: &str, shape: &[i32]) -> Array {
        match self.take_any(name) {
            Some(array) if array.shape() == shape => self.cast(array),
            Some(array) => {
                self.problem(format!("tensor `{name}` has shape {:?}, expected {shape:?}", array.shape()));
                self.zeros(shape)
            }
            None => self.zeros(shape),
        }
    }

    /// Takes a tensor of any shape and type; records a problem if it is missing.
    pub(crate) fn take_any(&self, name: &str) -> Option<Array> {
        self.taken.borrow_mut().insert(name.to_owned());
        let array = self.tensors.get(name).cloned();
        if array.is_none() {
            self.problem(format!("missing tensor `{name}`"));
        }
        array
    }

    /// Marks a tensor as used, if it exists.
    pub(crate) fn ignore(&self, name: &str) {
        self.taken.borrow_mut().insert(name.to_owned());
    }

    /// Returns zeros in the place of a tensor that cannot be used.
    pub(crate) fn zeros(&self, shape: &[i32]) -> Array {
        self.cast(ops::zeros::<f32>(shape).expect("zeros are allocated lazily"))
    }

    /// Casts floats to the compute type; leaves other types as they are.
    pub(crate) fn cast(&self, array: Array) -> Array {
        match self.dtype {
            Some(dtype) if array.dtype().is_float() && array.dtype() != dtype => {
                array.as_dtype(dtype).expect("a cast between floats is always possible")
            }
            _ => array,
        }
    }

    /// Returns the type of the model's floats: the one asked for, else that of the first stored float tensor.
    pub(crate) fn float_dtype(&self) -> Dtype {
        let stored = || self.tensors.values().map(Array::dtype).find(Dtype::is_float);
        self.dtype.or_else(stored).unwrap_or(Dtype::Float32)
    }

    /// Records a problem.
    pub(crate) fn problem(&self, problem: String) {
        self.problems.borrow_mut().push(problem);
    }

    /// Ends loading.
    ///
    /// # Errors
    ///
    /// Names every missing, misshapen and unknown tensor.
    pub(crate) fn finish(self, folder: &Path) -> Result<()> {
        let taken = self.taken.into_inner();
        let mut problems = self.problems.into_inner();
        for name in self.tensors.keys().filter(|name| !taken.contains(*name)) {
            problems.push(format!("unknown tensor `{name}`"));
        }
        problems.sort();
        problems.dedup();
        if problems.is_empty() { Ok(()) } else { Err(Error::Weights { path: folder.to_owned(), problems }) }
    }
}
