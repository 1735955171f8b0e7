"""Makes golden cases with mlx-lm: `python generate.py OUT [small|more|random] [SEED]`; see README.md.

Every case is one line of a table below: family, seed, what differs from the family's base settings, and how the
weights are stored. `small` makes the cases of this folder whose names carry a `+` in README.md, `more` a larger set,
`random` forty whose shapes are drawn. SEED is added to the seeds of the tables.
"""

import importlib
import json
import random
import shutil
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.utils import quantize_model

HERE = Path(__file__).parent
ROPE_1E4 = {"rms_norm_eps": 1e-5, "rope_theta": 1e4}
GEMMA = {"rms_norm_eps": 1e-6, "head_dim": 12, "query_pre_attn_scalar": 12, "vocab_size": 704}
BASES = {
    "llama": {**ROPE_1E4, "tie_word_embeddings": False},
    "mistral": {**ROPE_1E4, "head_dim": 12, "tie_word_embeddings": False},
    "qwen2": {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True},
    "qwen3": {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "head_dim": 16, "tie_word_embeddings": True},
    "gemma2": {**GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {
        **GEMMA,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window": 24,
        "sliding_window_pattern": 2,
    },
    "phi3": {**ROPE_1E4},
    "cohere": {"layer_norm_eps": 1e-5, "rope_theta": 1e4, "logit_scale": 0.0625},
}
BASES["gemma3"] = BASES["gemma3_text"]
MODULES = {"mistral": "llama"}
COMMON = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 384,
    "max_position_embeddings": 512,
}
TINY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}

YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}
LINEAR = {"type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def longrope(pairs, kind="longrope"):
    # The same for short and long rows, because mlx-lm takes the long factors always.
    factors = [1.0 + 0.7 * pair for pair in range(pairs)]
    factors = {"short_factor": factors, "long_factor": factors}
    return {"type": kind, **factors, "original_max_position_embeddings": 32}


def sliding(*kinds):
    return [{"s": "sliding_attention", "f": "full_attention"}[kind] for kind in kinds]


def quantized(bits, group_size, mode="affine", overrides=None):
    return {"bits": bits, "group_size": group_size, "mode": mode, "overrides": overrides or {}}


# name: (family, seed, settings, options)
# Options: tokens a row, prompt length, dtype, quantized, written (what config.json says in place of the settings).
SMALL = {
    "mistral-layers": (
        "mistral",
        101,
        {**TINY, "head_dim": 12, "num_hidden_layers": 3, "tie_word_embeddings": True, "sliding_window": 6, "layer_types": sliding(*"sfs")},
        {"tokens": 16, "prompt": 14},
    ),
    "cohere-qk-norm": (
        "cohere",
        103,
        {**TINY, "use_qk_norm": True, "attention_bias": True, "num_key_value_heads": 1},
        {"tokens": 16, "prompt": 14},
    ),
    "qwen3-mixed": (
        "qwen3",
        104,
        {**TINY, **WIDE, "intermediate_size": 64, "num_key_value_heads": 1, "rope_scaling": YARN},
        {
            "tokens": 16,
            "prompt": 14,
            "dtype": mx.bfloat16,
            "quantized": quantized(
                4,
                32,
                overrides={
                    "model.embed_tokens": {"bits": 6, "group_size": 64},
                    "model.layers.0.self_attn.v_proj": {"bits": 3, "group_size": 32},
                    "model.layers.1.mlp.gate_proj": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
                    "model.layers.1.self_attn.q_proj": False,
                },
            ),
        },
    ),
}

SIZES = {"num_hidden_layers": 5, "num_attention_heads": 6, "num_key_value_heads": 1, "hidden_size": 60}
OWN_HEAD = {"num_hidden_layers": 5, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 20}
GEMMA3_5 = {
    "layer_types": sliding(*"sfsfs"),
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
    "rope_theta": None,
    "rope_local_base_freq": None,
    "rope_scaling": None,
    "sliding_window_pattern": None,
}
MORE = {
    "llama-sizes": ("llama", 1, OWN_HEAD, {}),
    "llama-long": ("llama", 2, SIZES, {"tokens": 300, "prompt": 280}),
    "llama-bias": ("llama", 3, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, {}),
    "llama-linear": ("llama", 4, {"rope_scaling": LINEAR}, {}),
    "llama-yarn": ("llama", 5, {**OWN_HEAD, "rope_scaling": {**YARN, "beta_fast": 8, "beta_slow": 2}}, {}),
    "llama-yarn-mscale": ("llama", 6, {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3}}, {}),
    "llama-longrope": ("llama", 7, {"rope_scaling": longrope(6)}, {}),
    "llama-traditional": ("llama", 8, {"rope_traditional": True}, {}),
    "llama-window": ("llama", 9, {"sliding_window": 7, "layer_types": sliding(*"fss")}, {"prompt": 25}),
    "llama-bf16": ("llama", 10, {}, {"dtype": mx.bfloat16}),
    "llama-f16": ("llama", 11, {}, {"dtype": mx.float16}),
    "llama-t5": (
        "llama",
        12,
        {"rope_theta": 5e5, "rope_scaling": LLAMA3, "head_dim": None},
        {"written": {"rope_theta": None, "rope_scaling": None, "rope_parameters": {**LLAMA3, "rope_theta": 5e5}}},
    ),
    "mistral-sizes": ("mistral", 13, {**OWN_HEAD, "sliding_window": None}, {}),
    "mistral-window": (
        "mistral",
        14,
        {"sliding_window": 5, "layer_types": sliding(*"ssf")},
        {"prompt": 33},
    ),
    "mistral-t5": (
        "mistral",
        15,
        {"head_dim": None, "sliding_window": None},
        {"written": {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}},
    ),
    "qwen2-sizes": ("qwen2", 16, {**SIZES, "tie_word_embeddings": False, "sliding_window": 8}, {}),
    "qwen2-yarn": ("qwen2", 17, {"rope_scaling": YARN}, {}),
    "qwen2-bf16": ("qwen2", 18, {}, {"dtype": mx.bfloat16}),
    "qwen2-t5": (
        "qwen2",
        19,
        {},
        {
            "written": {
                "rope_theta": None,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
                "layer_types": sliding(*"fff"),
                "use_sliding_window": False,
                "sliding_window": None,
            }
        },
    ),
    "qwen3-sizes": ("qwen3", 20, {**OWN_HEAD, "tie_word_embeddings": False}, {"prompt": 30}),
    "qwen3-yarn": ("qwen3", 21, {"rope_scaling": YARN}, {}),
    "qwen3-t5": (
        "qwen3",
        22,
        {"rope_theta": 3e4, "rope_scaling": LINEAR},
        {
            "written": {
                "rope_theta": None,
                "rope_scaling": None,
                "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 3e4},
            }
        },
    ),
    "gemma2-sizes": ("gemma2", 23, OWN_HEAD, {"prompt": 30}),
    "gemma2-caps": ("gemma2", 24, {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0}, {}),
    "gemma2-bf16": ("gemma2", 25, {}, {"dtype": mx.bfloat16}),
    "gemma3_text-sizes": ("gemma3_text", 26, {**OWN_HEAD, "sliding_window": 7}, {"prompt": 30}),
    "gemma3_text-linear": ("gemma3_text", 27, {"rope_scaling": {**LINEAR, "factor": 8.0}}, {}),
    "gemma3_text-long": ("gemma3_text", 28, {"sliding_window": 16}, {"tokens": 300, "prompt": 270}),
    "gemma3_text-bf16": ("gemma3_text", 29, {}, {"dtype": mx.bfloat16}),
    "gemma3_text-untied": ("gemma3_text", 30, {}, {"untied": True}),
    "gemma3_text-t5": (
        "gemma3_text",
        31,
        {"num_hidden_layers": 5, "rope_scaling": {**LINEAR, "factor": 8.0}},
        {"written": GEMMA3_5},
    ),
    "gemma3-sizes": ("gemma3", 32, {**OWN_HEAD, "sliding_window": 5, "sliding_window_pattern": 3}, {}),
    "gemma3-defaults": (
        "gemma3",
        33,
        {"num_attention_heads": 8, "num_key_value_heads": 4},
        {"written": {"num_attention_heads": None, "num_key_value_heads": None, "vocab_size": None}},
    ),
    "phi3-sizes": ("phi3", 34, SIZES, {"prompt": 30}),
    "phi3-partial": ("phi3", 35, {"partial_rotary_factor": 0.5, "tie_word_embeddings": True}, {}),
    "phi3-su": (
        "phi3",
        36,
        {"original_max_position_embeddings": 32, "rope_scaling": longrope(6, "su")},
        {"tokens": 60},
    ),
    "phi3-t5": (
        "phi3",
        37,
        {
            "partial_rotary_factor": 0.5,
            "original_max_position_embeddings": 32,
            "rope_scaling": longrope(3),
        },
        {
            "written": {
                "rope_theta": None,
                "partial_rotary_factor": None,
                "rope_scaling": None,
                "rope_parameters": {
                    **{name: value for name, value in longrope(3).items() if name != "type"},
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "partial_rotary_factor": 0.5,
                },
            }
        },
    ),
    "cohere-sizes": ("cohere", 38, {**SIZES, "attention_bias": True}, {"prompt": 30}),
    "cohere-norms": ("cohere", 39, {"use_qk_norm": True, "logit_scale": 1.0, "num_key_value_heads": 2}, {}),
    "cohere-bf16": ("cohere", 40, {}, {"dtype": mx.bfloat16}),
    "llama-mixed": (
        "llama",
        41,
        WIDE,
        {
            "quantized": quantized(
                8,
                64,
                overrides={
                    "lm_head": {"bits": 4, "group_size": 64},
                    "model.embed_tokens": False,
                    "model.layers.1.self_attn.q_proj": {"bits": 2, "group_size": 32},
                    "model.layers.2.mlp.down_proj": {"bits": 5, "group_size": 128},
                },
            )
        },
    ),
    "qwen2-mixed-modes": (
        "qwen2",
        42,
        WIDE,
        {
            "quantized": quantized(
                4,
                32,
                "mxfp4",
                {
                    "model.embed_tokens": {"bits": 8, "group_size": 64, "mode": "affine"},
                    "model.layers.0.mlp.up_proj": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
                    "model.layers.2.self_attn.o_proj": {"bits": 8, "group_size": 32, "mode": "mxfp8"},
                },
            )
        },
    ),
}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "phi3", "cohere"]
MODES = {"q2": (2, 32), "q3": (3, 64), "q5": (5, 128), "q6": (6, 32), "q8": (8, 64)}
MODES |= {"mxfp4": (4, 32, "mxfp4"), "mxfp8": (8, 32, "mxfp8"), "nvfp4": (4, 16, "nvfp4")}
for number, family in enumerate(FAMILIES):
    for offset, (name, mode) in enumerate(MODES.items()):
        wide = {"hidden_size": 128, "intermediate_size": 128}
        if "head_dim" in BASES[family]:
            wide["head_dim"] = 32
        stored = {"quantized": quantized(*mode), "dtype": mx.bfloat16 if offset % 2 else mx.float32}
        MORE[f"{family}-{name}"] = (family, 200 + 10 * number + offset, wide, stored)


