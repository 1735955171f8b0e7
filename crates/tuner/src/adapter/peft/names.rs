//! Names of tensors in PEFT's files, as its versions and other tools write them.

use models::canonical_name;

use super::PREFIX;

/// Role of a tensor of an adapter file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// LoRA's first matrix, `[rank, in]`.
    A,
    /// LoRA's second matrix, `[out, rank]`.
    B,
    /// DoRA's magnitudes.
    Magnitude,
    /// A parameter that replaces that of the base model: `weight` or `bias`.
    Replaced(&'static str),
}

/// A name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// The layer as transformers calls it, for patterns.
    pub(super) module: String,
    /// The layer in a model that is only text: `model.layers.…` or `lm_head`.
    pub(super) layer: String,
    pub(super) part: Part,
}

impl Name {
    /// Takes a stored name apart; `None` if it is neither part of a linear layer's adapter nor a parameter.
    ///
    /// Names may lack PEFT's prefix, and may have the name of the adapter (`default`) in the middle.
    pub(super) fn parse(stored: &str) -> Option<Self> {
        let mut rest = stored;
        while let Some(shorter) = rest.strip_prefix(PREFIX) {
            rest = shorter;
        }
        let segments: Vec<&str> = rest.split('.').collect();
        let is_mark = |segment: &&str| segment.starts_with("lora_");
        let (module, part) = if let Some(mark) = segments.iter().position(is_mark) {
            let part = match segments[mark] {
                "lora_A" => Part::A,
                "lora_B" => Part::B,
                "lora_magnitude_vector" => Part::Magnitude,
                _ => return None,
            };
            // `weight`, `default.weight`, or nothing at all for some versions' magnitudes.
            let is_known = match &segments[mark + 1..] {
                [] | [_] => part == Part::Magnitude || segments.last() == Some(&"weight"),
                [_, last] => *last == "weight",
                _ => false,
            };
            if !is_known {
                return None;
            }
            (segments[..mark].join("."), part)
        } else {
            let part = match *segments.last()? {
                "weight" => Part::Replaced("weight"),
                "bias" => Part::Replaced("bias"),
                _ => return None,
            };
            let path = &segments[..segments.len() - 1];
            let path = match path {
                [path @ .., "modules_to_save", _] => path,
                [path @ .., last] if ["modules_to_save", "base_layer"].contains(last) => path,
                _ => path,
            };
            (path.join("."), part)
        };
        let layer = text_name(&module);
        Some(Self { module, layer, part })
    }
}

/// Returns the name of a layer in a model that is only text, whichever way a multimodal model is named.
pub(super) fn text_name(module: &str) -> String {
    let name = canonical_name(module);
    let name = name.strip_prefix("language_model.").unwrap_or(&name);
    // Adapters trained on the model without its head.
    if name.starts_with("layers.") { format!("model.{name}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_of_naming_give_the_layer() {
        let q = "model.layers.1.self_attn.q_proj";
        let cases = [
            ("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight", q, Part::A),
            ("base_model.model.model.layers.1.self_attn.q_proj.lora_B.default.weight", q, Part::B),
            ("model.layers.1.self_attn.q_proj.lora_A.weight", q, Part::A),
            ("base_model.model.layers.1.self_attn.q_proj.lora_A.weight", q, Part::A),
            ("base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_A.weight", q, Part::A),
            ("base_model.model.language_model.model.layers.1.self_attn.q_proj.lora_A.weight", q, Part::A),
            ("base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector", q, Part::Magnitude),
            (
                "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector.weight",
                q,
                Part::Magnitude,
            ),
            (
                "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector.default.weight",
                q,
                Part::Magnitude,
            ),
            ("base_model.model.lm_head.lora_A.weight", "lm_head", Part::A),
            ("base_model.model.language_model.lm_head.lora_A.weight", "lm_head", Part::A),
            ("base_model.model.lm_head.base_layer.weight", "lm_head", Part::Replaced("weight")),
            ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head", Part::Replaced("weight")),
            ("base_model.model.lm_head.modules_to_save.weight", "lm_head", Part::Replaced("weight")),
            ("base_model.model.lm_head.weight", "lm_head", Part::Replaced("weight")),
            ("base_model.model.model.layers.1.self_attn.q_proj.base_layer.bias", q, Part::Replaced("bias")),
        ];
        for (stored, layer, part) in cases {
            let name = Name::parse(stored).unwrap_or_else(|| panic!("`{stored}` is a name"));
            assert_eq!((name.layer.as_str(), name.part), (layer, part), "{stored}");
        }
    }

    #[test]
    fn other_kinds_of_adapters_are_not_taken_for_lora() {
        for stored in [
            "base_model.model.model.embed_tokens.lora_embedding_A",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
            "base_model.model.model.layers.0.self_attn.k_proj.ia3_l",
        ] {
            assert_eq!(Name::parse(stored), None, "{stored}");
        }
    }
}
