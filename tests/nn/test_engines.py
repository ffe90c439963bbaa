"""Every engine against the network itself, run plainly in float32."""

import builtins
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn import openvino_cache, openvino_engine, openvino_int8
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.engines import TorchEngine, make_engine
from napari_glacier.nn.openvino_engine import OpenVinoEngine
from napari_glacier.nn.openvino_runtime import Graph, import_openvino
from napari_glacier.nn.zoo import build_model

CPU = torch.device("cpu")
SMALL = {
    "unet": {"encoder": "tu-mobilenetv3_small_050", "encoder_weights": None},
    "ba_unet": {"encoder": "tu-mobilenetv3_small_050", "encoder_weights": None},
    "deeplab_cbam": {"encoder": "resnet18", "encoder_weights": None},
    "glavitu": {"width": 8, "depth": 2},
}

needs_openvino = pytest.mark.skipif(import_openvino() is None, reason="extra openvino")


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by a name for each network that is traced."""
    done: list[str] = []
    convert = openvino_engine.convert

    def counting(member: LoadedModel, window: tuple[int, int]) -> Graph:
        done.append(member.card.name)
        return convert(member, window)

    monkeypatch.setattr(openvino_engine, "convert", counting)
    return done


@pytest.fixture
def zoo_member(make_member: Callable[..., LoadedModel]) -> Callable[[str], LoadedModel]:
    """Maker of a small network of the zoo whose batch norms know what they see, as a trained one's do."""

    def make(name: str) -> LoadedModel:
        torch.manual_seed(0)
        network = build_model(name, channels=CANONICAL_BANDS, num_classes=4, **SMALL[name])
        with torch.no_grad():
            for _ in range(10):
                network.train()(torch.randn(4, 5, 64, 64))
        return make_member(network=network.eval(), name=name, architecture=name)

    return make


