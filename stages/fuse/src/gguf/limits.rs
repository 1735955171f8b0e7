//! What llama.cpp cannot compute, though `crates/models` can: refused by the key of `config.json`.
//!
//! Checked against `load_hparams` and the graphs of llama.cpp. A key that it does not read must have the value that it computes
//! with.

use failure::{Error, Result};
use models::{Rotary, Scaling, Settings, Yarn};

use super::architecture::Name;
use super::{WITHOUT_GGUF, unsupported};

/// Number of blocks by which llama.cpp knows the largest Gemma 3, which scales queries by another number.
const LARGEST_GEMMA: usize = 62;

/// Fails when llama.cpp would compute something else than the settings say.
pub(super) fn check(name: Name, settings: &Settings) -> Result<()> {
    check_activation(name, settings)?;
    check_heads(name, settings)?;
    if settings.softcap.is_some() && name != Name::Gemma3 {
        return Err(refused("final_logit_softcapping"));
    }
    if settings.rope.interleaved && name != Name::Llama {
        return Err(refused("rope_traditional"));
    }
    check_scaling(name, &settings.rope)?;
    if name == Name::Gemma3 { check_gemma(settings) } else { Ok(()) }
}

/// Returns the error for a model with a setting that llama.cpp does not follow.
fn refused(key: &str) -> Error {
    unsupported(&format!("a model with `{key}`"), WITHOUT_GGUF)
}

/// As [`refused`], for one of several values.
fn refused_value(key: &str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
    let subject = format!("a model with `{key}` {found}");
    unsupported(&subject, &format!("llama.cpp computes with {expected}; {WITHOUT_GGUF}"))
}

fn check_activation(name: Name, settings: &Settings) -> Result<()> {
    let (key, expected) = match name {
        Name::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh"),
        Name::Llama | Name::Qwen2 | Name::Qwen3 => ("hidden_act", "silu"),
    };
    let found = settings.activation;
    if found == expected {
        return Ok(());
    }
    Err(refused_value(key, format_args!("`{found}`"), format_args!("`{expected}`")))
}

/// Checks what llama.cpp fixes for the attention of an architecture.
fn check_heads(name: Name, settings: &Settings) -> Result<()> {
    let Settings { heads, head_dim, hidden_size, .. } = *settings;
    if name == Name::Qwen2 && heads * head_dim != hidden_size {
        return Err(refused_value("head_dim", head_dim, hidden_size / heads.max(1)));
    }
    if name == Name::Qwen3 && settings.output_bias {
        return Err(refused("attention_bias"));
    }
    Ok(())
}

fn check_scaling(name: Name, rope: &Rotary) -> Result<()> {
    match rope.scaling {
        Scaling::None | Scaling::Linear(_) => Ok(()),
        Scaling::Llama3(_) if name == Name::Llama => Ok(()),
        Scaling::Llama3(_) => Err(unsupported(
            "rope scaling `llama3` in a model that is not a Llama",
            "supported kinds are `linear` and `yarn`",
        )),
        Scaling::Yarn(yarn) => check_yarn(name, yarn),
        Scaling::Longrope => {
            let hint = "supported kinds are `linear`, `llama3` and `yarn`";
            Err(unsupported("rope scaling `longrope` (or `su`)", hint))
        }
    }
}

fn check_yarn(name: Name, yarn: Yarn) -> Result<()> {
    let turns = [
        ("rope_scaling.beta_fast", yarn.beta_fast, Yarn::BETA_FAST),
        ("rope_scaling.beta_slow", yarn.beta_slow, Yarn::BETA_SLOW),
    ];
    for (key, found, expected) in turns {
        if (found - expected).abs() > f32::EPSILON {
            return Err(refused_value(key, found, expected));
        }
    }
    if !yarn.truncate {
        return Err(refused_value("rope_scaling.truncate", "false", "true"));
    }
    let context = yarn.trained_context;
    if context.fract() != 0.0 {
        let key = "rope_scaling.original_max_position_embeddings";
        return Err(refused_value(key, context, "a number of tokens"));
    }
    // llama.cpp multiplies the queries and keys of all layers, those with a window included.
    if name == Name::Gemma3 && yarn_share(yarn).is_some() {
        return Err(refused_value("rope_scaling.attention_factor", yarn.magnitude, yarn.usual_magnitude()));
    }
    Ok(())
}

/// Returns the factor of queries and keys as a share of the one that llama.cpp computes; `None` if they are the same.
pub(super) fn yarn_share(yarn: Yarn) -> Option<f32> {
    let share = yarn.magnitude / yarn.usual_magnitude();
    ((share - 1.0).abs() > 1e-6).then_some(share)
}

fn check_gemma(settings: &Settings) -> Result<()> {
    let local = &settings.local_rope;
    if local.scaling != Scaling::None && settings.local_layers.contains(&true) {
        return Err(unsupported(
            "a model whose `rope_parameters.sliding_attention` has a scaling",
            WITHOUT_GGUF,
        ));
    }
    let (key, expected) = if settings.layers() == LARGEST_GEMMA {
        ("`hidden_size` / `num_attention_heads`", settings.hidden_size / settings.heads.max(1))
    } else {
        ("`head_dim`", settings.head_dim)
    };
    let scalar = settings.query_scalar;
    if (scalar - expected as f32).abs() <= 1e-3 {
        return Ok(());
    }
    let subject = format!("a model with `query_pre_attn_scalar` {scalar} and {key} {expected}");
    Err(unsupported(&subject, &format!("llama.cpp needs both to be equal; {WITHOUT_GGUF}")))
}
