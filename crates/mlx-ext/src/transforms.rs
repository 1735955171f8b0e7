//! Functions with custom gradients, and functions that are recomputed for the gradient.
//!
//! Everything to be differentiated must be an argument: an array captured by a closure is a constant, and its gradient is
//! zero without an error.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use mlx_rs::{Array, error, transforms};
use mlx_sys::{mlx_array, mlx_closure, mlx_vector_array};

use crate::error::{Error, Result, check, install_handler, set_closure_error};

type Forward = Box<dyn Fn(&[Array]) -> Result<Vec<Array>>>;
type Backward = Box<dyn Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>>>;

/// A function that MLX can call, with its gradient.
pub struct Function {
    closure: mlx_closure,
}

impl Function {
    /// Applies the function.
    ///
    /// # Errors
    ///
    /// Returns the error or panic of the closure, or the error of MLX.
    pub fn call(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let inputs = Vector::of(inputs);
        let mut outputs = Vector::new();
        // SAFETY: both vectors and the closure are live handles that we own.
        check(unsafe { mlx_sys::mlx_closure_apply(&raw mut outputs.0, self.closure, inputs.0) })?;
        outputs.arrays()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used again.
        unsafe { mlx_sys::mlx_closure_free(self.closure) };
    }
}

/// Returns `forward` with the custom gradient `backward`.
///
/// `backward` gets the inputs, one cotangent per output, and the outputs; it returns one gradient per input, which may be
/// zeros for inputs that are never differentiated.
pub fn custom_vjp(
    forward: impl Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    backward: impl Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
) -> Result<Function> {
    install_handler();
    let forward = new_closure(Box::new(forward));
    let payload: *mut Backward = Box::into_raw(Box::new(Box::new(backward)));
    // SAFETY: the payload is a boxed `Backward`, read by `call_backward` and freed once by `drop_backward`.
    let backward = unsafe {
        mlx_sys::mlx_closure_custom_new_func_payload(Some(call_backward), payload.cast(), Some(drop_backward))
    };
    // SAFETY: an empty handle, to be filled by the call below.
    let mut closure = unsafe { mlx_sys::mlx_closure_new() };
    // SAFETY: live handles; MLX keeps its own references to what it needs.
    let status = unsafe { mlx_sys::mlx_custom_vjp(&raw mut closure, forward.closure, backward) };
    // SAFETY: our reference, not used again.
    unsafe { mlx_sys::mlx_closure_custom_free(backward) };
    let function = Function { closure };
    check(status)?;
    Ok(function)
}

/// Returns `function` with its inner values recomputed for the gradient instead of kept.
pub fn checkpoint(function: impl Fn(&[Array]) -> Result<Vec<Array>> + 'static) -> Result<Function> {
    install_handler();
    let inner = new_closure(Box::new(function));
    // SAFETY: an empty handle, to be filled by the call below.
    let mut closure = unsafe { mlx_sys::mlx_closure_new() };
    // SAFETY: live handles; MLX keeps its own reference to the inner function.
    let status = unsafe { mlx_sys::mlx_checkpoint(&raw mut closure, inner.closure) };
    let function = Function { closure };
    check(status)?;
    Ok(function)
}

/// Returns the values of `function` at `inputs`, and the gradients of its first value for the first `count` inputs.
///
/// # Errors
///
/// Returns the error of the closure or of MLX.
pub fn value_and_grad(
    mut function: impl FnMut(&[Array]) -> Result<Vec<Array>>,
    inputs: &[Array],
    count: usize,
) -> Result<(Vec<Array>, Vec<Array>)> {
    install_handler();
    let arguments: Vec<i32> = (0..count as i32).collect();
    let reporting_errors = |inputs: &[Array]| -> error::Result<Vec<Array>> {
        function(inputs).map_err(|error| {
            let message = error.to_string();
            set_closure_error(error);
            error::Exception::custom(message)
        })
    };
    Ok(transforms::value_and_grad_with_argnums(reporting_errors, &arguments[..])(inputs)?)
}

/// Returns `array`, to be computed only after all of `before`.
pub fn after(array: &Array, before: &[Array]) -> Result<Array> {
    install_handler();
    let (inputs, before) = (Vector::of(slice::from_ref(array)), Vector::of(before));
    let mut outputs = Vector::new();
    // SAFETY: three vectors that we own.
    check(unsafe { mlx_sys::mlx_depends(&raw mut outputs.0, inputs.0, before.0) })?;
    Ok(outputs.arrays()?.swap_remove(0))
}

fn new_closure(forward: Forward) -> Function {
    let payload: *mut Forward = Box::into_raw(Box::new(forward));
    // SAFETY: the payload is a boxed `Forward`, read by `call_forward` and freed once by `drop_forward`.
    let closure = unsafe {
        mlx_sys::mlx_closure_new_func_payload(Some(call_forward), payload.cast(), Some(drop_forward))
    };
    Function { closure }
}

unsafe extern "C" fn call_forward(
    out: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    payload: *mut c_void,
) -> i32 {
    // SAFETY: MLX hands back the payload that `new_closure` made, alive until `drop_forward`.
    let forward = unsafe { &*payload.cast::<Forward>() };
    // SAFETY: `inputs` is MLX's for the length of the call; `out` is its vector to fill.
    unsafe { finish(out, || forward(&borrowed(inputs)?)) }
}

unsafe extern "C" fn call_backward(
    out: *mut mlx_vector_array,
    primals: mlx_vector_array,
    cotangents: mlx_vector_array,
    outputs: mlx_vector_array,
    payload: *mut c_void,
) -> i32 {
    // SAFETY: MLX hands back the payload that `custom_vjp` made, alive until `drop_backward`.
    let backward = unsafe { &*payload.cast::<Backward>() };
    // SAFETY: the vectors are MLX's for the length of the call; `out` is its vector to fill.
    unsafe { finish(out, || backward(&borrowed(primals)?, &borrowed(cotangents)?, &borrowed(outputs)?)) }
}