def settings_of(family, changes):
    table = {**COMMON, **BASES[family], **changes}
    if family in ("phi3", "cohere") and "num_key_value_heads" not in changes:
        table["num_key_value_heads"] = 4
    return {**table, "model_type": "gemma3_text" if family == "gemma3" else family}


def wrapped(family, table):
    """What config.json says: the multimodal model keeps the text model's settings in a table of their own."""
    ids = {"bos_token_id": 2, "eos_token_id": [1, 5 if "gemma" in family else 4], "pad_token_id": 0}
    if family != "gemma3":
        return {**table, **ids}
    return {"model_type": "gemma3", "text_config": table, "vocab_size": 704, **ids}


def randomize(model, seed, zero_norms):
    """Normal weights: matrices so that they keep the size of what they map, the rest near its neutral value."""
    mx.random.seed(seed)

    def draw(path, array):
        noise = mx.random.normal(array.shape)
        if "norm" in path:
            return 0.1 * noise + (0.0 if zero_norms else 1.0)
        if path.endswith("bias"):
            return 0.1 * noise
        return noise * array.shape[-1] ** -0.5

    model.update(tree_map_with_path(draw, model.parameters()))


def greedy(model, prompt, count):
    cache = make_prompt_cache(model)
    logits, tokens = model(mx.array([prompt]), cache=cache), []
    for _ in range(count):
        tokens.append(mx.argmax(logits[0, -1]).item())
        logits = model(mx.array([[tokens[-1]]]), cache=cache)
    return tokens


