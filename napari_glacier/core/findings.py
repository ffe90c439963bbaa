"""What the doctor finds: findings with their severity and mend, and all of them with what a data set holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from napari_glacier.core.data.statistics import PooledStatistics
from napari_glacier.core.errors import DataError, GlacierError

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the doctor noticed.

    Attributes
    ----------
    severity : {"info", "warning", "error"}
    tile : str or None
        None: the whole data set.
    message : str
        What is the matter.
    mend : str
        What to do; empty where nothing need be done, or the message says it.
    """

    severity: Severity
    tile: str | None
    message: str
    mend: str = ""

    @property
    def text(self) -> str:
        """What is the matter, and what to do."""
        return f"{self.message} {self.mend}".rstrip()

    @classmethod
    def of(cls, error: GlacierError, tile: str | None = None) -> "Finding":
        """An error as a finding: the last sentence of its message is the mend (see `errors`)."""
        message, point, mend = str(error).rpartition(". ")
        return cls("error", tile, f"{message}{point}".strip(), mend) if point else cls("error", tile, mend)


def damaged_findings(damaged: Mapping[str, str]) -> list[Finding]:
    """An error for each tile that was left out, given why: its files cannot be read or do not fit together."""
    return [Finding.of(DataError(reason), tile_id) for tile_id, reason in damaged.items()]


@dataclass(frozen=True, slots=True)
class Examined:
    """How far the doctor is: tiles read, and all there are; what it last found."""

    done: int
    total: int
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings on a data set, with what it holds.

    `summary` has plain values: tiles, splits, bands, scheme, class mix over valid pixels, shares of nodata and of
    saturated pixels. `statistics` are those of each band over valid pixels, to be compared with a model's.
    """

    path: Path
    findings: tuple[Finding, ...]
    summary: dict[str, Any]
    statistics: Mapping[str, PooledStatistics] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 clean, 1 warnings, 2 errors."""
        severities = {finding.severity for finding in self.findings}
        return 2 if "error" in severities else 1 if "warning" in severities else 0

    def with_findings(self, findings: tuple[Finding, ...]) -> "Diagnosis":
        """The same with more findings."""
        return replace(self, findings=(*self.findings, *findings))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "exit_code": self.exit_code,
            "summary": self.summary,
            "findings": [asdict(finding) for finding in self.findings],
        }