unsafe extern "C" fn drop_forward(payload: *mut c_void) {
    // SAFETY: made by `Box::into_raw` as this type, and MLX calls the destructor once.
    drop(unsafe { Box::from_raw(payload.cast::<Forward>()) });
}

unsafe extern "C" fn drop_backward(payload: *mut c_void) {
    // SAFETY: made by `Box::into_raw` as this type, and MLX calls the destructor once.
    drop(unsafe { Box::from_raw(payload.cast::<Backward>()) });
}

/// Runs a closure's body for MLX: writes its arrays to `out`, or keeps its error or panic, and returns a status.
///
/// # Safety
///
/// `out` is a live vector that belongs to MLX.
unsafe fn finish(out: *mut mlx_vector_array, body: impl FnOnce() -> Result<Vec<Array>>) -> i32 {
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(arrays)) => {
            let handles: Vec<mlx_array> = arrays.iter().map(Array::as_ptr).collect();
            // SAFETY: `out` is live (the caller's promise) and the handles live as long as `arrays`. Replacing
            // its handle instead of filling it would leak the vector.
            return unsafe { mlx_sys::mlx_vector_array_set_data(out, handles.as_ptr(), handles.len()) };
        }
        Ok(Err(error)) => error,
        Err(panic) => Error::Panic { message: panic_message(panic.as_ref()) },
    };
    set_closure_error(error);
    1
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Returns the arrays of a vector that still belongs to MLX.
pub(crate) fn borrowed(vector: mlx_vector_array) -> Result<Vec<Array>> {
    // SAFETY: the vector is live for the length of the call.
    let length = unsafe { mlx_sys::mlx_vector_array_size(vector) };
    (0..length)
        .map(|index| {
            // SAFETY: a fresh handle, filled with a new reference to the element, which the wrapper owns.
            unsafe {
                let mut handle = mlx_sys::mlx_array_new();
                let status = mlx_sys::mlx_vector_array_get(&raw mut handle, vector, index);
                let array = Array::from_ptr(handle);
                check(status).map(|()| array)
            }
        })
        .collect()
}

/// An owned vector of arrays.
pub(crate) struct Vector(mlx_vector_array);

impl Vector {
    pub(crate) fn new() -> Self {
        // SAFETY: makes an empty vector.
        Self(unsafe { mlx_sys::mlx_vector_array_new() })
    }

    pub(crate) fn of(arrays: &[Array]) -> Self {
        let handles: Vec<mlx_array> = arrays.iter().map(Array::as_ptr).collect();
        // SAFETY: the handles are live; the vector takes its own references.
        Self(unsafe { mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len()) })
    }

    pub(crate) fn arrays(&self) -> Result<Vec<Array>> {
        borrowed(self.0)
    }

    /// Returns the handle, which stays this vector's.
    pub(crate) fn as_raw(&self) -> mlx_vector_array {
        self.0
    }

    /// Returns the handle for the C interface to fill.
    pub(crate) fn as_mut(&mut self) -> *mut mlx_vector_array {
        &raw mut self.0
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used again.
        unsafe { mlx_sys::mlx_vector_array_free(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square_with_gradient_of(factor: f32) -> Result<Function> {
        custom_vjp(
            |inputs| Ok(vec![inputs[0].square()?]),
            move |inputs, cotangents, _| {
                let gradient = inputs[0].multiply(Array::from_f32(factor))?;
                Ok(vec![gradient.multiply(&cotangents[0])?])
            },
        )
    }

    fn gradient_at_three(function: &Function) -> Result<(f32, f32)> {
        let (value, gradient) = value_and_grad(|inputs| function.call(inputs), &[Array::from_f32(3.0)], 1)?;
        Ok((value[0].item_exact(), gradient[0].item_exact()))
    }

    #[test]
    fn a_custom_gradient_takes_the_place_of_the_derived_one() -> Result<()> {
        assert_eq!(gradient_at_three(&square_with_gradient_of(2.0)?)?, (9.0, 6.0));
        assert_eq!(gradient_at_three(&square_with_gradient_of(10.0)?)?, (9.0, 30.0));
        Ok(())
    }

    #[test]
    fn a_checkpointed_function_has_the_plain_gradient() -> Result<()> {
        let function = checkpoint(|inputs| Ok(vec![inputs[0].square()?.multiply(&inputs[0])?]))?;
        assert_eq!(gradient_at_three(&function)?, (27.0, 27.0));
        Ok(())
    }

    #[test]
    fn errors_and_panics_of_a_closure_come_back_as_errors() -> Result<()> {
        install_handler();
        let failing = checkpoint(|_| Err(Error::Mlx { message: "not today".to_owned() }))?;
        let error = failing.call(&[Array::from_f32(1.0)]).expect_err("it fails");
        assert_eq!(error.to_string(), "mlx: not today");
        let panicking = checkpoint(|_| panic!("out of stone"))?;
        let error = panicking.call(&[Array::from_f32(1.0)]).expect_err("it panics");
        assert!(matches!(&error, Error::Panic { message } if message == "out of stone"), "{error}");
        Ok(())
    }

    #[test]
    fn an_error_of_mlx_does_not_end_the_process() {
        install_handler();
        let a = Array::from_slice(&[1.0_f32, 2.0], &[2]);
        let b = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[3]);
        let error = Error::from(a.add(&b).expect_err("shapes differ"));
        assert!(error.to_string().contains("broadcast"), "{error}");
    }
}
