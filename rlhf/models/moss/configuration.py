"""The configuration of moss-moon-003: CodeGen's fields with MOSS's sizes."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CodeGenConfig

UNQUANTISED_BITS = 32


@strict
class MossConfig(CodeGenConfig):
    """Reads the official field names.

    score_mean, score_std: statistics of a reward model's scores, None when unknown.

    Raises ValueError for the official int4 and int8 checkpoints, whose weights are packed for
    kernels that are not here.
    """

    model_type = "moss"
    attribute_map = CodeGenConfig.attribute_map | {
        "intermediate_size": "n_inner",
        "model_max_length": "n_positions",
        "hidden_act": "activation_function",
    }
    # For a directory whose tokenizer has no configuration of its own.
    tokenizer_class = "MossTokenizer"
    # What other families choose, this one does not.
    position_embedding = "rotary-codegen"
    norm_head = False

    vocab_size: int = 107_008
    n_embd: int = 6144
    n_layer: int = 34
    n_head: int = 24
    bos_token_id: int | None = 106_028
    eos_token_id: int | list[int] | None = 106_068
    z_loss_weight: float | int = 0.0
    score_mean: float | int | None = None
    score_std: float | int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        bits = kwargs.pop("wbits", UNQUANTISED_BITS)
        kwargs.pop("groupsize", None)
        if bits != UNQUANTISED_BITS:
            raise ValueError(
                f"an official int{bits} checkpoint of MOSS, which is not readable here; load "
                "moss-moon-003-sft (or -sft-plugin) and quantise it with bitsandbytes"
            )
        self.n_inner = self.n_inner or 4 * self.n_embd
        if self.id2label is None:
            kwargs.setdefault("num_labels", 1)  # a classifier of this family is a reward model
        # The files that these name are never run, and a model saved anew does not carry them.
        kwargs.pop("auto_map", None)
        kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)
