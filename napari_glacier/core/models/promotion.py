"""Which model a dataset works with, and how it came to that: `models.yaml`, to which lines are only ever added.

    - time: '2026-01-04T10:10:10+00:00'
      who: anna
      action: promote          # or rollback
      from: bundled
      to: models/20260104-101010-quick
      title: 20260104-101010-quick
      comparison: {…}          # the figures that the person saw; none where there was no comparison

A promoted model is kept in the dataset's own folder ``models``: resuming, moving or deleting its run changes nothing.
One that lies there already is not copied again. The champion is the last promotion that was not rolled back, and the
bundled ensemble before the first one; the bundled ensemble can be promoted, too, and is not copied.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from napari_glacier.core.correction.journal_place import user_name
from napari_glacier.core.errors import DataError, SaveError
from napari_glacier.core.files import file_name_of, replacing, write_text_atomically
from napari_glacier.core.plain_yaml import read_yaml

HISTORY_FILE, MODELS_FOLDER = "models.yaml", "models"
BUNDLED, BUNDLED_TITLE = "bundled", "Bundled ensemble"
# Of the ensemble file in a kept model's folder; see `nn.ensemble`, which core cannot ask.
_ENSEMBLE_FILE = "ensemble.yaml"
_LOCK_S = 5.0
_HEADING = """\
# Which model this dataset works with. Entries are added and never changed; the last one not rolled back counts.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the history.

    Attributes
    ----------
    time, who : str
    action : {"promote", "rollback"}
    before, after : str
        `BUNDLED`, or a path relative to the dataset.
    title : str
        What `after` is called.
    comparison : mapping
        The figures that were known; empty where there were none.
    digests : mapping of file name to str
        Of the model's files as they were promoted.
    """

    time: str
    who: str
    action: Literal["promote", "rollback"]
    before: str
    after: str
    title: str
    comparison: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that a dataset works with.

    Attributes
    ----------
    path : Path or None
        What `resolve_models` takes; None is the bundled ensemble.
    title : str
    entry : Entry or None
        Its promotion; None where none stands.
    """

    path: Path | None
    title: str
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model that is to be kept: its checkpoints and what its ensemble file says.

    Attributes
    ----------
    title : str
    members : sequence of (Path, float)
        Checkpoints and their weights.
    settings : mapping
        Further keys of the ensemble file: thresholds, average, tta, scales.
    """

    title: str
    members: Sequence[tuple[Path, float]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_history(root: Path) -> list[Entry]:
    """All promotions and rollbacks of a dataset, the first one first.

    Raises
    ------
    DataError
        If the file is no such history.
    """
    path = Path(root) / HISTORY_FILE
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _damaged(path) from error
    return [_entry(record, path) for record in (content if isinstance(content, list) else [content] * bool(content))]


def standing(root: Path) -> list[Entry]:
    """Promotions that were not rolled back, the champion's last; `DataError` where the history is damaged."""
    found: list[Entry] = []
    for entry in read_history(root):
        if entry.action == "promote":
            found.append(entry)
        elif found:
            found.pop()
    return found


def champion(root: Path) -> Champion:
    """The model that a dataset works with.

    Raises
    ------
    DataError
        If the history is damaged, or the model that it names is gone.
    """
    root = Path(root)
    entries = standing(root)
    if not entries:
        return Champion(None, BUNDLED_TITLE, None)
    entry = entries[-1]
    if entry.after == BUNDLED:
        return Champion(None, entry.title, entry)
    path = root / entry.after
    if not path.exists():
        raise DataError(
            f"The promoted model {entry.title} is gone ({path}). Bring it back, roll back (napari-glacier rollback "
            f"--data {root}), or name a model."
        )
    return Champion(path, entry.title, entry)


