import numpy as np
import pytest

from napari_glacier._sample_data import open_region
from napari_glacier.controllers.exchange import sample_copy, sample_folder, write_layer
from napari_glacier.controllers.inference import InferenceController
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.controllers.session import Session
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.errors import DataError, SchemeError
from napari_glacier.core.raster import read_raster


def test_the_sample_is_a_copy_of_ones_own(tmp_path):
    folder = sample_copy(tmp_path)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.tif"))
    assert len(files) > 10
    mark = folder / "mark"
    mark.touch()

    assert sample_copy(tmp_path) == folder
    assert mark.is_file(), "a copy that is there is kept with its corrections"
    fresh = sample_copy(tmp_path, fresh=True)
    assert fresh == folder
    assert not mark.exists()
    assert (tmp_path / f"{folder.name}-1" / "mark").is_file()


def test_opening_the_sample_gives_layers(tmp_path):
    layers = open_region()
    try:
        assert [arguments["name"] for _, arguments, _ in layers][-1] == "Labels"
        (session,) = Session._open.values()
        assert sample_folder() in session.root.parents
    finally:
        for session in list(Session._open.values()):
            session.close()


def test_a_stack_is_written_scene_by_scene(tmp_path, make_dataset):
    session = Session.open(make_dataset(georeferenced=False))
    try:
        metadata = session.layer_data()[-1][1]["metadata"]
        written = write_layer(tmp_path / "out.tif", session.mask, metadata)
        assert len(written) == 4
        for scene, path in zip(session.scenes, written, strict=True):
            assert scene.name in path.name
            assert np.array_equal(read_raster(path)[0], session.scheme.encode(scene.read_masks()))
    finally:
        session.close()


def test_other_peoples_labels_are_written_if_their_values_fit(tmp_path):
    (path,) = write_layer(tmp_path / "a.tif", np.array([[0, 1], [3, 2]]), {})
    assert read_raster(path)[0].tolist() == [[0, 85], [255, 170]]
    with pytest.raises(SchemeError, match="go from 0 to 3"):
        write_layer(tmp_path / "b.tif", np.array([[0, 17]]), {})
    with pytest.raises(DataError, match="4 axes"):
        write_layer(tmp_path / "c.tif", np.zeros((1, 1, 2, 2), int), {})


@pytest.mark.parametrize("scheme", ["glacier2", "glacier4"])
def test_a_prediction_is_written_with_its_own_classes(workspace, make_dataset, make_checkpoint, tmp_path, scheme):
    workspace.open(make_dataset(grid=(1, 1), scheme="glacier4"))
    controller = InferenceController(workspace)
    request = controller.request(ModelChoice("m", make_checkpoint(scheme=scheme)), "off", "cpu", "all")
    job = controller.job(request)
    try:
        while True:
            controller.take(next(job))
    except StopIteration as stop:
        controller.show(stop.value)
    layer = workspace.prediction_layer
    layer.data[:4, :4] = 1

    (path,) = write_layer(tmp_path / "out.tif", layer.data, layer.metadata)

    assert np.array_equal(read_raster(path)[0], get_scheme(scheme).encode(layer.data))
    controller.close()


def test_layers_that_show_no_classes_are_not_written_as_masks(workspace, make_landsat, tmp_path):
    workspace.open(make_landsat())
    layer = workspace.add_extra("quality")
    with pytest.raises(DataError, match=r"clouds and shadows, not classes.*napari's own writer"):
        write_layer(tmp_path / "out.tif", layer.data, layer.metadata)
    assert not (tmp_path / "out.tif").exists()
