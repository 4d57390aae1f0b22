from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.lab import recordings
from tests.lab.conftest import Trained
from understudy.cli import cli
from understudy.core.errors import ConfigError
from understudy.lab import checkpoint, extra, loop, nets, training
from understudy.lab.augment import Augmentation, Augmenter, mix
from understudy.lab.export import export
from understudy.lab.frontend import FrontEnd
from understudy.lab.listen import Recipe
from understudy.lab.loop import Plan

TINY = Recipe(width=8, batch=16)


def learn(
    words: Path, out: Path, epochs: int, recipe: Recipe = TINY, **more: Any
) -> dict[str, Any]:
    plan = Plan(epochs=epochs, seed=1)
    course = training.Course(words, out, validate=("dan",), recipe=recipe, plan=plan)
    return training.train(replace(course, **more))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(path).net.state_dict())


def test_a_voice_never_heard_is_understood(trained: Trained) -> None:
    assert trained.figures["accuracy"] >= 0.8
    assert trained.figures["by_speaker"].keys() == {"dan"}
    assert trained.figures["false_accepts"]["noise"]["minutes"] == pytest.approx(4 / 60, abs=0.01)
    assert not trained.warnings


def test_the_report_shows_it_all(trained: Trained) -> None:
    page = (trained.out / training.REPORT).read_text(encoding="utf-8")
    for what in ("Curves", "Confusion", "By speaker", "Worst clips", "False accepts", "<audio"):
        assert what in page
    assert page.count("<polyline") == 4
    assert "http" not in page


def test_a_checkpoint_tells_what_it_needs(trained: Trained) -> None:
    made = checkpoint.load(trained.out)
    assert made.labels == ("down", "flat", "up")
    assert made.kind == "labels"
    assert made.settings["train_speakers"] == ["ann", "bob", "cat"]
    assert checkpoint.load(trained.out / checkpoint.LAST).data_hash == made.data_hash
    with pytest.raises(ConfigError, match="holds no"):
        checkpoint.load(trained.data)


def test_a_damaged_checkpoint_is_refused(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / checkpoint.CARD).write_text((trained.out / checkpoint.CARD).read_text())
    (tmp_path / checkpoint.BEST).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="no checkpoint"):
        checkpoint.load(tmp_path)


