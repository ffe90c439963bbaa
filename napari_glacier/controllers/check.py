"""The doctor in the window: findings with the gravest first, and how many there are of each kind. No Qt."""

from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

from napari_glacier.core.doctor import examine_by_tile
from napari_glacier.core.findings import Diagnosis, Examined, Finding, Severity
from napari_glacier.core.wording import counted

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
SEVERITY_TITLES: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}


def check(root: Path, scheme: str | None, models: Sequence[Path | None] = ()) -> Generator[Examined, None, Diagnosis]:
    """What `napari-glacier doctor` does, one tile a step; to be closed between steps to cancel.

    Parameters
    ----------
    root : Path
    scheme : str or None
        Class scheme of the masks, where a person has chosen it.
    models : sequence of Path or None
        Models that the values are compared with; None is the bundled ensemble.

    Raises
    ------
    GlacierError
        If a model cannot be read.
    """
    diagnosis = yield from examine_by_tile(root, scheme)
    if models and diagnosis.statistics:
        from napari_glacier.nn.drift import scale_findings
        from napari_glacier.nn.ensemble import resolve_models

        named = [str(path) for path in models if path is not None]
        cards = [member.card for member in resolve_models(named or None).members]
        diagnosis = diagnosis.with_findings(scale_findings(diagnosis, cards))
    return diagnosis


def by_gravity(findings: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; in each those of the whole dataset first."""
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), one.tile is not None))


def counts(findings: Sequence[Finding]) -> dict[Severity, int]:
    """How many findings there are of each severity, none included."""
    found = Counter(one.severity for one in findings)
    return {severity: found[severity] for severity in SEVERITIES}


def verdict(findings: Sequence[Finding], num_tiles: int) -> str:
    """The outcome in a sentence."""
    found = counts(findings)
    told = [counted(number, SEVERITY_TITLES[severity]) for severity, number in found.items() if number]
    tiles = counted(num_tiles, "tile")
    if not num_tiles and told:
        return f"The data set does not open: {', '.join(told)}."
    return f"{tiles} read: {', '.join(told) if told else 'nothing to mend'}."
