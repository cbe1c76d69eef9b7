import gc
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn import functional

from rlhf.config.schema import OptimiserSection, TuningSection
from rlhf.models.baichuan import trunk
from rlhf.models.baichuan.modeling import BaichuanForCausalLM
from rlhf.models.load import load_causal_lm
from rlhf.runtime.metrics import MetricsLog
from rlhf.runtime.quiet import quiet
from rlhf.training import checkpoints as sealing
from rlhf.training.sft import SFTSummary, plateau, token_mean_loss, train_sft
from tests.training.worlds import (
    Rows,
    checkpoints,
    conversations,
    language_model,
    saved_trunk,
    sft_section,
    tokenizer,
    weights,
)


def run(path: Path, rows: Any = None, model: Any = None, **changes: Any) -> SFTSummary:
    extra = {name: changes.pop(name) for name in ("max_flops", "on_log") if name in changes}
    seed = changes.pop("seed", 0)
    return train_sft(
        language_model() if model is None else model,
        changes.pop("words", tokenizer()),
        changes.pop("train", conversations(48)),
        changes.pop("evaluation", conversations(16, seed=1)),
        sft_section(**changes),
        output_dir=path,
        seed=seed,
        metrics=rows or Rows(),
        **extra,
    )


@pytest.mark.parametrize("packing", [False, True])
def test_the_held_out_loss_falls(tmp_path: Path, packing: bool) -> None:
    rows = Rows()
    seen: list[tuple[int, int]] = []
    summary = run(
        tmp_path,
        rows,
        packing=packing,
        gradient_checkpointing=packing,
        on_log=lambda step, total, fields: seen.append((step, total)),
    )
    assert summary.eval_loss_after < 0.4 * summary.eval_loss_before
    assert rows.of("eval_loss") == [
        summary.eval_loss_before,
        *rows.of("eval_loss")[1:-1],
        summary.eval_loss_after,
    ]
    assert [row["step"] for row in rows.rows if "eval_loss" in row] == [0, 4, 8, 12]
    trained = [row for row in rows.rows if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, 13))
    assert set(trained[0]) == {"step", "loss", "learning_rate", "grad_norm"}
    assert seen == [(row["step"], 12) for row in rows.rows]


def test_tokens_and_flops_are_counted(tmp_path: Path) -> None:
    data = conversations(48)
    summary = run(tmp_path, max_steps=None, epochs=2)
    assert summary.steps == 12
    assert summary.tokens == 2 * sum(map(len, data["input_ids"]))
    assert (
        summary.flops
        == 6 * language_model().num_parameters(exclude_embeddings=True) * summary.tokens
    )


@pytest.mark.parametrize("flat", [False, True])
def test_packed_tokens_are_counted_with_an_eos_that_also_pads(
    tmp_path: Path, flat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk, "has_varlen_kernel", lambda device, dtype: flat)
    words = tokenizer()
    words.pad_token = words.eos_token
    data = conversations(48)
    summary = run(tmp_path, words=words, train=data, packing=True, max_steps=None, epochs=1)
    assert summary.tokens == sum(map(len, data["input_ids"]))
    parameters = language_model().num_parameters(exclude_embeddings=True)
    assert summary.flops == 6 * parameters * summary.tokens


def test_the_first_loss_is_the_model_s_own_with_norm_head_and_max_z(tmp_path: Path) -> None:
    # Two microbatches: the mean is over the tokens of both.
    rows, data = Rows(), conversations(8)
    run(tmp_path, rows, train=data, max_steps=1, microbatch_size=4, max_z_weight=0.0)
    nll, _ = _independent(data)
    assert rows.of("loss")[0] == pytest.approx(nll, rel=1e-5)

    rows = Rows()
    run(tmp_path / "z", rows, train=data, max_steps=1, microbatch_size=8, max_z_weight=0.5)
    nll, largest = _independent(data)
    assert rows.of("loss")[0] == pytest.approx(nll + 0.5 * largest, rel=1e-5)


def test_evaluation_is_over_tokens(tmp_path: Path) -> None:
    data = conversations(10, seed=3)
    expected, _ = _independent(data)
    for batch_size in (1, 3, 10):
        for chunk in (None, 4):
            loss = token_mean_loss(language_model(z_loss_weight=1), data, 0, batch_size, chunk)
            assert loss == pytest.approx(expected, rel=1e-5)


