"""What the controller is told of each model, where the provider's table has a word in it."""

from pathlib import Path

import pytest

from understudy.catalog import Catalog
from understudy.config import ConfigFile
from understudy.store.sqlite import SqliteStore

MODELS = """
[models.m]
engine = "a:B"
price_per_h = 0.4
load_s = 10
[models.n]
engine = "a:B"
price_per_h = 0.4
load_s = 10
[fleet]
provider = "ray"
"""


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", {"m": (0.4, 10.0), "n": (0.4, 10.0)}),
        ("[providers.ray]\nprice_per_h = 0.7", {"m": (0.7, 10.0), "n": (0.7, 10.0)}),
        (
            "[providers.ray.models.m]\nprice_per_h = 0\nboot_s = 0\n[providers.local]\nboot_s = 9",
            {"m": (0.0, 0.0), "n": (0.4, 10.0)},
        ),
    ],
)
def test_the_providers_price_and_boot_count_first(
    tmp_path: Path, table: str, expected: dict[str, tuple[float, float]]
) -> None:
    (tmp_path / "understudy.toml").write_text(MODELS + table)
    file = ConfigFile(tmp_path / "understudy.toml")
    wanted = Catalog(file, SqliteStore(tmp_path / "db")).wanted()
    assert {want.model: (want.price_per_h, want.boot_s) for want in wanted} == expected
