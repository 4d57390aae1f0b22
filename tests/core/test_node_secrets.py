"""A worker's secret: any edge of the fleet knows it, and it tells nothing of another's."""

import pytest

from understudy.providers.node_secrets import NodeSecrets


def test_a_secret_is_one_nodes_of_one_fleet() -> None:
    ours, again, other = (NodeSecrets(key) for key in (b"k" * 16, b"k" * 16, b"o" * 16))
    assert again.admits("n1", ours.of("n1"))
    assert not ours.admits("n2", ours.of("n1"))
    assert not other.admits("n1", ours.of("n1"))
    for guess in ("", "x", ours.of("n1")[:-1], "é"):
        assert not ours.admits("n1", guess)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        NodeSecrets(b"short")
