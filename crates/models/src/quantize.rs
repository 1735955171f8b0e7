//! The setting `quantize` and its defaults.

use mlx_ext::{Quantization, QuantizationMode};
use serde::{Deserialize, Serialize};

/// Settings for quantizing weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Table")]
pub struct Quantize {
    /// Bits per weight: 2, 3, 4, 5, 6 or 8 for `affine`; fixed for the other modes.
    pub bits: i32,
    /// Number of weights that share a scale: 32, 64 or 128 for `affine`; fixed for the other modes.
    pub group_size: i32,
    /// `affine`, `mxfp4`, `mxfp8` or `nvfp4`.
    pub mode: String,
}

/// The table as users write it. Missing values become the defaults of the mode, so that the key records what was used.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    bits: Option<i32>,
    group_size: Option<i32>,
    #[serde(default = "affine")]
    mode: String,
}

fn affine() -> String {
    "affine".to_owned()
}

/// A quantization mode with its default bits and group size; only `affine` supports others.
struct Mode {
    name: &'static str,
    bits: i32,
    group_size: i32,
}

const MODES: [Mode; 4] = [
    Mode { name: "affine", bits: 4, group_size: 64 },
    Mode { name: "mxfp4", bits: 4, group_size: 32 },
    Mode { name: "mxfp8", bits: 8, group_size: 32 },
    Mode { name: "nvfp4", bits: 4, group_size: 16 },
];

impl From<Table> for Quantize {
    fn from(table: Table) -> Self {
        let mode = MODES.iter().find(|mode| mode.name == table.mode).unwrap_or(&MODES[0]);
        Self {
            bits: table.bits.unwrap_or(mode.bits),
            group_size: table.group_size.unwrap_or(mode.group_size),
            mode: table.mode,
        }
    }
}

impl Quantize {
    /// Returns everything that is wrong with the settings.
    pub fn problems(&self) -> Vec<String> {
        let Self { bits, group_size, mode } = self;
        let mut problems = Vec::new();
        match MODES.iter().find(|known| known.name == mode) {
            None => problems.push(format!(
                "`quantize.mode` is `{mode}`; it must be one of `affine`, `mxfp4`, `mxfp8` and `nvfp4`"
            )),
            Some(Mode { name: "affine", .. }) => {
                if !matches!(bits, 2..=6 | 8) {
                    problems.push(format!("`quantize.bits` is {bits}; it must be 2, 3, 4, 5, 6 or 8"));
                }
                if !matches!(group_size, 32 | 64 | 128) {
                    problems.push(format!("`quantize.group_size` is {group_size}; it must be 32, 64 or 128"));
                }
            }
            Some(known) if (*bits, *group_size) != (known.bits, known.group_size) => problems.push(format!(
                "`quantize` is {bits} bits in groups of {group_size}; `{mode}` supports only {} bits in groups of {}",
                known.bits, known.group_size
            )),
            Some(_) => {}
        }
        problems
    }

    /// Returns the settings as MLX takes them; `None` if the mode is unknown.
    pub(crate) fn quantization(&self) -> Option<Quantization> {
        let mode = QuantizationMode::from_name(&self.mode)?;
        Some(Quantization { bits: self.bits, group_size: self.group_size, mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Quantize {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn missing_values_are_the_defaults_of_the_mode() {
        let cases = [
            ("{}", ("affine", 4, 64)),
            (r#"{"bits": 8}"#, ("affine", 8, 64)),
            (r#"{"mode": "nvfp4"}"#, ("nvfp4", 4, 16)),
            (r#"{"mode": "mxfp8"}"#, ("mxfp8", 8, 32)),
        ];
        for (text, (mode, bits, group_size)) in cases {
            assert_eq!(table(text), Quantize { bits, group_size, mode: mode.to_owned() }, "{text}");
        }
    }

    #[test]
    fn only_the_quantizations_of_mlx_are_allowed() {
        for text in [r#"{"bits": 3, "group_size": 128}"#, r#"{"mode": "mxfp4", "bits": 4}"#] {
            assert_eq!(table(text).problems(), Vec::<String>::new(), "{text}");
        }
        let wrong = [
            (r#"{"bits": 7}"#, "`quantize.bits` is 7"),
            (r#"{"group_size": 16}"#, "`quantize.group_size` is 16"),
            (r#"{"mode": "mxfp4", "group_size": 64}"#, "only 4 bits in groups of 32"),
            (r#"{"mode": "int4"}"#, "`quantize.mode` is `int4`"),
        ];
        for (text, message) in wrong {
            let problems = table(text).problems();
            assert!(problems.len() == 1 && problems[0].contains(message), "{text}: {problems:?}");
        }
    }
}