def _windows(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _direct(member: LoadedModel, batch_NCHW: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.softmax(member.model(batch_NCHW), dim=1)


def _assert_close(engine: Any, member: LoadedModel, batch_NCHW: torch.Tensor) -> None:
    found_NKHW = engine.probabilities(batch_NCHW)
    assert found_NKHW.dtype == torch.float32
    torch.testing.assert_close(found_NKHW, _direct(member, batch_NCHW), rtol=0, atol=1e-3)


@needs_openvino
@pytest.mark.parametrize("name", SMALL)
def test_openvino_equals_torch_on_batches_of_any_size(name: str, zoo_member, tmp_path: Path) -> None:
    member = zoo_member(name)
    engine, note = make_engine(member, CPU, torch.float32, window_px=96, cache_dir=tmp_path)
    assert engine.name == "OpenVINO f32"
    assert (note is None) == (hasattr(member.model, "stride"))
    for shape in ((1, 5, 96, 96), (5, 5, 96, 96), (2, 5, 96, 41), (1, 5, 41, 96)):
        _assert_close(engine, member, _windows(*shape))


@needs_openvino
def test_usual_window_that_is_no_multiple_of_the_stride(zoo_member, tmp_path: Path) -> None:
    member = zoo_member("unet")
    engine, note = make_engine(member, CPU, torch.float32, window_px=(75, 101), cache_dir=tmp_path)
    assert isinstance(engine, OpenVinoEngine)
    assert note is None
    for shape in ((3, 5, 75, 101), (2, 5, 101, 75)):
        _assert_close(engine, member, _windows(*shape))


@needs_openvino
def test_more_shapes_than_are_kept(make_member, tmp_path: Path) -> None:
    member = make_member()
    engine, _ = make_engine(member, CPU, torch.float32, window_px=32, cache_dir=tmp_path)
    for _ in range(2):
        for side in (32, 33, 34, 35, 36, 37):
            _assert_close(engine, member, _windows(2, 5, side, 32))
    assert len(engine._compiled) == 4


@needs_openvino
def test_views_that_are_not_contiguous(make_member, tmp_path: Path) -> None:
    member = make_member()
    engine, _ = make_engine(member, CPU, torch.float32, window_px=32, cache_dir=tmp_path)
    _assert_close(engine, member, _windows(2, 5, 32, 32).transpose(2, 3).flip(3))


@needs_openvino
def test_bfloat16_where_the_cpu_has_it(make_member, monkeypatch, tmp_path: Path) -> None:
    from napari_glacier.nn import engines

    member, batch_NCHW = make_member(), _windows(2, 5, 48, 48)
    has_it = engines._has_bfloat16()
    engine, note = make_engine(member, CPU, torch.bfloat16, window_px=48, cache_dir=tmp_path)
    assert (engine.name, note) == ("OpenVINO bf16" if has_it else "OpenVINO f32", None)
    difference = (engine.probabilities(batch_NCHW) - _direct(member, batch_NCHW)).abs()
    assert difference.mean() < 0.01
    torch.testing.assert_close(engine.probabilities(batch_NCHW).sum(1), torch.ones(2, 48, 48))
    monkeypatch.setattr(engines, "_has_bfloat16", lambda: False)
    assert make_engine(member, CPU, torch.bfloat16, window_px=48, cache_dir=tmp_path)[0].name == "OpenVINO f32"


@needs_openvino
def test_kept_graph_is_not_converted_again(make_member, conversions: list[str], tmp_path: Path) -> None:
    member = make_member(seed=1)
    make_engine(member, CPU, torch.float32, window_px=48, cache_dir=tmp_path)
    assert len(conversions) == 1
    # Another window and another object with the same weights are the same graph.
    for window_px in (48, 64):
        again, _ = make_engine(make_member(seed=1), CPU, torch.float32, window_px=window_px, cache_dir=tmp_path)
        _assert_close(again, member, _windows(2, 5, 48, 48))
    assert len(conversions) == 1
    other = make_member(seed=2)
    engine, _ = make_engine(other, CPU, torch.float32, window_px=48, cache_dir=tmp_path)
    assert len(conversions) == 2
    _assert_close(engine, other, _windows(2, 5, 48, 48))
    assert [path.suffix for path in tmp_path.iterdir()] == [".zip", ".zip"]  # and nothing left behind


@needs_openvino
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_damaged_kept_graph_is_made_again(damage: str, make_member, conversions: list[str], tmp_path: Path) -> None:
    member = make_member()
    make_engine(member, CPU, torch.float32, window_px=48, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    at = whole.index(b"model.bin") + 200
    path.write_bytes(
        {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "flipped": whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :],
            "foreign": b"something else" * 100,
        }[damage]
    )
    for count in (2, 2):
        engine, note = make_engine(member, CPU, torch.float32, window_px=48, cache_dir=tmp_path)
        assert (engine.name, note, len(conversions)) == ("OpenVINO f32", None, count)
        _assert_close(engine, member, _windows(1, 5, 48, 48))


@needs_openvino
def test_cache_folder_that_cannot_be_made(make_member, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    member = make_member()
    engine, note = make_engine(member, CPU, torch.float32, window_px=48, cache_dir=tmp_path / "file" / "cache")
    assert (engine.name, note) == ("OpenVINO f32", None)
    _assert_close(engine, member, _windows(1, 5, 48, 48))


@needs_openvino
def test_cache_forgets_what_was_not_used_for_long(make_member, monkeypatch, tmp_path: Path) -> None:
    for seed in range(3):
        make_engine(make_member(seed=seed), CPU, torch.float32, window_px=32, cache_dir=tmp_path)
        if seed == 0:
            size = next(tmp_path.iterdir()).stat().st_size
            monkeypatch.setattr(openvino_cache, "_LIMIT_BYTES", int(2.5 * size))
    assert len(list(tmp_path.iterdir())) == 2


class Untraceable(nn.Module):
    """Refuses to be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(5, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing():
            raise LookupError("only while it is traced")
        return self.layer(x)


class Deceptive(nn.Module):
    """Traces without complaint into something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(5, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * (1.5 if torch.jit.is_tracing() else 1.0)


class Exhausted(nn.Module):
    """Memory runs out while it is traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")


@needs_openvino
@pytest.mark.parametrize(
    ("network", "text"), [(Untraceable, "cannot convert it"), (Deceptive, "differs from torch by up to")]
)
def test_what_cannot_be_a_graph_runs_in_torch(network: type[nn.Module], text: str, make_member, tmp_path: Path) -> None:
    member = make_member(network=network(), name="odd")
    engine, note = make_engine(member, CPU, torch.float32, window_px=48, cache_dir=tmp_path)
    assert engine.name == "torch float32 channels-last"
    assert note is not None
    assert note.startswith("odd: ")
    assert text in note
    assert list(tmp_path.iterdir()) == []
    _assert_close(engine, member, _windows(2, 5, 48, 48))


@needs_openvino
def test_one_wrong_row_is_noticed(make_member, monkeypatch, tmp_path: Path) -> None:
    run = openvino_engine.run_graph

    def wrong(compiled: Any, images_NCHW: np.ndarray) -> np.ndarray:
        values = run(compiled, images_NCHW)
        values[..., -1, :] = 0.25
        return values

    monkeypatch.setattr(openvino_engine, "run_graph", wrong)
    engine, note = make_engine(make_member(), CPU, torch.float32, window_px=512, cache_dir=tmp_path)
    assert isinstance(engine, TorchEngine)
    assert "differs from torch" in str(note)


@needs_openvino
def test_bad_bfloat16_is_noticed(make_member, monkeypatch, tmp_path: Path) -> None:
    from napari_glacier.nn import engines

    found = openvino_engine._probabilities
    monkeypatch.setattr(engines, "_has_bfloat16", lambda: True)
    monkeypatch.setattr(
        openvino_engine,
        "_probabilities",
        lambda network, graph, image, precision: (
            found(network, graph, image, "f32").roll(1, 1)
            if precision == "bf16"
            else found(network, graph, image, "f32")
        ),
    )
    engine, note = make_engine(make_member(), CPU, torch.bfloat16, window_px=48, cache_dir=tmp_path)
    assert engine.name == "torch bfloat16 channels-last"
    assert "mean error in bfloat16" in str(note)


@needs_openvino
def test_running_out_of_memory_is_left_to_the_caller(make_member, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(MemoryError):
        make_engine(make_member(network=Exhausted()), CPU, torch.float32, window_px=48, cache_dir=tmp_path)
    engine, _ = make_engine(make_member(), CPU, torch.float32, window_px=48, cache_dir=tmp_path)

    def exhausted(*_: object) -> None:
        raise RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:224:\nstd::bad_alloc")

    monkeypatch.setattr(openvino_engine, "run_graph", exhausted)
    with pytest.raises(MemoryError, match="ran out of memory"):
        engine.probabilities(_windows(1, 5, 48, 48))


@needs_openvino
def test_graph_for_one_shape_leaves_the_others_to_torch(make_member, tmp_path: Path) -> None:
    class OneShape(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(5, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = torch.linspace(0, 1, int(x.shape[-2]))  # a constant in the trace
            return self.layer(x) + rows[:, None]

    torch.manual_seed(0)
    member = make_member(network=OneShape())
    for _ in range(2):  # converted, then from the cache
        engine, note = make_engine(member, CPU, torch.float32, window_px=48, cache_dir=tmp_path)
        assert "48 x 48 px only" in str(note)
        for shape in ((2, 5, 48, 48), (1, 5, 40, 48)):
            _assert_close(engine, member, _windows(*shape))


def _hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    original = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in packages:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)


def test_absent_package_is_noted_where_it_was_asked_for(make_member, monkeypatch) -> None:
    _hide(monkeypatch, "openvino")
    member = make_member()
    engine, note = make_engine(member, CPU, torch.float32, window_px=48, kind="openvino")
    assert engine.name == "torch float32 channels-last"
    assert "pip install 'napari-glacier[openvino]'" in str(note)
    _assert_close(engine, member, _windows(2, 5, 48, 48))
    assert make_engine(member, CPU, torch.float32, window_px=48)[1] is None


@needs_openvino
def test_integers_are_used_where_enough_labels_stay(zoo_member, monkeypatch, tmp_path) -> None:
    pytest.importorskip("nncf", reason="extra int8")
    member, samples = zoo_member("unet"), [_windows(1, 5, 64, 64) for _ in range(4)]
    made = {"window_px": 64, "kind": "openvino-int8", "samples": samples, "cache_dir": tmp_path}
    monkeypatch.setattr(openvino_int8, "LEAST_AGREEMENT", 0.0)
    engine, note = make_engine(member, CPU, torch.float32, **made)
    assert engine.name == "OpenVINO int8 + f32"
    with torch.no_grad():
        exact, ours = ([run(s).argmax(1) for s in samples[1::2]] for run in (member.model, engine.probabilities))
    agreement = torch.cat([a == b for a, b in zip(exact, ours, strict=True)]).float().mean().item()
    assert agreement < 1, "nothing was rounded"
    assert float(re.search(r"keep ([\d.]+)%", str(note)).group(1)) == pytest.approx(100 * agreement, abs=0.2)
    # Where too few stay, and where there is nothing to adjust them by, the graph computes as it is, and says so.
    monkeypatch.setattr(openvino_int8, "LEAST_AGREEMENT", 1.0)
    for windows, said in ((samples, "fewer than 100%"), (samples[:1], "too few windows")):
        engine, note = make_engine(member, CPU, torch.float32, **(made | {"samples": windows}))
        assert engine.name == "OpenVINO f32"
        assert said in str(note)
        _assert_close(engine, member, _windows(2, 5, 64, 64))
    _hide(monkeypatch, "nncf")
    assert "pip install 'napari-glacier[int8]'" in str(make_engine(member, CPU, torch.float32, **made)[1])


def test_torch_engine(make_member, zoo_member) -> None:
    member = zoo_member("unet")
    member.model.train()
    engine, note = make_engine(member, CPU, torch.float32, window_px=48, kind="torch")
    assert (engine.name, note) == ("torch float32 channels-last", None)
    _assert_close(engine, member, _windows(2, 5, 50, 70))
    half, _ = make_engine(member, CPU, torch.bfloat16, window_px=48, kind="torch")
    assert half.name == "torch bfloat16 channels-last"
    found_NKHW = half.probabilities(_windows(2, 5, 48, 48))
    assert found_NKHW.dtype == torch.float32
    torch.testing.assert_close(found_NKHW.sum(1), torch.ones(2, 48, 48))
    assert torch.is_inference_mode_enabled() is False


def test_network_that_cannot_be_compiled_runs_as_it_is(make_member, monkeypatch) -> None:
    def failing(network: nn.Module) -> Callable[..., torch.Tensor]:
        def run(*_: object) -> torch.Tensor:
            raise FileNotFoundError("no C++ compiler")

        return run

    monkeypatch.setattr(torch, "compile", failing)
    member = make_member()
    engine, note = make_engine(member, CPU, torch.float32, window_px=48, kind="torch", compile=True)
    assert engine.name == "torch float32 channels-last"
    assert "no C++ compiler" in str(note)
    _assert_close(engine, member, _windows(2, 5, 48, 48))


def test_compiled_network_is_named(make_member, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: network.forward)
    member = make_member()
    engine, note = make_engine(member, CPU, torch.float32, window_px=48, kind="torch", compile=True)
    assert (engine.name, note) == ("torch float32 channels-last, compiled", None)
    _assert_close(engine, member, _windows(2, 5, 48, 48))


def test_wrong_requests(make_member, monkeypatch) -> None:
    member = make_member()
    with pytest.raises(ConfigError, match="no engine 'onnx'"):
        make_engine(member, CPU, torch.float32, window_px=48, kind="onnx")  # type: ignore[arg-type]


@needs_openvino
def test_nothing_is_reported_to_the_makers_of_openvino(tmp_path: Path) -> None:
    """The library sends usage statistics by default; the sender leaves traces in the home folder."""
    script = """
import os, torch
from torch import nn
from napari_glacier.nn.engines import make_engine
from napari_glacier.nn.checkpoint import LoadedModel, ModelCard
from napari_glacier.core.channels import Normalisation
card = ModelCard("x", "unet", {}, ("B2", "B3"), Normalisation((0.0,) * 2, (1.0,) * 2), "glacier4")
member = LoadedModel(nn.Conv2d(2, 4, 3, padding=1), card)
engine, _ = make_engine(member, torch.device("cpu"), torch.float32, window_px=32)
assert engine.name.startswith("OpenVINO")
"""
    silencing = {"CI", "TF_BUILD", "JENKINS_URL"}
    kept = {name: value for name, value in os.environ.items() if name not in silencing}
    environment = kept | {"HOME": str(tmp_path), "NAPARI_GLACIER_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists()
    assert done.stdout == ""
