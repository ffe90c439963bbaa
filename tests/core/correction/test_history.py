import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio

from napari_glacier.cli import main
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.history import reversal, revert_group, sittings
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.patch_files import UNCHANGED, export_corrections
from napari_glacier.core.correction.strokes import REVERT, Patch, Stroke, StrokeInfo
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.errors import DataError, SaveError
from napari_glacier.core.raster import write_raster


def stroke(number, before_HW, after_HW, tool="paint", group=None):
    patch = Patch("t", 0, 0, before_HW.copy(), after_HW.copy())
    return Stroke(number, group or f"g{number}", tool, "anna", "2026-01-01T10:00:00+00:00", None, (patch,))


def one_pixel(*values, tools=(), groups=()):
    """Strokes that take a pixel from value to value."""
    arrays = [np.array([[value]], np.uint8) for value in values]
    tools = (*tools, *["paint"] * len(values))
    groups = (*groups, *[None] * len(values))
    return [
        stroke(k + 1, before, after, tools[k], groups[k]) for k, (before, after) in enumerate(pairwise(arrays))
    ], arrays[-1]


def test_strokes_come_off_the_top_as_in_a_pile_for_each_pixel():
    """Random strokes over one another, against a list of strokes kept for each pixel."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        start = now = rng.integers(0, 3, (6, 7)).astype(np.uint8)
        strokes, piles = [], [[] for _ in range(now.size)]
        for number in range(1, 9):
            after = np.where(rng.random(now.shape) < 0.5, rng.integers(0, 3, now.shape), now).astype(np.uint8)
            for k in np.flatnonzero(after != now):
                piles[k].append((number, now.flat[k]))
            strokes.append(stroke(number, now, after))
            now = after
        chosen = {int(number) for number in rng.choice(range(1, 9), rng.integers(1, 6), replace=False)}
        expected, covered = now.copy(), 0
        for k, pile in enumerate(piles):
            while pile and pile[-1][0] in chosen:
                expected.flat[k] = pile.pop()[1]
            covered += any(number in chosen for number, _ in pile)
        found = reversal(strokes, "t", chosen, now)
        np.testing.assert_array_equal(found.values_HW, expected)
        np.testing.assert_array_equal(found.where_HW, expected != now)
        assert found.num_covered == covered
        everything = reversal(strokes, "t", range(1, 9), now)
        np.testing.assert_array_equal(everything.values_HW, start)
        assert everything.num_covered == 0


@pytest.mark.parametrize(
    ("history", "chosen", "expected", "covered"),
    [
        # What was drawn over it later stays.
        (((0, 1, 2), (), ()), {1}, 2, 1),
        # The same class painted anew is a later stroke, too.
        (((0, 1, 2, 1), (), ()), {1}, 1, 1),
        # Undone: nothing is left to take out.
        (((0, 1, 0), ("paint", "undo"), ("a", "a")), {1}, 0, 0),
        # Undone and drawn again: it is there, though a redo was the last.
        (((0, 1, 0, 1), ("paint", "undo", "redo"), ("a", "a", "a")), {1}, 0, 0),
        # The same by napari's own undo, which knows of no groups.
        (((0, 1, 0, 1), ("paint", "undo", "redo"), ()), {1}, 0, 0),
        # A later stroke was undone: the earlier one shows again and can be taken out.
        (((0, 1, 2, 1), ("paint", "paint", "undo"), ()), {1}, 0, 0),
        # A revert of two strokes was itself undone.
        (((0, 1, 2, 0, 2), ("paint", "paint", "revert", "undo"), ("a", "b", "c", "c")), {2}, 1, 0),
        # An undo by itself: taken out, the stroke comes again.
        (((0, 1, 0), ("paint", "undo"), ("a", "a")), {2}, 1, 0),
        # All that was done on the pixel.
        (((0, 1, 0, 2, 1), ("paint", "undo", "paint", "undo"), ()), {1, 2, 3, 4}, 0, 0),
    ],
)
def test_undo_redo_and_revert_go_along_the_pile(history, chosen, expected, covered):
    values, tools, groups = history
    strokes, now = one_pixel(*values, tools=tools, groups=groups)
    found = reversal(strokes, "t", chosen, now)
    assert found.values_HW.item() == expected
    assert found.num_covered == covered


def test_reverts_of_several_strokes_are_remembered_though_pixels_had_a_class_before():
    """Strokes, reverts of some at once, and undone reverts at random, against a list of strokes for each pixel."""
    rng = np.random.default_rng(3)
    for _ in range(150):
        now = rng.integers(0, 2, (4, 5)).astype(np.uint8)
        strokes, piles, reverts = [], [[] for _ in range(now.size)], []
        for number in range(1, 14):
            after, tool, group = now.copy(), "paint", None
            drawn = [one.id for one in strokes if one.tool == "paint"]
            act = rng.random()
            if drawn and act < 0.35:
                chosen = {int(k) for k in rng.choice(drawn, rng.integers(1, len(drawn) + 1), replace=False)}
                tool, group, taken = REVERT, revert_group(chosen), []
                for k, pile in enumerate(piles):
                    off = []
                    while pile and pile[-1][0] in chosen:
                        off.append(pile.pop())
                        after.flat[k] = off[-1][1]
                    taken.append(off[::-1])
                reverts.append((group, taken))
            elif reverts and act < 0.5 and strokes[-1].group == reverts[-1][0] and strokes[-1].tool == REVERT:
                tool, (group, taken) = "undo", reverts.pop()
                for pile, off in zip(piles, taken, strict=True):
                    pile.extend(off)
                after = np.array([pile[-1][2] if pile else now.flat[k] for k, pile in enumerate(piles)], np.uint8)
                after = after.reshape(now.shape)
            else:
                after = np.where(rng.random(now.shape) < 0.6, rng.integers(0, 2, now.shape), now).astype(np.uint8)
                for k in np.flatnonzero(after != now):
                    piles[k].append((number, now.flat[k], after.flat[k]))
            if (after == now).all():
                # Nothing is recorded then: the journal cannot know of it.
                break
            strokes.append(stroke(number, now, after, tool, group))
            now = after
        drawn = [one.id for one in strokes if one.tool == "paint"]
        if not drawn:
            continue
        chosen = {int(k) for k in rng.choice(drawn, rng.integers(1, len(drawn) + 1), replace=False)}
        expected = now.copy()
        for k, pile in enumerate(piles):
            while pile and pile[-1][0] in chosen:
                expected.flat[k] = pile.pop()[1]
        np.testing.assert_array_equal(reversal(strokes, "t", chosen, now).values_HW, expected)


def test_a_pixel_that_another_program_changed_stays():
    strokes, _ = one_pixel(0, 1)
    found = reversal(strokes, "t", {1}, np.array([[3]], np.uint8))
    assert found.values_HW.item() == 3
    assert not found.where_HW.any()


@pytest.mark.parametrize("chosen", [{1, 2, 3}, {1, 2}, {3}, {1}])
def test_what_another_program_wrote_between_strokes_is_not_taken_out_with_them(chosen):
    """Strokes 1 and 2 took the pixel from 0 to 2, another program wrote 3, and stroke 3 made it 1."""
    (first, second), _ = one_pixel(0, 1, 2)
    (third,), present = one_pixel(3, 1)
    found = reversal([first, second, replace(third, id=3)], "t", chosen, present)
    assert found.values_HW.item() == (3 if 3 in chosen else 1)


def test_a_sitting_ends_with_a_rest_or_another_person():
    def info(number, minute, author="anna"):
        time = f"2026-01-01T{10 + minute // 60:02d}:{minute % 60:02d}:00+00:00"
        return StrokeInfo(number, "g", "paint", author, time, None, ("t",), False)

    newest_first = [info(6, 110), info(5, 90, "ben"), info(4, 85), info(3, 54), info(2, 25), info(1, 0)]
    found = sittings(newest_first)
    assert [sitting.stroke_ids for sitting in found] == [(6,), (5,), (4,), (3, 2, 1)]
    assert [sitting.author for sitting in found] == ["anna", "ben", "anna", "anna"]
    assert (found[3].end - found[3].start).total_seconds() == 54 * 60


@pytest.fixture
def corrected(make_dataset):
    """A data set with a stroke over two tiles, one over part of it, one saved in between, and a discarded one."""
    root = make_dataset()
    dataset = open_dataset(root, scheme="glacier4")
    (scene,) = plan_scenes(dataset)
    with Journal.open(root, author="anna") as journal:
        mask = EditableMask(scene.read_masks(), scene.valid(), scene.placements, journal, num_classes=4)
        start = mask[...]
        mask[20:30, 50:80] = 3
        mask.commit("paint")
        mask[25:35, 70:75] = 1
        mask.commit("fill")
        mask[100:110, 10:20] = 2
        mask.commit()
        journal.discard_unsaved(["01_00"])
        end = mask[...]
        mask.close()
    end[64:] = start[64:]
    return root, start, end


@pytest.mark.parametrize("by", ["stroke", "tile"])
def test_patches_turn_the_labels_before_into_those_after(corrected, tmp_path, by, capsys):
    root, start, end = corrected
    out = tmp_path / "out"
    assert main(["corrections", str(root), "--out", str(out), "--by", by]) == 0
    with (out / "corrections.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == (3 if by == "stroke" else 2)
    (scene,) = plan_scenes(open_dataset(root, scheme="glacier4"))
    redone = start.copy()
    for row in rows:
        with rasterio.open(out / row["file"]) as file:
            before, after = file.read()
            assert file.nodata == UNCHANGED
            assert file.descriptions == ("before", "after")
            assert file.tags()["class_3"] == "lake"
            top, col = scene.georef.pixel_of(file.transform.c, file.transform.f)
        part = np.s_[round(top) : round(top) + before.shape[0], round(col) : round(col) + before.shape[1]]
        edited = after != UNCHANGED
        assert int(row["pixels"]) == edited.sum() > 0
        # On the ellipsoid, of which UTM shows 0.9992 to 1.002.
        assert float(row["area_km2"]) == pytest.approx(edited.sum() * 0.0009, rel=2e-3)
        assert sum(int(part.split(": ")[1]) for part in row["changes"].split("; ")) == edited.sum()
        np.testing.assert_array_equal(redone[part][edited], before[edited])
        redone[part][edited] = after[edited]
    np.testing.assert_array_equal(redone, end)
    assert main(["corrections", str(root), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_an_export_that_replaces_another_leaves_nothing_of_it_but_what_others_put_there(corrected, tmp_path):
    root, _, _ = corrected
    out = tmp_path / "out"
    assert main(["corrections", str(root), "--out", str(out)]) == 0
    of_strokes = sorted((out / "patches").iterdir())
    mine = out / "patches" / "mine.tif"
    mine.write_bytes(of_strokes[0].read_bytes())
    (out / "patches" / "000009_00_00.tif").write_text("no picture")
    write_raster(out / "patches" / "01_01.tif", np.zeros((2, 4, 4), np.uint8))
    (out / "patches" / "notes.txt").write_text("mine")
    foreign = {mine.name, "000009_00_00.tif", "01_01.tif", "notes.txt"}

    assert main(["corrections", str(root), "--out", str(out), "--by", "tile", "--overwrite"]) == 0

    with (out / "corrections.csv").open() as table:
        listed = {Path(row["file"]).name for row in csv.DictReader(table)}
    assert listed.isdisjoint({path.name for path in of_strokes})
    assert {path.name for path in (out / "patches").iterdir()} == listed | foreign
    (out / "patches" / next(iter(listed))).write_text("somebody's")
    assert main(["corrections", str(root), "--out", str(out), "--by", "tile", "--overwrite"]) == 2
    assert (out / "patches" / next(iter(listed))).read_text() == "somebody's"


def test_what_cannot_be_exported_is_said(make_dataset, tmp_path, capsys):
    root = make_dataset()
    assert main(["corrections", str(root), "--out", str(tmp_path / "a")]) == 2
    assert "has no journal" in capsys.readouterr().err
    assert not list(root.glob("glacier.sqlite*"))
    dataset = open_dataset(root, scheme="glacier4")
    with Journal.open(root) as journal:
        with pytest.raises(DataError, match="Nothing was corrected"):
            export_corrections(dataset, journal, tmp_path / "a")
        (tmp_path / "a" / "corrections.csv").parent.mkdir(exist_ok=True)
        (tmp_path / "a" / "corrections.csv").write_text("mine")
        with pytest.raises(SaveError):
            export_corrections(dataset, journal, tmp_path / "a")
        with pytest.raises(DataError, match="classes"):
            export_corrections(replace(dataset, scheme=None), journal, tmp_path / "b")
    assert (tmp_path / "a" / "corrections.csv").read_text() == "mine"


def test_a_clock_that_was_set_back_ends_a_sitting():
    late, early = "2026-03-02T10:00:00.000+00:00", "2026-03-01T09:00:00.000+00:00"
    strokes = [
        StrokeInfo(number, "", "paint", "ada", time, None, ("a",), True) for number, time in ((2, early), (1, late))
    ]
    assert [sitting.stroke_ids for sitting in sittings(strokes)] == [(2,), (1,)]
