"""What a prediction was made of, as plain values: for its record, and to know the same job again."""

import hashlib
import json
from typing import Any

import torch

from napari_glacier.core.raster.archives import file_of
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.scene import Scene


def sources_digest(scene: Scene) -> str:
    """Digest of the files of a scene: their paths, sizes and times; and of how they are joined, where they are."""
    sources = sorted(
        (str(path), (stat := file_of(path).stat()).st_size, stat.st_mtime_ns)
        for place in getattr(scene, "placements", ())
        for path in place.tile.files
    )
    joined = [
        (place.tile.rule, *(part.tile.id for part in place.tile.parts))
        for place in getattr(scene, "placements", ())
        if place.tile.parts
    ]
    return hashlib.blake2b(repr(sources + joined if joined else sources).encode(), digest_size=16).hexdigest()


def members_digest(ensemble: Ensemble) -> str:
    """Digest of the members: their cards and all their weights."""
    digest = hashlib.blake2b(digest_size=16)
    for member in ensemble.members:
        digest.update(json.dumps(member.card.as_dict(), sort_keys=True).encode())
        for name, tensor in member.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
