"""MOSS's language model, which is CodeGen's, and a reward model, which CodeGen lacks."""

from __future__ import annotations

from transformers import CodeGenForCausalLM, CodeGenModel, CodeGenPreTrainedModel

from rlhf.models.language_model import LanguageModel
from rlhf.models.moss.configuration import MossConfig
from rlhf.models.reward_model import RewardModel, ScoreHead

# The official checkpoints carry each layer's causal mask, which CodeGen works out anew.
MASKS = [r"attn\.causal_mask$", r"attn\.(masked_)?bias$"]


class MossModel(CodeGenModel):
    """The trunk alone."""

    config_class = MossConfig
    _keys_to_ignore_on_load_unexpected = [*MASKS, r"^lm_head\."]


class MossForCausalLM(LanguageModel, CodeGenForCausalLM):
    """CodeGen's language model, with the Max-z loss."""

    config_class = MossConfig
    _keys_to_ignore_on_load_unexpected = MASKS


class MossForSequenceClassification(RewardModel, CodeGenPreTrainedModel):
    """Reward model: one score, read at the last real token of each sequence."""

    config_class = MossConfig
    _keys_to_ignore_on_load_unexpected = [*MASKS, r"^lm_head\."]

    def __init__(self, config: MossConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels or 1
        self.transformer = CodeGenModel(config)
        self.score = ScoreHead(config.hidden_size, self.num_labels)
        self.post_init()
