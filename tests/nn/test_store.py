"""Maps in memory and in a folder, and jobs that go on."""

import json

import numpy as np
import pytest

from napari_glacier.core.errors import SaveError
from napari_glacier.nn import store as store_module
from napari_glacier.nn.store import JobFolder, MemoryStore, Rows

K, H, W, M = 3, 40, 17, 2


def _rows(start, stop):
    rng = np.random.default_rng(start)
    n = stop - start
    return Rows(
        start,
        rng.integers(0, K, (n, W)).astype(np.uint8),
        rng.random((n, W)) > 0.3,
        rng.random((K, n, W), np.float32),
        rng.random((n, W), np.float32),
        rng.random((n, W), np.float32),
        rng.integers(0, K, (M, n, W)).astype(np.uint8),
    )


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_folder_holds_what_memory_holds(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(store_module, "measure_dtype", lambda height, width: kind)
    folder, memory = JobFolder(tmp_path / "job", {"a": 1}, K, H, W, num_voters=M), MemoryStore(K, H, W, num_voters=M)
    for start, stop in ((0, 7), (7, 25), (25, H)):
        for store in (folder, memory):
            store.put(_rows(start, stop))
    assert folder.rows_done == H
    assert MemoryStore(K, H, W).maps().votes_MHW is None
    assert JobFolder(tmp_path / "another", {"a": 1}, K, H, W).maps().votes_MHW is None
    for ours, theirs in zip(folder.maps(), memory.maps(), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_job_goes_on_where_it_was_and_another_one_begins_anew(tmp_path):
    first = JobFolder(tmp_path / "job", {"tta": 6, "shape": (H, W)}, K, H, W)
    first.put(_rows(0, 12))
    again = JobFolder(tmp_path / "job", {"tta": 6, "shape": (H, W)}, K, H, W)
    assert again.rows_done == 12
    np.testing.assert_array_equal(again.maps().index_HW[:12], _rows(0, 12).index_hW)
    assert JobFolder(tmp_path / "job", {"tta": 8, "shape": (H, W)}, K, H, W).rows_done == 0
    assert JobFolder(tmp_path / "job", {"tta": 6, "shape": (H, W)}, K, H, W).rows_done == 0  # its rows are gone


@pytest.mark.parametrize("damage", ["cut short", "no note", "half a note"])
def test_a_damaged_job_begins_anew(tmp_path, damage):
    path = tmp_path / "job"
    JobFolder(path, {}, K, H, W).put(_rows(0, 12))
    note = path / "job.json"
    if damage == "cut short":
        (path / "entropy.raw").write_bytes((path / "entropy.raw").read_bytes()[:-1])
    elif damage == "no note":
        note.unlink()
    else:
        note.write_text(note.read_text()[: len(note.read_text()) // 2])
    anew = JobFolder(path, {}, K, H, W)
    assert anew.rows_done == 0
    assert not anew.maps().index_HW.any()
    assert json.loads(note.read_text())["rows_done"] == 0


def test_rows_count_only_once_they_are_written(tmp_path, monkeypatch):
    job = JobFolder(tmp_path / "job", {}, K, H, W)
    job.put(_rows(0, 5))

    def full(descriptor):
        raise OSError(28, "No space left")

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(SaveError, match=r"No space left.*goes on from there"):
        job.put(_rows(5, 9))
    monkeypatch.undo()
    assert JobFolder(tmp_path / "job", {}, K, H, W).rows_done == 5


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="choose another folder"):
        JobFolder(tmp_path / "file" / "job", {}, K, H, W)
