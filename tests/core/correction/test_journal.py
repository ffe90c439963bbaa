"""The journal: strokes are durable, saves are marked, one process writes, and what is newer or foreign is refused."""

import errno
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from napari_glacier.core.correction import journal_place
from napari_glacier.core.correction.journal import Journal, Patch
from napari_glacier.core.correction.journal_file import JournalFile
from napari_glacier.core.correction.journal_place import JOURNAL_NAME, is_network_path, user_data_dir, user_journal_path
from napari_glacier.core.correction.journal_schema import REVIEW_STATES, SCHEMA_VERSION
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.correction.settled import SettledArea
from napari_glacier.core.errors import JournalError

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives up root's rights in a child process"
)


def patch(tile_id: str = "a", row: int = 3, col: int = 5, after: int = 2) -> Patch:
    before_HW = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    return Patch(tile_id, row, col, before_HW, np.full((3, 4), after, np.uint8))


def test_recorded_strokes_come_back_as_they_were_in_order(tmp_path):
    with Journal.open(tmp_path, author="ida") as journal:
        first = journal.record([patch("a"), patch("b", 0, 0, 1)], tool="paint", group="g")
        second = journal.record([patch("a", 7, 7, 0)], tool="accept", model="bundled")
    with Journal.open(tmp_path) as journal:
        strokes = journal.unsaved()
        assert [s.id for s in strokes] == [first, second]
        assert first < second
        assert (strokes[0].tool, strokes[0].group, strokes[0].author, strokes[0].model) == ("paint", "g", "ida", None)
        assert (strokes[1].tool, strokes[1].model) == ("accept", "bundled")
        assert [(p.tile_id, p.row, p.col) for p in strokes[0].patches] == [("a", 3, 5), ("b", 0, 0)]
        for got, put in zip(strokes[0].patches, [patch("a"), patch("b", 0, 0, 1)], strict=True):
            np.testing.assert_array_equal(got.before_HW, put.before_HW)
            np.testing.assert_array_equal(got.after_HW, put.after_HW)
        assert journal.unsaved_tiles() == {"a": 2, "b": 1}
        assert [s.id for s in journal.unsaved("b")] == [first]
        assert [p.tile_id for p in journal.unsaved("b")[0].patches] == ["b"]


def test_save_marks_only_one_tile_and_only_what_was_drawn_by_then(tmp_path):
    with Journal.open(tmp_path) as journal:
        first = journal.record([patch("a"), patch("b")], tool="paint", bases={"a": "old", "b": "old"})
        journal.begin_save("a", first, "new")
        second = journal.record([patch("a")], tool="paint")
        assert journal.begun_saves() == {"a": "new"}
        journal.finish_save("a")
        assert journal.begun_saves() == {}
        assert journal.base_fingerprint("a") == "new"
        assert journal.base_fingerprint("b") == "old"
        assert journal.origin_fingerprint("a") == "old"
        assert [(s.id, [p.tile_id for p in s.patches]) for s in journal.unsaved()] == [(first, ["b"]), (second, ["a"])]
        journal.begin_save("b", second, "never written")
        journal.forget_save("b")
        assert journal.base_fingerprint("b") == "old"
        assert journal.unsaved_tiles() == {"a": 1, "b": 1}


def test_discarded_strokes_leave_the_list_but_not_the_file(tmp_path):
    with Journal.open(tmp_path) as journal:
        stroke = journal.record([patch("a"), patch("b")], tool="fill")
        journal.discard_unsaved(["a"])
        assert journal.unsaved_tiles() == {"b": 1}
        assert len(journal.stroke(stroke).patches) == 2
        (info,) = journal.history(10)
        assert info.tile_ids == ("a", "b")
        assert info.unsaved
        journal.discard_unsaved(["b"])
        assert not journal.history(10)[0].unsaved
        with pytest.raises(JournalError, match="no stroke 99"):
            journal.stroke(99)


