"""Variants of config.json: name → (whether published models use it and it must run, the whole file)."""

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 384,
    "max_position_embeddings": 512,
    "bos_token_id": 2,
    "eos_token_id": [1, 4],
    "pad_token_id": 0,
}
GEMMA = {**SIZES, "vocab_size": 704, "rms_norm_eps": 1e-6, "head_dim": 12, "query_pre_attn_scalar": 12, "eos_token_id": [1, 5]}
LLAMA = {**SIZES, "model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": False}
MISTRAL = {**LLAMA, "model_type": "mistral", "head_dim": 12}
QWEN2 = {**SIZES, "model_type": "qwen2", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True}
QWEN3 = {**QWEN2, "model_type": "qwen3", "head_dim": 16}
PHI3 = {**SIZES, "model_type": "phi3", "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": False}
GEMMA2 = {**GEMMA, "model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 64}
GEMMA3 = {
    **GEMMA,
    "model_type": "gemma3_text",
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window": 16,
    "sliding_window_pattern": 2,
}
COHERE = {
    **SIZES,
    "model_type": "cohere",
    "layer_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "logit_scale": 0.0625,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"short_factor": [1.0, 1.1, 1.3, 1.5, 1.8, 2.2], "long_factor": [1.0, 2.0, 4.0, 7.0, 12.0, 20.0]}
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]


def new_style(config: dict, rope: dict) -> dict:
    """As transformers 5 writes the settings of the rotation."""
    rest = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling", "rope_local_base_freq")}
    return {**rest, "rope_parameters": rope}


def without(config: dict, *names: str) -> dict:
    return {key: value for key, value in config.items() if key not in names}


CONFIGS = {
    # name: (must run, config)
    "llama-plain": (True, LLAMA),
    "llama-tied": (True, {**LLAMA, "tie_word_embeddings": True}),
    "llama-biases": (True, {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama-own-head-dim": (True, {**LLAMA, "head_dim": 20}),
    "llama-one-key-value-head": (True, {**LLAMA, "num_key_value_heads": 1}),
    "llama-nulls": (True, {**LLAMA, "head_dim": None, "rope_scaling": None, "num_key_value_heads": None, "pretraining_tp": None}),
    "llama-linear": (True, {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama-llama3": (True, {**LLAMA, "rope_theta": 5e5, "rope_scaling": LLAMA3}),
    "llama-llama3-new-style": (True, new_style(LLAMA, {**LLAMA3, "rope_theta": 5e5})),
    "llama-default-new-style": (True, new_style(LLAMA, {"rope_type": "default", "rope_theta": 3e4})),
    "llama-yarn": (True, {**LLAMA, "rope_scaling": YARN}),
    "llama-yarn-old-names": (True, {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "finetuned": True}}),
    "llama-yarn-factor-1": (True, {**LLAMA, "rope_scaling": {**YARN, "attention_factor": 1.0}}),
    "llama-yarn-betas": (True, {**LLAMA, "rope_scaling": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0}}),
    "llama-yarn-mscales": (True, {**LLAMA, "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3}}),
    "llama-yarn-mscale-alone": (False, {**LLAMA, "rope_scaling": {**YARN, "mscale": 0.5}}),
    "llama-yarn-truncate": (False, {**LLAMA, "rope_scaling": {**YARN, "truncate": False}}),
    "llama-yarn-without-context": (False, {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    "llama-longrope-short": (True, {**LLAMA, "original_max_position_embeddings": 256, "rope_scaling": {"rope_type": "longrope", **LONG}}),
    "llama-longrope-long": (False, {**LLAMA, "original_max_position_embeddings": 16, "rope_scaling": {"rope_type": "longrope", **LONG}}),
    "llama-dynamic": (False, {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "llama-window-ignored": (True, {**LLAMA, "sliding_window": 8, "use_sliding_window": False}),
    "llama-gelu": (True, {**LLAMA, "hidden_act": "gelu"}),
    "llama-gelu-new": (False, {**LLAMA, "hidden_act": "gelu_new"}),
    "llama-gelu-tanh": (True, {**LLAMA, "hidden_act": "gelu_pytorch_tanh"}),
    "llama-relu": (True, {**LLAMA, "hidden_act": "relu"}),
    "llama-relu2": (False, {**LLAMA, "hidden_act": "relu2"}),
    "llama-quick-gelu": (False, {**LLAMA, "hidden_act": "quick_gelu"}),
    "llama-mish": (False, {**LLAMA, "hidden_act": "mish"}),
    "llama-unknown-key": (False, {**LLAMA, "residual_multiplier": 0.5}),
    "llama-generation-keys": (True, {**LLAMA, "temperature": 0.6, "top_p": 0.9, "max_length": 4096, "use_cache": False, "pretraining_tp": 1}),
    "llama-of-other-tools": (True, {**LLAMA, "unsloth_version": "2025.1", "unsloth_fixed": True, "_name_or_path": "x/y", "auto_map": {}}),
    "mistral-plain": (True, {**MISTRAL, "sliding_window": None}),
    "mistral-window": (True, {**MISTRAL, "sliding_window": 12}),
    "mistral-window-default": (True, without(MISTRAL, "sliding_window")),
    "mistral-nemo-heads": (True, {**MISTRAL, "head_dim": 20, "sliding_window": None, "rope_theta": 1e6}),
    "mistral-gelu": (False, {**MISTRAL, "hidden_act": "gelu", "sliding_window": None}),
    "mistral-yarn": (True, {**MISTRAL, "sliding_window": None, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    "qwen2-plain": (True, QWEN2),
    "qwen2-yarn": (True, {**QWEN2, "rope_scaling": YARN}),
    "qwen2-window-off": (True, {**QWEN2, "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1}),
    "qwen2-window-on": (True, {**QWEN2, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen2-mrope": (False, {**QWEN2, "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 2, 2]}}),
    "qwen2-untied": (True, {**QWEN2, "tie_word_embeddings": False}),
    "qwen2-theta-default": (False, without(QWEN2, "rope_theta")),
    "qwen2-nested-rope": (False, new_style(QWEN2, {"full_attention": {"rope_type": "default", "rope_theta": 1e4}})),
    "qwen3-plain": (True, QWEN3),
    "qwen3-new-style": (True, new_style(QWEN3, {"rope_type": "default", "rope_theta": 1e6})),
    "qwen3-bias": (True, {**QWEN3, "attention_bias": True}),
    "qwen3-layer-types": (True, {**QWEN3, "use_sliding_window": True, "sliding_window": 8, "layer_types": KINDS}),
    "phi3-plain": (True, {**PHI3, "sliding_window": 2047}),
    "phi3-window": (True, {**PHI3, "sliding_window": 8}),
    "phi3-partial-rotation": (True, {**PHI3, "hidden_size": 64, "partial_rotary_factor": 0.75}),
    "phi3-longrope-short": (True, {**PHI3, "original_max_position_embeddings": 256, "rope_scaling": {"type": "longrope", **LONG}}),
    "phi3-longrope-long": (True, {**PHI3, "original_max_position_embeddings": 16, "rope_scaling": {"type": "longrope", **LONG}}),
    "phi4-mini": (
        True,
        {
            **PHI3,
            "hidden_size": 64,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 256,
            "rope_scaling": {"type": "longrope", **LONG},
            "full_attn_mod": 1,
            "interpolate_factor": 1,
            "lm_head_bias": False,
            "mlp_bias": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "sliding_window": 262144,
        },
    ),
    "gemma2-plain": (True, GEMMA2),
    "gemma2-no-caps": (True, {**GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma2-small-caps": (False, {**GEMMA2, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2-default-caps": (True, without(GEMMA2, "attn_logit_softcapping", "final_logit_softcapping")),
    "gemma2-window": (True, {**GEMMA2, "sliding_window": 8, "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"}),
    "gemma2-gelu": (False, {**GEMMA2, "hidden_activation": "gelu"}),
    "gemma2-without-scalar": (False, without(GEMMA2, "query_pre_attn_scalar")),
    "gemma3-plain": (True, GEMMA3),
    "gemma3-linear": (True, {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "gemma3-new-style": (
        True,
        {
            **without(new_style(GEMMA3, {}), "sliding_window_pattern"),
            "layer_types": KINDS,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma3-bidirectional": (False, {**GEMMA3, "use_bidirectional_attention": True}),
    "gemma3-final-cap": (False, {**GEMMA3, "final_logit_softcapping": 4.0}),
    "gemma3-score-cap": (False, {**GEMMA3, "attn_logit_softcapping": 3.0}),
    "gemma3-silu": (False, {**GEMMA3, "hidden_activation": "silu"}),
    "gemma3-default-window": (False, without(GEMMA3, "sliding_window")),
    "cohere-plain": (True, COHERE),
    "cohere-qk-norm": (True, {**COHERE, "use_qk_norm": True}),
    "cohere-bias": (True, {**COHERE, "attention_bias": True, "logit_scale": 0.25}),
    "cohere-untied": (False, {**COHERE, "tie_word_embeddings": False}),
    "cohere-without-theta": (False, without(COHERE, "rope_theta")),
    "cohere-gelu": (False, {**COHERE, "hidden_act": "gelu"}),
}

# Windows much shorter than the rows, in every family that has one.
WINDOWS = {
    f"{name}-window-{window}": (True, {**config, **more, "sliding_window": window})
    for window in (3, 11)
    for name, config, more in (
        ("mistral", MISTRAL, {}),
        ("phi3", PHI3, {}),
        ("gemma2", GEMMA2, {}),
        ("gemma3", GEMMA3, {}),
        ("qwen2", QWEN2, {"use_sliding_window": True, "max_window_layers": 1}),
        ("qwen3", QWEN3, {"use_sliding_window": True, "max_window_layers": 2}),
    )
}
