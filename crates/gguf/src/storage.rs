//! Storage formats of tensors.

/// Storage format of a tensor: floats, or blocks of small integers with shared scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "the names of the format")]
pub enum Storage {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with 10 bits of mantissa.
    F16,
    /// 16-bit floats with 7 bits of mantissa.
    BF16,
    /// 32 values of 4 bits with a scale.
    Q4_0,
    /// 32 values of 4 bits with a scale and a minimum.
    Q4_1,
    /// 32 values of 5 bits with a scale.
    Q5_0,
    /// 32 values of 5 bits with a scale and a minimum.
    Q5_1,
    /// 32 values of 8 bits with a scale.
    Q8_0,
    /// 256 values of 2 bits; groups of 16 with 4-bit scales and minima.
    Q2_K,
    /// 256 values of 3 bits; groups of 16 with 6-bit scales.
    Q3_K,
    /// 256 values of 4 bits; groups of 32 with 6-bit scales and minima.
    Q4_K,
    /// 256 values of 5 bits; groups of 32 with 6-bit scales and minima.
    Q5_K,
    /// 256 values of 6 bits; groups of 16 with 8-bit scales.
    Q6_K,
}

/// Formats that are not supported, by number, so that a message can name them.
const OTHERS: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl Storage {
    /// Every supported storage.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Returns the number of the storage in the format.
    pub fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// Returns the storage of a number in the format.
    ///
    /// # Errors
    ///
    /// Returns a message that names the format, if it is not supported.
    pub fn of(number: u32) -> Result<Self, String> {
        if let Some(storage) = Self::ALL.into_iter().find(|storage| storage.number() == number) {
            return Ok(storage);
        }
        let known = Self::ALL.map(Self::name).join(", ");
        Err(match OTHERS.iter().find(|(other, _)| *other == number) {
            Some((_, name)) => {
                format!("it is stored as {name}, which is not supported; supported are {known}")
            }
            None => format!("it is stored as the unknown type {number}; supported are {known}"),
        })
    }

    /// Returns the name of the storage in llama.cpp.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Returns whether the values are floats of their own, without blocks.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Returns the number of values in a block; 1 for floats.
    pub fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Returns the length of a block in bytes.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }
}
