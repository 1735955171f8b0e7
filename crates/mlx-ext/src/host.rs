//! Operations of an MLX graph whose results are computed by a Rust function on the CPU.
//!
//! They are lazy like every operation of MLX: the function runs on the thread of the CPU stream when a result is
//! evaluated. Gradients come from [`custom_vjp`](crate::custom_vjp), whose two functions may both use host operations.
//!
//! ```no_run
//! use mlx_ext::host::HostOp;
//! use mlx_rs::{Array, Dtype};
//!
//! # fn main() -> mlx_ext::Result<()> {
//! let x = Array::from_slice(&[1.0_f32, 2.0], &[2]);
//! let doubled = HostOp::new("double")
//!     .input(&x)
//!     .output(x.shape(), Dtype::Float32)
//!     .build(|inputs, outputs| {
//!         for (y, x) in outputs[0].slice::<f32>().iter_mut().zip(inputs[0].slice::<f32>()) {
//!             *y = 2.0 * x;
//!         }
//!     })?;
//! # Ok(())
//! # }
//! ```

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use mlx_rs::{Array, ArrayElement, Dtype, Stream};
use mlx_sys::{ashlar_output, ashlar_view};

use crate::error::{Result, check, install_handler};
use crate::transforms::{Vector, custom_vjp, panic_message};

/// An operation under construction: its inputs and the shapes of its outputs.
pub struct HostOp {
    name: &'static str,
    inputs: Vec<Array>,
    strided: Vec<bool>,
    outputs: Vec<OutputSpec>,
}

struct OutputSpec {
    shape: Vec<i32>,
    dtype: Dtype,
    takes: Option<usize>,
}

/// Function of an operation and the element types of its arrays.
struct Payload<F> {
    body: F,
    inputs: Vec<Dtype>,
    outputs: Vec<Dtype>,
}

impl HostOp {
    /// Starts an operation; `name` appears in error messages and printed graphs.
    pub fn new(name: &'static str) -> Self {
        Self { name, inputs: Vec::new(), strided: Vec::new(), outputs: Vec::new() }
    }

    /// Adds an input, which the function gets in row-major order; other orders are copied first.
    #[must_use]
    pub fn input(self, array: &Array) -> Self {
        self.with_input(array, false)
    }

    /// Adds an input, which the function gets with its strides: only the last axis is contiguous. Transposed heads
    /// and slices of a cache need no copy.
    #[must_use]
    pub fn strided_input(self, array: &Array) -> Self {
        self.with_input(array, true)
    }

    fn with_input(mut self, array: &Array, strided: bool) -> Self {
        self.inputs.push(array.clone());
        self.strided.push(strided);
        self
    }

    /// Adds an output, row-major and not initialized.
    ///
    /// # Panics
    ///
    /// Panics for `bool`, whose memory must not hold arbitrary values.
    #[must_use]
    pub fn output(mut self, shape: &[i32], dtype: Dtype) -> Self {
        assert_ne!(dtype, Dtype::Bool, "an output of numbers");
        self.outputs.push(OutputSpec { shape: shape.to_vec(), dtype, takes: None });
        self
    }

    /// Adds an output that starts with the contents of the input of index `input`, and has its shape and type. It takes
    /// over the buffer of the input if nothing else needs it, else a copy. The function cannot read that input.
    ///
    /// # Panics
    ///
    /// Panics if there is no such input or another output takes it.
    #[must_use]
    pub fn output_over(mut self, input: usize) -> Self {
        assert!(
            self.outputs.iter().all(|output| output.takes != Some(input)),
            "two outputs take input {input}"
        );
        let array = &self.inputs[input];
        let spec = OutputSpec { shape: array.shape().to_vec(), dtype: array.dtype(), takes: Some(input) };
        self.outputs.push(spec);
        self
    }

    /// Returns the outputs, which `body` computes when they are evaluated.
    ///
    /// A panic of `body` becomes an error of the evaluation. `body` must not call MLX.
    ///
    /// # Errors
    ///
    /// Returns the error of MLX.
    pub fn build(
        self,
        body: impl Fn(&[Input<'_>], &mut [Output<'_>]) + Send + Sync + 'static,
    ) -> Result<Vec<Array>> {
        install_handler();
        let Self { name, inputs, strided, outputs } = self;
        let payload = Payload {
            body,
            inputs: inputs.iter().map(Array::dtype).collect(),
            outputs: outputs.iter().map(|output| output.dtype).collect(),
        };
        build(name, &inputs, &strided, &outputs, payload)
    }

    /// Returns the only output of the operation.
    ///
    /// # Errors
    ///
    /// Returns the error of MLX.
    ///
    /// # Panics
    ///
    /// Panics without outputs.
    pub fn build_one(
        self,
        body: impl Fn(&[Input<'_>], &mut [Output<'_>]) + Send + Sync + 'static,
    ) -> Result<Array> {
        Ok(self.build(body)?.swap_remove(0))
    }
}

