"""What is left after kill -9, a crash in the middle of saving, a full disk and a read-only folder (child processes)."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import rasterio

from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.saving import ORIGINALS_FOLDER, save_tiles, settle_saves
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes

posix_only = pytest.mark.skipif(os.name != "posix", reason="uses signals and limits of POSIX")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives up root's rights in a child process"
)

# Every child opens the data set as the plugin does and edits rows of the mosaic.
OPEN = """
import os, resource, sys, threading
from pathlib import Path
import numpy as np
from napari_glacier.core.correction import saving
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.data.mosaic import plan_scenes

def open_mask(root, idle_s=60):
    dataset = open_dataset(root, scheme="glacier4")
    journal = Journal.open(root)
    scene, = plan_scenes(dataset)
    index = scene.read_masks()
    return dataset, journal, EditableMask(index, scene.valid(), scene.placements, journal, num_classes=4, idle_s=idle_s)

root = Path(sys.argv[1])
"""


def child(body: str, root: Path, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN + textwrap.dedent(body), str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finished(process: subprocess.Popen, returncode: int = 0) -> str:
    with process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == returncode, err
    return out


def replayed(root: Path) -> np.ndarray:
    """Masks on disk with the unsaved strokes on top."""
    (scene,) = plan_scenes(open_dataset(root, scheme="glacier4"))
    index = scene.read_masks()
    with Journal.open(root) as journal:
        assert not journal.read_only
        for stroke in journal.unsaved():
            for patch in stroke.patches:
                (place,) = [p for p in scene.placements if p.tile.id == patch.tile_id]
                patch.apply(index[place.slices])
    return index


@posix_only
def test_strokes_recorded_before_kill_9_are_all_there(make_dataset):
    root = make_dataset()
    process = child(
        """
        dataset, journal, mask = open_mask(root)
        for k in range(100000):
            row, col = 12 + k % 50, 12 + (k * 7) % 100
            mask[row : row + 3, col : col + 4] = (mask[row, col] + 1) % 4
            stroke = mask.commit()
            print(stroke, row, col, mask[row, col], flush=True)
        """,
        root,
    )
    with process:
        lines = [process.stdout.readline() for _ in range(25)]
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
    told = [tuple(map(int, line.split())) for line in lines + rest.splitlines(keepends=True) if line.endswith("\n")]
    assert len(told) >= 25
    (scene,) = plan_scenes(open_dataset(root, scheme="glacier4"))
    expected = scene.read_masks()
    valid = scene.valid()
    with Journal.open(root) as journal:
        kept = {stroke.id: stroke for stroke in journal.unsaved()}
    assert {stroke for stroke, *_ in told} <= set(kept)
    assert len(kept) - len(told) in (0, 1)  # one may have been recorded and not told
    for _, row, col, value in told:
        region = np.s_[row : row + 3, col : col + 4]
        expected[region] = np.where(valid[region], value, expected[region])
    if len(kept) == len(told):
        np.testing.assert_array_equal(replayed(root), expected)


@posix_only
def test_edits_recorded_by_the_idle_thread_survive_kill_9(make_dataset):
    root = make_dataset()
    process = child(
        """
        dataset, journal, mask = open_mask(root, idle_s=0.05)
        done = threading.Event()
        mask.recorded.append(lambda stroke_id: done.set())
        mask[20:30, 20:90] = 3
        assert done.wait(20)
        os.kill(os.getpid(), 9)
        """,
        root,
    )
    finished(process, -signal.SIGKILL)
    assert (replayed(root)[20:30, 20:90] == 3).all()


@pytest.mark.parametrize("moment", ["before the file", "after the file", "between two tiles"])
def test_a_crash_in_the_middle_of_saving_is_harmless(make_dataset, moment):
    root = make_dataset()
    process = child(
        f"""
        moment = {moment!r}
        dataset, journal, mask = open_mask(root)
        mask[20:30, 20:90] = 3
        mask[60:70, 20:30] = 1
        np.save(root / "drawn.npy", mask[...])
        if moment == "before the file":
            saving.rewrite_mask = lambda *args: os._exit(9)
        elif moment == "after the file":
            journal.finish_save = lambda tile_id: os._exit(9)
        else:
            real, calls = saving._save_tile, []
            def second_dies(*args):
                calls.append(args)
                return os._exit(9) if len(calls) == 2 else real(*args)
            saving._save_tile = second_dies
        saving.save_tiles(dataset, mask, journal)
        """,
        root,
    )
    finished(process, 9)
    drawn = np.load(root / "drawn.npy")
    np.testing.assert_array_equal(replayed(root), drawn)  # nothing is lost, even before anything is settled
    dataset = open_dataset(root, scheme="glacier4")
    with Journal.open(root) as journal:
        assert len(journal.begun_saves()) == (moment != "between two tiles")
        completed = settle_saves(dataset, journal)
        assert len(completed) == (moment == "after the file")
        assert len(journal.unsaved_tiles()) == (3 if moment == "before the file" else 2)
        report = save_tiles(dataset, None, journal)
        assert not report.failed
        assert journal.unsaved_tiles() == {}
    (scene,) = plan_scenes(dataset)
    np.testing.assert_array_equal(scene.read_masks(), drawn)
    assert not list(root.rglob(".mask*"))  # no temporary file was in the making


@posix_only
def test_a_full_disk_loses_nothing(make_dataset):
    """The limit on file sizes stands for a disk without space: SQLite and tifffile get the same kind of error."""
    root = make_dataset()
    process = child(
        """
        dataset, journal, mask = open_mask(root)
        mask[20:30, 20:90] = 3
        mask.commit()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        rng = np.random.default_rng(0)
        mask[40:60, 20:90] = rng.integers(0, 4, (20, 70))
        try:
            mask.commit()
        except ValueError as error:
            print(type(error).__name__, error)
        print(mask.has_pending)
        report = saving.save_tiles(dataset, None, journal)
        print(len(report.saved), sorted(report.failed))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        print(mask.commit() is not None, mask.has_pending)
        np.save(root / "drawn.npy", mask[...])
        report = saving.save_tiles(dataset, mask, journal)
        print(len(report.saved), report.failed)
        mask.close()
        journal.close()
        """,
        root,
    )
    before = {path.name: path.read_bytes() for path in (root / "label").iterdir()}
    lines = finished(process).splitlines()
    assert lines[0].startswith("JournalError")
    assert "Free disk space" in lines[0]
    assert lines[1] == "True"
    assert lines[2] == "0 ['00_00', '00_01']"
    assert lines[3] == "True False"
    assert lines[4] == "2 {}"
    (scene,) = plan_scenes(open_dataset(root, scheme="glacier4"))
    np.testing.assert_array_equal(scene.read_masks(), np.load(root / "drawn.npy"))
    for name in ("mask_00_00.tif", "mask_00_01.tif"):
        assert (root / ORIGINALS_FOLDER / "label" / name).read_bytes() == before[name]
    with rasterio.open(root / "label" / "mask_00_00.tif") as file:
        assert set(np.unique(file.read())) <= {0, 85, 170, 255}


@needs_root
def test_a_read_only_dataset_can_be_edited_and_its_strokes_wait(make_dataset, tmp_path):
    root, user = make_dataset(), tmp_path / "user"
    user.mkdir()
    user.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    masks = {path.name: path.read_bytes() for path in (root / "label").iterdir()}
    process = child(
        """
        os.seteuid(65534)
        dataset, journal, mask = open_mask(root)
        mask[20:30, 20:90] = 3
        report = saving.save_tiles(dataset, mask, journal)
        print(journal.path.is_relative_to(os.environ["NAPARI_GLACIER_DATA_DIR"]), len(report.saved))
        print(report.failed["00_00"])
        print(sorted(journal.unsaved_tiles()))
        mask.close()
        journal.close()
        """,
        root,
        env=os.environ | {"NAPARI_GLACIER_DATA_DIR": str(user)},
    )
    where, reason, waiting = finished(process).splitlines()
    assert where == "True 0"
    assert "Permission denied" in reason
    assert waiting == "['00_00', '00_01']"
    assert {path.name: path.read_bytes() for path in (root / "label").iterdir()} == masks
    assert not list(root.glob("glacier.sqlite*"))