def refuse_champion(root: Path, model: ModelFiles | None) -> None:
    """Raise `DataError` where a model (None: the bundled ensemble) is the one that a dataset works with already."""
    root, entries = Path(root), standing(root)
    now = entries[-1] if entries and entries[-1].after != BUNDLED else None
    if model is None or now is None:
        is_champion = model is None and now is None
    else:
        is_champion = not changed_files(root, now) and _is_same(root / now.after, model)
    if is_champion:
        title = now.title if now is not None else BUNDLED_TITLE
        raise DataError(f"The dataset works with {title} already; nothing was changed.")


def promote(root: Path, model: ModelFiles | None, comparison: Mapping[str, Any] | None = None) -> Entry:
    """Make a model the champion, and keep it with the dataset unless it lies there; a person has asked for it.

    Parameters
    ----------
    root : Path
        Of the dataset.
    model : ModelFiles or None
        None is the bundled ensemble.
    comparison : mapping, optional
        Figures of the comparison with the champion before, as plain values.

    Raises
    ------
    SaveError
        If the dataset's folder cannot be written.
    DataError
        If the history is damaged, or the model is the champion already.
    """
    root = Path(root)
    with _alone(root):
        refuse_champion(root, model)
        before = standing(root)
        after, title, digests = BUNDLED, BUNDLED_TITLE, dict[str, str]()
        if model is not None:
            folder = _shelved(root, model) or _keep(root, model)
            after, title, digests = folder.relative_to(root).as_posix(), *_title_and_digests(folder)
        now = before[-1].after if before else BUNDLED
        entry = Entry(_now(), user_name(), "promote", now, after, title, comparison or {}, digests)
        _append(root, entry)
        return entry


def keep(root: Path, model: ModelFiles) -> Path:
    """Put a model on the dataset's shelf without promoting it; gives its new folder.

    Raises
    ------
    SaveError
        If the dataset's folder cannot be written.
    """
    with _alone(Path(root)):
        return _keep(Path(root), model)


def roll_back(root: Path) -> Entry:
    """Go back to the champion before; the promotion stays in the history, and the model in its folder.

    Raises
    ------
    DataError
        If there is nothing to go back from.
    SaveError
        If the dataset's folder cannot be written.
    """
    root = Path(root)
    with _alone(root):
        kept = standing(root)
        if not kept:
            raise DataError(f"{root} works with the bundled ensemble: there is no promotion to roll back.")
        to = kept[-2] if len(kept) > 1 else None
        title = to.title if to is not None else BUNDLED_TITLE
        after = to.after if to is not None else BUNDLED
        entry = Entry(_now(), user_name(), "rollback", kept[-1].after, after, title)
        _append(root, entry)
        return entry


def changed_files(root: Path, entry: Entry) -> list[str]:
    """Files of a promoted model that are gone or no longer what was promoted."""
    folder = Path(root) / entry.after
    return [name for name, digest in entry.digests.items() if _digest_or_none(folder / name) != digest]