def test_a_discarded_tile_has_no_base_until_its_next_stroke(tmp_path):
    with Journal.open(tmp_path) as journal:
        for tile_id in ("never saved", "saved", "other"):
            stroke = journal.record([patch(tile_id)], tool="paint", bases={tile_id: "absent"})
        journal.begin_save("saved", stroke, "made here")
        journal.finish_save("saved")
        journal.record([patch("saved")], tool="paint")
        journal.discard_unsaved(["never saved", "saved"])
        assert [journal.base_fingerprint(tile) for tile in ("never saved", "saved")] == [None, None]
        assert journal.base_fingerprint("other") == "absent"
        # A mask that another program made meanwhile came with the data; one that was saved here did not.
        journal.record([patch()], tool="paint", bases={"never saved": "theirs", "saved": "made here"})
        assert journal.base_fingerprint("never saved") == "theirs"
        assert journal.origin_fingerprint("never saved") == "theirs"
        assert journal.origin_fingerprint("saved") == "absent"


def test_history_is_newest_first_and_limited(tmp_path):
    with Journal.open(tmp_path) as journal:
        ids = [journal.record([patch()], tool=f"t{k}") for k in range(5)]
        assert [info.id for info in journal.history(3)] == ids[:1:-1]


def test_authors_are_known_to_the_holder_and_to_readers_as_they_come(tmp_path):
    with Journal.open(tmp_path, "ben") as journal, Journal.open(tmp_path) as reader:
        assert journal.authors() == reader.authors() == []
        for author, expected in (("ben", ["ben"]), ("anna", ["ben", "anna"]), ("ben", ["ben", "anna"])):
            journal.author = author
            journal.record([patch()], tool="paint")
            assert journal.authors() == reader.authors() == expected


def test_review_states(tmp_path):
    with Journal.open(tmp_path) as journal:
        assert journal.review("a") == "todo"
        for state in REVIEW_STATES:
            journal.set_review("a", state)
            assert journal.review("a") == state
        with pytest.raises(JournalError, match="todo, in progress, edited, approved, rejected"):
            journal.set_review("a", "fine")


def test_second_process_reads_and_is_told_who_holds_it(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom napari_glacier.core.correction.journal import Journal\n"
        "with Journal.open(Path(sys.argv[1])) as j:\n"
        "    print(j.read_only, len(j.unsaved()), j.holder)\n"
        "    try:\n        j.set_review('a', 'edited')\n"
        "    except ValueError as e:\n        print(e)\n"
    )
    with Journal.open(tmp_path) as journal:
        journal.record([patch()], tool="paint")
        child = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
        )
    first, second = child.stdout.splitlines()
    assert first.startswith("True 1 ")
    assert f"process {os.getpid()}" in first
    assert "is held by" in second
    assert "Close the data set there" in second
    with Journal.open(tmp_path) as journal:
        assert not journal.read_only
        assert journal.holder is None
        with Journal.open(tmp_path) as again:
            assert again.read_only


