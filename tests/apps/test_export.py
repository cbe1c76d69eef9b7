from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from rlhf.apps.export import export, import_llama
from rlhf.config.schema import TuningSection
from rlhf.data.chat_format import encode_conversation, encode_prompt
from rlhf.models.adapter import add_lora
from rlhf.models.chat import ChatTurn
from rlhf.models.checkpoint import check_checkpoint, score_statistics
from rlhf.models.export import save_reward_model
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.registry import spec_of
from rlhf.runtime.files import hash_path
from rlhf.runtime.lineage import trace
from tests.checkpoints import ARCHITECTURES
from tests.llamas import SPECIAL, byte_level_tokenizer, write_llama, write_sentencepiece

CPU = {"dtype": torch.float32, "device": "cpu"}
IDS = torch.arange(3, 43).view(2, 20)
LORA = TuningSection(method="lora", r=4, alpha=8)
Checkpoint = Callable[..., Path]
FRAGMENTS = [
    "你好",
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    "Hello",
    "the answer is 42",
    "é",
    "😀",
    "\u3000",
    "天气",
]


def texts(count: int, also: tuple[str, ...] = ()) -> list[str]:
    """Random text: fragments, and any character but the one that stands for a space."""
    draw = random.Random(0)
    parts = [*FRAGMENTS, *also, *(chr(draw.randrange(0x20, 0x2500)) for _ in range(200))]
    return ["".join(draw.choices(parts, k=draw.randrange(1, 20))) for _ in range(count)]