def test_packing_trains_the_same_model(tmp_path: Path) -> None:
    # One step over all the data: however it is laid out, the gradient is the same.
    after = []
    for name, packing in (("packed", True), ("separate", False)):
        rows, model = Rows(), language_model()
        run(
            tmp_path / name,
            rows,
            model,
            train=conversations(32),
            packing=packing,
            batch_size=32,
            microbatch_size=16,
            max_steps=1,
            optimiser=OptimiserSection(learning_rate=1e-3, schedule="constant"),
        )
        after.append((rows.of("loss")[0], rows.of("grad_norm")[0]))
    assert after[0] == pytest.approx(after[1], rel=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("packing", [False, True])
def test_a_chunked_loss_trains_the_same_model(tmp_path: Path, method: Any, packing: bool) -> None:
    # Max-z and two microbatches a step; the rows that the head sees at a time are counted.
    seen: dict[int | None, list[int]] = {}
    after = []
    for chunk in (None, 5):
        rows, model = Rows(), language_model()
        seen[chunk] = []
        model.lm_head.register_forward_hook(
            lambda _, inputs, output, seen=seen[chunk]: seen.append(output[..., 0].numel())
        )
        run(
            tmp_path / str(chunk),
            rows,
            model,
            packing=packing,
            max_steps=4,
            max_z_weight=0.01,
            loss_chunk=chunk,
            tuning=TuningSection(method=method, r=4),
        )
        after.append([*rows.of("eval_loss"), *rows.of("loss"), *rows.of("grad_norm")])
    # By the fourth step the gradient's norm has grown fivefold, and last bits with it.
    assert after[1] == pytest.approx(after[0], rel=5e-4)
    assert min(seen[None]) > 5 and max(seen[5]) == 5


@pytest.mark.parametrize("chunk", [None, 5])
def test_an_adapter_on_the_head_learns(tmp_path: Path, chunk: int | None) -> None:
    rows, model, data = Rows(), language_model(norm_head=False), conversations(8)
    tuning = TuningSection(method="lora", r=4, targets=("lm_head",))
    settings = {"batch_size": 8, "microbatch_size": 8, "max_steps": 3, "eval_every": 1}
    settings |= {"loss_chunk": chunk, "max_z_weight": 0.0, "tuning": tuning}
    run(tmp_path, rows, model, train=data, evaluation=data, **settings)
    assert model.lm_head.lora_B["default"].weight.abs().max().item() > 1e-3
    losses = rows.of("eval_loss")
    assert losses[3] < losses[0] and rows.of("loss") == pytest.approx(losses[:3], rel=1e-5)
    saved = BaichuanForCausalLM.from_pretrained(tmp_path)
    assert token_mean_loss(saved, data, 0, 8) == pytest.approx(losses[3], rel=1e-4)

    # Max-z is over what the head gives, adapter included.
    with_z = Rows()
    z = {**settings, "max_z_weight": 0.5}
    run(tmp_path / "z", with_z, language_model(norm_head=False), train=data, **z)
    found = load_file(tmp_path / "z" / "checkpoints" / "checkpoint-3" / "adapter_model.safetensors")
    name = next(name for name in found if name.endswith("lm_head.lora_B.weight"))
    assert not torch.equal(found[name], model.lm_head.lora_B["default"].weight)


def test_split_weights_learn_as_float32_ones(tmp_path: Path) -> None:
    # A learning rate at which bfloat16 weights alone would stand still.
    pytest.importorskip("bitsandbytes")
    optimiser = OptimiserSection(learning_rate=2e-4, schedule="constant", kind="adamw-8bit")
    settings = {"packing": True, "optimiser": optimiser, "checkpoint_every": 5}
    rows = {}
    for split in (False, True):
        rows[split] = Rows()
        model = language_model().bfloat16()
        extra = {"split_weights": split, "gradient_checkpointing": 1, "loss_chunk": 5}
        run(tmp_path / str(split), rows[split], model, **settings, **(extra if split else {}))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert [layer.gradient_checkpointing for layer in model.model.layers] == [split, False]
    for name in ("loss", "eval_loss"):
        assert rows[True].of(name) == pytest.approx(rows[False].of(name), abs=0.02)
    losses = rows[True].of("eval_loss")
    assert losses[-1] < losses[0] - 0.02


def test_nothing_of_an_8_bit_training_stays_for_the_next(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.optim import GlobalOptimManager

    optimiser = OptimiserSection(kind="adamw-8bit")
    model = language_model()
    run(tmp_path, None, model, max_steps=1, optimiser=optimiser)
    left, table = GlobalOptimManager.get_instance(), weakref.ref(model.model.embed_tokens.weight)
    assert not (left.pid2config or left.index2config or left.module_weight_config_triple)
    del model
    gc.collect()
    assert table() is None


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_resuming_equals_not_stopping(tmp_path: Path, method: Any) -> None:
    # NEFTune's noise and the dropout need the random state; step 5 lies within an epoch.
    head = method == "head"
    kind, targets = ("lora", ("W_pack", "lm_head")) if head else (method, "all-linear")
    tuning = TuningSection(method=kind, r=4, dropout=0.1, targets=targets)
    settings = {"packing": True, "neftune_alpha": 5.0, "checkpoint_every": 5, "tuning": tuning}
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def fail(step: int, total: int, fields: dict[str, float]) -> None:
        if step == 8:
            raise KeyboardInterrupt

    def model() -> Any:
        return language_model(norm_head=not head)

    expected = run(whole, MetricsLog(whole), model(), **settings)
    with pytest.raises(KeyboardInterrupt):
        run(parts, MetricsLog(parts), model(), on_log=fail, **settings)
    assert checkpoints(parts) == ["checkpoint-5"]
    assert run(parts, MetricsLog(parts), model(), **settings) == expected
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()

    # Called again when all is done: nothing is trained, and the answer is the same.
    rows = Rows()
    assert run(parts, rows, model(), **settings) == expected
    assert rows.rows == []


def test_rows_are_on_the_disk_before_a_checkpoint_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MetricsLog(tmp_path)
    order: list[str] = []
    monkeypatch.setattr(log, "sync", lambda: order.append("rows"))
    monkeypatch.setattr(sealing, "_seal", lambda path: order.append(path.name))
    run(tmp_path, log, max_steps=4, checkpoint_every=2)
    assert order == ["rows", "checkpoint-2", "rows", "checkpoint-4"]


def test_ctrl_c_saves_the_step_and_the_run_goes_on_from_it(tmp_path: Path) -> None:
    def interrupt(step: int, total: int, fields: dict[str, float]) -> None:
        if step == 2 and "loss" in fields:
            signal.raise_signal(signal.SIGINT)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = run(whole, MetricsLog(whole), max_steps=5)
    with pytest.raises(KeyboardInterrupt):
        run(cut, MetricsLog(cut), max_steps=5, on_log=interrupt)
    assert checkpoints(cut) == ["checkpoint-3"]  # a step's row is logged when it is over
    assert run(cut, MetricsLog(cut), max_steps=5) == expected
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_after_its_last_checkpoint_a_run_takes_no_step_more(tmp_path: Path) -> None:
    """Killed before the model was written; the last step lies within an epoch."""
    expected = run(tmp_path, MetricsLog(tmp_path), max_steps=5)
    model = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    rows = Rows()
    assert run(tmp_path, rows, max_steps=5) == expected
    assert (tmp_path / "model.safetensors").read_bytes() == model and rows.rows == []


def test_a_budget_of_compute_sets_the_steps_and_the_schedule(tmp_path: Path) -> None:
    rows, data = Rows(), conversations(44)
    epoch = (
        6.0
        * language_model().num_parameters(exclude_embeddings=True)
        * sum(map(len, data["input_ids"]))
    )
    summary = run(tmp_path, rows, train=data, max_steps=99, max_flops=2.5 * epoch + epoch / 20)
    assert summary.steps == 15  # 6 steps an epoch, the last of 4 rows
    assert summary.flops == pytest.approx(2.5 * epoch, rel=0.05)
    assert rows.of("learning_rate")[-1] < 0.02 * rows.of("learning_rate")[0]


def test_the_seed_orders_the_rows(tmp_path: Path) -> None:
    first = [Rows(), Rows(), Rows()]
    for rows, seed in zip(first, (0, 0, 1), strict=True):
        run(tmp_path / str(id(rows)), rows, seed=seed, max_steps=1)
    one, again, other = (rows.of("loss") for rows in first)
    assert one == again and one != other


def test_adapters_stay_in_float32_over_half_precision(tmp_path: Path) -> None:
    half = language_model().to(torch.bfloat16)
    run(tmp_path, model=half, max_steps=1, tuning=TuningSection(method="lora", r=4))
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    whole = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in whole.values()} == {torch.bfloat16}


def test_lora_trains_the_adapters_only_and_saves_them_merged(tmp_path: Path) -> None:
    before = weights(language_model())
    run(tmp_path, tuning=TuningSection(method="lora", r=4))
    after = weights(BaichuanForCausalLM.from_pretrained(tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kinds = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert changed == {name for name in before if any(kind in name for kind in kinds)}


def test_a_bfloat16_model_learns_in_float32(tmp_path: Path) -> None:
    # Near 1 the next bfloat16 is 0.004 away: no single step of 1e-5 could leave a trace in it.
    model = language_model().to(torch.bfloat16)
    optimiser = OptimiserSection(learning_rate=1e-5, schedule="constant")
    run(tmp_path, model=model, max_steps=6, optimiser=optimiser)
    learnt = load_file(tmp_path / "checkpoints" / "checkpoint-6" / "model.safetensors")
    moved = (learnt["model.norm.weight"] - 1).abs()
    assert 1e-5 < float(moved.max()) <= 6.1e-5
    assert model.dtype == torch.bfloat16
    assert load_file(tmp_path / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16


def test_adapters_learn_in_float32_over_4_bits_too(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    trunk = saved_trunk(tmp_path / "base")
    model = load_causal_lm(trunk, dtype=torch.float32, device="cpu", quantization="nf4")
    run(tmp_path / "out", model=model, max_steps=1, tuning=TuningSection(method="qlora", r=2))
    learnt = [p for name, p in model.named_parameters() if "lora_" in name]
    assert learnt and {p.dtype for p in learnt} == {torch.float32}


def test_the_model_is_handed_back_without_wrappers(tmp_path: Path) -> None:
    model = language_model()
    run(tmp_path, model=model)
    assert "forward" not in vars(model) and not model.training
    # Two are kept: the newest may be half-written.
    assert checkpoints(tmp_path) == ["checkpoint-12", "checkpoint-6"]


def test_neftune_disturbs_training_but_not_evaluation(tmp_path: Path) -> None:
    plain, noisy = Rows(), Rows()
    run(tmp_path / "plain", plain, max_steps=1)
    run(tmp_path / "noisy", noisy, max_steps=1, neftune_alpha=5.0)
    assert plain.of("loss") != noisy.of("loss")
    assert plain.of("eval_loss")[0] == noisy.of("eval_loss")[0]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("layout", ["padded", "packed", "flat"])
def test_neftune_s_bound_is_that_of_one_conversation(
    tmp_path: Path, layout: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk, "has_varlen_kernel", lambda device, dtype: layout == "flat")
    model = language_model()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    largest: list[float] = []
    model.model.layers[0].register_forward_pre_hook(
        lambda block, args: largest.append(args[0].abs().max().item()) if block.training else None
    )
    row = {"input_ids": [3, 4, 5, 6, 7, 7, 7, 2], "labels": [-100] * 4 + [7, 7, 7, 2]}
    settings = {"batch_size": 2, "microbatch_size": 2, "max_steps": 1, "neftune_alpha": 5.0}
    settings |= {"packing": layout != "padded", "tuning": TuningSection(method=method, r=4)}
    run(
        tmp_path,
        model=model,
        train=Dataset.from_list([row] * 8),
        gradient_checkpointing=True,
        **settings,
    )
    bound = 5 / (8 * 32) ** 0.5
    assert 0.97 * bound < largest[0] <= bound


def test_it_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        run(tmp_path, packing=True, gradient_checkpointing=True)
    assert capfd.readouterr() == ("", "")


def test_data_without_answers_is_refused(tmp_path: Path) -> None:
    empty = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[-100, -100]]})
    with pytest.raises(ValueError, match="training"):
        run(tmp_path, train=empty)
    with pytest.raises(ValueError, match="held-out"):
        run(tmp_path, evaluation=empty)


@pytest.mark.parametrize(("word", "step"), [(5, 0), (25, 1)])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, word: int, step: int) -> None:
    # Word 5 is in the held-out data too, word 25 only in the training data.
    model = language_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[word] = float("nan")
    train = conversations(7).add_item({"input_ids": [3, 25, 2], "labels": [-100, -100, 2]})
    with pytest.raises(FloatingPointError, match=f"step {step}:"):
        run(tmp_path, model=model, train=train)


def test_plateau_is_the_relative_fall_over_the_last_quarter() -> None:
    assert plateau([4.0, 2.0]) == 0.5
    assert plateau([8.0, 4.0, 3.0, 2.5, 2.0, 2.0, 2.0, 1.5]) == 0.25
    assert plateau([3.0, 3.0, 3.0]) == 0.0


def _independent(data: Dataset) -> tuple[float, float]:
    """Mean loss over all labelled tokens, mean squared largest logit over all that predict."""
    model = language_model()
    total, count, squares = 0.0, 0, []
    with torch.no_grad():
        for row in data:
            hidden = model.model(torch.tensor([row["input_ids"]])).last_hidden_state[0, :-1]
            logits = hidden @ functional.normalize(model.lm_head.weight, dim=-1).T
            labels = torch.tensor(row["labels"][1:])
            total += float(functional.cross_entropy(logits, labels, reduction="sum"))
            count += int((labels != -100).sum())
            squares.append(logits.amax(-1).square())
    return total / count, float(torch.cat(squares).mean())
