//! Maps of networks that are not trained: on a CPU, bias and activation are computed over the product, without a gradient.

use mlx_ext::Result;
use mlx_ext::host::uses_host;
use mlx_ext::kernels::{Pointwise, biased};
use mlx_rs::Array;

use crate::activation::Activation;
use crate::layers::Linear;

/// Returns map(x): `x [..., in]` → `[..., out]`.
pub(crate) fn project(map: &Linear, x: &Array) -> Result<Array> {
    match bias_on_host(map, x) {
        Some(bias) => biased(&map.weight.project(x)?, bias, Pointwise::Identity),
        None => map.forward(x),
    }
}

/// Returns activation(map(x)): `x [..., in]` → `[..., out]`.
pub(crate) fn activate(activation: Activation, map: &Linear, x: &Array) -> Result<Array> {
    match (activation, bias_on_host(map, x)) {
        (Activation::Gelu, Some(bias)) => biased(&map.weight.project(x)?, bias, Pointwise::Gelu),
        _ => activation.apply(&project(map, x)?),
    }
}

/// Returns the bias of a map without an adapter, if a CPU adds it in `f32`.
fn bias_on_host<'a>(map: &'a Linear, x: &Array) -> Option<&'a Array> {
    map.bias.as_ref().filter(|bias| uses_host(x) && uses_host(bias) && map.adapter.is_none())
}
