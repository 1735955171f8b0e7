//! Operations of MLX's graph on packed weights.

use mlx_rs::{Array, Dtype};
use mlx_sys::gemm::{Level, Output, Shape, Strided, product};

use crate::error::{Error, Result};
use crate::host::{HostOp, Input};
use crate::packed::matrix::{PackedMatrix, Scales};
use crate::packed::panels::{Backward, Forward, unpack_all};
use crate::quantized::{PackedWeight, Quantization, QuantizationMode};
use crate::transforms::custom_vjp;

/// Owned arrays of a packed weight, as a host operation reads them.
#[derive(Clone)]
struct Parts {
    words: Array,
    scales: Array,
    biases: Option<Array>,
    extents: [i32; 2],
    quantization: Quantization,
    /// Type of scales and biases as they are stored.
    stored: Dtype,
}

impl Parts {
    /// Takes the arrays of a weight.
    ///
    /// # Errors
    ///
    /// Fails when the quantization or the type of the scales is none that the kernels know.
    fn new(packed: PackedWeight<'_>, quantization: Quantization) -> Result<Self> {
        let stored = packed.scales.dtype();
        let fits = match quantization.mode {
            QuantizationMode::Affine => matches!(stored, Dtype::Float32 | Dtype::Bfloat16),
            QuantizationMode::Mxfp4 | QuantizationMode::Mxfp8 | QuantizationMode::Nvfp4 => {
                stored == Dtype::Uint8
            }
        };
        if !fits || !quantization.is_known() || packed.weight.ndim() != 2 {
            let message = format!("no kernel for {quantization:?} with scales of type {stored:?}");
            return Err(Error::Mlx { message });
        }
        let rows = packed.weight.dim(0);
        let columns = packed.weight.dim(1) * 32 / quantization.bits;
        // Halves are read as bits.
        let bits = |array: &Array| -> Result<Array> {
            Ok(if stored == Dtype::Bfloat16 { array.view_dtype(Dtype::Uint16)? } else { array.clone() })
        };
        Ok(Self {
            words: packed.weight.clone(),
            scales: bits(packed.scales)?,
            biases: packed.biases.map(bits).transpose()?,
            extents: [rows, columns],
            quantization,
            stored,
        })
    }

    /// Adds the arrays to the inputs of an operation.
    fn add_to(&self, op: HostOp) -> HostOp {
        let op = op.input(&self.words).input(&self.scales);
        self.biases.iter().fold(op, HostOp::input)
    }

    /// Returns a reader of the inputs that [`Self::add_to`] added, which keeps no array alive.
    fn reader(&self) -> Reader {
        let Self { extents, quantization, stored, .. } = *self;
        Reader { extents: extents.map(|extent| extent as usize), quantization, stored }
    }
}

/// Layout of a packed weight in the inputs of an operation.
#[derive(Clone, Copy)]
struct Reader {
    extents: [usize; 2],
    quantization: Quantization,
    stored: Dtype,
}

impl Reader {
    fn matrix<'a>(self, inputs: &'a [Input<'_>]) -> PackedMatrix<'a> {
        let (words, scales, biases) = (&inputs[0], &inputs[1], inputs.get(2));
        PackedMatrix::new(
            words.slice(),
            self.scales(scales),
            biases.map(|biases| self.scales(biases)),
            self.extents,
            self.quantization,
        )
        .expect("the parts of a weight fit each other")
    }

    fn scales<'a>(self, input: &'a Input<'_>) -> Scales<'a> {
        match (self.stored, self.quantization.mode) {
            (Dtype::Float32, _) => Scales::Single(input.slice()),
            (Dtype::Bfloat16, _) => Scales::Bfloat16(input.slice()),
            (_, QuantizationMode::Nvfp4) => Scales::Floats8(input.slice()),
            _ => Scales::Exponents(input.slice()),
        }
    }
}

/// Returns the unpacked weight, `[out, in]`, `f32`.
///
/// # Errors
///
/// Fails for a quantization that the kernels do not know.
pub fn unpack(packed: PackedWeight<'_>, quantization: Quantization) -> Result<Array> {
    let parts = Parts::new(packed, quantization)?;
    let reader = parts.reader();
    parts.add_to(HostOp::new("unpack")).output(&parts.extents, Dtype::Float32).build_one(
        move |inputs, outputs| {
            unpack_all(Level::detect(), &reader.matrix(inputs), outputs[0].slice());
        },
    )
}

/// Multiplies `x`, `f32`, by a packed weight `[out, in]` without unpacking more than a panel of it: with `transposed`,
/// `[..., in]` → `[..., out]`, else `[..., out]` → `[..., in]`. The gradient for `x` is the other product.
///
/// # Errors
///
/// Fails for a quantization that the kernels do not know and for an `x` of another width or type.
pub fn packed_product(
    x: &Array,
    packed: PackedWeight<'_>,
    transposed: bool,
    quantization: Quantization,
) -> Result<Array> {
    let parts = Parts::new(packed, quantization)?;
    let [rows, columns] = parts.extents;
    let expected = if transposed { columns } else { rows };
    if x.dtype() != Dtype::Float32 || x.shape().last() != Some(&expected) {
        let message = format!("x {:?} {:?} times a packed weight {:?}", x.dtype(), x.shape(), parts.extents);
        return Err(Error::Mlx { message });
    }
    let gradient = parts.clone();
    let function = custom_vjp(
        move |inputs| Ok(vec![multiply(&inputs[0], &parts, transposed)?]),
        move |_, cotangents, _| Ok(vec![multiply(&cotangents[0], &gradient, !transposed)?]),
    )?;
    Ok(function.call(std::slice::from_ref(x))?.swap_remove(0))
}

/// Multiplies as [`packed_product`] does, without a gradient.
fn multiply(x: &Array, parts: &Parts, transposed: bool) -> Result<Array> {
    let reader = parts.reader();
    let [rows, columns] = parts.extents;
    let (width, depth) = if transposed { (rows, columns) } else { (columns, rows) };
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("x has an axis") = width;
    let count = x.size() / (depth as usize).max(1);
    let extents = Shape { m: count, n: width as usize, k: depth as usize };
    parts.add_to(HostOp::new("packed product")).input(x).output(&shape, Dtype::Float32).build_one(
        move |inputs, outputs| {
            let (x, packed) = inputs.split_last().expect("x is the last input");
            let matrix = reader.matrix(packed);
            let left = Strided::new(x.slice(), [extents.m, extents.k], extents.k, false);
            let out = Output::new(outputs[0].slice(), extents.n);
            if transposed {
                product(extents, &left, &Forward(matrix), out, false);
            } else {
                product(extents, &left, &Backward(matrix), out, false);
            }
        },
    )
}

/// Returns whether products of an `x` of this type with packed weights need no unpacked copy: on a CPU, in `f32`.
pub fn has_packed_products(dtype: Dtype) -> bool {
    mlx_sys::BACKEND == "cpu" && dtype == Dtype::Float32
}
