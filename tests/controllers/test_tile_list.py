"""The Data widget's decisions without a window: tiles found, counted, painted and placed; findings in order."""

from threading import Event

import numpy as np
import pytest
from pyproj import Transformer

from napari_glacier.controllers.check import by_gravity, check, verdict
from napari_glacier.controllers.footprints import footprints
from napari_glacier.controllers.gallery import THUMBNAIL_PX, Gallery, class_shares
from napari_glacier.controllers.session import Session
from napari_glacier.controllers.steps import as_steps
from napari_glacier.controllers.tile_list import Filter, TileList
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.doctor import examine
from napari_glacier.core.raster import read_raster, write_mask, write_raster
from napari_glacier.core.raster.georef import GeoRef


@pytest.fixture
def session(workspace, make_dataset):
    return workspace.open(make_dataset(splits=("train", "val")))


def look(gallery):
    return list(gallery.job())


def true_counts(session, tile):
    index_HW, valid_HW = session.dataset.read_mask(tile), session.dataset.read_valid(tile)
    return np.bincount(index_HW[valid_HW], minlength=4)


def test_classes_are_counted_as_they_are_drawn(session):
    gallery, tiles = Gallery(session), TileList(session)
    look(gallery)
    for tile in session.dataset.tiles:
        assert np.array_equal(gallery.counts[tile.id], true_counts(session, tile)), tile.id
    assert gallery.idle
    tiles.refresh(gallery.counts)
    place = session.scenes[0].placements[1]
    session.mask[place.row : place.row + 20, place.col : place.col + 30] = 3
    session.commit()

    assert tiles.refresh(gallery.counts) == [place.tile.id]
    gallery.recount([place.tile.id])
    look(gallery)

    index_HW = np.array(session.dataset.read_mask(place.tile))
    index_HW[:20, :30] = 3
    valid_HW = session.dataset.read_valid(place.tile)
    assert np.array_equal(gallery.counts[place.tile.id], np.bincount(index_HW[valid_HW], minlength=4))
    total = sum(gallery.counts.values())
    shares = class_shares(session.scheme, gallery.total(tiles.labelled()))
    assert [share for _, _, share in shares] == pytest.approx(total / total.sum())


def test_a_tile_without_labels_is_not_background(workspace, make_dataset):
    root = make_dataset(grid=(1, 3))
    (root / "label" / "mask_00_01.tif").unlink()
    session = workspace.open(root)
    gallery, tiles = Gallery(session), TileList(session)
    look(gallery)
    tiles.refresh(gallery.counts)
    assert [row.bare for row in tiles.rows] == [False, True, False]
    assert tiles.labelled() == ["00_00", "00_02"]
    expected = sum(true_counts(session, tile) for tile in session.dataset.tiles if tile.id != "00_01")
    assert np.array_equal(gallery.total(tiles.labelled()), expected)
    # By class mix it comes after those that hold background alone.
    assert tiles.shown(Filter(), "classes", descending=True)[-1].tile_id == "00_01"
    session.mask[5:10, 70:80] = 1
    session.commit()
    tiles.refresh(gallery.counts)
    assert not any(row.bare for row in tiles.rows)


