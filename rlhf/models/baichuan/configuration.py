"""One configuration for Baichuan-7B, Baichuan-13B, Baichuan2-7B and Baichuan2-13B."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

BAICHUAN2_VOCABULARY = 125_696


@strict
class BaichuanConfig(LlamaConfig):
    """Reads the official field names; what those leave implicit is explicit once saved.

    position_embedding: official files say it by omission. RoPE models have
        `max_position_embeddings`, ALiBi models only `model_max_length`.
    norm_head: whether the rows of `lm_head` are normalised. Official files say it by having a
        `z_loss_weight` at all, or by the Baichuan 2 vocabulary.
    z_loss_weight: weight of the Max-z term in the language modelling loss; 0 is off.
    score_mean, score_std: statistics of a reward model's scores, None when unknown.
    chat_turns: the fields of `Turns`, for a model whose chat format came with it; None for roles by
        the family's own tokens.
    chat_generation: 2 where those are Baichuan 2's over a plain head, as once it was a Llama; None
        for the generation of the head.

    Raises ValueError for the official 4-bit checkpoints, whose weights are packed for their code.
    """

    model_type = "baichuan"
    # Llama's plan cuts W_pack by columns, through the middle of query, key and value.
    base_model_tp_plan = {}
    # For a directory whose tokenizer has no configuration of its own.
    tokenizer_class = "BaichuanTokenizer"

    vocab_size: int = BAICHUAN2_VOCABULARY
    max_position_embeddings: int | None = None  # type: ignore[assignment]
    model_max_length: int | None = None
    pad_token_id: int | None = 0
    position_embedding: Literal["rope", "alibi"] | None = None
    norm_head: bool | None = None
    z_loss_weight: float | int | None = None
    score_mean: float | int | None = None
    score_std: float | int | None = None
    chat_turns: dict[str, str | None] | None = None
    chat_generation: Literal[2] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.position_embedding is None and kwargs.get("quantization_config"):
            # What is saved here says its position embedding: others have packed these weights.
            raise ValueError(
                "weights in 4 bits as the official code packs them, which are not readable here; "
                "load the plain checkpoint, such as Baichuan2-7B-Chat, and quantise it: "
                "rlhf chat --load-in 4bit, or model.quantize(4)"
            )
        if self.position_embedding is None:
            only_length = self.max_position_embeddings is None and self.model_max_length is not None
            self.position_embedding = "alibi" if only_length else "rope"
        length = self.max_position_embeddings or self.model_max_length or 4096
        self.model_max_length = self.model_max_length or length
        self.max_position_embeddings = length if self.position_embedding == "rope" else None
        if self.norm_head is None:
            weighted = self.z_loss_weight is not None
            self.norm_head = weighted or self.vocab_size == BAICHUAN2_VOCABULARY
        self.z_loss_weight = float(self.z_loss_weight or 0)
        if self.id2label is None:
            kwargs.setdefault("num_labels", 1)  # a classifier of this family is a reward model
        # The files that these name are never run, and a model saved anew does not carry them.
        kwargs.pop("auto_map", None)
        kwargs.pop("custom_pipelines", None)
        # The official 13B files say [false], which transformers takes for true; a run says it
        # itself.
        kwargs.pop("gradient_checkpointing", None)
        super().__post_init__(**kwargs)
        if self.position_embedding == "alibi":
            self.rope_parameters = None