def _keep(root: Path, model: ModelFiles) -> Path:
    """Put a model's files into a new folder of the dataset; hard links where the disk has them."""
    folder = _new_folder(root / MODELS_FOLDER, model.title)
    for path, name in zip((path for path, _ in model.members), _names_of(model), strict=True):
        _link_or_copy(path, folder / name)
    weights = (float(weight) for _, weight in model.members)
    members = [{"path": name, "weight": weight} for name, weight in zip(_names_of(model), weights, strict=True)]
    content = {"name": model.title, "members": members, **model.settings}
    write_text_atomically(folder / _ENSEMBLE_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return folder


def _shelved(root: Path, model: ModelFiles) -> Path | None:
    """The folder of the dataset's shelf that holds a model, under whatever title."""
    folders = sorted(file.parent for file in (root / MODELS_FOLDER).glob(f"*/{_ENSEMBLE_FILE}"))
    return next((folder for folder in folders if _is_same(folder, model)), None)


def _title_and_digests(folder: Path) -> tuple[str, dict[str, str]]:
    """What a kept model is called, and the digests of its files."""
    content = read_yaml((folder / _ENSEMBLE_FILE).read_text(encoding="utf-8"))
    names = [*(entry["path"] for entry in content["members"]), _ENSEMBLE_FILE]
    return str(content.get("name", folder.name)), {name: _digest(folder / name) for name in names}


def _names_of(model: ModelFiles) -> list[str]:
    """What the members' files are called where the model is kept."""
    alone = len(model.members) == 1
    return [f"{'model' if alone else f'member_{k}'}{path.suffix}" for k, (path, _) in enumerate(model.members)]


def _is_same(folder: Path, model: ModelFiles) -> bool:
    """Whether a folder of the shelf holds a model to the byte, under whatever title."""
    try:
        content = read_yaml((folder / _ENSEMBLE_FILE).read_text(encoding="utf-8"))
        kept = [(str(entry["path"]), float(entry.get("weight", 1.0))) for entry in content["members"]]
        settings = {key: value for key, value in content.items() if key not in ("name", "members")}
        return (
            settings == read_yaml(yaml.safe_dump(dict(model.settings)))
            and [weight for _, weight in kept] == [float(weight) for _, weight in model.members]
            # What lies elsewhere is not on the shelf.
            and all(Path(name).name == name for name, _ in kept)
            and all(_same_bytes(folder / name, path) for (name, _), (path, _) in zip(kept, model.members, strict=True))
        )
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _same_bytes(one: Path, other: Path) -> bool:
    return one.samefile(other) or (one.stat().st_size == other.stat().st_size and _digest(one) == _digest(other))


def _new_folder(parent: Path, title: str) -> Path:
    stem = file_name_of(title, "model")
    parent.mkdir(exist_ok=True)
    for number in range(1, 1000):
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise SaveError(f"{parent} holds 999 models called {stem}. Give the new one another name.")


def _link_or_copy(source: Path, target: Path) -> None:
    # Checkpoints are replaced and never written into, so that a link keeps what was promoted.
    try:
        os.link(source.resolve(), target)
    except OSError:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def _append(root: Path, entry: Entry) -> None:
    record: dict[str, Any] = {
        "time": entry.time,
        "who": entry.who,
        "action": entry.action,
        "from": entry.before,
        "to": entry.after,
        "title": entry.title,
    }
    record |= {key: dict(getattr(entry, key)) for key in ("comparison", "digests") if getattr(entry, key)}
    path = root / HISTORY_FILE
    # What is there stays to the byte, comments included.
    text = path.read_text(encoding="utf-8") if path.exists() else _HEADING
    added = yaml.safe_dump([record], sort_keys=False, allow_unicode=True, width=120)
    write_text_atomically(path, text + ("" if text.endswith("\n") else "\n") + added)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the history of a dataset; what the system refuses becomes a sentence."""
    try:
        with FileLock(root / f".{HISTORY_FILE}.lock", timeout=_LOCK_S):
            yield
    except Timeout as error:
        raise SaveError(f"Another process is changing the models of {root}. Try again in a moment.") from error
    except OSError as error:
        raise _refused(root, error) from error


def _refused(root: Path, error: OSError) -> SaveError:
    return SaveError(
        f"The models of {root} could not be written ({error.strerror or error}). Make the dataset's folder writable, "
        "or work on a copy of it."
    )


def _entry(record: Any, path: Path) -> Entry:
    try:
        if record["action"] not in ("promote", "rollback"):
            raise _damaged(path)
        return Entry(
            str(record["time"]),
            str(record["who"]),
            record["action"],
            str(record["from"]),
            str(record["to"]),
            str(record["title"]),
            record.get("comparison") or {},
            record.get("digests") or {},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} is no history of promotions any more. Put back what was there, or move it away to begin anew."
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digest_or_none(path: Path) -> str | None:
    return _digest(path) if path.is_file() else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
