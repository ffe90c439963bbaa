"""What a prediction was made of, as plain values: for its record, and to know the same job again."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from napari_glacier.core.data.predictions import records_of
from napari_glacier.core.errors import RasterError
from napari_glacier.core.raster.archives import file_of
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.scene import Scene


def sources_digest(scene: Scene) -> str:
    """Digest of the files of a scene: their paths, sizes and times; and of how they are joined, where they are.

    Raises
    ------
    RasterError
        If a file is gone or may not be looked at.
    """
    sources = sorted(
        (str(path), (stat := _stat(path)).st_size, stat.st_mtime_ns)
        for place in getattr(scene, "placements", ())
        for path in place.tile.files
    )
    joined = [
        (place.tile.rule, *(part.tile.id for part in place.tile.parts))
        for place in getattr(scene, "placements", ())
        if place.tile.parts
    ]
    return hashlib.blake2b(repr(sources + joined if joined else sources).encode(), digest_size=16).hexdigest()


def _stat(path: Path) -> os.stat_result:
    try:
        return file_of(path).stat()
    except OSError as error:
        raise RasterError(
            f"{path} cannot be read ({error.strerror or error}). Put the file back, or open the data again to go on "
            "without it."
        ) from error


def members_digest(ensemble: Ensemble) -> str:
    """Digest of the members: their cards and all their weights."""
    digest = hashlib.blake2b(digest_size=16)
    for member in ensemble.members:
        digest.update(json.dumps(member.card.as_dict(), sort_keys=True).encode())
        for name, tensor in member.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def model_digest(ensemble: Ensemble, members: str) -> str:
    """Digest of a model, whatever it is called: of its members (`members_digest`), and how they are put together."""
    together = [members, ensemble.weights, ensemble.average, ensemble.thresholds]
    return hashlib.blake2b(json.dumps(together, sort_keys=True).encode(), digest_size=16).hexdigest()


def is_of_another(folder: Path, ensemble: Ensemble, digest: str) -> bool:
    """Whether a folder holds a scene that another model predicted.

    Parameters
    ----------
    folder : Path
        That predictions were written to; it need not exist.
    ensemble : Ensemble
    digest : str
        Its `model_digest`, which records may carry as ``model_digest``. Without it their members are compared.

    Raises
    ------
    OSError
        If the folder's record is there and cannot be read.
    """
    members = json.loads(json.dumps(member_records(ensemble)))
    for made in records_of(folder).values():
        if "model_digest" in made:
            same = made["model_digest"] == digest
        else:
            there = made.get("members") or []
            same = [{key: member.get(key) for key in members[0]} for member in there] == members
        if not same:
            return True
    return False


def member_records(ensemble: Ensemble) -> list[dict[str, Any]]:
    """What is to be known of each member: where it comes from, what it looks at, what it was trained on."""
    return [
        {
            "name": member.card.name,
            "path": str(member.path) if member.path else None,
            "architecture": member.card.architecture,
            "channels": list(member.card.channels),
            "weight": weight,
            "training_data": member.card.training_data,
            "training_data_fingerprint": member.card.training_data_fingerprint,
            "synthetic": member.card.synthetic,
        }
        for member, weight in zip(ensemble.members, ensemble.weights, strict=True)
    ]