fn build<F>(
    name: &str,
    inputs: &[Array],
    strided: &[bool],
    outputs: &[OutputSpec],
    payload: Payload<F>,
) -> Result<Vec<Array>>
where
    F: Fn(&[Input<'_>], &mut [Output<'_>]) + Send + Sync + 'static,
{
    let name = CString::new(name).expect("names are constants without NUL");
    let stream = Stream::thread_local_or_default();
    let specs: Vec<ashlar_output> = outputs
        .iter()
        .map(|output| ashlar_output {
            shape: output.shape.as_ptr(),
            dims: output.shape.len(),
            dtype: u32::from(output.dtype) as mlx_sys::mlx_dtype,
            takes: output.takes.map_or(-1, |input| input as i32),
        })
        .collect();
    let inputs = Vector::of(inputs);
    let mut results = Vector::new();
    let payload = Box::into_raw(Box::new(payload));
    // SAFETY: all pointers live for the length of the call; MLX owns the payload from here and frees it once, with
    // `free::<F>`; `call::<F>` reads it as the type that it has.
    check(unsafe {
        mlx_sys::ashlar_host_operation(
            results.as_mut(),
            name.as_ptr(),
            inputs.as_raw(),
            strided.as_ptr(),
            specs.as_ptr(),
            specs.len(),
            call::<F>,
            payload.cast(),
            free::<F>,
            stream.as_ptr(),
        )
    })?;
    results.arrays()
}

unsafe extern "C" fn free<F>(payload: *mut c_void) {
    // SAFETY: made by `Box::into_raw` as this type, and freed once.
    drop(unsafe { Box::from_raw(payload.cast::<Payload<F>>()) });
}

unsafe extern "C" fn call<F>(
    payload: *const c_void,
    inputs: *const ashlar_view,
    outputs: *mut ashlar_view,
    message: *mut c_char,
    capacity: usize,
) -> i32
where
    F: Fn(&[Input<'_>], &mut [Output<'_>]) + Send + Sync + 'static,
{
    mlx_sys::join_workers();
    // SAFETY: the payload that `build` made, alive for the length of the call.
    let payload = unsafe { &*payload.cast::<Payload<F>>() };
    let run = || {
        let view = |first: *const ashlar_view, index: usize, dtype: Dtype| {
            // SAFETY: there is one view per element type, in the same order, alive for the length of the call.
            unsafe { View::new(&*first.add(index), dtype) }
        };
        let of_inputs = payload.inputs.iter().enumerate();
        let inputs: Vec<_> = of_inputs.map(|(i, &dtype)| Input(view(inputs, i, dtype))).collect();
        let of_outputs = payload.outputs.iter().enumerate();
        let mut outputs: Vec<_> =
            of_outputs.map(|(i, &dtype)| Output(view(outputs.cast_const(), i, dtype))).collect();
        (payload.body)(&inputs, &mut outputs);
    };
    let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else { return 0 };
    let text = panic_message(panic.as_ref());
    let length = text.len().min(capacity - 1);
    // SAFETY: `message` has room for `capacity` bytes, of which these are fewer.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), message.cast::<u8>(), length);
        message.add(length).write(0);
    }
    1
}

/// Shape, strides, type and data of an evaluated array.
struct View<'a> {
    data: *mut c_void,
    shape: &'a [i32],
    strides: &'a [i64],
    dtype: Dtype,
}

impl<'a> View<'a> {
    /// # Safety
    ///
    /// The pointers of `raw` are valid for its number of axes, and the data for all elements.
    unsafe fn new(raw: &'a ashlar_view, dtype: Dtype) -> Self {
        // SAFETY: the caller's promise; for zero axes the pointer is not read.
        let (shape, strides) = unsafe {
            match raw.dims {
                0 => (&[][..], &[][..]),
                dims => (slice::from_raw_parts(raw.shape, dims), slice::from_raw_parts(raw.strides, dims)),
            }
        };
        Self { data: raw.data, shape, strides, dtype }
    }

    fn size(&self) -> usize {
        self.shape.iter().map(|&extent| extent as usize).product()
    }

    /// Returns the first element and the number of elements of a row-major array.
    fn elements<T: ArrayElement>(&self) -> (*mut T, usize) {
        assert_eq!(self.dtype, T::DTYPE, "element type");
        let size = self.size();
        if size == 0 {
            return (std::ptr::NonNull::dangling().as_ptr(), 0);
        }
        assert!(!self.data.is_null(), "the input has been taken over by an output");
        (self.data.cast(), size)
    }

    fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(self.strides).rev().all(|(&extent, &stride)| {
            let fits = extent == 1 || stride == expected;
            expected *= i64::from(extent);
            fits
        })
    }

    /// Returns the address of the first element of a row: the last axis at `index` of the other axes.
    fn row<T: ArrayElement>(&self, index: &[usize]) -> *const T {
        let (data, size) = self.elements::<T>();
        let others = self.shape.len().saturating_sub(1);
        assert!(index.len() == others && size > 0, "one index for every axis but the last");
        let mut offset = 0;
        for ((&index, &extent), &stride) in index.iter().zip(self.shape).zip(self.strides) {
            assert!(index < extent as usize, "index {index} of an axis of {extent}");
            offset += index as isize * stride as isize;
        }
        data.wrapping_offset(offset)
    }
}

