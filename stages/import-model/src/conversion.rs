//! The settings `quantize` and `dequantize`: what they may say, and what their defaults are.

use serde::{Deserialize, Serialize};

/// How weights are packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Table")]
pub struct Quantize {
    /// Bits a weight: 2, 3, 4, 5, 6 or 8 (`affine`); the other modes have one width each.
    pub bits: i32,
    /// Weights that share a scale: 32, 64 or 128 (`affine`); the other modes have one size each.
    pub group_size: i32,
    /// `affine`, `mxfp4`, `mxfp8` or `nvfp4`.
    pub mode: String,
}

/// The table as it is written; what it leaves out is the mode's default, so that the key tells what was done.
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

/// Bits and group size of every mode; `affine` has more than these.
const MODES: [(&str, i32, i32); 4] =
    [("affine", 4, 64), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)];

impl From<Table> for Quantize {
    fn from(table: Table) -> Self {
        let known = MODES.into_iter().find(|(mode, ..)| *mode == table.mode);
        let (_, bits, group_size) = known.unwrap_or(MODES[0]);
        Self {
            bits: table.bits.unwrap_or(bits),
            group_size: table.group_size.unwrap_or(group_size),
            mode: table.mode,
        }
    }
}

impl Quantize {
    /// Everything that is wrong with it.
    pub(crate) fn problems(&self) -> Vec<String> {
        let Self { bits, group_size, mode } = self;
        let mut problems = Vec::new();
        match MODES.into_iter().find(|(name, ..)| name == mode) {
            None => problems.push(format!(
                "`quantize.mode` is `{mode}`; it must be one of `affine`, `mxfp4`, `mxfp8` and `nvfp4`"
            )),
            Some(("affine", ..)) => {
                if !matches!(bits, 2..=6 | 8) {
                    problems.push(format!("`quantize.bits` is {bits}; it must be 2, 3, 4, 5, 6 or 8"));
                }
                if !matches!(group_size, 32 | 64 | 128) {
                    problems.push(format!("`quantize.group_size` is {group_size}; it must be 32, 64 or 128"));
                }
            }
            Some((_, known_bits, known_size)) if (*bits, *group_size) != (known_bits, known_size) => problems
                .push(format!(
                    "`quantize` asks for {bits} bits in groups of {group_size}; `{mode}` has {known_bits} bits in groups of {known_size} only"
                )),
            Some(_) => {}
        }
        problems
    }
}

/// What an import does to the weights besides copying them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversion {
    /// Packs every linear map and embedding.
    Quantize(Quantize),
    /// Unpacks whatever is packed.
    Dequantize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Quantize {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_a_table_leaves_out_is_the_default_of_its_mode() {
        let of = |text| {
            let Quantize { bits, group_size, mode } = table(text);
            (bits, group_size, mode)
        };
        assert_eq!(of("{}"), (4, 64, "affine".to_owned()));
        assert_eq!(of(r#"{"bits": 8}"#), (8, 64, "affine".to_owned()));
        assert_eq!(of(r#"{"mode": "nvfp4"}"#), (4, 16, "nvfp4".to_owned()));
        assert_eq!(of(r#"{"mode": "mxfp8"}"#), (8, 32, "mxfp8".to_owned()));
    }

    #[test]
    fn only_what_mlx_packs_is_allowed() {
        for fine in [r#"{"bits": 3, "group_size": 128}"#, r#"{"mode": "mxfp4", "bits": 4}"#] {
            assert_eq!(table(fine).problems(), Vec::<String>::new(), "{fine}");
        }
        let wrong = [
            (r#"{"bits": 7}"#, "`quantize.bits` is 7"),
            (r#"{"group_size": 16}"#, "`quantize.group_size` is 16"),
            (r#"{"mode": "mxfp4", "group_size": 64}"#, "groups of 32 only"),
            (r#"{"mode": "int4"}"#, "`quantize.mode` is `int4`"),
        ];
        for (text, message) in wrong {
            let problems = table(text).problems();
            assert!(problems.len() == 1 && problems[0].contains(message), "{text}: {problems:?}");
        }
    }
}
