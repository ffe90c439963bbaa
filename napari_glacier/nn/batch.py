"""Mapping all scenes of a folder: one after the other, or spread over the workers of a dask cluster.

A scene that fails is reported and does not keep the others from being mapped. Scenes that a folder holds already, made
of the same files by the same models and settings, are not mapped again; a scene that was interrupted goes on.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import Mosaic, plan_scenes
from napari_glacier.core.errors import ConfigError, DataError, GlacierError, SaveError
from napari_glacier.core.models.promotion import champion
from napari_glacier.nn.ensemble import resolve_models
from napari_glacier.nn.outputs import is_written, recorded_fingerprints, refuse_source_folder, write_predictions
from napari_glacier.nn.prediction import Progress
from napari_glacier.nn.predictor import Predictor

# A killed worker's scenes are given to others so many times.
_RETRIES = 2
_JOBS_FOLDER = ".jobs"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be mapped, with what, and where it goes; plain values, so that a cluster can carry it.

    Attributes
    ----------
    data, out : Path
    models : tuple of str
        See `resolve_models`; where empty, the model promoted for the data set, else the bundled ensemble.
    scheme : str or None
        Class scheme of the data set's masks, where they do not tell.
    mosaic : str or None
        How overlapping scenes are joined; see `open_dataset`.
    settings : tuple of (str, value)
        Keyword arguments of `Predictor`.
    probabilities, uncertainty, votes : bool
        See `write_predictions`.
    """

    data: Path
    out: Path
    models: tuple[str, ...] = ()
    scheme: str | None = None
    mosaic: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    probabilities: bool = False
    uncertainty: bool = False
    votes: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a scene.

    Attributes
    ----------
    scene : str
    written : tuple of Path
        Empty where `was_there` or where it failed.
    warnings : tuple of str
    was_there : bool
        The folder held this very map before.
    problem : str
        Why it failed; empty where it did not.
    """

    scene: str
    written: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    was_there: bool = False
    problem: str = ""


class Batch:
    """The scenes of a job, and the predictor for them.

    Parameters
    ----------
    job : Job

    Attributes
    ----------
    scenes : tuple of Mosaic
    failed : tuple of Report
        Tiles that cannot be read, which no scene has.
    warnings : tuple of str
        About the data set.

    Raises
    ------
    GlacierError
        If the data do not open, the models do not load or see nothing in any scene, or the folder may not be written
        to.
    """

    def __init__(self, job: Job) -> None:
        dataset = open_dataset(job.data, job.scheme, without_damaged=True, mosaic=job.mosaic)
        refuse_source_folder(dataset, job.out)
        self.warnings = dataset.warnings
        self.scenes: tuple[Mosaic, ...] = plan_scenes(dataset)
        self.failed = tuple(Report(tile_id, problem=reason) for tile_id, reason in dataset.damaged.items())
        self._recorded = recorded_fingerprints(job.out)
        if not job.models and (usual := champion(dataset.root)).path is not None:
            job = replace(job, models=(str(usual.path),))
            note = f"Mapped with {usual.title}, which was promoted for these data; --model bundled asks for the other."
            self.warnings = (*self.warnings, note)
        self.job = job
        self._predictor = Predictor(resolve_models(list(job.models) or None), **dict(job.settings))
        self._check_bands()

    def _check_bands(self) -> None:
        """Raise what is wrong with all scenes alike, instead of telling it of a thousand tiles one by one."""
        problems = []
        for scene in self.scenes:
            try:
                self._predictor.check_bands(scene)
            except DataError as error:
                problems.append(error)
        if problems and len(problems) == len(self.scenes):
            raise problems[0]

    def map(self, scene: Mosaic) -> Generator[Progress, None, Report]:
        """Map a scene and write it; yields on the way. Close it to stop: the next call goes on from there.

        Raises
        ------
        GlacierError
            If the scene cannot be read, mapped or written.
        """
        job = self.job
        measures = {"probabilities": job.probabilities, "uncertainty": job.uncertainty, "votes": job.votes}
        fingerprint = self._predictor.fingerprint(scene)
        same = self._recorded.get(scene.name) == fingerprint
        if same and is_written(scene, job.out, fingerprint, self._predictor.ensemble.scheme, **measures):
            return Report(scene.name, was_there=True)
        folder = _job_folder(job.out, scene.name)
        with _alone(folder):
            run = self._predictor.run(scene, folder, votes=job.votes)
            try:
                prediction = yield from run
            finally:
                run.close()
            written = write_predictions(prediction, scene, job.out, **measures)
            warnings = (*prediction.provenance["warnings"], *prediction.provenance["engine_notes"])
            # Its measures lie in the folder.
            del prediction
            shutil.rmtree(folder, ignore_errors=True)
        _tidy(folder)
        return Report(scene.name, tuple(written), warnings)


def _job_folder(out: Path, scene_name: str) -> Path:
    # Names of scenes may hold what names of files may not; what is put in its place must not make two alike.
    digest = hashlib.blake2b(scene_name.encode(), digest_size=4).hexdigest()
    return out / _JOBS_FOLDER / f"{re.sub(r'[^0-9A-Za-z_.-]', '_', scene_name)}-{digest}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only one that writes into a job's folder; the system lets go of it when a process dies."""
    lock = FileLock(_lock_path(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SaveError(
            f"Another process is writing this scene to {folder.parent.parent}. Wait for it, or choose another folder "
            "(--out)."
        ) from error
    except OSError as error:
        raise SaveError(
            f"{folder.parent} could not be written ({error.strerror or error}). "
            "Choose a folder you may write to (--out)."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _tidy(folder: Path) -> None:
    """Delete what is left of a job that is done, and the folder of all jobs where it was the last one."""
    _lock_path(folder).unlink(missing_ok=True)
    with suppress(OSError):  # others are at work there
        folder.parent.rmdir()


class ClusterBatch:
    """The scenes of a job, mapped by the workers of a dask cluster.

    Parameters
    ----------
    job : Job
        Its paths must mean the same on all workers.
    scheduler : str
        ``local`` (as many workers as there are cores), ``local:N``, or the address of a running scheduler, such as
        ``tcp://host:8786``, whose workers have this package.

    Attributes
    ----------
    num_scenes : int
    failed : tuple of Report
        As of `Batch`.
    progress_page : str
        Address at which a browser shows what the workers do.

    Raises
    ------
    ConfigError
        If dask is not installed or the scheduler does not answer.
    GlacierError
        As `Batch`.
    """

    def __init__(self, job: Job, scheduler: str) -> None:
        # It tells of every connection otherwise; the workers, processes of their own, read it, too.
        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")
        try:
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise ConfigError(
                "--scheduler needs dask.distributed, which is not installed. "
                'Install it with: pip install "napari-glacier[cluster]".'
            ) from error
        batch = Batch(job)
        # With the models settled: a promotion meanwhile must not divide the scenes.
        self._job, self._names = batch.job, [scene.name for scene in batch.scenes]
        self.num_scenes, self.failed, self.warnings = len(batch.scenes), batch.failed, batch.warnings
        local = re.fullmatch(r"local(?::([1-9]\d*))?", scheduler)
        if local is None and "://" not in scheduler:
            raise ConfigError(
                f"--scheduler {scheduler} is neither local, local:N nor an address such as tcp://host:8786."
            )
        self._cluster: Any = _local_cluster(LocalCluster, int(local[1] or _cores())) if local else None
        try:
            self._client: Any = Client(self._cluster or scheduler, timeout="30s")  # type: ignore[no-untyped-call]
        except OSError as error:
            raise ConfigError(
                f"No dask scheduler answers at {scheduler} ({error}). Start one with `dask scheduler`, or use local."
            ) from error
        self.progress_page: str = self._client.dashboard_link

    def run(self) -> Iterator[Report]:
        """Map all scenes; yields what became of each in the order of their ends, and lets go of the cluster."""
        from distributed import as_completed

        try:
            futures = {
                self._client.submit(_map_number, self._job, number, retries=_RETRIES, pure=False): name
                for number, name in enumerate(self._names)
            }
            for future in as_completed(futures):  # type: ignore[no-untyped-call]
                error = future.exception()
                problem = "" if error is None else f"{type(error).__name__}: {error}"
                yield Report(futures[future], problem=problem) if problem else future.result()
        finally:
            self._client.close()
            if self._cluster is not None:
                self._cluster.close()


def _local_cluster(make: Any, num_workers: int) -> Any:
    import dask

    threads = max(_cores() // num_workers, 1)
    # A worker's networks would else each take all cores.
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        return make(n_workers=num_workers, threads_per_worker=1, processes=True, dashboard_address=":0")


def _map_number(job: Job, number: int) -> Report:
    """Map one scene, in a worker; bad input is no reason to try again."""
    try:
        batch = _opened(job)
        scene = batch.scenes[number]
    except GlacierError as error:
        return Report(f"scene {number}", problem=str(error))
    try:
        run = batch.map(scene)
        while True:
            try:
                next(run)
            except StopIteration as end:
                report: Report = end.value
                return report
    except GlacierError as error:
        return Report(scene.name, problem=str(error))


@lru_cache(maxsize=2)
def _opened(job: Job) -> Batch:
    return Batch(job)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
