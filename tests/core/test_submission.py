"""Run-length encodings and the table of them, against the table of the real data and a loop over pixels."""

import csv
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from napari_glacier.cli import main
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.errors import RleError
from napari_glacier.core.raster import read_info, read_mask_codes, write_mask, write_raster
from napari_glacier.core.rle import decode_rle, encode_rle
from napari_glacier.core.submission import check_submission


def _runs_by_loop(mask_HW):
    runs, before = [], False
    for position, pixel in enumerate(
        (mask_HW[row, col] for col in range(mask_HW.shape[1]) for row in range(mask_HW.shape[0])), start=1
    ):
        if pixel and not before:
            runs.append([position, 0])
        if pixel:
            runs[-1][1] += 1
        before = bool(pixel)
    return " ".join(f"{start} {length}" for start, length in runs)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_any_mask_is_encoded_column_by_column_and_comes_back(mask_HW):
    text = encode_rle(mask_HW)
    assert text == _runs_by_loop(mask_HW)
    np.testing.assert_array_equal(decode_rle(text, *mask_HW.shape), mask_HW)


@pytest.mark.parametrize(
    "text",
    ["1", "1 2 3", "0 4", "1 0", "-1 3", "5 2 1 2", "1 4 3 2", "99 4", "1 101", "1.0 2", "a b", "1 " + "9" * 5000],
)
def test_what_is_no_encoding_is_refused(text):
    with pytest.raises(RleError):
        decode_rle(text, 10, 10)


