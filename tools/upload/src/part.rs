//! What of an artifact is uploaded.

use clap::ValueEnum;

/// Output of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The fused model.
    Model,
    /// The fused model, quantized for MLX.
    Quantized,
    /// The fused model as a GGUF file.
    Gguf,
    /// Adapters in PEFT's format.
    Peft,
    /// Adapters in mlx-lm's format, from `select-best`.
    Adapters,
}

impl Part {
    /// Returns the name of the output.
    pub(crate) fn output(self) -> &'static str {
        match self {
            Self::Model => outputs::MODEL,
            Self::Quantized => outputs::QUANTIZED,
            Self::Gguf => outputs::GGUF,
            Self::Peft => outputs::PEFT,
            Self::Adapters => outputs::ADAPTERS,
        }
    }

    /// Returns the output whose scores are those of this one: PEFT's adapters are merged in the fused model.
    pub(crate) fn scored_output(self) -> &'static str {
        if self == Self::Peft { outputs::MODEL } else { self.output() }
    }

    /// Returns the usual message of a commit.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Model => "Upload a fused model",
            Self::Quantized => "Upload a quantized model",
            Self::Gguf => "Upload a GGUF file",
            Self::Peft | Self::Adapters => "Upload adapters",
        }
    }

    /// Returns how to make an artifact that has the output.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Model => "give the artifact of `fuse`",
            Self::Quantized => "give the artifact of a `fuse` with `fuse.quantize`",
            Self::Gguf => "give the artifact of a `fuse` with `fuse.gguf`",
            Self::Peft => "give the artifact of a `fuse` with `fuse.peft = true`",
            Self::Adapters => "give the artifact of `select-best`",
        }
    }
}