def test_equal_seeds_give_equal_weights(words: Path, tmp_path: Path) -> None:
    learn(words, tmp_path / "one", 2)
    learn(words, tmp_path / "two", 2)
    one, two = (weights(tmp_path / n / checkpoint.LAST) for n in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_was_stopped_ends_as_if_it_had_not_been(words: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(epoch: loop.Epoch) -> None:
        if epoch.epoch == 2:
            raise Stopped

    learn(words, tmp_path / "whole", 4)
    course = training.Course(
        words, tmp_path / "torn", validate=("dan",), recipe=TINY, plan=Plan(epochs=4, seed=1)
    )
    with pytest.raises(Stopped):
        training.train(course, training.Said(epoch=stop))
    with pytest.raises(ConfigError, match="--resume"):
        training.train(course)
    with pytest.raises(ConfigError, match="other settings"):
        training.train(replace(course, plan=Plan(epochs=9, seed=1), resume=True))
    training.train(replace(course, resume=True))
    for name in (checkpoint.BEST, checkpoint.LAST):
        whole, torn = (weights(tmp_path / n / name) for n in ("whole", "torn"))
        assert all(torch.equal(whole[key], torn[key]) for key in whole)
    history = json.loads((tmp_path / "torn" / loop.HISTORY).read_text())
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4]


def test_a_training_that_gets_no_better_stops(words: Path, tmp_path: Path) -> None:
    plan = Plan(epochs=40, patience=2, learning_rate=0.0, seed=1)
    course = training.Course(words, tmp_path / "out", validate=("dan",), recipe=TINY, plan=plan)
    training.train(course)
    history = json.loads((tmp_path / "out" / loop.HISTORY).read_text())
    best = max(range(len(history)), key=lambda at: history[at]["validation"]["score"])
    assert len(history) < 40
    assert len(history) == best + 1 + 2


def test_the_small_net_learns_too(words: Path, tmp_path: Path) -> None:
    figures = learn(words, tmp_path / "small", 2, Recipe(model="small", batch=16))
    assert isinstance(figures["accuracy"], float)
    assert checkpoint.load(tmp_path / "small").net.config["name"] == "small"


def test_fine_tuning_keeps_all_but_the_head(trained: Trained, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for speaker in recordings.SPEAKERS:
        for take in range(2):
            for label, like in (("rise", "up"), ("fall", "down")):
                samples = recordings.word(like, speaker, chance)
                recordings.write(tmp_path / "new" / label / f"{speaker}_{take}.wav", samples)
    figures = learn(
        tmp_path / "new", tmp_path / "out", 12, Recipe(width=16, batch=6), start=trained.out
    )
    assert checkpoint.load(tmp_path / "out").labels == ("fall", "rise")
    assert figures["accuracy"] >= 0.75
    with pytest.raises(ConfigError, match="another net"):
        learn(tmp_path / "new", tmp_path / "other", 1, Recipe(width=8), start=trained.out)


def test_a_large_net_teaches_a_small_one(trained: Trained, tmp_path: Path) -> None:
    recipe = Recipe(width=8, batch=12, teacher_share=1.0)
    learn(trained.data, tmp_path / "taught", 8, recipe, teacher=trained.out)
    taught = json.loads((tmp_path / "taught" / loop.HISTORY).read_text())
    assert taught[-1]["train_loss"] < 0.7 * taught[0]["train_loss"]
    assert checkpoint.load(tmp_path / "taught").net.config["width"] == 8
    chance = np.random.default_rng(0)
    for speaker in recordings.SPEAKERS:
        for label in ("up", "down"):
            samples = recordings.word(label, speaker, chance)
            recordings.write(tmp_path / "two" / label / f"{speaker}_0.wav", samples)
    with pytest.raises(ConfigError, match="very labels"):
        learn(tmp_path / "two", tmp_path / "no", 1, teacher=trained.out)


def test_an_embedding_tells_voices_apart(words: Path, tmp_path: Path) -> None:
    plan = Plan(epochs=4, seed=1)
    recipe = Recipe(width=8, batch=12, embedding=8)
    course = training.Course(
        words, tmp_path / "out", validate=("cat", "dan"), recipe=recipe, plan=plan
    )
    figures = training.train(course)
    assert 0.0 <= figures["eer"] <= 0.5
    assert figures["voiceprint_eer"] is not None
    made = checkpoint.load(tmp_path / "out")
    assert (made.kind, made.labels) == ("embedding", ("ann", "bob"))
    with torch.inference_mode():
        vectors = made.net(torch.zeros(2, 64, made.window_frames))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)
    assert "equal error rate" in (tmp_path / "out" / training.REPORT).read_text()


def test_evaluate_prints_json(trained: Trained) -> None:
    command = ["evaluate", str(trained.out), str(trained.data), "--speakers", "dan", "--json"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    figures = json.loads(done.stdout)
    assert figures["accuracy"] == pytest.approx(trained.figures["accuracy"])
    assert figures["clips"] == 12
    assert figures["by_label"].keys() == {"down", "flat", "up"}
    assert not figures["warnings"]


def test_evaluating_what_was_trained_on_is_warned_of(trained: Trained) -> None:
    done = CliRunner().invoke(cli, ["evaluate", str(trained.out), str(trained.data), "--json"])
    assert "3 of these speakers were heard in training" in json.loads(done.stdout)["warnings"][0]


def test_train_on_the_command_line(words: Path, tmp_path: Path) -> None:
    out, cache = str(tmp_path / "out"), str(tmp_path / "cache")
    command = ["train", "listen", str(words), "--out", out, "--epochs", "1", "--width", "8"]
    done = CliRunner().invoke(cli, [*command, "--split", "file", "--cache", cache, "--json"])
    assert done.exit_code == 0, done.stderr
    assert "warning: the split leaks" in done.stderr
    assert json.loads(done.stdout)["clips"] > 0


def test_without_torch_a_sentence_says_what_to_install(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    command = ["train", "listen", str(words), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, ConfigError)
    assert "pip install 'understudy[train]'" in str(done.exception)


def test_no_augmentation_changes_nothing() -> None:
    torch.manual_seed(0)
    batch = torch.rand(3, 64, 40)
    assert torch.equal(Augmenter(Augmentation.none(), FrontEnd())(batch), batch)


def test_noise_is_mixed_at_the_level_asked() -> None:
    frontend = FrontEnd()
    chance = np.random.default_rng(0)
    loud = frontend.features(np.asarray(0.3 * chance.standard_normal(16000), np.float32))
    noise = frontend.features(np.asarray(0.01 * chance.standard_normal(32000), np.float32))
    how = replace(Augmentation.none(), noise_share=1.0, snr_db=(0.0, 0.0))
    batch = torch.from_numpy(loud[None])
    mixed = Augmenter(how, frontend, torch.from_numpy(noise))(batch)
    before, after = ((one * frontend.std + frontend.mean).exp().mean() for one in (batch, mixed))
    assert 10 * float(torch.log10(after / before)) == pytest.approx(3.0, abs=0.3)


def test_speed_and_tract_move_what_they_should() -> None:
    frontend = FrontEnd()
    t = np.arange(16000) / 16000
    tone = frontend.features(np.asarray(0.5 * np.sin(2 * np.pi * 1000 * t), np.float32))
    torch.manual_seed(0)
    how = replace(Augmentation.none(), tract=0.2)
    batch = torch.from_numpy(np.stack([tone] * 64))
    bands = Augmenter(how, frontend)(batch)[:, :, 50].argmax(1)
    assert int(bands.min()) < int(tone[:, 50].argmax()) < int(bands.max())


def test_colour_is_a_smooth_curve_of_the_deviation_asked() -> None:
    torch.manual_seed(0)
    frontend = FrontEnd()
    batch = torch.zeros(500, 64, 10)
    changed = Augmenter(replace(Augmentation.none(), colour_db=5.0), frontend)(batch)
    curve_db = changed[:, :, 0] * frontend.std * 10 / np.log(10)
    assert float(curve_db.std()) == pytest.approx(5.0, rel=0.15)
    assert float(curve_db.diff(dim=1).abs().mean()) < 1.0
    assert torch.equal(changed[:, :, 0], changed[:, :, 9])


def test_mixup_keeps_shares_that_add_up() -> None:
    torch.manual_seed(0)
    targets = torch.eye(4)
    _, shares = mix(torch.rand(4, 8, 8), targets, 0.5)
    assert torch.allclose(shares.sum(1), torch.ones(4))


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [loop.rate_at(step, 100, 1.0) for step in range(100)]
    assert max(rates) == 1.0
    assert rates.index(1.0) <= 5
    assert rates[-1] < 0.01


def test_both_defaults_are_under_200_kb() -> None:
    for name in nets.NAMES:
        net = nets.build(name, 40)
        assert sum(p.numel() for p in net.parameters()) * 4 < 200_000


def test_interleaved_rows_are_the_dilated_convolution() -> None:
    torch.manual_seed(0)
    for dilation in nets.DILATIONS[:4]:
        block = nets.SeparableBlock(6, nets.TAPS, dilation)
        for frames in (1, 7, 16):
            x = torch.randn(2, 6, frames)
            wanted = block.depthwise(torch.nn.functional.pad(x, (block.past, 0)))
            assert torch.allclose(block.filtered(x), wanted, atol=1e-5)


@pytest.mark.parametrize("streaming", [False, True])
def test_an_exported_file_is_worth_the_same(
    trained: Trained, tmp_path: Path, streaming: bool
) -> None:
    path = tmp_path / "listener.onnx"
    export(checkpoint.load(trained.out), path, streaming=streaming)
    command = ["evaluate", str(path), str(trained.data), "--speakers", "dan", "--json"]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    figures = json.loads(done.stdout)
    assert figures["accuracy"] == pytest.approx(trained.figures["accuracy"])
    assert figures["loss"] == pytest.approx(trained.figures["loss"], abs=1e-3)


def test_few_voices_are_augmented_more(words: Path, tmp_path: Path) -> None:
    learn(words, tmp_path / "few", 1, strength="auto")
    settings = checkpoint.load(tmp_path / "few").settings
    assert settings["mixup"] > 0
    assert settings["augmentation"]["band_masks"] == Augmentation.strong().band_masks


def test_norms_are_settled_on_what_is_heard() -> None:
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(3)
    norm(torch.randn(4, 3, 5) * 9)
    batches = [torch.randn(64, 3, 50) + 2 for _ in range(4)]
    loop.settle_norms(norm, batches)
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, torch.cat(batches).mean((0, 2)), atol=1e-5)
    assert norm.momentum == 0.1