def test_every_real_encoding_decodes_to_its_mask_and_encodes_to_the_same_text(real_data):
    folder = real_data / "tgs_salt"
    if not folder.is_dir():
        pytest.skip(f"the salt data are not at {folder}")
    with (folder / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    for row in rows:
        mask_HW = decode_rle(row["rle_mask"], 101, 101)
        np.testing.assert_array_equal(
            mask_HW, np.asarray(Image.open(folder / "train" / "masks" / f"{row['id']}.png")) > 0
        )
        assert encode_rle(mask_HW) == row["rle_mask"]


def test_the_real_masks_give_the_real_table(real_data, tmp_path, capsys):
    folder = real_data / "tgs_salt"
    if not folder.is_dir():
        pytest.skip(f"the salt data are not at {folder}")
    out = tmp_path / "submission.csv"
    assert main(["submit", "--data", str(folder), "--out", str(out)]) == 0
    with (folder / "train.csv").open(newline="") as theirs, out.open(newline="") as ours:
        assert sorted(csv.reader(theirs)) == sorted(csv.reader(ours))
    assert "60 masks" in capsys.readouterr().out
    assert main(["submit", "--validate", str(out), "--data", str(folder / "train")]) == 0


@pytest.fixture
def masks(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    rng = np.random.default_rng(0)
    drawn = {name: rng.random((101, 101)) > 0.7 for name in ("b", "a")} | {"empty": np.zeros((101, 101), bool)}
    for name, mask_HW in drawn.items():
        Image.fromarray(mask_HW.astype("u1") * 255).save(folder / f"{name}.png")
    return folder, drawn


def test_a_table_is_written_and_the_one_before_it_is_kept(masks, tmp_path, capsys):
    folder, drawn = masks
    out = tmp_path / "out" / "s.csv"
    assert main(["submit", "--data", str(folder), "--out", str(out)]) == 0
    first = out.read_bytes()
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["id"] for row in rows] == ["a", "b", "empty"]
    for row in rows:
        np.testing.assert_array_equal(decode_rle(row["rle_mask"], 101, 101), drawn[row["id"]])
    assert "3 masks, 1 of them empty" in capsys.readouterr().out
    # Masks of twice the size are reduced back; a table is never lost, however often one is written.
    for name, mask_HW in drawn.items():
        Image.fromarray(np.kron(mask_HW, np.ones((2, 2))).astype("u1")).save(folder / f"{name}.png")
    for _ in range(2):
        assert main(["submit", "--data", str(folder), "--out", str(out)]) == 0
    assert [path.read_bytes() for path in out.parent.iterdir()] == [first] * 3
    assert "3 reduced to 101 px" in capsys.readouterr().out


def test_masks_that_cannot_be_reduced_are_named(masks, tmp_path, capsys):
    folder, _ = masks
    Image.fromarray(np.zeros((101, 90), "u1")).save(folder / "c.png")
    assert main(["submit", "--data", str(folder), "--out", str(tmp_path / "s.csv")]) == 2
    assert "c.png is 101 x 90" in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()
    assert main(["submit"]) == 2


def test_masks_of_glaciers_are_not_counted_as_salt(make_dataset, masks, tmp_path, capsys):
    root, table = make_dataset(scheme="glacier2"), tmp_path / "s.csv"
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in (root / "label").glob("*.tif"):
        # As other programs write them: no names of classes, but a place.
        write_raster(bare / path.name, read_mask_codes(path), read_info(path).georef)
    for folder, said in (
        (root, "data set of satellite images, with the bands B2, B3, B4, B6, B10"),
        (root / "label", "is a mask of the classes background, glacier"),
        (bare, "has a georeference"),
    ):
        assert main(["submit", "--data", str(folder), "--out", str(table)]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert "`napari-glacier bundle`" in err
    assert not table.exists()
    table.write_text("id,rle_mask\na,1 2\n")
    assert main(["submit", "--validate", str(table), "--data", str(root)]) == 2
    assert "data set of satellite images" in capsys.readouterr().err
    # What this package predicts on pictures is a TIFF that names its classes.
    written = tmp_path / "predicted"
    written.mkdir()
    for name, mask_HW in masks[1].items():
        write_mask(written / f"{name}.tif", mask_HW.astype(np.uint8), get_scheme("salt2"))
    assert main(["submit", "--data", str(written), "--out", str(table)]) == 0


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["id,mask", "a,1 2"], "columns are id, mask"),
        (["id,rle_mask"], "no mask in it"),
        (["id,rle_mask", "a,1 2", "a,"], "Line 3 has the id a of line 2 again"),
        (["id,rle_mask", "a,10201 1", "b,10201 2"], "Line 3 (b): The run '10201 2' leaves"),
        (["id,rle_mask", "a,5 2 3 1"], "begins before"),
        (["id,rle_mask", "a,1 2,3"], "has 3 fields"),
        (["id,rle_mask", ",1 2"], "no id"),
    ],
)
def test_faults_of_a_table_are_found(tmp_path, capsys, lines, fault):
    path = tmp_path / "s.csv"
    path.write_text("\n".join(lines) + "\n")
    assert main(["submit", "--validate", str(path)]) == 2
    assert fault in capsys.readouterr().out


def test_ids_are_compared_and_empty_masks_are_sound(masks, tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("id,rle_mask\na,\nempty,\n../../x,1 1\n")
    assert check_submission(path) == []
    assert check_submission(path, expected=["a", "b", "empty"]) == [
        "1 ids are missing: b.",
        "1 ids are unknown: ../../x.",
    ]


def test_ids_are_those_of_a_whole_data_set(masks, tmp_path):
    folder, _ = masks
    (tmp_path / "data" / "train").mkdir(parents=True)
    for name in ("images", "masks"):
        shutil.copytree(folder, tmp_path / "data" / "train" / name)
    table = tmp_path / "s.csv"
    assert main(["submit", "--data", str(tmp_path / "data"), "--out", str(table)]) == 0
    assert main(["submit", "--validate", str(table), "--data", str(tmp_path / "data")]) == 0
    (tmp_path / "data" / "train" / "images" / "a.png").rename(tmp_path / "data" / "train" / "images" / "z.png")
    (tmp_path / "data" / "train" / "masks" / "a.png").unlink()
    assert main(["submit", "--validate", str(table), "--data", str(tmp_path / "data")]) == 2
