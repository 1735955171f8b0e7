//! Weight matrices, plain or packed.

use mlx_ext::host::uses_host;
use mlx_ext::{PackedWeight, Quantization, Result, custom_vjp};
use mlx_rs::{Array, Dtype, ops};

use crate::builder::{Builder, join};

/// Numbers of a weight that are unpacked or squared at a time.
const SLICE_NUMBERS: i32 = 1 << 22;

/// A weight matrix `[out, in]`.
#[derive(Clone)]
pub enum Weight {
    /// Plain floats.
    Dense(Array),
    /// Packed in groups.
    Quantized(QuantizedWeight),
}

/// A packed weight matrix and, if asked for, an unpacked copy.
#[derive(Clone)]
pub struct QuantizedWeight {
    /// Packed weights, `u32`.
    pub packed: Array,
    /// One scale per group.
    pub scales: Array,
    /// One bias per group (affine mode).
    pub biases: Option<Array>,
    /// Bits, group size and mode.
    pub quantization: Quantization,
    /// Type of the unpacked weights, that of the model's other weights.
    dtype: Dtype,
    /// Unpacked copy. Without one, a product unpacks a panel of the weight at a time (on a CPU, in `f32`) or reads the
    /// packed weight (on a GPU). MLX's own product with packed weights on a CPU takes about a hundred times as long.
    dense: Option<Array>,
}

impl Weight {
    /// Loads `weight` at the builder's path, of shape `[rows, columns]`, packed if it has `scales`.
    pub(crate) fn new(at: &Builder<'_>, rows: i32, columns: i32) -> Self {
        if !at.loader.has(&at.name("scales")) {
            return Self::Dense(at.loader.take(&at.name("weight"), &[rows, columns]));
        }
        match QuantizedWeight::new(at, rows, columns) {
            Ok(weight) => Self::Quantized(weight),
            Err(problems) => {
                for problem in problems {
                    at.loader.problem(problem);
                }
                Self::Dense(at.loader.zeros(&[rows, columns]))
            }
        }
    }

    /// Returns the weights as plain floats, `[out, in]`; packed ones in `dtype`.
    pub fn dense(&self, dtype: Dtype) -> Result<Array> {
        match self {
            Self::Dense(weight) => Ok(weight.clone()),
            Self::Quantized(QuantizedWeight { dense: Some(dense), .. }) => Ok(dense.clone()),
            Self::Quantized(q) => q.unpacked(dtype),
        }
    }

    /// Returns the bytes of the unpacked copy of a packed weight.
    pub(crate) fn copy_bytes(&self) -> usize {
        match self {
            Self::Quantized(QuantizedWeight { dense: Some(dense), .. }) => dense.nbytes(),
            Self::Quantized(_) | Self::Dense(_) => 0,
        }
    }

    /// Returns every stored array by name.
    pub(crate) fn arrays(&self, path: &str) -> Vec<(String, &Array)> {
        match self {
            Self::Dense(weight) => vec![(join(path, "weight"), weight)],
            Self::Quantized(quantized) => {
                let biases = quantized.biases.as_ref().map(|biases| (join(path, "biases"), biases));
                let weight = (join(path, "weight"), &quantized.packed);
                let scales = (join(path, "scales"), &quantized.scales);
                [weight, scales].into_iter().chain(biases).collect()
            }
        }
    }

    /// Returns every stored array by name, for changing.
    pub(crate) fn arrays_mut(&mut self, path: &str) -> Vec<(String, &mut Array)> {
        match self {
            Self::Dense(weight) => vec![(join(path, "weight"), weight)],
            Self::Quantized(quantized) => {
                let biases = quantized.biases.as_mut().map(|biases| (join(path, "biases"), biases));
                let weight = (join(path, "weight"), &mut quantized.packed);
                let scales = (join(path, "scales"), &mut quantized.scales);
                [weight, scales].into_iter().chain(biases).collect()
            }
        }
    }

    /// Returns the sum of squares of each of `rows` rows of `columns` numbers, `[out]`, `f32`, a slice of rows at a time.
    pub fn row_squares(&self, rows: i32, columns: i32) -> Result<Array> {
        let step = (SLICE_NUMBERS / columns.max(1)).max(1);
        let mut squares: Vec<Array> = Vec::new();
        for start in (0..rows).step_by(step as usize) {
            let mut ids = ops::arange::<_, i32>(start, (start + step).min(rows), None)?;
            if let Some(previous) = squares.last() {
                // One slice after the other, so that only one is in memory.
                ids = mlx_ext::after(&ids, std::slice::from_ref(previous))?;
            }
            squares.push(self.rows(&ids)?.as_dtype(Dtype::Float32)?.square()?.sum_axis(1, false)?);
        }
        Ok(ops::concatenate(&squares, 0)?)
    }

    /// Multiplies `x [..., in]` by the transposed weight: `[..., out]`.
    pub fn project(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Dense(weight) | Self::Quantized(QuantizedWeight { dense: Some(weight), .. }) => {
                dense_product(x, weight)
            }
            Self::Quantized(q) => q.product(x, true),
        }
    }

    /// Multiplies `y [..., out]` by the weight, `[..., in]`: the gradient of [`Self::project`] for its input.
    pub fn project_back(&self, y: &Array) -> Result<Array> {
        match self {
            Self::Dense(weight) | Self::Quantized(QuantizedWeight { dense: Some(weight), .. }) => {
                Ok(y.matmul(weight)?)
            }
            Self::Quantized(q) => q.product(y, false),
        }
    }

    /// Returns the rows `ids [...]` of the weight: `[..., in]`.
    pub fn rows(&self, ids: &Array) -> Result<Array> {
        match self {
            Self::Dense(weight) | Self::Quantized(QuantizedWeight { dense: Some(weight), .. }) => {
                Ok(weight.take_axis(ids, 0)?)
            }
            Self::Quantized(q) => {
                let packed = q.packed.take_axis(ids, 0)?;
                let scales = q.widened(&q.scales.take_axis(ids, 0)?)?;
                let biases =
                    q.biases.as_ref().map(|biases| q.widened(&biases.take_axis(ids, 0)?)).transpose()?;
                let rows = PackedWeight { weight: &packed, scales: &scales, biases: biases.as_ref() };
                mlx_ext::dequantize(rows, q.quantization, q.dtype)
            }
        }
    }
}

