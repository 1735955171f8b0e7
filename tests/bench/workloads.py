"""The workloads: what is trained or generated, at which shape, and for how many steps."""

from dataclasses import dataclass, replace

# Programs in the order of the table. `floor` is arithmetic, not a program.
ASHLAR, STOCK, OPENBLAS, TORCH, GATHERED, FLOOR = (
    "ashlar",
    "mlx-lm",
    "mlx-lm+openblas",
    "torch",
    "torch+gathered-head",
    "floor",
)
MLX_LM = (STOCK, OPENBLAS)
PYTORCH = (TORCH, GATHERED)


@dataclass(frozen=True)
class Model:
    """A model folder with random weights."""

    shape: str
    dtype: str = "float32"
    bits: int | None = None

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.dtype}" + (f"-{self.bits}bit" if self.bits else "")


@dataclass(frozen=True)
class Training:
    """Training steps on the same rows, from the same adapters."""

    title: str
    model: Model
    steps: int
    # Number of blocks to train, counted from the last.
    layers: int
    lora: bool = True
    batch: int = 1
    # Longest text of a row in words, for conversations.
    words: int = 120
    # Tokens per row, for concatenated texts; 0 for conversations.
    tokens: int = 0
    checkpointing: bool = False
    # Settings of our `train` besides those that all programs share.
    extra: tuple[str, ...] = ()
    # Steps of programs that are too slow for all of them; 0 leaves one out.
    fewer: tuple[tuple[str, int], ...] = ()

    def steps_of(self, program: str) -> int:
        return min(dict(self.fewer).get(program, self.steps), self.steps)


@dataclass(frozen=True)
class Generation:
    """Answers of a fixed length to prompts of 64 tokens, greedy and with top-p."""

    title: str
    model: Model
    prompts: int
    tokens: int
    fewer: tuple[tuple[str, int], ...] = ()

    def steps_of(self, program: str) -> int:
        """Returns the number of answers' tokens that `program` makes."""
        return min(dict(self.fewer).get(program, self.tokens), self.tokens)


PROMPT_TOKENS = 64
TOP_P = 0.9

GEMMA = Model("gemma3-270m")
GEMMA_4BIT = Model("gemma3-270m", bits=4)
LLAMA = Model("llama-110m")

FULL = {
    "W1": Training("LoRA r8, last 16 layers, Gemma-3-270M shape, f32, batch 1", GEMMA, 12, 16, fewer=((STOCK, 1),)),
    "W6a": Generation("generation, Gemma-3-270M shape, f32, one prompt", GEMMA, 1, 64, fewer=((STOCK, 16),)),
    "W6b": Generation("generation, Gemma-3-270M shape, f32, eight prompts", GEMMA, 8, 64, fewer=((STOCK, 8),)),
}

# Fewer steps and shorter rows, for all programs alike.
QUICK = {
    "W1": replace(FULL["W1"], steps=6, words=40),
    "W6a": replace(FULL["W6a"], tokens=24, fewer=((STOCK, 8),)),
    "W6b": replace(FULL["W6b"], tokens=24, fewer=((STOCK, 4),)),
}
