"""Converted networks kept on disk, so that a model is converted once on a machine."""

import hashlib
import json
import logging
import tempfile
import zipfile
import zlib
from pathlib import Path

import torch

from napari_glacier.core.correction.journal_place import user_data_dir
from napari_glacier.core.files import replacing
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.openvino_runtime import Graph, core, import_openvino

logger = logging.getLogger(__name__)

_FORMAT = "1"  # of the files, and of what a graph is checked for before it gets there
_LIMIT_BYTES = 2 << 30


def usual_cache_dir() -> Path:
    """Folder in which converted networks are kept; deleting it costs seconds, no results."""
    return user_data_dir() / "cache" / "openvino"


def short_reason(error: BaseException) -> str:
    """An error in one line, for a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:200]}" if lines else type(error).__name__


def key_of(member: LoadedModel, precision: str) -> str:
    """Digest of everything that a checked graph depends on."""
    card, openvino = member.card, import_openvino()
    digest = hashlib.sha256()
    facts = [_FORMAT, card.architecture, dict(card.arguments), len(card.channels), precision]
    facts += [openvino.get_version(), torch.__version__, core().get_property("CPU", "FULL_DEVICE_NAME")]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, value in member.model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _path(folder: Path, key: str, shape: tuple[int, int], reshapes: bool) -> Path:
    return folder / (f"{key}.zip" if reshapes else f"{key}-{shape[0]}x{shape[1]}.zip")


def read_graph(folder: Path, key: str, shape: tuple[int, int]) -> Graph | None:
    """A kept graph that is right for windows of this shape; None where there is none."""
    return _read(_path(folder, key, shape, reshapes=True)) or _read(_path(folder, key, shape, reshapes=False))


def _read(path: Path) -> Graph | None:
    """A kept graph; None where there is none or the file is damaged (a zip has a checksum for each part)."""
    try:
        with zipfile.ZipFile(path) as file:
            about = json.loads(file.read("about.json"))
            model = core().read_model(file.read("model.xml"), file.read("model.bin"))
            height, width = about["shape"]
        path.touch()  # the cache forgets what was not used for long
        return Graph(model, int(about["channels"]), (int(height), int(width)), bool(about["reshapes"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        logger.info("The converted network %s cannot be read (%s) and is made again.", path, short_reason(error))
        return None


def keep_graph(folder: Path, key: str, graph: Graph) -> None:
    """Keep a graph for the next time; where that fails, it is converted again then."""
    path = _path(folder, key, graph.shape, graph.reshapes)
    openvino = import_openvino()
    about = {"channels": graph.num_channels, "shape": graph.shape, "reshapes": graph.reshapes}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            openvino.serialize(graph.model, str(Path(name) / "model.xml"), str(Path(name) / "model.bin"))
            with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
                file.writestr("about.json", json.dumps(about))
                for part in ("model.xml", "model.bin"):
                    file.write(Path(name) / part, part)
        _forget_oldest(path.parent)
    except (OSError, RuntimeError) as error:
        logger.info("The converted network cannot be kept as %s (%s).", path, short_reason(error))


def _forget_oldest(folder: Path) -> None:
    files = sorted(((file.stat().st_mtime, file) for file in folder.glob("*.zip")), reverse=True)
    total = 0
    for _, file in files:
        total += file.stat().st_size
        if total > _LIMIT_BYTES:
            file.unlink(missing_ok=True)
