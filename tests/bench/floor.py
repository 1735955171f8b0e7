"""The least work of a workload, counted by hand from shapes and trained tokens.

Counted are the products of a method that wastes nothing: only targets reach the head, nothing is computed for padding, and nothing
is differentiated below the first trained block. Elementwise work, norms and the optimizer count as free.
"""

from math import prod

from shapes import layout, matrices

RANK = 8


def block_parameters(config: dict) -> int:
    return sum(outputs * inputs for outputs, inputs in matrices(config).values())


def attended(tokens: int, window: int | None) -> int:
    """Returns the number of pairs of a query and a key that it may see."""
    if window is None or tokens <= window:
        return tokens * (tokens + 1) // 2
    return window * (window + 1) // 2 + (tokens - window) * window


def windows(config: dict) -> list[int | None]:
    """Returns the sliding window of each block; `None` without one."""
    pattern, window = config.get("sliding_window_pattern"), config.get("sliding_window")
    count = config["num_hidden_layers"]
    return [window if pattern and (layer + 1) % pattern else None for layer in range(count)]


def training_flops(config: dict, rows: list[dict], layers: int, lora: bool) -> float:
    """Returns the FLOPs of one forward and backward pass over `rows`."""
    blocks, head = config["num_hidden_layers"], config["vocab_size"] * config["hidden_size"]
    size = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    width = config["num_attention_heads"] * size
    adapters = sum(RANK * (outputs + inputs) for outputs, inputs in matrices(config).values())
    total = 0.0
    for row in rows:
        tokens, targets = len(row["tokens"]) - 1, row["last"] - row["first"] + 1
        forward = 2 * tokens * blocks * block_parameters(config)
        backward = 2 * tokens * layers * block_parameters(config)
        if lora:
            own = 6 * tokens * layers * adapters
        else:
            own = 2 * tokens * layers * block_parameters(config)
        # Scores and their product with the values: two products forward, four backward.
        attention = sum(
            (2 + 4 * (layer >= blocks - layers)) * 2 * width * attended(tokens, window)
            for layer, window in enumerate(windows(config))
        )
        total += forward + backward + own + attention + 4 * targets * head
    return total


def generation_flops(config: dict, prompts: int, prompt: int, answer: int) -> float:
    """Returns the FLOPs of answers of `answer` tokens; a prompt needs the head once."""
    head = config["vocab_size"] * config["hidden_size"]
    tokens = prompts * (prompt + answer - 1)
    return 2.0 * tokens * config["num_hidden_layers"] * block_parameters(config) + 2.0 * prompts * answer * head


def weight_bytes(config: dict, width: float) -> float:
    """Returns the bytes that one step of decoding reads, with `width` bytes per weight."""
    head = config["vocab_size"] * config["hidden_size"]
    return width * (config["num_hidden_layers"] * block_parameters(config) + head)


def stored_bytes(config: dict, width: float) -> float:
    """Returns the bytes of all weights, with `width` bytes per weight."""
    return width * sum(prod(size) for _, size in layout(config))
