//! Whether a model keeps unpacked copies of its packed weights.

use mlx_rs::Dtype;
use serde::{Deserialize, Serialize};

use crate::device::Backend;

/// What to do with packed weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpack {
    /// Unpack for each product if the backend has kernels for it, else whatever is faster there.
    #[default]
    Auto,
    /// Keep an unpacked copy of every packed weight.
    Resident,
    /// Keep only the packed weights.
    Transient,
}

/// What a backend does with packed weights, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacking {
    /// Whether every packed weight has an unpacked copy.
    pub resident: bool,
    /// Why, for people.
    pub reason: &'static str,
}

impl Unpack {
    /// Every name, as users write it.
    pub const NAMES: [&'static str; 3] = ["auto", "resident", "transient"];

    /// Returns the choice called `name`, or [`Unpack::Auto`] if there is none of that name.
    pub fn from_name(name: &str) -> Self {
        [Self::Resident, Self::Transient].into_iter().find(|unpack| unpack.name() == name).unwrap_or_default()
    }

    /// Returns the name, as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Resident => "resident",
            Self::Transient => "transient",
        }
    }
}

impl Backend {
    /// Returns what this backend does with packed weights when it computes in `dtype`.
    ///
    /// On a CPU both choices give the same bytes in `float32`: a panel of a weight is unpacked inside the product, at
    /// little cost, so the smaller one is the default. Other types have no such product there, and MLX's own is about a
    /// hundred times as slow as one with unpacked weights, so these are always unpacked.
    pub fn unpacking(&self, dtype: Dtype) -> Unpacking {
        let has_kernels = !self.is_gpu() && dtype == Dtype::Float32;
        let (resident, reason) = match self.unpack {
            _ if !has_kernels && !self.is_gpu() => {
                (true, "a CPU multiplies packed weights only in `float32`")
            }
            Unpack::Resident => (true, "as set"),
            Unpack::Transient => (false, "as set"),
            Unpack::Auto if has_kernels => (false, "products unpack a panel at a time, with the same result"),
            Unpack::Auto => (false, "the GPU multiplies packed weights"),
        };
        Unpacking { resident, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_stay_packed_where_products_can_read_them() {
        let backend = |name, unpack| Backend {
            name,
            device: String::new(),
            arithmetic: std::collections::BTreeMap::new(),
            memory_limit: 1,
            unpack,
        };
        let resident = |name, unpack, dtype| backend(name, unpack).unpacking(dtype).resident;
        assert!(!resident("cpu", Unpack::Auto, Dtype::Float32));
        assert!(resident("cpu", Unpack::Auto, Dtype::Bfloat16));
        assert!(!resident("cuda", Unpack::Auto, Dtype::Bfloat16));
        assert!(resident("cpu", Unpack::Resident, Dtype::Float32));
        assert!(resident("cpu", Unpack::Transient, Dtype::Bfloat16));
        assert!(resident("cuda", Unpack::Resident, Dtype::Bfloat16));
    }

    #[test]
    fn names_are_read_back() {
        for name in Unpack::NAMES {
            assert_eq!(Unpack::from_name(name).name(), name);
        }
    }
}
