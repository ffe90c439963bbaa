import subprocess
import sys
from pathlib import Path

import pytest
import torch

from napari_glacier.core.errors import DeviceError
from napari_glacier.nn import device as device_module
from napari_glacier.nn.device import describe_device, inference_dtype, pick_device


def test_cpu_is_always_there() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert describe_device(torch.device("cpu")) == "cpu"
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "mps:0", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(DeviceError, match="auto, cpu, cuda, cuda:N or mps"):
        pick_device(name)


def test_absent_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(DeviceError, match="no CUDA GPU"):
        pick_device("cuda:0")
    with pytest.raises(DeviceError, match="no Apple GPU"):
        pick_device("mps")


def test_present_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda:0") == pick_device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        pick_device("cuda:2")


@pytest.mark.parametrize(
    ("major", "dtype"), [(9, torch.bfloat16), (8, torch.bfloat16), (7, torch.float16), (6, torch.float32)]
)
def test_precision_on_gpus(monkeypatch: pytest.MonkeyPatch, major: int, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
    assert inference_dtype(torch.device("cuda:0")) == dtype


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [({"avx512_bf16"}, torch.bfloat16), ({"amx_bf16", "avx2"}, torch.bfloat16), ({"avx2"}, torch.float32)],
)
def test_precision_on_cpus(monkeypatch: pytest.MonkeyPatch, flags: set[str], dtype: torch.dtype) -> None:
    monkeypatch.setattr(device_module, "_cpu_flags", lambda: flags)
    assert inference_dtype(torch.device("cpu")) == dtype


def test_cpu_flags_as_the_kernel_lists_them() -> None:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            listed = set(file.read().split())
    except OSError:
        pytest.skip("no /proc/cpuinfo")
    for flag in ("avx2", "avx512_bf16"):
        assert (flag in device_module._cpu_flags()) == (flag in listed)


def test_allocator_is_tuned_without_torch() -> None:
    code = (
        "import sys; from napari_glacier.nn.device import tune_allocator; done = tune_allocator(); "
        "assert 'torch' not in sys.modules; print(done)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() in {"True", "False"}


def test_a_triton_that_cannot_be_imported_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("import there_is_no_such_package\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import napari_glacier.nn; print('fine')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "fine"