def test_an_export_can_be_traced(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Through its manifest, which names what it was made from, and its card."""
    path, out = checkpoint("baichuan-7b"), tmp_path / "llama"
    export(path, out, "llama")
    (model,) = trace(out).inputs
    assert (model.path, model.hash, model.state) == (path, hash_path(path), "there")
    text = (out / "README.md").read_text(encoding="utf-8")
    assert "in the layout llama" in text and "Baichuan community licence" in text


def lora(base: Path, out: Path, targets: tuple[str, ...] = ("W_pack", "o_proj")) -> torch.Tensor:
    """Writes a PEFT adapter; returns what the adapted model says."""
    tuning = LORA.model_copy(update={"targets": targets})
    model = add_lora(load_causal_lm(base, **CPU), tuning, "causal")
    shake(model)
    model.save_pretrained(str(out))
    with torch.no_grad():
        return model(IDS).logits


def shake(model: torch.nn.Module) -> None:
    """Adapters start at zero, which would hide a lost one."""
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    model.eval()


@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-7b"])
@torch.no_grad()
def test_llama(checkpoint: Checkpoint, tmp_path: Path, architecture: str) -> None:
    path, out = checkpoint(architecture), tmp_path / "out"
    export(path, out, "llama")
    ours, llama = load_causal_lm(path, **CPU), AutoModelForCausalLM.from_pretrained(out)
    assert type(llama) is LlamaForCausalLM and llama.dtype == torch.float32
    assert torch.allclose(llama(IDS).logits, ours(IDS).logits, rtol=0, atol=1e-5)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["torch_dtype"] == "float32"
    assert (config["rope_theta"], config["rms_norm_eps"]) == (10000.0, 1e-6)
    assert config["max_position_embeddings"] == 256 and not config["tie_word_embeddings"]
    assert (out / "tokenizer.model").read_bytes() == (path / "tokenizer.model").read_bytes()


def test_llama_tokenizer_gives_the_same_ids(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = checkpoint("baichuan2-7b")
    export(path, tmp_path / "out", "llama")
    ours, stock = load_tokenizer(path), AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in texts(500, also=("<reserved_193>", "<0x0A>", "</s>")):
        ids = stock(text)["input_ids"]
        assert ids == ours(text)["input_ids"], text
        assert stock.decode(ids) == text
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "你好"}]
    ids = stock.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert [ids[0], ids[-1]] == [195, 196] and ids.count(196) == 2


def test_llama_tokenizer_with_a_dummy_prefix(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = checkpoint("baichuan-7b")
    export(path, tmp_path / "out", "llama")
    ours, stock = load_tokenizer(path), AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in texts(300):
        if not text.startswith(" "):  # the documented exception
            assert stock(text)["input_ids"] == ours(text)["input_ids"], text


@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-7b"])
def test_llama_tokenizer_gives_conversations_the_ids_of_training(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str
) -> None:
    path = checkpoint(architecture)
    export(path, tmp_path / "out", "llama")
    ours, stock = load_tokenizer(path), AutoTokenizer.from_pretrained(tmp_path / "out")
    said = ["", "  ", " a", "<reserved_3>", *texts(200, also=("<reserved_3>",))]
    for question, answer in zip(said[::2], said[1::2], strict=True):
        turns = [ChatTurn("user", question), ChatTurn("assistant", answer)] * 2
        chat = [turn._asdict() for turn in turns]
        expected = encode_conversation(spec_of(path), ours, turns).input_ids
        assert stock.apply_chat_template(chat)["input_ids"] == expected, chat
        asked = stock.apply_chat_template(chat[:-1], add_generation_prompt=True)["input_ids"]
        assert asked == encode_prompt(spec_of(path), ours, turns[:-1]), chat


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_official(checkpoint: Checkpoint, tmp_path: Path, architecture: str) -> None:
    path, out = checkpoint(architecture), tmp_path / "out"
    export(path, out, "official")
    before, after = (json.loads((p / "config.json").read_text()) for p in (path, out))
    for name, value in before.items():
        if name != "auto_map":
            assert after[name] == value, name
    spelling = "BaiChuan" if architecture == "baichuan-7b" else "Baichuan"
    assert after["auto_map"]["AutoConfig"] == f"configuration_baichuan.{spelling}Config"
    for name in ("max_position_embeddings", "model_max_length", "z_loss_weight"):
        assert (name in after) == (name in before), name
    assert ("model_max_length" in after) == (architecture != "baichuan-7b")
    # With the official tokenizer it would not give the first generation's ids.
    assert (out / "chat_template.jinja").is_file() == architecture.startswith("baichuan2")
    again = load_causal_lm(out, **CPU)
    assert torch.equal(again(IDS).logits, load_causal_lm(path, **CPU)(IDS).logits)
    assert load_tokenizer(out)("你好 a")["input_ids"] == load_tokenizer(path)("你好 a")["input_ids"]


@torch.no_grad()
def test_adapter_beside_its_base_and_by_itself(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path, adapter = checkpoint("baichuan2-13b"), tmp_path / "adapter"
    adapted = lora(path, adapter)
    export(path, tmp_path / "beside", adapter=adapter)
    export(adapter, tmp_path / "alone")
    for out in (tmp_path / "beside", tmp_path / "alone"):
        assert torch.allclose(load_causal_lm(out, **CPU)(IDS).logits, adapted, atol=1e-4)


def test_generation_settings_are_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = checkpoint("baichuan2-7b")
    settings = {"do_sample": True, "temperature": 0.3, "top_k": 5, "user_token_id": 195}
    (path / "generation_config.json").write_text(json.dumps(settings))
    lora(path, tmp_path / "adapter")
    for layout in ("native", "llama", "official"):
        export(path, tmp_path / layout, layout, tmp_path / "adapter")
        kept = json.loads((tmp_path / layout / "generation_config.json").read_text())
        assert settings.items() <= kept.items()


def test_official_names_what_the_official_chat_code_reads(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """A model tuned from a base has only what transformers writes of its own accord."""
    path = checkpoint("baichuan2-7b")
    for number, shipped in enumerate(({"max_new_tokens": 64}, {})):
        (path / "generation_config.json").write_text(json.dumps(shipped))
        export(path, tmp_path / f"{number}", "official")
        written = json.loads((tmp_path / f"{number}" / "generation_config.json").read_text())
        assert (written["user_token_id"], written["assistant_token_id"]) == (195, 196)
        assert written["max_new_tokens"] == shipped.get("max_new_tokens", 128)


@torch.no_grad()
def test_adapted_reward_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path, rm = checkpoint("baichuan2-7b"), tmp_path / "rm"
    model = add_lora(load_reward_model(path, **CPU), LORA, "reward")
    shake(model)
    save_reward_model(model, load_tokenizer(path), rm, score_mean=0.5, score_std=2.0)
    export(rm, tmp_path / "out")
    whole = load_reward_model(tmp_path / "out", **CPU)
    assert torch.allclose(whole(IDS).logits, model(IDS).logits, atol=1e-4)
    assert score_statistics(tmp_path / "out") == (0.5, 2.0)
    with pytest.raises(ValueError, match="--to native"):
        export(rm, tmp_path / "official", "official")


def test_mistakes_in_one_line(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path, alibi, out = checkpoint(), checkpoint("baichuan-13b", name="alibi"), tmp_path / "out"
    lora(alibi, tmp_path / "other")
    lora(path, tmp_path / "split")
    file = tmp_path / "split/adapter_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"target_modules": ["q_proj", "v_proj"]}))
    for reason, arguments in {
        "choose native, llama, official": (path, out, "gguf"),
        "not an empty directory": (path, alibi),
        "--to official": (alibi, out, "llama"),
        "no adapter_config.json": (path, out, "native", alibi),
        "made for another model": (path, out, "native", tmp_path / "other"),
        "'q_proj'.*W_pack": (path, out, "native", tmp_path / "split"),
        "an adapter itself": (tmp_path / "other", out, "native", tmp_path / "other"),
    }.items():
        with pytest.raises(ValueError, match=reason) as error:
            export(*arguments)
        assert "\n" not in str(error.value) and not out.exists()


@torch.no_grad()
def test_import_and_export_again(tmp_path: Path) -> None:
    llama = write_llama(tmp_path / "llama", rope_theta=500_000.0)
    write_sentencepiece(tmp_path / "llama")
    import_llama(tmp_path / "llama", tmp_path / "ours")
    check_checkpoint(tmp_path / "ours", "baichuan-7b")
    ours = load_causal_lm(tmp_path / "ours", **CPU)
    assert torch.allclose(ours(IDS).logits, llama(IDS).logits, rtol=0, atol=1e-5)
    tokenizer = load_tokenizer(tmp_path / "ours")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert tokenizer(prompt)["input_ids"][0] == 195
    assert not {195, 196} & set(tokenizer("À Á hello 你好 \xff")["input_ids"])
    export(tmp_path / "ours", tmp_path / "again", "llama")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.allclose(again(IDS).logits, llama(IDS).logits, rtol=0, atol=1e-5)
    stock = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert stock(prompt)["input_ids"][0] == 195
    with pytest.raises(ValueError, match="500000.*--to llama"):
        export(tmp_path / "ours", tmp_path / "official", "official")


@pytest.mark.parametrize("architecture", ["baichuan-7b", "baichuan2-7b"])
def test_a_chat_format_comes_back_from_llama(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str
) -> None:
    path, llama, ours = checkpoint(architecture), tmp_path / "llama", tmp_path / "ours"
    export(path, llama, "llama")
    import_llama(llama, ours)
    turns = [ChatTurn("user", "Hi"), ChatTurn("assistant", "你好")] * 2
    if architecture == "baichuan2-7b":
        turns.insert(0, ChatTurn("system", "Be kind."))
    expected, found = (
        encode_conversation(spec_of(each), load_tokenizer(each), turns) for each in (path, ours)
    )
    assert found == expected
    export(ours, tmp_path / "again", "llama")
    templates = [(each / "chat_template.jinja").read_text() for each in (llama, tmp_path / "again")]
    assert templates[0] == templates[1]
    if architecture == "baichuan2-7b":
        with pytest.raises(ValueError, match="Baichuan 2's chat format over Baichuan-7B's"):
            export(ours, tmp_path / "official", "official")


@torch.no_grad()
def test_import_of_a_fast_tokenizer(tmp_path: Path) -> None:
    llama = write_llama(tmp_path / "llama", rope_theta=100_000.0, tie_word_embeddings=True)
    source = byte_level_tokenizer()
    source.save_pretrained(tmp_path / "llama")
    # The class that SmolLM2 names, which by itself would not split digits.
    settings = tmp_path / "llama/tokenizer_config.json"
    fields = json.loads(settings.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}
    settings.write_text(json.dumps(fields))
    import_llama(tmp_path / "llama", tmp_path / "ours")
    check_checkpoint(tmp_path / "ours", "baichuan-7b")
    ours, tokenizer = load_causal_lm(tmp_path / "ours", **CPU), load_tokenizer(tmp_path / "ours")
    assert torch.allclose(ours(IDS).logits, llama(IDS).logits, rtol=0, atol=1e-5)
    for text in texts(300, also=SPECIAL):
        assert tokenizer(text)["input_ids"] == source(text)["input_ids"], text
    ids = [ours.config.bos_token_id, ours.config.eos_token_id, ours.config.pad_token_id]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    chat = [{"role": "user", "content": "Hi"}]
    asked, expected = (
        each.apply_chat_template(chat, add_generation_prompt=True) for each in (tokenizer, source)
    )
    assert asked["input_ids"] == expected["input_ids"]
    export(tmp_path / "ours", tmp_path / "again", "llama")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.allclose(again(IDS).logits, llama(IDS).logits, rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "again").encode("a 12") == source.encode("a 12")
    with pytest.raises(ValueError, match="no tokenizer.model"):
        export(tmp_path / "ours", tmp_path / "official", "official")


def test_import_without_a_usable_tokenizer(tmp_path: Path) -> None:
    write_llama(tmp_path / "llama")
    with pytest.raises(ValueError, match="no tokenizer.json"):
        import_llama(tmp_path / "llama", tmp_path / "ours")
    (tmp_path / "llama/tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match="tokenizer.json or tokenizer_config.json damaged"):
        import_llama(tmp_path / "llama", tmp_path / "ours")
    write_llama(tmp_path / "larger", vocabulary=500)
    byte_level_tokenizer().save_pretrained(tmp_path / "larger")
    with pytest.raises(ValueError, match="320 tokens, its embedding 500 rows"):
        import_llama(tmp_path / "larger", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_import_of_what_is_no_llama(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a LlamaForCausalLM"):
        import_llama(checkpoint(), tmp_path / "out")
    write_llama(tmp_path / "biased", mlp_bias=True)
    with pytest.raises(ValueError, match="mlp_bias"):
        import_llama(tmp_path / "biased", tmp_path / "out")
    assert not (tmp_path / "out").exists()