def make(folder, family, seed, changes, options):
    folder.mkdir(parents=True, exist_ok=True)
    config = wrapped(family, settings_of(family, changes))
    module = importlib.import_module(f"mlx_lm.models.{MODULES.get(family, family)}")
    table = {key: value for key, value in config.items() if value is not None}
    model = module.Model(module.ModelArgs.from_dict(json.loads(json.dumps(table))))
    if family.startswith("gemma3") and not options.get("untied"):
        text = model.language_model if family == "gemma3" else model
        text.tie_word_embeddings = True
        text.pop("lm_head")
    randomize(model, seed, zero_norms="gemma" in family)
    model.set_dtype(options.get("dtype", mx.float32))
    written = config.get("text_config", config)
    written.update(options.get("written", {}))
    if how := options.get("quantized"):
        overrides = how["overrides"]
        predicate = (lambda path, _: overrides.get(path, True)) if overrides else None
        model, config = quantize_model(
            model, config, how["group_size"], how["bits"], how["mode"], quant_predicate=predicate
        )
        config["quantization"].update({path: value for path, value in overrides.items() if value is False})
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    model.set_dtype(mx.float32)
    model.eval()

    mx.random.seed(seed + 1)
    length, tokenizer = options.get("tokens", 40), HERE / ("gemma2" if "gemma" in family else "llama")
    inputs = mx.random.randint(6, 384, (2, length))
    logits = model(inputs)
    reference = {"input_ids": inputs.astype(mx.int32), "logits": logits.astype(mx.float32)}
    mx.save_safetensors(str(folder / "expected.safetensors"), reference)
    batch = mx.concatenate([inputs, inputs[:, :1]], axis=1)
    spans = [[0, length], [length // 4, 3 * length // 4]]
    loss, count = default_loss(model, batch, mx.array(spans))
    prompt = mx.random.randint(6, 384, (options.get("prompt", 12),)).tolist()
    expected = {
        "loss": loss.item(),
        "loss_tokens": count.item(),
        "loss_batch": "input_ids plus its first column again; trained targets per row: "
        f"{spans[0]} and {spans[1]} in mlx-lm's (offset, length) form",
        "greedy_prompt": prompt,
        "greedy_tokens": greedy(model, prompt, 24),
        "chats": json.loads((tokenizer / "expected.json").read_text())["chats"],
        "produced_by": "mlx-lm 0.32.2, MLX 0.32.2, CPU, float32",
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)


def drawn(seed, count=40):
    """Cases of drawn shapes: heads, widths, layers, windows, lengths, rope scalings and ways to store weights."""
    draw, cases = random.Random(seed), {}
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        key_heads, groups = draw.choice([1, 1, 2, 3]), draw.choice([1, 2, 4])
        head_dim = draw.choice([8, 12, 20, 32])
        changes = {
            "num_hidden_layers": draw.randint(1, 6),
            "num_attention_heads": key_heads * groups,
            "num_key_value_heads": key_heads,
            "intermediate_size": draw.choice([24, 40, 96]),
        }
        has_own_head = "head_dim" in BASES[family]
        # Elsewhere the head's width follows from the hidden size, and it must be even.
        changes["hidden_size"] = draw.choice([28, 48, 64]) if has_own_head else head_dim * key_heads * groups
        if has_own_head:
            changes["head_dim"] = head_dim
        if family == "cohere":
            changes |= {"use_qk_norm": draw.random() < 0.5, "attention_bias": draw.random() < 0.5}
        if family.startswith("gemma"):
            changes["query_pre_attn_scalar"] = draw.choice([head_dim, 17])
        tokens = draw.randint(3, 90)
        options = {"tokens": tokens, "prompt": draw.randint(1, 90)}
        if family.startswith("gemma3"):
            changes |= {"sliding_window": draw.randint(2, 40), "sliding_window_pattern": draw.randint(1, min(4, changes["num_hidden_layers"]))}
        if family in ("llama", "mistral"):
            kinds = [draw.choice("sf") for _ in range(changes["num_hidden_layers"] - 1)] + ["f"]
            changes |= {"sliding_window": draw.randint(2, 40), "layer_types": sliding(*kinds)}
        if family in ("llama", "qwen2", "qwen3") and draw.random() < 0.5:
            changes["rope_scaling"] = draw.choice([YARN, LINEAR, LLAMA3])
        if draw.random() < 0.4:
            wide = {"hidden_size": 128, "intermediate_size": 128}
            changes |= wide | ({"head_dim": 32} if has_own_head else {"num_attention_heads": 4, "num_key_value_heads": 2})
            if family.startswith("gemma"):
                changes["query_pre_attn_scalar"] = 32
            bits, group_size, *mode = draw.choice([*MODES.values(), (4, 64)])
            overrides = {"model.layers.0.self_attn.o_proj": False} if family in ("llama", "qwen3") else {}
            options["quantized"] = quantized(bits, group_size, *mode, overrides=overrides)
        options["dtype"] = draw.choice([mx.float32, mx.bfloat16])
        cases[f"random-{number:02}-{family}"] = (family, 1000 + number, changes, options)
    return cases


def main():
    mx.set_default_device(mx.cpu)
    out, more = Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    cases = {"small": SMALL, "more": MORE, "random": drawn(more)}[sys.argv[2]]
    for name, (family, seed, changes, options) in cases.items():
        make(out / name, family, seed + more, changes, options)


if __name__ == "__main__":
    main()