/// An input of a host operation.
pub struct Input<'a>(View<'a>);

// SAFETY: an input is only read, and its memory stays valid for its lifetime.
unsafe impl Sync for Input<'_> {}
// SAFETY: as above.
unsafe impl Send for Input<'_> {}

impl Input<'_> {
    /// Returns the extent of each axis.
    pub fn shape(&self) -> &[i32] {
        self.0.shape
    }

    /// Returns the extent of an axis.
    pub fn dim(&self, axis: usize) -> usize {
        self.0.shape[axis] as usize
    }

    /// Returns the distance between neighbours along each axis, in elements.
    pub fn strides(&self) -> &[i64] {
        self.0.strides
    }

    /// Returns all elements of a row-major input.
    ///
    /// # Panics
    ///
    /// Panics if the element type is another, if the input is strided, or if an output has taken it over.
    pub fn slice<T: ArrayElement>(&self) -> &[T] {
        assert!(self.0.is_row_major(), "rows of a strided input are read one by one");
        let (data, size) = self.0.elements::<T>();
        // SAFETY: row-major, so that many elements lie behind the pointer, which stay valid and unchanged.
        unsafe { slice::from_raw_parts(data, size) }
    }

    /// Returns the elements of the last axis, given the index of every other axis.
    ///
    /// # Panics
    ///
    /// Panics as [`Self::slice`] does, except for strides, and if the index is out of range.
    pub fn row<T: ArrayElement>(&self, index: &[usize]) -> &[T] {
        let length = *self.0.shape.last().expect("an array of at least one axis") as usize;
        if length == 0 {
            return &[];
        }
        // SAFETY: the index is within the shape, and the last axis is contiguous, as all inputs have it.
        unsafe { slice::from_raw_parts(self.0.row::<T>(index), length) }
    }

    /// Returns the elements of the last axis by the number of the row, counted in row-major order of the other axes.
    ///
    /// # Panics
    ///
    /// Panics as [`Self::row`] does.
    pub fn nth_row<T: ArrayElement>(&self, row: usize) -> &[T] {
        let axes = self.0.shape.len() - 1;
        assert!(axes <= 4, "at most five axes");
        let (mut index, mut rest) = ([0; 4], row);
        for axis in (0..axes).rev() {
            let extent = self.0.shape[axis] as usize;
            (index[axis], rest) = (rest % extent, rest / extent);
        }
        assert_eq!(rest, 0, "a row of the array");
        self.row(&index[..axes])
    }

    /// Returns the address of the first element, for code that follows the strides itself.
    ///
    /// # Panics
    ///
    /// Panics if the element type is another or if an output has taken the input over.
    pub fn as_ptr<T: ArrayElement>(&self) -> *const T {
        self.0.elements::<T>().0
    }
}

/// An output of a host operation, row-major.
pub struct Output<'a>(View<'a>);

// SAFETY: the memory belongs to this output alone, as that of a `&mut [T]` does, and stays valid for its lifetime.
unsafe impl Sync for Output<'_> {}
// SAFETY: as above.
unsafe impl Send for Output<'_> {}

impl Output<'_> {
    /// Returns the extent of each axis.
    pub fn shape(&self) -> &[i32] {
        self.0.shape
    }

    /// Returns the extent of an axis.
    pub fn dim(&self, axis: usize) -> usize {
        self.0.shape[axis] as usize
    }

    /// Returns all elements. Unless the output took over an input, their values are arbitrary.
    ///
    /// # Panics
    ///
    /// Panics if the element type is another.
    pub fn slice<T: ArrayElement>(&mut self) -> &mut [T] {
        let (data, size) = self.0.elements::<T>();
        // SAFETY: outputs are row-major and their memory belongs to them alone. Every bit pattern is a valid number of
        // the types that MLX has, except for `bool`, of which nothing in this program makes outputs.
        unsafe { slice::from_raw_parts_mut(data, size) }
    }
}

/// Bounds the number of host operations that MLX prepares ahead of the one that runs, and with it the memory of results
/// that are allocated early.
///
/// The thread that evaluates sleeps at the bound. Applies to the whole process.
pub fn set_run_ahead(operations: usize) {
    // SAFETY: only sets a number, under a lock.
    unsafe { mlx_sys::ashlar_set_run_ahead(operations.max(1)) };
}

/// Returns `x` by way of a host operation in both directions, so that [`set_run_ahead`] bounds models that have no others.
pub fn paced(x: &Array) -> Result<Array> {
    let pass = |x: &Array| HostOp::new("pace").input(x).output_over(0).build(|_, _| {});
    let function = custom_vjp(move |inputs| pass(&inputs[0]), move |_, by, _| pass(&by[0]))?;
    Ok(function.call(slice::from_ref(x))?.swap_remove(0))
}

/// Returns whether models use host operations for `array`: on a CPU, and in `f32`.
pub fn uses_host(array: &Array) -> bool {
    is_host() && array.dtype() == Dtype::Float32
}

/// Returns whether this build of MLX computes on a CPU.
pub fn is_host() -> bool {
    mlx_sys::BACKEND == "cpu"
}
