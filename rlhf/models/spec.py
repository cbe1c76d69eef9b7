"""All that differs between the models of the registry, in one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf.models.turns import Turns

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{ user_token + message['content'] }}
{%- elif message['role'] == 'assistant' -%}
{{ assistant_token + message['content'] }}ANSWER_END
{%- else -%}
{{ message['content'] }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ assistant_token }}{%- endif -%}
"""


MOSS_CHAT_TEMPLATE = """\
{%- macro used(plugins) -%}
{%- set results = plugins['results'] or 'None' -%}
{{ '<|Inner Thoughts|>: ' + (plugins['inner_thoughts'] or 'None') + '<eot>\\n' -}}
{{ '<|Commands|>: ' + (plugins['commands'] or 'None') + '<eoc>\\n<|Results|>:' -}}
{{ (' None' if results == 'None' else '\\n' + results + '\\n') + '<eor>\\n' }}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{ '<|Human|>: ' + message['content'] + '<eoh>\\n' }}
{%- elif message['role'] == 'assistant' -%}
{{ used(message['plugins'] or {}) + '<|MOSS|>: ' + message['content'] + '<eom>\\n' }}
{%- else -%}
{{ message['content'] }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ used({}) + '<|MOSS|>:' }}{%- endif -%}
"""


@dataclass(frozen=True)
class ModelSpec:
    """One architecture; `registry.spec_of` fills the sizes in from a checkpoint's configuration.

    context: how many tokens it reads, the answer included, as its config.json says.
    eos_after_answer: whether every answer in a conversation ends with EOS (version 1), or none does
        between turns (version 2).
    chat_style: how turns are told apart. "role-tokens": by a token in front of each; "moss": by the
        written names and end tokens of MOSS-003; "turns": by what `turns` says, which a model
        brought from elsewhere.
    system_style: "raw" puts a system message in front as plain text; "none" has no place for one.
    """

    name: str
    family: Literal["baichuan", "moss"]
    generation: int
    position: Literal["rope", "alibi", "rotary-codegen"]
    norm_head: bool
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    context: int = 4096
    chat_style: Literal["role-tokens", "moss", "turns"] = "role-tokens"
    turns: Turns | None = None
    user_token_id: int = 195
    assistant_token_id: int = 196
    eos_after_answer: bool = False
    system_style: Literal["raw", "none"] = "raw"
    lora_targets: tuple[str, ...] = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
    files: tuple[str, ...] = ("config.json", "tokenizer.model")

    @property
    def layout(self) -> tuple[str, str, bool]:
        """What models of one layout have in common, whatever their sizes."""
        return self.family, self.position, self.norm_head

    @property
    def parameters(self) -> int:
        """Of its matrices; norms and biases add less than a thousandth."""
        feed_forward = 3 if self.family == "baichuan" else 2  # gated, or not
        layer = 4 * self.hidden_size**2 + feed_forward * self.hidden_size * self.intermediate_size
        return self.layers * layer + 2 * self.vocab_size * self.hidden_size

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        """Of `files`, those that decide which ids a text has."""
        return tuple(name for name in self.files if name != "config.json")

    @property
    def chat_template(self) -> str:
        """Jinja over messages, user_token, assistant_token, eos_token, add_generation_prompt."""
        if self.chat_style == "moss":
            return MOSS_CHAT_TEMPLATE
        if self.turns is not None:
            return self.turns.template
        # The last answer always ends with EOS: it is learnt, and a reward model is read there.
        between = "" if self.eos_after_answer else "{%- if loop.last -%}"
        end = "{{ eos_token }}" + ("{%- endif -%}" if between else "")
        return CHAT_TEMPLATE.replace("ANSWER_END", f"{between}{end}")