def test_tiles_of_different_sizes_are_counted_though_one_is_shown(workspace, make_dataset, tmp_path):
    root = make_dataset(georeferenced=False)
    for band in range(1, 6):
        path = next((root / f"Band{band}").glob("*_00_00.tif"))
        write_raster(path, read_raster(path)[0][:40], None, nodata=0)
    mask = root / "label" / "mask_00_00.tif"
    codes_HW = read_raster(mask)[0][:40]
    write_mask(mask, (codes_HW // 85).astype(np.uint8), session_scheme(root), None)
    session = workspace.open(root)
    assert len(session.scenes) == 4
    assert not session.stacked
    gallery = Gallery(session)
    look(gallery)
    for tile in session.dataset.tiles:
        assert np.array_equal(gallery.counts[tile.id], true_counts(session, tile)), tile.id


def session_scheme(root):
    return open_dataset(root, "glacier4").scheme


def test_pictures_are_made_first_and_show_nodata_as_nothing(session):
    gallery = Gallery(session)
    first, other = session.tile_ids[0], session.tile_ids[3]
    gallery.want([first, other, "unknown"])
    steps = look(gallery)
    assert [step.tile_id for step in steps[:2]] == [other, first], "what was asked for last is in sight now"
    picture = steps[1].picture
    assert picture.shape == (THUMBNAIL_PX, THUMBNAIL_PX, 4)
    # The corner of the first tile is nodata.
    assert not picture[:5, :6].any()
    assert (picture[20:, 20:, 3] == 255).all()


def test_a_damaged_tile_does_not_end_the_work(session):
    tile = session.dataset.tiles[2]
    next(iter(tile.bands.values())).path.write_bytes(b"not a raster")
    gallery = Gallery(session)
    gallery.want([tile.id])
    assert tile.id not in {step.tile_id for step in look(gallery) if step.picture is not None}
    assert len(gallery.counts) == 8


def test_tiles_are_found_filtered_and_sorted(session):
    tiles, gallery = TileList(session), Gallery(session)
    look(gallery)
    ids = session.tile_ids
    session.set_review(ids[5], "approved")
    session.set_review(ids[2], "in progress")
    session.mask[5, 70:80] = 2
    session.commit()
    tiles.refresh(gallery.counts)

    def found(*order, **wanted):
        return [row.tile_id for row in tiles.shown(Filter(**wanted), *order)]

    assert found() == list(ids)
    assert found("tile", True) == list(ids[::-1])
    assert found(text="VAL") == [tile.id for tile in session.dataset.tiles if tile.split == "val"]
    assert found(text=ids[3][-3:]) == [one for one in ids if ids[3][-3:] in one]
    assert found(review="approved") == [ids[5]]
    assert found("review", True)[:3] == [ids[5], ids[1], ids[2]], "drawing begins the work on a tile"
    assert found("edits", True)[0] == ids[1]
    lake = {tile.id: true_counts(session, tile)[3] for tile in session.dataset.tiles}
    assert found(holds=3) == [one for one in ids if lake[one]]
    by_lake = found("classes", True, holds=3)
    shares = [gallery.counts[one][3] / gallery.counts[one].sum() for one in by_lake]
    assert shares == sorted(shares, reverse=True)
    assert tiles.states() == {"todo": 5, "in progress": 2, "approved": 1}
    assert found(unlabelled=True) == []


def test_tiles_without_labels_are_found(workspace, make_dataset):
    root = make_dataset()
    (root / "label" / "mask_01_01.tif").unlink()
    session = workspace.open(root)
    tiles = TileList(session)
    tiles.refresh({})
    assert [row.tile_id for row in tiles.shown(Filter(unlabelled=True))] == ["01_01"]


def test_reviews_of_all_tiles_are_those_of_each(session):
    session.set_review(session.tile_ids[0], "approved")
    session.set_review(session.tile_ids[0], "todo")
    session.set_review(session.tile_ids[1], "rejected")
    states = session.journal.review_states()
    for tile_id in session.tile_ids:
        assert states.get(tile_id, "todo") == session.review(tile_id)


def test_footprints_lie_as_tiles_do(session):
    prints = footprints(session.dataset.tiles)
    assert prints.note == ""
    boxes = dict(zip(prints.tile_ids, prints.boxes_N4, strict=True))
    for number, place in ((0, place) for place in session.scenes[0].placements):
        assert number == 0
        expected = np.array([place.col, place.row, place.col + 64, place.row + 64]) * 30.0
        assert boxes[place.tile.id] == pytest.approx(expected)
        assert prints.at(expected[0] + 1, expected[1] + 1) == place.tile.id
    assert prints.at(-5, -5) is None


def test_the_tile_beside_another_is_the_next_of_its_row_or_column(session):
    prints = footprints(session.dataset.tiles)
    at = {(place.row // 64, place.col // 64): place.tile.id for place in session.scenes[0].placements}
    for (row, col), tile_id in at.items():
        for across, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            # Between the splits there is a gap.
            ahead = (at.get((row + step * down, col + step * across)) for step in range(1, 6))
            assert prints.beside(tile_id, across, down) == next(filter(None, ahead), None)


def test_footprints_of_two_zones_are_in_degrees_and_of_none_in_rows(make_dataset):
    near = open_dataset(make_dataset("near")).tiles
    far = make_dataset("far")
    for path in far.rglob("*.tif"):
        values = read_raster(path)
        place = (30.0, 0.0, 400_000.0, 0.0, -30.0, 3_800_000.0)
        write_raster(path, values, GeoRef.from_epsg(32644, place), nodata=0)
    other = open_dataset(far, "glacier4").tiles[:1]
    prints = footprints((*near, *other))
    assert "longitude" in prints.note
    to_degrees = {zone: Transformer.from_crs(zone, 4326, always_xy=True) for zone in (32643, 32644)}
    west = to_degrees[32643].transform(500_000.0, 3_800_000.0)[0]
    east = to_degrees[32644].transform(400_000.0, 3_800_000.0)[0]
    width = prints.boxes_N4[-1, 0] - prints.boxes_N4[0, 0]
    assert width == pytest.approx((east - west) * np.cos(np.radians(34.3)), rel=0.01)

    unplaced = footprints(open_dataset(make_dataset("nowhere", georeferenced=False)).tiles)
    assert "no place" in unplaced.note
    assert len({tuple(box) for box in unplaced.boxes_N4.round(6)}) == 4


def test_the_doctor_in_the_window_says_what_the_terminal_says(make_dataset):
    root = make_dataset()
    (root / "label" / "mask_01_01.tif").unlink()
    next((root / "Band3").glob("*_00_01.tif")).write_bytes(b"II*\0 cut short")
    steps, job = [], check(root, None)
    while True:
        try:
            steps.append(next(job))
        except StopIteration as end:
            diagnosis = end.value
            break
    assert diagnosis.findings == examine(root).findings
    assert [step.done for step in steps] == list(range(len(steps)))
    ordered = by_gravity(diagnosis.findings)
    ranks = [("error", "warning", "info").index(one.severity) for one in ordered]
    assert ranks == sorted(ranks)
    assert verdict(ordered, 4).startswith("4 tiles read: ")
    assert verdict((), 1) == "1 tile read: nothing to mend."
    assert verdict(ordered[:1], 0) == "The data set does not open: 1 error."


def test_work_that_calls_back_is_a_generator_that_can_be_closed():
    told, first_seen = [], Event()

    def work(tell):
        for number in range(3):
            tell(number, 3, "counting")
            told.append(number)
            # The work goes on by itself; it is held here until the generator is closed.
            first_seen.wait(1)
        return "done"

    job = as_steps(work)
    assert next(job).done == 0
    job.close()
    assert told == [0], "the second step was refused"
    first_seen.set()
    whole = as_steps(work)
    assert [next(whole).done for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration, match="done"):
        next(whole)

    def fails(tell):
        tell(0, 1, "about to")
        raise LookupError("lost")

    job = as_steps(fails)
    next(job)
    with pytest.raises(LookupError, match="lost"):
        next(job)


def test_labels_of_a_tile_are_those_on_screen_and_in_a_stack_too(workspace, make_dataset):
    session = workspace.open(make_dataset(georeferenced=False))
    assert session.stacked
    assert isinstance(session, Session)
    for number, scene in enumerate(session.scenes):
        (place,) = scene.placements
        index_HW, valid_HW = session.tile_labels(number, place, 3)
        assert np.array_equal(index_HW, session.dataset.read_mask(place.tile)[::3, ::3])
        assert np.array_equal(valid_HW, session.dataset.read_valid(place.tile)[::3, ::3])
