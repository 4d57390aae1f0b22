"""The nets: sizes, shapes, causality, and what pooling over time means."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.lab.made import checkpoint
from understudy.core.errors import ConfigError
from understudy.lab.nets import build


def features(frames: int, rows: int = 2) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(rows, 64, frames)


def test_small_is_as_specified() -> None:
    net = build("small", 40)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [16, 32, 64]
    parameters = sum(p.numel() for p in net.parameters())
    assert parameters == 26_120
    assert 4 * parameters < 200_000


def test_stream_fits_into_200_kb() -> None:
    assert 4 * sum(p.numel() for p in build("stream", 40).parameters()) < 180_000


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"name": "small"}, (2, 5)),
        ({"name": "stream"}, (2, 5)),
        ({"name": "stream", "per_frame": True}, (2, 5, 30)),
        ({"name": "stream", "embedding": 24}, (2, 24)),
        ({"name": "small", "embedding": 24}, (2, 24)),
    ],
)
def test_shapes_and_config(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    net = build(classes=5, **options).eval()
    found = net(features(30))
    assert found.shape == shape
    again = build(**net.config).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(features(30)), found)
    if options.get("embedding"):
        assert torch.allclose(found.norm(dim=1), torch.ones(2))


def test_stream_hears_nothing_that_is_to_come() -> None:
    net: Any = checkpoint("stream").net
    heard = features(80)
    changed = heard.clone()
    changed[:, :, 50:] = 9.0
    with torch.no_grad():
        before, after = net.sliding(heard), net.sliding(changed)
    assert torch.equal(before[:, :, :50], after[:, :, :50])
    assert not torch.equal(before[:, :, 50], after[:, :, 50])


def test_pooling_over_time() -> None:
    net: Any = checkpoint("stream", window=20).net
    heard = features(50)
    with torch.no_grad():
        sliding, hidden = net.sliding(heard), net.hidden(heard)
        short = net(heard[:, :, :13])
        whole = net(heard)
        last = net.finish(hidden[:, :, 30:50].mean(2))
    assert torch.allclose(sliding[:, :, 12], short, atol=1e-5)  # a short clip: all of it
    assert torch.allclose(sliding[:, :, 49], last, atol=1e-5)  # a stream: the last window
    assert torch.allclose(whole, net.finish(hidden.mean(2)), atol=1e-5)  # a clip: all of it
    assert not torch.allclose(whole, last, atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "big", "classes": 3},
        {"name": "stream", "classes": 0},
        {"name": "small", "classes": 3, "per_frame": True},
    ],
)
def test_refusals(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(**wrong)
