//! What a card describes: the fused model, an export, or the adapters.

/// What a card describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Fused,
    Quantized,
    Gguf,
    Adapters,
}

impl Subject {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Fused, Self::Quantized, Self::Gguf, Self::Adapters];

    /// Returns the output with its files.
    pub(crate) fn output(self) -> &'static str {
        match self {
            Self::Fused => outputs::MODEL,
            Self::Quantized => outputs::QUANTIZED,
            Self::Gguf => outputs::GGUF,
            Self::Adapters => outputs::PEFT,
        }
    }

    /// Returns the title of the card.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Fused => "Fused model",
            Self::Quantized => "Quantized fused model",
            Self::Gguf => "Fused model for llama.cpp",
            Self::Adapters => "Adapter",
        }
    }

    /// Returns what the hub calls its relation to the base model.
    pub(crate) fn relation(self) -> &'static str {
        match self {
            Self::Fused => "finetune",
            Self::Quantized | Self::Gguf => "quantized",
            Self::Adapters => "adapter",
        }
    }

    /// Returns the library that loads it, by its name on the hub.
    pub(crate) fn library(self) -> &'static str {
        match self {
            Self::Fused => "transformers",
            Self::Quantized => "mlx",
            Self::Gguf => "gguf",
            Self::Adapters => "peft",
        }
    }

    /// Returns the tags of the card; `is_dora` says which kind of adapter it is about.
    pub(crate) fn tags(self, is_dora: bool) -> &'static [&'static str] {
        match self {
            Self::Fused | Self::Quantized => &["mlx", "ashlar"],
            Self::Gguf => &["gguf", "llama.cpp", "ashlar"],
            Self::Adapters if is_dora => &["dora", "ashlar"],
            Self::Adapters => &["lora", "ashlar"],
        }
    }

    /// Returns how it differs from the base model.
    pub(crate) fn difference(self) -> &'static str {
        match self {
            Self::Fused => "fine-tuned with an adapter that is merged into its weights",
            Self::Quantized => {
                "fine-tuned with an adapter that is merged into its weights, then quantized for MLX"
            }
            Self::Gguf => "fine-tuned with an adapter that is merged into its weights, then written as GGUF",
            Self::Adapters => "fine-tuned; this is the adapter alone, in PEFT's format",
        }
    }
}
