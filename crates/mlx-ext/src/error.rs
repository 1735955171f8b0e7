//! Errors of MLX, in MLX's own words.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Once;

use failure::Failure;

/// Error of MLX or of a closure that MLX called.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// MLX refused an operation.
    #[error("mlx: {message}")]
    Mlx {
        /// MLX's message.
        message: String,
    },
    /// A closure passed to MLX panicked.
    #[error("a closure called by mlx panicked: {message}")]
    Panic {
        /// Message of the panic.
        message: String,
    },
    /// The number of bytes does not match the shape.
    #[error("{bytes} bytes do not fill a tensor of shape {shape:?} and type {dtype:?}")]
    ByteCount {
        /// Number of bytes passed.
        bytes: usize,
        /// Shape of the tensor.
        shape: Vec<i32>,
        /// Element type of the tensor.
        dtype: mlx_rs::Dtype,
    },
    /// The system has no memory for an array.
    #[error("cannot allocate {bytes} bytes for a tensor")]
    NoMemory {
        /// Number of bytes requested.
        bytes: usize,
        /// Error of the system.
        source: std::io::Error,
    },
    /// Products cannot round their factors to `bfloat16` here.
    #[error(
        "products of `bfloat16` factors need a CPU with AVX-512 and its `bfloat16` instructions, and this is another ({backend})"
    )]
    NoBfloat16Products {
        /// The backend that this build links.
        backend: &'static str,
    },
    /// This build is for a kind of device that the machine lacks.
    #[error("this build runs on `{backend}`, but no such device is available")]
    NoDevice {
        /// The backend that this build links.
        backend: &'static str,
    },
}

impl Failure for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoDevice { .. } => Some("build again with BACKEND=cpu".to_owned()),
            Self::NoBfloat16Products { .. } => Some("leave out the setting `products`".to_owned()),
            _ => None,
        }
    }
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<mlx_rs::error::Exception> for Error {
    fn from(exception: mlx_rs::error::Exception) -> Self {
        pending().unwrap_or_else(|| Self::Mlx { message: exception.what().to_owned() })
    }
}

thread_local! {
    static LAST_MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
    static CLOSURE_ERROR: RefCell<Option<Error>> = const { RefCell::new(None) };
}

unsafe extern "C" {
    /// mlx-rs's own handler: it keeps the message for the failing mlx-rs call.
    fn default_mlx_error_handler(message: *const c_char, data: *mut c_void);
}

extern "C" fn remember(message: *const c_char, data: *mut c_void) {
    // SAFETY: MLX hands over a NUL-terminated message that lives for the length of this call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    LAST_MESSAGE.with(|last| *last.borrow_mut() = Some(text));
    // SAFETY: same arguments, same contract.
    unsafe { default_mlx_error_handler(message, data) }
}

/// Makes MLX report errors to us instead of ending the process. mlx-rs installs its handler with its first
/// operation, which therefore comes first.
pub(crate) fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        drop(mlx_rs::ops::zeros::<f32>(&[1]));
        // SAFETY: `remember` has the handler's signature and needs no data.
        unsafe { mlx_sys::mlx_set_error_handler(Some(remember), std::ptr::null_mut(), None) };
    });
}

/// Keeps the error of a closure until the call that ran it returns.
pub(crate) fn set_closure_error(error: Error) {
    CLOSURE_ERROR.with(|slot| *slot.borrow_mut() = Some(error));
}

fn pending() -> Option<Error> {
    CLOSURE_ERROR.with(|slot| slot.borrow_mut().take())
}

/// Turns a status of the C interface into a result.
pub(crate) fn check(status: i32) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    let message = LAST_MESSAGE.with(|last| last.borrow_mut().take());
    Err(pending()
        .unwrap_or_else(|| Error::Mlx { message: message.unwrap_or_else(|| "unknown error".to_owned()) }))
}
