"""A damaged journal: every stroke comes back or is named, nothing is overwritten, and the second opening is clean."""

import random
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from napari_glacier.core.correction.journal import Journal, Patch
from napari_glacier.core.correction.journal_place import JOURNAL_NAME
from napari_glacier.core.correction.journal_rescue import is_damaged, rescue
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.correction.settled import SettledArea
from napari_glacier.core.errors import JournalError

PAGE = 4096
# A number of a version that this one does not know is believed.
VERSION = range(60, 64)


def draw(root: Path, num_strokes: int = 60) -> None:
    """A journal of several pages for each table, with strokes that wait, are saved and are discarded."""
    rng = np.random.default_rng(3)
    with Journal.open(root, "ida ä") as journal:
        for k in range(num_strokes):
            patches = []
            for tile in rng.choice(6, rng.integers(1, 3), replace=False):
                size = 300 if k % 20 == 7 else int(rng.integers(2, 90))
                before_HW = rng.integers(0, 3, (size, size)).astype(np.uint8) if k % 3 else np.zeros((size, size), "u1")
                after_HW = before_HW.copy()
                after_HW[size // 3 :] = rng.integers(0, 4)
                patches.append(Patch(f"0{tile}_01", *rng.integers(0, 400, 2).tolist(), before_HW, after_HW))
            bases = {patch.tile_id: f"base of {patch.tile_id}" for patch in patches}
            number = journal.record(patches, tool="paint", bases=bases)
            if k % 9 == 8:
                journal.begin_save(patches[0].tile_id, number, f"saved at {k}")
                journal.finish_save(patches[0].tile_id)
            if k % 23 == 22:
                journal.discard_unsaved([patches[0].tile_id])
        journal.set_review("00_01", "approved", "fine")
        journal.seen.add([SeenArea("00_01", 1, 2, np.ones((5, 6), bool))], "ida")
        journal.settled.add([SettledArea("00_01", 1, 2, np.full((5, 6), 255, np.uint8))], "ida")


def drawn(journal: Journal) -> dict[int, list[tuple]]:
    """Everything of each stroke but its author: places, pixels, and whether they are saved."""
    states = {
        tuple(row[:4]): row[4] for row in journal.file.read("SELECT stroke_id, tile_id, row, col, state FROM patch")
    }
    return {
        stroke.id: sorted(
            (
                p.tile_id,
                p.row,
                p.col,
                p.before_HW.tolist(),
                p.after_HW.tolist(),
                states[stroke.id, p.tile_id, p.row, p.col],
            )
            for p in stroke.patches
        )
        for stroke in journal._strokes("TRUE", ())
    }


def named(journal: Journal) -> set[int]:
    """Strokes of which a person is told that something is lost."""
    said = re.search(r"lack something: (.*?)\. What", journal.mended)
    runs = re.findall(r"(?:^|, )(\d+)(?:-(\d+))?(?= \(|,|$)", said[1]) if said else []
    return journal.damaged | {number for first, last in runs for number in range(int(first), int(last or first) + 1)}


def spoil(sound: bytes, kind: str, chance: random.Random) -> bytes:
    content = bytearray(sound)
    if kind == "cut":
        return bytes(content[: chance.randrange(6 * PAGE, len(content))])
    if kind == "byte":
        at = chance.choice([at for at in (chance.randrange(200), chance.randrange(len(content))) if at not in VERSION])
        content[at] ^= chance.randrange(1, 256)
    else:
        size = {"sector": 512, "page": PAGE}[kind]
        at = chance.randrange(len(content) // size) * size
        content[at : at + size] = chance.choice([bytes(size), chance.randbytes(size)])
    return bytes(content)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    draw(root)
    return root / JOURNAL_NAME


@pytest.mark.parametrize("kind", ["byte", "sector", "page", "cut"])
def test_each_stroke_comes_back_or_is_named_whatever_is_damaged(tmp_path, sound, kind):
    shutil.copy(sound, tmp_path)
    with Journal.open(tmp_path) as journal:
        truth, reviews = drawn(journal), journal.review_states()
    chance, num_mended = random.Random(5), 0
    for number in range(40):
        root = tmp_path / str(number)
        root.mkdir()
        content = spoil(sound.read_bytes(), kind, chance)
        (root / JOURNAL_NAME).write_bytes(content)
        with Journal.open(root) as journal:
            come, lost = drawn(journal), named(journal)
            assert {stroke: patches for stroke, patches in come.items() if stroke not in lost} == {
                stroke: patches for stroke, patches in truth.items() if stroke not in lost
            }
            journal.history(1000), journal.authors(), journal.changed_tiles(), journal.seen.all(), journal.settled.all()
            if kind != "cut":
                kept = journal.review_states()
                assert all(kept[tile] == state for tile, state in reviews.items() if tile not in journal.mended)
            if journal.mended:
                num_mended += 1
                (damaged,) = root.glob("glacier.damaged-*.sqlite")
                assert damaged.read_bytes() == content
                assert damaged.name in journal.mended
            journal.record([Patch("00_01", 0, 0, np.zeros((2, 2), "u1"), np.ones((2, 2), "u1"))], tool="paint")
        with Journal.open(root) as journal:
            assert not journal.mended
            assert set(drawn(journal)) == {*come, max(*truth, *come) + 1}
        shutil.rmtree(root)
    assert num_mended > 1


def test_all_come_back_where_no_stroke_lies_on_the_damaged_page(tmp_path, sound):
    """The page through which SQLite reaches all others of a table; the one of the schema; the header."""
    with Journal.open(sound.parent) as journal:
        truth = drawn(journal)
        (root_page,) = journal.file.read("SELECT rootpage FROM sqlite_master WHERE name = 'patch'")[0]
    for at, length in ((PAGE * (root_page - 1), PAGE), (0, PAGE), (0, 16), (16, 2)):
        root = tmp_path / f"{at}-{length}"
        root.mkdir()
        content = bytearray(sound.read_bytes())
        content[at : at + length] = bytes(length)
        (root / JOURNAL_NAME).write_bytes(content)
        with Journal.open(root) as journal:
            assert "all 60 strokes came back" in journal.mended
            assert drawn(journal) == truth
            assert journal.authors() == ["ida ä"]
            assert (len(journal.seen.all()), len(journal.settled.all())) == (1, 1)
            assert [event.note for event in journal.reviews.all()] == ["fine"]


def test_strokes_that_a_crash_left_in_the_log_come_back_too(tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    root = tmp_path / "dataset"
    root.mkdir()
    draw(root, 20)
    with Journal.open(root) as journal:
        journal.record([Patch("00_01", 7, 7, np.zeros((2, 2), "u1"), np.ones((2, 2), "u1"))], tool="paint")
        truth = drawn(journal)
        # As kill -9 leaves them.
        for name in (JOURNAL_NAME, f"{JOURNAL_NAME}-wal"):
            shutil.copy(root / name, away)
    content = bytearray((away / JOURNAL_NAME).read_bytes())
    content[:100] = bytes(100)
    (away / JOURNAL_NAME).write_bytes(content)
    with Journal.open(away) as journal:
        assert "all 21 strokes came back" in journal.mended
        assert drawn(journal) == truth


@pytest.mark.parametrize("step", range(1, 5))
def test_a_rescue_that_is_interrupted_is_begun_again(tmp_path, sound, monkeypatch, step):
    with Journal.open(sound.parent) as journal:
        truth = drawn(journal)
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(bytes(100) + sound.read_bytes()[100:])
    moves, steps = Path.replace, []

    def stop(self, target):
        steps.append(target)
        if len(steps) == step:
            raise KeyboardInterrupt
        return moves(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        try:
            rescue(path)
        except KeyboardInterrupt:
            assert is_damaged(path)
    with Journal.open(tmp_path) as journal:
        assert drawn(journal) == truth


def test_a_journal_without_checksums_comes_back(tmp_path, sound):
    """As older versions wrote them: the compressed mask ends where its stream does."""
    with closing(sqlite3.connect(tmp_path / JOURNAL_NAME)) as copy, closing(sqlite3.connect(sound)) as source:
        source.backup(copy)
        assert copy.execute("UPDATE patch SET after = substr(after, 1, length(after) - 4)").rowcount
        copy.commit()
    with Journal.open(tmp_path) as journal, Journal.open(sound.parent) as expected:
        truth = drawn(expected)
        assert drawn(journal) == truth
    content = bytearray((tmp_path / JOURNAL_NAME).read_bytes())
    content[:PAGE] = bytes(PAGE)
    (tmp_path / JOURNAL_NAME).write_bytes(content)
    with Journal.open(tmp_path) as journal:
        assert drawn(journal) == truth


@pytest.mark.parametrize("column", ["tile_id", "row", "col", "height", "stroke_id"])
def test_a_patch_whose_place_was_spoilt_is_not_believed(tmp_path, column):
    one = np.ones((4, 4), np.uint8)
    with Journal.open(tmp_path) as journal:
        for tile in "abc":
            journal.record([Patch(tile, 3, 5, 0 * one, one)], tool="paint")
        spoilt = {"tile_id": "a", "stroke_id": 1}.get(column, 2)
        with journal.file.writing() as connection:
            connection.execute(f"UPDATE patch SET {column} = ? WHERE id = 2", (spoilt,))
        assert [p.tile_id for stroke in journal.unsaved() for p in stroke.patches] == ["a", "c"]
        assert journal.damaged == {1 if column == "stroke_id" else 2}


def test_what_is_no_journal_is_refused_and_left_alone(tmp_path):
    path = tmp_path / JOURNAL_NAME
    for content in (bytes(3 * PAGE), b"a text " * 5000, b"SQLite format 3\0" + bytes(50)):
        path.write_bytes(content)
        with pytest.raises(JournalError, match="no journal"):
            Journal.open(tmp_path)
        assert path.read_bytes() == content
        assert sorted(file.name for file in tmp_path.iterdir()) in (
            [JOURNAL_NAME],
            [JOURNAL_NAME, f"{JOURNAL_NAME}.lock"],
        )
