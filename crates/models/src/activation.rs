//! Activations of feed-forward layers, by their names in `config.json`.

use mlx_ext::Result;
use mlx_ext::kernels::Gate;
use mlx_rs::{Array, ops};
use serde::Deserialize;

use crate::layers::{Linear, gated, gelu_tanh, scalar};

/// Activation of a gate.
#[derive(Clone, Copy)]
pub(crate) enum Activation {
    /// One with a kernel of its own.
    Fused(Gate),
    /// ½x(1 + erf(x/√2)).
    Gelu,
    /// Any other function, with its name.
    Plain(&'static str, fn(&Array) -> Result<Array>),
}

/// x · σ(x), the activation of SwiGLU.
pub(crate) const SILU: Activation = Activation::Fused(Gate::Silu);
/// The tanh approximation of GELU, the activation of GeGLU.
pub(crate) const GELU_TANH: Activation = Activation::Fused(Gate::GeluTanh);

impl Activation {
    /// Returns the name of the function, the same for all names of one formula.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fused(Gate::Silu) => "silu",
            Self::Fused(Gate::GeluTanh) => "gelu_pytorch_tanh",
            Self::Gelu => "gelu",
            Self::Plain(name, _) => name,
        }
    }

    /// Returns the map of activation(gate) · up, both `[..., F]`.
    pub(crate) fn gate_into(self, gate: &Array, up: &Array, map: &Linear) -> Result<Array> {
        match self {
            Self::Fused(kind) => map.forward_gated(gate, up, kind),
            Self::Gelu | Self::Plain(..) => map.forward(&self.gate(gate, up)?),
        }
    }

    /// Returns activation(gate) · up, both `[..., F]`.
    pub(crate) fn gate(self, gate: &Array, up: &Array) -> Result<Array> {
        match self {
            Self::Fused(kind) => gated(gate, up, kind),
            Self::Gelu | Self::Plain(..) => Ok(self.apply(gate)?.multiply(up)?),
        }
    }

    /// Returns activation(x).
    pub(crate) fn apply(self, x: &Array) -> Result<Array> {
        match self {
            Self::Fused(Gate::Silu) => Ok(x.multiply(ops::sigmoid(x)?)?),
            Self::Fused(Gate::GeluTanh) => gelu_tanh(x),
            Self::Plain(_, function) => function(x),
            Self::Gelu => gelu(x),
        }
    }
}

/// Name of an activation, as transformers knows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct ActivationName(String);

impl ActivationName {
    /// Returns the function of this name, of which `key` is the key in `config.json`.
    ///
    /// # Errors
    ///
    /// Names an activation that is not supported.
    pub(crate) fn function(&self, key: &str) -> Result<Activation, String> {
        Ok(match self.0.as_str() {
            "silu" | "swish" => SILU,
            "gelu" | "gelu_python" => Activation::Gelu,
            // The same formula, written in different ways.
            "gelu_accurate" | "gelu_fast" | "gelu_new" | "gelu_python_tanh" | "gelu_pytorch_tanh" => {
                GELU_TANH
            }
            "quick_gelu" => Activation::Plain("quick_gelu", quick_gelu),
            "relu" => Activation::Plain("relu", relu),
            "relu2" => Activation::Plain("relu2", relu_squared),
            other => {
                let known =
                    "gelu, gelu_fast, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, relu2, silu, swish";
                return Err(format!("`{key}` is `{other}`, which is not supported (supported: {known})"));
            }
        })
    }
}

/// Returns the function of an optional name, or `default` without one.
///
/// # Errors
///
/// As [`ActivationName::function`].
pub(crate) fn activation(
    name: Option<&ActivationName>,
    key: &str,
    default: Activation,
) -> Result<Activation, String> {
    name.map_or(Ok(default), |name| name.function(key))
}

/// Returns ½x(1 + erf(x/√2)).
fn gelu(x: &Array) -> Result<Array> {
    let scaled = x.multiply(scalar(std::f32::consts::FRAC_1_SQRT_2, x)?)?;
    let gate = ops::erf(&scaled)?.add(scalar(1.0, x)?)?;
    Ok(x.multiply(gate)?.multiply(scalar(0.5, x)?)?)
}

/// Returns x · σ(1.702x).
fn quick_gelu(x: &Array) -> Result<Array> {
    Ok(x.multiply(ops::sigmoid(&x.multiply(scalar(1.702, x)?)?)?)?)
}

fn relu(x: &Array) -> Result<Array> {
    Ok(ops::maximum(x, scalar(0.0, x)?)?)
}

fn relu_squared(x: &Array) -> Result<Array> {
    Ok(relu(x)?.square()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ActivationName {
        ActivationName(text.to_owned())
    }

    #[test]
    fn every_name_gives_its_function() -> Result<()> {
        mlx_ext::init(&mlx_ext::Options::default())?;
        let x = Array::from_slice(&[-1.0_f32, 0.5, 2.0], &[3]);
        let expected = [
            ("silu", [-0.268_941, 0.311_23, 1.761_594]),
            ("gelu", [-0.158_655, 0.345_731, 1.954_5]),
            ("gelu_new", [-0.158_808, 0.345_714, 1.954_598]),
            ("quick_gelu", [-0.154_204, 0.350_388, 1.935_659]),
            ("relu", [0.0, 0.5, 2.0]),
            ("relu2", [0.0, 0.25, 4.0]),
        ];
        for (called, numbers) in expected {
            let function = name(called).function("hidden_act").expect("known");
            let y = function.gate(&x, &Array::from_slice(&[1.0_f32; 3], &[3]))?;
            y.eval()?;
            for (found, wanted) in y.as_slice::<f32>().iter().zip(numbers) {
                assert!((found - wanted).abs() < 1e-4, "{called}: {found} against {wanted}");
            }
        }
        Ok(())
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let refusal = name("mish").function("hidden_act").err().unwrap_or_default();
        assert!(refusal.starts_with("`hidden_act` is `mish`"), "{refusal}");
    }
}
