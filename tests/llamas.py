"""Small Llama checkpoints from elsewhere: tokenizers of both kinds, grouped heads, tied heads."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.apps.export import import_llama
from tests.checkpoints import TEXTS

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|free|>", "<|spare|>")


def write_llama(path: Path, vocabulary: int = 320, **fields: object) -> LlamaForCausalLM:
    """A Llama directory with two query heads to a key head, without a tokenizer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"vocab_size": vocabulary, "num_attention_heads": 4, "num_key_value_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(**sizes | fields)).eval()
    llama.save_pretrained(path)
    return llama


def write_sentencepiece(path: Path) -> None:
    """tokenizer.model as Llama's: bytes from id 3 on."""
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=proto,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
    )
    (path / "tokenizer.model").write_bytes(proto.getvalue())
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')


def byte_level_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, as SmolLM2's: special tokens first, padding with EOS."""
    backend = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    backend.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=template,
    )


def import_with_bos(directory: Path) -> Path:
    """An imported model whose tokenizer wrote BOS in front of every text, as its template does."""
    source, out = directory / "llama", directory / "imported"
    tokenizer = byte_level_tokenizer("{{ bos_token }}" + CHATML)
    tokenizer.bos_token, tokenizer.unk_token = "<|endoftext|>", None
    tokenizer.add_bos_token = True
    assert tokenizer("Hello")["input_ids"][0] == tokenizer.bos_token_id
    write_llama(source, len(tokenizer))
    tokenizer.save_pretrained(source)
    import_llama(source, out)
    return out
