import numpy as np
import pytest

from napari_glacier.core.classes import (
    IGNORE_INDEX,
    SCHEMES,
    coarsening_sentence,
    coarser_classes,
    get_scheme,
    infer_scheme,
)
from napari_glacier.core.errors import SchemeError


@pytest.mark.parametrize("name", ["glacier4", "glacier4-index", "glacier2"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int16"])
def test_codes_round_trip_in_every_type(name, dtype):
    scheme = get_scheme(name)
    index_HW = np.arange(64).reshape(8, 8).astype(np.uint8) % scheme.num_classes
    codes_HW = scheme.encode(index_HW)
    assert set(np.unique(codes_HW)) == set(scheme.codes)
    np.testing.assert_array_equal(scheme.decode(codes_HW.astype(dtype)), index_HW)


def test_ignored_pixels_are_written_as_background():
    codes_HW = get_scheme("glacier4").encode(np.array([[IGNORE_INDEX, 3]], np.uint8))
    assert codes_HW.tolist() == [[0, 255]]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_an_unknown_value_is_listed_with_its_count_and_file(dtype):
    codes_HW = np.array([[0, 85, 7], [7, 9, 255]], dtype)
    with pytest.raises(SchemeError, match=r"masks/a\.tif holds 7 \(2 px\), 9 \(1 px\)"):
        get_scheme("glacier4").decode(codes_HW, "masks/a.tif")


def test_an_index_outside_the_scheme_cannot_be_written():
    with pytest.raises(SchemeError, match="outside the scheme glacier2"):
        get_scheme("glacier2").encode(np.array([[2]], np.uint8))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({0, 255}, "glacier2"),
        ({0, 1}, "glacier2"),
        ({0}, "glacier2"),
        ({0, 85, 255}, "glacier4"),
        ({170}, "glacier4"),
        ({0, 1, 3}, "glacier4-index"),
    ],
)
def test_the_scheme_follows_from_all_values_together(values, name):
    assert infer_scheme(values).name == name


def test_values_of_no_scheme_are_named():
    with pytest.raises(SchemeError, match=r"\[17\] fits no scheme"):
        infer_scheme({0, 17, 255})


def test_salt_takes_any_nonzero_value():
    codes_HW = np.array([[0, 65535, 3]], np.uint16)
    assert SCHEMES["salt2"].decode(codes_HW).tolist() == [[0, 1, 1]]


def test_an_unknown_scheme_name_lists_the_known_ones():
    with pytest.raises(SchemeError, match="glacier4, glacier4-index"):
        get_scheme("glacier5")


def test_labels_of_fewer_classes_than_a_model():
    four, two, salt = (get_scheme(name).class_names for name in ("glacier4", "glacier2", "salt2"))
    assert coarser_classes(four, two) == (0, 1, 1, 0)
    assert coarser_classes(four, four) == (0, 1, 2, 3)
    assert coarser_classes(two, four) is None, "what the model does not know cannot be made of it"
    assert coarser_classes(four, salt) is None
    assert coarsening_sentence(four, four) == ""
    assert "debris counts as glacier, lake counts as background" in coarsening_sentence(four, two)
