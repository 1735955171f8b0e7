//! Names of layers in a Hugging Face folder and in GGUF.

/// Layers outside the blocks: name in a folder, name in GGUF.
pub const OUTER_LAYERS: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Layers of a block, the same in most architectures.
pub const LAYERS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.v_proj", "attn_v"),
];

/// Norms of Gemma's blocks that other architectures lack or name differently; they come before [`LAYERS`].
pub const GEMMA_LAYERS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// Merged layers of Phi's blocks; they come before [`LAYERS`].
pub const PHI_LAYERS: [(&str, &str); 2] =
    [("self_attn.qkv_proj", "attn_qkv"), ("mlp.gate_up_proj", "ffn_up")];