def test_newer_foreign_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / JOURNAL_NAME
    Journal.open(tmp_path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(JournalError, match=r"newer napari-glacier .journal version 9, this one reads up to 2"):
        Journal.open(tmp_path)

    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(JournalError, match="another program"):
        Journal.open(tmp_path)

    path.write_bytes(b"no database at all, but long enough to be read as one" * 10)
    with pytest.raises(JournalError, match="damaged or no journal"):
        Journal.open(tmp_path)

    path.unlink()
    Journal.open(tmp_path).close()  # the refusals left no lock behind


def test_closed_journal_says_so(tmp_path):
    journal = Journal.open(tmp_path)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.unsaved()


def test_threads_record_side_by_side(tmp_path):
    with Journal.open(tmp_path) as journal:
        threads = [
            threading.Thread(target=lambda k=k: [journal.record([patch(f"t{k}")], tool="paint") for _ in range(8)])
            for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.unsaved_tiles() == {f"t{k}": 8 for k in range(4)}


def test_local_disks_get_a_write_ahead_log_and_network_folders_do_not(tmp_path, monkeypatch):
    def mode(root: Path) -> str:
        root.mkdir()
        with Journal.open(root) as journal:
            return journal.file.read("PRAGMA journal_mode")[0][0]

    monkeypatch.setattr("napari_glacier.core.correction.journal_file.is_network_path", lambda path: False)
    assert mode(tmp_path / "local") == "wal"
    monkeypatch.setattr("napari_glacier.core.correction.journal_file.is_network_path", lambda path: True)
    assert mode(tmp_path / "remote") == "delete"


def test_network_paths_are_known_by_their_mount(tmp_path, monkeypatch):
    class Mount:
        def __init__(self, mountpoint: Path, fstype: str, opts: str = "rw"):
            self.mountpoint, self.fstype, self.opts = str(mountpoint), fstype, opts

    mounts = [Mount(Path("/"), "ext4"), Mount(tmp_path / "share", "nfs4"), Mount(tmp_path / "share" / "usb", "ext4")]
    monkeypatch.setattr(journal_place.psutil, "disk_partitions", lambda all: mounts)
    assert not is_network_path(tmp_path / "glaciers")
    assert is_network_path(tmp_path / "share" / "glaciers")
    assert not is_network_path(tmp_path / "share" / "usb" / "glaciers")


def test_user_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("NAPARI_GLACIER_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(journal_place.sys, "platform", "linux")
    assert user_data_dir() == tmp_path / "xdg" / "napari-glacier"
    monkeypatch.setattr(journal_place.sys, "platform", "darwin")
    assert user_data_dir() == Path.home() / "Library" / "Application Support" / "napari-glacier"
    monkeypatch.setattr(journal_place.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "appdata"))
    assert user_data_dir() == tmp_path / "appdata" / "napari-glacier"


def test_strokes_kept_in_the_user_folder_come_home(tmp_path, monkeypatch):
    root = tmp_path / "dataset"
    root.mkdir()
    with Journal.open(root) as journal:
        journal.record([patch("at home")], tool="paint", bases={"at home": "fp0"})
    with monkeypatch.context() as patched:
        patched.setattr("napari_glacier.core.correction.journal.is_writable_folder", lambda folder: False)
        with Journal.open(root, author="eva") as journal:
            assert journal.path == user_journal_path(root)
            assert journal.unsaved_tiles() == {"at home": 1}  # what the folder's journal knew is known here
            journal.record([patch("away", after=1)], tool="fill", bases={"away": "fp"})
    with Journal.open(root) as journal:
        assert journal.path == root / JOURNAL_NAME
        (stroke,) = journal.unsaved("away")
        assert (stroke.author, stroke.tool) == ("eva", "fill")
        np.testing.assert_array_equal(stroke.patches[0].after_HW, patch(after=1).after_HW)
        assert journal.base_fingerprint("away") == "fp"
        assert journal.base_fingerprint("at home") == "fp0"
    assert not user_journal_path(root).exists()
    assert list(user_journal_path(root).parent.glob("*taken-over*"))  # set aside, not deleted


def write_away(root: Path, monkeypatch, reviews: dict[str, str]) -> None:
    """Set review states as if the folder were read-only."""
    with monkeypatch.context() as patched:
        patched.setattr("napari_glacier.core.correction.journal.is_writable_folder", lambda folder: False)
        with Journal.open(root) as journal:
            for tile_id, state in reviews.items():
                journal.set_review(tile_id, state)


def test_review_states_kept_in_the_user_folder_come_home_where_they_are_newer(tmp_path, monkeypatch):
    times = iter(f"2026-01-01T00:00:{second:02d}.000+00:00" for second in range(60))
    monkeypatch.setattr("napari_glacier.core.correction.journal.utc_now", lambda: next(times))
    with Journal.open(tmp_path) as journal:
        for tile_id in ("untouched", "away is newer", "home is newer", "set back"):
            journal.set_review(tile_id, "in progress")
    write_away(tmp_path, monkeypatch, {"away is newer": "approved", "home is newer": "rejected", "only away": "edited"})
    write_away(tmp_path, monkeypatch, {"set back": "todo"})
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_bring_home", lambda self, elsewhere: None)  # another person's machine
        with Journal.open(tmp_path) as journal:
            journal.set_review("home is newer", "approved")
    with Journal.open(tmp_path) as journal:
        tiles = ("untouched", "away is newer", "home is newer", "set back", "only away")
        assert [journal.review(tile) for tile in tiles] == ["in progress", "approved", "approved", "todo", "edited"]
    assert not user_journal_path(tmp_path).exists()


def test_strokes_that_come_home_leave_approved_tiles_as_they_are(tmp_path, monkeypatch):
    with Journal.open(tmp_path, author="anna") as journal:
        journal.record([patch("known")], tool="paint", bases={"known": "fp"})
    with monkeypatch.context() as patched:
        patched.setattr("napari_glacier.core.correction.journal.is_writable_folder", lambda folder: False)
        with Journal.open(tmp_path, author="eva") as journal:
            journal.record([patch("locked"), patch("open")], tool="fill", bases={"locked": "fp1", "open": "fp2"})
            journal.record([patch("reopened")], tool="paint")
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_bring_home", lambda self, elsewhere: None)  # another person's machine
        with Journal.open(tmp_path, author="anna") as journal:
            for tile_id in ("locked", "reopened"):
                journal.set_review(tile_id, "approved")
    write_away(tmp_path, monkeypatch, {"reopened": "in progress"})

    with Journal.open(tmp_path, author="anna") as journal:
        # What was known here is not taken over again.
        assert journal.unsaved_tiles() == {"known": 1, "open": 1, "reopened": 1}
        assert journal.review("locked") == "approved"
        assert journal.base_fingerprint("locked") is None
        assert journal.base_fingerprint("open") == "fp2"
        assert journal.on_tile("locked") == []
        # Nothing is gone: the stroke is there, and the tile's review tells of it.
        (info,) = [one for one in journal.history() if "locked" in one.tile_ids]
        assert (info.author, info.tile_ids) == ("eva", ("locked", "open"))
        assert "Set aside: 1 stroke(s) made while the folder was read-only" in journal.reviews.of("locked")[-1].note


def test_strokes_set_aside_are_told_of_though_bringing_them_home_was_interrupted(tmp_path, monkeypatch):
    write_away(tmp_path, monkeypatch, {})
    with monkeypatch.context() as patched:
        patched.setattr("napari_glacier.core.correction.journal.is_writable_folder", lambda folder: False)
        with Journal.open(tmp_path) as journal:
            journal.record([patch("locked")], tool="accept")
    elsewhere = user_journal_path(tmp_path)
    hidden = elsewhere.rename(elsewhere.with_suffix(".hidden"))
    with Journal.open(tmp_path) as journal:
        journal.set_review("locked", "approved")
    hidden.rename(elsewhere)

    insert = Journal.insert

    def insert_and_stop(self, *arguments, **options):
        insert(self, *arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "insert", insert_and_stop)
        with pytest.raises(KeyboardInterrupt):
            Journal.open(tmp_path)
    with Journal.open(tmp_path) as journal:
        assert [info.tile_ids for info in journal.history()] == [("locked",)]
        assert "Set aside: 1 stroke(s)" in journal.reviews.of("locked")[-1].note


@pytest.mark.parametrize("act", ["discarded", "saved"])
def test_what_was_saved_or_discarded_in_the_user_folder_is_so_at_home(tmp_path, monkeypatch, act):
    with Journal.open(tmp_path, author="anna") as journal:
        journal.record([patch("a"), patch("b")], tool="paint", bases={"a": "came", "b": "came"})
    with monkeypatch.context() as patched:
        patched.setattr("napari_glacier.core.correction.journal.is_writable_folder", lambda folder: False)
        with Journal.open(tmp_path, author="anna") as journal:
            last = journal.record([patch("a", after=1)], tool="fill")
            if act == "saved":
                journal.begin_save("a", last, "made")
                journal.finish_save("a")
            else:
                journal.discard_unsaved(["a"])
    with Journal.open(tmp_path, author="anna") as journal:
        assert journal.unsaved_tiles() == {"b": 1}
        assert len(journal.on_tile("a")) == (1 if act == "saved" else 0)
        assert journal.base_fingerprint("a") == ("made" if act == "saved" else None)
        assert journal.origin_fingerprint("a") == ("came" if act == "saved" else None)
        assert journal.base_fingerprint("b") == "came"


def test_what_was_looked_at_comes_home_once(tmp_path, monkeypatch):
    seen, settled = SeenArea("a", 1, 2, np.ones((3, 4), bool)), SettledArea("a", 1, 2, np.zeros((2, 2), np.uint8))
    for number in range(3):
        with monkeypatch.context() as patched:
            patched.setattr("napari_glacier.core.correction.journal.is_writable_folder", lambda folder: False)
            with Journal.open(tmp_path) as journal:
                if not number:
                    journal.seen.add([seen], "ada")
                    journal.settled.add([settled], "ada")
        with Journal.open(tmp_path) as journal:
            assert len(journal.seen.all()) == len(journal.settled.all()) == 1


def test_a_copy_that_the_disk_had_no_room_for_is_no_journal(tmp_path, monkeypatch):
    with Journal.open(tmp_path) as journal:
        journal.record([patch("a")], tool="paint")
        journal.set_review("b", "approved")
    monkeypatch.setattr("napari_glacier.core.correction.journal.is_writable_folder", lambda folder: False)
    write_bytes = Path.write_bytes

    def write_half(path, content):
        write_bytes(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write_half)
        with pytest.raises(JournalError, match="Free disk space"):
            Journal.open(tmp_path)
    assert not list(user_journal_path(tmp_path).parent.glob("*.sqlite*"))
    with Journal.open(tmp_path) as journal:
        assert journal.path == user_journal_path(tmp_path)
        assert journal.unsaved_tiles() == {"a": 1}
        assert journal.review("b") == "approved"


def test_review_states_without_a_time_only_take_the_place_of_todo(tmp_path, monkeypatch):
    with Journal.open(tmp_path) as journal:
        journal.set_review("at home", "edited")
    write_away(tmp_path, monkeypatch, {"at home": "approved", "away": "approved"})
    for path in (tmp_path / JOURNAL_NAME, user_journal_path(tmp_path)):
        to_version_1(path)
    with Journal.open(tmp_path) as journal:
        assert journal.review("at home") == "edited"
        assert journal.review("away") == "approved"


def to_version_1(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE tile DROP COLUMN review_time")
    connection.execute("PRAGMA user_version = 1")
    connection.close()


def test_a_journal_of_version_1_is_brought_up_to_date(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.record([patch("a")], tool="paint", bases={"a": "fp"})
        journal.set_review("a", "edited")
    to_version_1(tmp_path / JOURNAL_NAME)
    for _ in range(2):
        with Journal.open(tmp_path) as journal:
            assert journal.unsaved_tiles() == {"a": 1}
            assert journal.base_fingerprint("a") == "fp"
            assert journal.review("a") == "edited"
            assert journal.file.read("PRAGMA user_version") == [(SCHEMA_VERSION,)]
            journal.set_review("b", "approved")


_LOCK_ERRORS = [
    OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    NotImplementedError(),
]


def refuse_locks(monkeypatch, folder: Path, error: Exception) -> None:
    real = FileLock.acquire

    def acquire(self, *arguments, **options):
        if Path(self.lock_file).is_relative_to(folder):
            raise error
        return real(self, *arguments, **options)

    monkeypatch.setattr(FileLock, "acquire", acquire)


@pytest.mark.parametrize("error", _LOCK_ERRORS, ids=["no locks", "no space", "not implemented"])
def test_a_folder_whose_lock_fails_keeps_its_journal_in_the_user_folder(tmp_path, monkeypatch, caplog, error):
    with monkeypatch.context() as patched:
        refuse_locks(patched, tmp_path, error)
        with caplog.at_level(logging.WARNING), Journal.open(tmp_path) as journal:
            assert journal.path == user_journal_path(tmp_path)
            assert not journal.read_only
            journal.record([patch("a")], tool="paint")
    assert str(user_journal_path(tmp_path).parent) in caplog.text
    with Journal.open(tmp_path) as journal:
        assert journal.path == tmp_path / JOURNAL_NAME
        assert journal.unsaved_tiles() == {"a": 1}


@pytest.mark.parametrize("error", _LOCK_ERRORS, ids=["no locks", "no space", "not implemented"])
def test_locks_that_fail_in_both_folders_are_an_error_with_a_mend(tmp_path, monkeypatch, error):
    refuse_locks(monkeypatch, Path("/"), error)
    with pytest.raises(JournalError, match="NAPARI_GLACIER_DATA_DIR") as raised:
        Journal.open(tmp_path)
    assert (error.strerror if isinstance(error, OSError) else "gives no locks") in str(raised.value)


def test_a_journal_that_cannot_come_home_stays_where_it_is(tmp_path, monkeypatch, caplog):
    write_away(tmp_path, monkeypatch, {"a": "approved"})
    elsewhere = user_journal_path(tmp_path)
    with monkeypatch.context() as patched:
        refuse_locks(patched, elsewhere.parent, _LOCK_ERRORS[0])
        with caplog.at_level(logging.WARNING), Journal.open(tmp_path) as journal:
            assert journal.path == tmp_path / JOURNAL_NAME
    assert "could not be taken over and is kept" in caplog.text
    elsewhere.write_bytes(b"no database at all, but long enough to be read as one" * 10)
    with pytest.raises(JournalError, match="damaged or no journal"):
        Journal.open(tmp_path)
    elsewhere.unlink()
    with Journal.open(tmp_path) as journal:
        assert not journal.read_only  # the refusal left no lock behind


@needs_root
def test_read_only_folder_keeps_its_journal_in_the_user_folder(tmp_path):
    root, user = tmp_path / "dataset", tmp_path / "user"
    root.mkdir()
    user.mkdir()
    with Journal.open(root) as journal:
        journal.record([patch("before")], tool="paint")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    user.chmod(0o777)
    root.chmod(0o555)
    script = (
        "import os, sys\nimport numpy as np\nfrom pathlib import Path\n"
        "from napari_glacier.core.correction.journal import Journal, Patch\n"
        "os.seteuid(65534)\n"
        "one = np.ones((2, 2), np.uint8)\n"
        "with Journal.open(Path(sys.argv[1]), author='eva') as j:\n"
        "    print(j.path, j.read_only, j.unsaved_tiles())\n"
        "    j.record([Patch('away', 0, 0, 0 * one, one)], tool='fill', bases={'away': 'fp'})\n"
    )
    environment = os.environ | {"NAPARI_GLACIER_DATA_DIR": str(user)}
    child = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, env=environment, check=False
    )
    assert child.returncode == 0, child.stderr
    path, rest = child.stdout.split(" ", 1)
    assert Path(path).is_relative_to(user)
    assert rest.strip() == "False {'before': 1}"
    assert {p.name for p in root.iterdir()} <= {JOURNAL_NAME, f"{JOURNAL_NAME}.lock"}


def test_neither_folder_writable_is_an_error_with_a_mend(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("NAPARI_GLACIER_DATA_DIR", str(blocked))
    monkeypatch.setattr("napari_glacier.core.correction.journal.is_writable_folder", lambda folder: False)
    with pytest.raises(JournalError, match="NAPARI_GLACIER_DATA_DIR"):
        Journal.open(tmp_path)


def test_tiles_are_changed_as_long_as_a_stroke_is_left_of_them(tmp_path):
    """Random strokes, moves back and forth, saves and discards, against the pixels that each tile had and has."""
    rng = np.random.default_rng(0)
    num_nothing = 0
    for run in range(12):
        root = tmp_path / str(run)
        root.mkdir()
        now = {tile_id: np.zeros((9, 12), np.uint8) for tile_id in "ab"}
        saved, drawn = {tile_id: values.copy() for tile_id, values in now.items()}, dict.fromkeys(now, "")
        journal = Journal.open(root, "anna")
        for _ in range(40):
            tile_id, act = str(rng.choice(["a", "b"])), rng.random()
            if act < 0.8:
                tool = "paint" if rng.random() < 0.3 else "revert"
                # Often all of the tile, so that nothing is left.
                row, col, height, width = (0, 0, 9, 12) if rng.random() < 0.4 else (*rng.integers(0, 6, 2), 3, 6)
                where, before = (slice(row, row + height), slice(col, col + width)), now[tile_id].copy()
                fresh = rng.integers(0, 3, before[where].shape)
                now[tile_id][where] = saved[tile_id][where] if tool == "revert" else fresh
                if np.array_equal(now[tile_id], before):
                    continue
                patch = Patch(tile_id, int(row), int(col), before[where], now[tile_id][where].copy())
                journal.record([patch], tool=tool)
                drawn[tile_id] = tool
            elif act < 0.85:
                last = journal.unsaved(tile_id)
                if last:
                    journal.begin_save(tile_id, last[-1].id, "print")
                    journal.finish_save(tile_id)
                    saved[tile_id], drawn[tile_id] = now[tile_id].copy(), ""
            elif act < 0.9:
                journal.discard_unsaved([tile_id])
                now[tile_id], drawn[tile_id] = saved[tile_id].copy(), ""
            elif act < 0.95:
                journal.close()
                journal = Journal.open(root, "anna")
            nothing = {t for t in now if drawn[t] == "revert" and np.array_equal(now[t], saved[t])}
            num_nothing += len(nothing)
            assert set(journal.changed_tiles()) == {t for t in now if drawn[t]} - nothing
        journal.close()
    assert num_nothing > 30


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk that takes what the journal wrote once `free` is set; `begun` is set when it is asked to."""
    bring = JournalFile._bring_to_disk

    class Disk:
        begun, free = threading.Event(), threading.Event()

    def wait_and_bring(file, log):
        Disk.begun.set()
        assert Disk.free.wait(30)
        bring(file, log)

    monkeypatch.setattr(JournalFile, "_bring_to_disk", wait_and_bring)
    yield Disk
    Disk.free.set()


def test_a_stroke_does_not_wait_for_the_disk_and_a_save_does(tmp_path, slow_disk):
    slow_disk.free.set()
    with Journal.open(tmp_path, "anna") as journal:
        slow_disk.free.clear()
        first = journal.record([patch()], tool="paint")
        assert slow_disk.begun.wait(30)
        # One that was drawn while the disk is busy, and a word on a tile, do not wait either.
        second = journal.record([patch("b")], tool="paint")
        journal.set_review("b", "rejected", "a note")
        # Another process sees all of it, as it would after this one was killed.
        code = (
            "import sys; from pathlib import Path; from napari_glacier.core.correction.journal import Journal\n"
            "j = Journal.open(Path(sys.argv[1])); print(j.read_only, [s.id for s in j.unsaved()], j.review('b'))"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert told.stdout.strip() == f"True [{first}, {second}] rejected", told.stderr
        saver = threading.Thread(target=journal.begin_save, args=("a", first, "print"))
        saver.start()
        saver.join(0.3)
        assert saver.is_alive(), "a mask file must not be newer than its journal"
        slow_disk.free.set()
        saver.join(30)
        assert journal.begun_saves() == {"a": "print"}


def test_a_disk_that_does_not_take_a_stroke_is_told_of_with_the_next_one(tmp_path, monkeypatch):
    with Journal.open(tmp_path, "anna") as journal:

        def broken(descriptor):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as context:
            context.setattr(os, "fsync", broken)
            first = journal.record([patch()], tool="paint")
            with pytest.raises(JournalError, match=r"could not be brought to the disk .*Input/output error.*then save"):
                journal.file.wait_for_disk()
            journal.record([patch()], tool="paint")
            journal.file._taken.result()
            with pytest.raises(JournalError, match="could not be brought to the disk"):
                journal.record([patch()], tool="paint")
        last = journal.record([patch()], tool="paint")
        journal.file.wait_for_disk()
        assert [stroke.id for stroke in journal.unsaved()] == [first, first + 1, last]


def test_a_stroke_that_is_drawn_while_python_ends_is_kept(tmp_path):
    code = (
        "import atexit, sys; from pathlib import Path; import numpy as np\n"
        "from napari_glacier.core.correction.journal import Journal, Patch\n"
        "journal = Journal.open(Path(sys.argv[1]))\n"
        "values = np.zeros((2, 2), np.uint8)\n"
        "atexit.register(lambda: print(journal.record([Patch('a', 0, 0, values, values + 1)], tool='paint')))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (told.stdout.strip(), told.stderr) == ("1", "")
    with Journal.open(tmp_path) as journal:
        assert [stroke.id for stroke in journal.unsaved()] == [1]