/// Multiplies `x [..., in]` by the transposed `weight [out, in]`: `[..., out]`.
///
/// On a CPU the gradient of the weight is computed in row-major order. MLX derives a transposed view, which every later
/// operation reads in strides.
fn dense_product(x: &Array, weight: &Array) -> Result<Array> {
    let [out, inner] = [weight.dim(0), weight.dim(1)];
    let is_one_row = x.size() == inner as usize;
    if is_one_row || !uses_host(x) || !uses_host(weight) {
        return Ok(x.matmul(weight.t())?);
    }
    let function = custom_vjp(
        |inputs| Ok(vec![inputs[0].matmul(inputs[1].t())?]),
        move |inputs, by, _| {
            let of_x = by[0].matmul(&inputs[1])?;
            let of_weight = by[0].reshape(&[-1, out])?.t().matmul(inputs[0].reshape(&[-1, inner])?)?;
            Ok(vec![of_x, of_weight])
        },
    )?;
    Ok(function.call(&[x.clone(), weight.clone()])?.swap_remove(0))
}

impl QuantizedWeight {
    /// Loads the parts of a weight of shape `[rows, columns]`.
    ///
    /// # Errors
    ///
    /// Returns the problems that the loader does not know yet.
    fn new(at: &Builder<'_>, rows: i32, columns: i32) -> Result<Self, Vec<String>> {
        let take = |part: &str| at.loader.take_any(&at.name(part)).ok_or_else(Vec::new);
        let (packed, scales) = (take("weight")?, take("scales")?);
        let quantization = at
            .quantization
            .of_layer(at.path(), columns, &packed, &scales)
            .map_err(|reason| vec![format!("tensor `{}` {reason}", at.name("weight"))])?;
        let is_affine = quantization.mode.has_biases();
        let biases = if is_affine { Some(take("biases")?) } else { None };
        let groups = [rows, columns / quantization.group_size];
        let problems: Vec<String> = [
            ("weight", Some(&packed), [rows, columns * quantization.bits / 32]),
            ("scales", Some(&scales), groups),
            ("biases", biases.as_ref(), groups),
        ]
        .into_iter()
        .filter_map(|(part, array, expected)| {
            let shape = array.map(Array::shape).filter(|shape| *shape != expected)?;
            Some(format!("tensor `{}` has shape {shape:?}, expected {expected:?}", at.name(part)))
        })
        .collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let cast_dtype = at.loader.cast(scales.clone()).dtype();
        let dtype = if is_affine { cast_dtype } else { at.loader.float_dtype() };
        // Packed products widen the scales as they go. Those of float modes are 8-bit floats in bytes.
        let stays = scales.dtype() == Dtype::Bfloat16
            && !at.quantization.unpack
            && mlx_ext::has_packed_products(dtype);
        let (scales, biases) = match biases {
            Some(biases) if !stays => (at.loader.cast(scales), Some(at.loader.cast(biases))),
            biases => (scales, biases),
        };
        let mut weight = Self { packed, scales, biases, quantization, dtype, dense: None };
        if at.quantization.unpack {
            let dense = weight.unpacked(dtype);
            weight.dense = Some(dense.map_err(|error| {
                vec![format!("tensor `{}` cannot be unpacked: {error}", at.name("weight"))]
            })?);
        }
        Ok(weight)
    }

    /// Returns the dense weight, `[out, in]`, in `dtype`.
    fn unpacked(&self, dtype: Dtype) -> Result<Array> {
        if mlx_ext::has_packed_products(dtype) && self.dtype == dtype {
            return mlx_ext::unpack(self.parts(), self.quantization);
        }
        let scales = self.widened(&self.scales)?;
        let biases = self.biases.as_ref().map(|biases| self.widened(biases)).transpose()?;
        let parts = PackedWeight { weight: &self.packed, scales: &scales, biases: biases.as_ref() };
        mlx_ext::dequantize(parts, self.quantization, dtype)
    }

    /// Multiplies by the packed weight, transposed or not.
    fn product(&self, x: &Array, transposed: bool) -> Result<Array> {
        if mlx_ext::has_packed_products(x.dtype()) && self.dtype == Dtype::Float32 {
            mlx_ext::packed_product(x, self.parts(), transposed, self.quantization)
        } else {
            mlx_ext::quantized_matmul(x, self.parts(), transposed, self.quantization)
        }
    }

    /// Returns scales or biases in the type of the unpacked weights; bytes stay bytes.
    fn widened(&self, scales: &Array) -> Result<Array> {
        Ok(if scales.dtype().is_float() { scales.as_dtype(self.dtype)? } else { scales.clone() })
    }

    fn parts(&self) -> PackedWeight<'_> {
        PackedWeight { weight: &self.packed, scales: &self.scales, biases: self.biases.as_ref() }
    }
}
