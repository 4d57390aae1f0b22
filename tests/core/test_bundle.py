"""A bundle: what voice.toml may say, the revision that names its files, and the copy of them."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from understudy import bundle_files
from understudy.bundle import Bundle, install, read_bundle, verify
from understudy.core.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples" / "voices"
ENGINE = 'engine = "model:Miku"\n'
WHOLE = """
name = "miku"
title = "Miku"
kind = "convert"
engine = "model:Miku"
slots = 2
understudy = "natural-up"
drain = "finish"
load_s = 1
price_per_h = 0.40
[params]
pitch = 8
[options]
sample_rate = 24000
layers = [1, 2]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of two files whose revision is known."""
    folder = tmp_path / "miku"
    (folder / "weights").mkdir(parents=True)
    (folder / "voice.toml").write_bytes(ENGINE.encode())
    (folder / "weights" / "a.bin").write_bytes(bytes(range(256)))
    return folder


def test_everything_is_read(folder: Path) -> None:
    (folder / "voice.toml").write_text(WHOLE)
    bundle = read_bundle(folder)
    assert bundle == Bundle(
        name="miku",
        title="Miku",
        kind="convert",
        engine="model:Miku",
        slots=2,
        understudy="natural-up",
        drain="finish",
        params={"pitch": 8.0},
        options={"sample_rate": 24000, "layers": [1, 2]},
        load_s=1.0,
        price_per_h=0.4,
        revision=bundle.revision,
        path=folder,
    )


def test_silence_may_be_skipped_and_nobody_covers_for_a_listener(folder: Path) -> None:
    (folder / "voice.toml").write_text(ENGINE + "skip_silence = true\n")
    assert read_bundle(folder).skip_silence
    (folder / "voice.toml").write_text(ENGINE + 'kind = "listen"\nunderstudy = "natural-up"\n')
    with pytest.raises(ConfigError, match="nobody can cover for a listener"):
        read_bundle(folder)


def test_one_line_is_enough_and_a_twin_has_another_name(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert (bundle.name, bundle.title, bundle.kind) == ("miku", "miku", "convert")
    assert (bundle.slots, bundle.understudy, bundle.drain) == (4, None, "move")
    twin = read_bundle(folder, "miku-dev")
    assert (twin.name, twin.title, twin.revision) == ("miku-dev", "miku-dev", bundle.revision)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("engine = ", "no valid TOML"),
        ("\xff", "cannot read"),
        (ENGINE + 'color = "red"', "unknown key 'color'; known: name, title"),
        (ENGINE + "title = 3", "title must be a string in quotes, not 3"),
        (ENGINE + 'title = "\\n"', "1 to 80 printable"),
        (ENGINE + "slots = true", "slots must be a whole number"),
        (ENGINE + "slots = 2.5", "slots must be a whole number"),
        (ENGINE + "slots = 0", "1 to 1024, not 0"),
        (ENGINE + "slots = 1025", "1 to 1024, not 1025"),
        (ENGINE + 'load_s = "x"', "load_s must be a number"),
        (ENGINE + "load_s = nan", "0 to 3600"),
        (ENGINE + "price_per_h = -1", "0 or more"),
        (ENGINE + "price_per_h = inf", "0 or more"),
        (ENGINE + 'name = "Miku"', "'Miku' is no name"),
        (ENGINE + 'name = ""', "is no name"),
        (ENGINE + 'name = "../x"', "is no name"),
        (ENGINE + 'understudy = "A B"', "understudy 'A B' is no name"),
        (ENGINE + 'kind = "sing"', "one of convert, speak, listen"),
        (ENGINE + 'drain = "kill"', "one of move, finish"),
        (ENGINE + "params = 3", "params must be a table"),
        (ENGINE + '[params]\npitch = "x"', "params.pitch must be a finite number"),
        (ENGINE + "[params]\npitch = inf", "params.pitch must be a finite number"),
        (ENGINE + "[params]\npitch = true", "params.pitch must be a finite number"),
        (ENGINE + "[options]\nslots = 3", "at the top of the file"),
        (ENGINE + "[options.a]\nday = 2026-01-01", "options.a.day must be a string"),
        ("", 'engine must be "module:Class"'),
        ('engine = "model"', 'engine must be "module:Class"'),
        ('engine = "a b:C"', "module:Class"),
        ('engine = "./model:Miku"', "module:Class"),
    ],
)
def test_mistakes_are_said_with_their_place(folder: Path, text: str, sentence: str) -> None:
    (folder / "voice.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_bundle(folder)
    assert "voice.toml" in str(caught.value)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        read_bundle(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has no voice\.toml; write one"):
        read_bundle(tmp_path)


def test_the_revision_is_that_of_a_sha256sum_listing(folder: Path) -> None:
    assert read_bundle(folder).revision == "21d59546148e"
    listing = "".join(
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("voice.toml", "weights/a.bin")
    )
    assert hashlib.sha256(listing.encode()).hexdigest().startswith("21d59546148e")


def test_only_what_is_in_the_files_makes_the_revision(folder: Path) -> None:
    before = read_bundle(folder).revision
    os.utime(folder / "voice.toml", (1, 1))
    (folder / "weights" / "a.bin").chmod(0o755)
    (folder / "__pycache__").mkdir()
    (folder / ".git").mkdir()
    (folder / "empty").mkdir()
    for junk in ("__pycache__/model.pyc", ".git/HEAD", ".DS_Store", "model.py~", ".model.py.swp"):
        (folder / junk).write_text("junk")
    (folder / ".#model.py").symlink_to("nobody@nowhere")  # an Emacs lock
    assert read_bundle(folder).revision == before
    (folder / "weights" / "a.bin").rename(folder / "weights" / "b.bin")
    assert read_bundle(folder).revision != before


def test_accents_are_spelled_one_way(folder: Path, tmp_path: Path) -> None:
    (folder / "e\u0301.txt").write_text("x")  # as an old Mac spells it
    decomposed = read_bundle(folder).revision
    (folder / "e\u0301.txt").rename(folder / "\u00e9.txt")
    assert read_bundle(folder).revision == decomposed


def test_links_may_stay_inside_only(folder: Path, tmp_path: Path) -> None:
    (folder / "link.bin").symlink_to("weights/a.bin")
    (folder / "same").symlink_to("weights")
    copy = install(read_bundle(folder), tmp_path / "to")
    assert (copy / "same" / "a.bin").read_bytes() == (copy / "link.bin").read_bytes()
    assert not (copy / "link.bin").is_symlink()
    for target, sentence in (
        ("/etc/hosts", "not in the bundle"),
        ("../elsewhere", "not in the bundle"),
        ("nothing", "not in the bundle"),
        (".", "a folder that it lies in"),
    ):
        (folder / "bad").symlink_to(target)
        with pytest.raises(ConfigError, match=sentence):
            read_bundle(folder)
        (folder / "bad").unlink()


def test_what_cannot_be_shipped_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "new\nline").write_text("x")
    with pytest.raises(ConfigError, match="rename 'new"):
        read_bundle(folder)
    (folder / "new\nline").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        read_bundle(folder)
    (folder / "pipe").unlink()
    with (folder / "huge.bin").open("wb") as huge:
        huge.truncate(bundle_files.MAX_BYTES)  # sparse
    with pytest.raises(ConfigError, match=r"2\.0 GiB, a bundle at most 2"):
        read_bundle(folder)
    (folder / "huge.bin").unlink()

    def locked(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hashlib, "file_digest", locked)
    with pytest.raises(ConfigError, match=r"cannot read .*: Permission denied"):
        read_bundle(folder)


def test_a_copy_is_whole_read_only_and_made_once(folder: Path, tmp_path: Path) -> None:
    (folder / "junk.pyc").write_text("junk")
    (folder / "run.sh").write_text("exit")
    (folder / "run.sh").chmod(0o755)
    bundle = read_bundle(folder)
    into = tmp_path / "data" / "bundles"
    copy = install(bundle, into)
    assert copy == into / bundle.revision
    assert (copy / "voice.toml").stat().st_mode & 0o777 == 0o444
    assert (copy / "run.sh").stat().st_mode & 0o777 == 0o555
    assert not (copy / "junk.pyc").exists()
    verify(copy, bundle.revision)
    stamp = (copy / "voice.toml").stat().st_ino
    assert install(bundle, into) == copy
    assert (copy / "voice.toml").stat().st_ino == stamp
    assert [path.name for path in into.iterdir()] == [bundle.revision]


def test_many_may_copy_at_once(folder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder)
    into = tmp_path / "bundles"
    with ThreadPoolExecutor(8) as pool:
        copies = list(pool.map(lambda _: install(bundle, into), range(16)))
    assert set(copies) == {into / bundle.revision}
    assert [path.name for path in into.iterdir()] == [bundle.revision]


def test_changed_files_are_noticed(folder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder)
    copy = install(bundle, tmp_path / "to")
    (copy / "voice.toml").chmod(0o644)
    (copy / "voice.toml").write_text(ENGINE + "slots = 3")
    with pytest.raises(ConfigError, match="were changed"):
        verify(copy, bundle.revision)
    with pytest.raises(ConfigError, match="were changed"):  # and never written over
        install(bundle, tmp_path / "to")
    with pytest.raises(ConfigError, match="are gone"):
        verify(tmp_path / "nowhere", bundle.revision)
    (folder / "voice.toml").write_text(ENGINE + "slots = 3")
    with pytest.raises(ConfigError, match="changed while it was copied"):
        install(bundle, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_nowhere_to_copy_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot copy the bundle"):
        install(read_bundle(folder), tmp_path / "file")


@pytest.mark.parametrize("name", ["helium", "telephone", "speech-or-silence"])
def test_the_examples_are_bundles(name: str) -> None:
    assert read_bundle(EXAMPLES / name).name == name
