import numpy as np
import pytest

from napari_glacier.core.tools.redrawing import redraw_outline


def _redrawn(region, line):
    """The whole region after a line."""
    read = []

    def look(window):
        read.append(window)
        return region[window.slices]

    window, before, after = redraw_outline(look, region.shape, line)
    assert window == read[-1]
    assert np.array_equal(before, region[window.slices])
    whole = region.copy()
    whole[window.slices] = after
    return whole


def test_one_line_cuts_off_what_is_beyond_it_and_fills_what_is_before_it():
    straight = np.zeros((60, 80), bool)
    straight[30:] = True
    ragged = straight.copy()
    ragged[22:30, 10:20] = True
    ragged[30:40, 40:55] = False
    assert np.array_equal(_redrawn(ragged, [(30, 5), (30, 65)]), straight)
    # Upside down the region is what lies around it: the line is the outermost of the region, whichever that is.
    around = _redrawn(~ragged, [(30, 5), (30, 65)])
    assert (around != ~straight).sum(axis=1).tolist() == [0] * 30 + [around[30].sum()] + [0] * 29
    # A line along an outline that is right already changes nothing.
    assert np.array_equal(_redrawn(straight, [(30, 5), (30, 65)]), straight)


@pytest.mark.parametrize("seed", range(8))
def test_between_its_ends_the_outline_is_the_line_and_elsewhere_what_it_was(seed):
    rng = np.random.default_rng(seed)
    cols = np.arange(200)
    waves = [rng.uniform(2, 7) * np.sin(cols / rng.uniform(8, 25) + rng.uniform(0, 6)) for _ in range(2)]
    meets = rng.integers(15, 40), rng.integers(150, 185)
    # Both are at the same height where the line begins and ends.
    drawn = waves[1] + np.interp(cols, meets, [(waves[0] - waves[1])[k] for k in meets])
    rows = np.arange(120)[:, None]
    region = rows - 60 >= np.round(waves[0])
    inside = (cols >= meets[0]) & (cols <= meets[1])
    expected = rows - 60 >= np.where(inside, drawn, waves[0])
    line = [(60 + drawn[c], float(c)) for c in cols[inside]]
    after = _redrawn(region, line)
    # A line of pixels is as wide as one.
    doubtful = np.abs(rows - 60 - np.where(inside, drawn, waves[0])) <= 1.5
    assert np.array_equal(after | doubtful, expected | doubtful)
    assert (region != expected)[~doubtful].sum() > 100
    assert np.array_equal(after[:, ~inside], region[:, ~inside])
    # Backwards it is the same line.
    back = _redrawn(region, line[::-1])
    assert np.array_equal(back | doubtful, expected | doubtful)


def test_ends_that_do_not_reach_the_outline_are_led_on_to_it():
    region = np.zeros((100, 120), bool)
    region[50:] = True
    region[20:50, 40:80] = True
    straight = np.zeros((100, 120), bool)
    straight[50:] = True
    assert np.array_equal(_redrawn(region, [(49, 44), (49, 75)])[:49], straight[:49])
    # Too far from it, the line cuts off nothing.
    short = [(49, 55), (49, 65)]
    assert np.array_equal(_redrawn(region, short), region)
    assert np.array_equal(_redrawn(np.zeros((9, 9), bool), [(2, 2), (6, 6)]), np.zeros((9, 9), bool))
    assert np.array_equal(_redrawn(region, [(-5, 60), (10, 60)]), region)


def test_a_ring_keeps_the_larger_part_and_what_was_not_cut_stays():
    region = np.zeros((100, 100), bool)
    region[10:90, 10:90] = True
    region[2:5, 2:5] = True
    region[94:97, 40:60] = True
    angles = np.linspace(0, 2 * np.pi, 60)
    ring = [(50 + 38 * np.sin(a), 50 + 38 * np.cos(a)) for a in angles]
    after = _redrawn(region, ring)
    rows, cols = np.mgrid[:100, :100]
    radius = np.hypot(rows - 50, cols - 50)
    square = (slice(10, 90), slice(10, 90))
    sure = np.abs(radius - 38) > 1.5
    assert np.array_equal((after & sure)[square], (radius < 38)[square] & sure[square])
    after[square] = region[square]
    assert np.array_equal(after, region), "islands that the line does not cut stay"


def test_what_goes_on_beyond_the_surroundings_stays_and_no_more_is_read_than_that():
    scene = np.zeros((6000, 300), bool)
    scene[:, 100:120] = True
    scene[3000:3020, 120:150] = True
    sizes = []

    def read(window):
        sizes.append(max(window.height, window.width))
        return scene[window.slices]

    # Across the strip: both halves go on.
    _, before, after = redraw_outline(read, scene.shape, [(3000, 95), (3000, 125)])
    assert np.array_equal(before, after)
    assert max(sizes) <= 1024
    # Along it: the bump goes.
    window, before, after = redraw_outline(read, scene.shape, [(2990, 119), (3030, 119)])
    assert (before & ~after).sum() == 20 * 30
    assert not (after & ~before).any()
    assert window.height < 500


@pytest.mark.parametrize(
    "line", [[(50, 300), (60, 300)], [(50, -300), (60, -200)], [(-300, 5), (-300, 50)], [(400, 400)] * 2]
)
def test_a_line_beside_the_scene_is_refused(line):
    region = np.zeros((100, 120), bool)
    with pytest.raises(ValueError, match="no point of the line lies inside"):
        redraw_outline(lambda window: region[window.slices], region.shape, line)


@pytest.mark.parametrize("beyond", [-12, 12])
def test_ends_that_went_past_the_outline_are_not_led_on(beyond):
    # A bump to be cut off; the line comes and goes aslant, and begins far inside or outside.
    region = np.zeros((200, 300), bool)
    region[100:] = True
    region[70:100, 100:200] = True
    line = [(100 + beyond, 60), (99, 100), (99, 200), (100 + beyond, 240)]
    after = _redrawn(region, line)
    assert not after[70:99, 100:200].any()
    elsewhere = np.ones(region.shape, bool)
    elsewhere[60:100, 95:205] = False
    assert (after != region)[elsewhere].sum() < 150, "the ends draw a wedge at most as thin as they lie"


@pytest.mark.parametrize("side", [300, 512, 1000, 1400, 2048])
def test_what_a_line_does_is_the_same_in_scenes_of_any_size(side):
    # A band across the scene, and a U that takes 60 px out of it.
    region = np.zeros((side, side), bool)
    middle = side // 2
    region[middle - 30 : middle + 30] = True
    line = [
        (middle + 30, middle - 30),
        (middle - 40, middle - 30),
        (middle - 40, middle + 30),
        (middle + 30, middle + 30),
    ]
    after = _redrawn(region, line)
    assert not (after & ~region)[:, : middle - 31].any()
    lost = np.argwhere(region & ~after)
    assert len(lost) == 60 * 59
    assert lost[:, 1].min() > middle - 30
    assert lost[:, 1].max() < middle + 30


def test_the_inside_of_a_line_is_one_side_for_all_parts():
    # Nodata stripes divide the region; of the last part most lies on the side that goes.
    region = np.zeros((300, 400), bool)
    region[150:, :300] = True
    region[150:, 100:104] = False
    region[60:160, 320:380] = True
    after = _redrawn(region, [(150, 10), (150, 399)])
    assert not after[60:150, 320:380].any()
    assert after[151:160, 320:380].all()
    assert not after[:150, :300].any()
    assert after[150:, :300].all(), "the stripe lies behind the line"


def test_a_region_held_together_at_a_corner_is_one():
    region = np.zeros((120, 120), bool)
    region[60:, :60] = True
    region[20:60, 60:100] = True  # touches the rest at (59, 60) alone
    assert np.array_equal(_redrawn(region, [(60, 10), (75, 30), (60, 50)])[20:60, 60:100], region[20:60, 60:100])
    # What is beside the region is not: a line in the upper left does not reach the lower right past that corner.
    after = _redrawn(region, [(60, 30), (30, 45), (30, 60)])
    assert after[31:59, 50:60].all()
    assert not after[61:, 61:].any()


def test_a_bump_that_reaches_beyond_the_first_look_goes_and_one_beyond_the_last_stays():
    for height, goes in ((150, True), (1200, False)):
        region = np.zeros((1500, 600), bool)
        region[1300:] = True
        region[1300 - height : 1300, 290:310] = True
        after = _redrawn(region, [(1300, 280), (1300, 320)])
        assert after[1300 - height : 1300, 290:310].any() != goes
        assert np.array_equal(after[1300:], region[1300:])


def test_a_long_line_looks_to_its_sides_as_well():
    region = np.zeros((1200, 2400), bool)
    region[600:] = True
    region[480:600, 900:1000] = True
    after = _redrawn(region, [(600, 100), (600, 1200), (600, 1300)])
    assert not after[:600].any()


def test_an_outline_moves_by_one_pixel_either_way():
    region = np.zeros((80, 120), bool)
    region[40:] = True
    for row in (39, 41):
        after = _redrawn(region, [(row, 20), (row, 100)])
        assert after[row, 20:101].all()
        assert not after[: min(row, 40), 23:98].any()
        assert not after[:row, 23:98].any()
        assert np.array_equal(after[:, :15], region[:, :15])


@pytest.mark.parametrize("where", ["begin", "middle", "end", "twice", "vertical"])
@pytest.mark.parametrize("radius_px", [-6, -3, -1.5, 1.5, 3, 6])
def test_a_line_that_curls_over_itself_is_as_one_that_does_not(where, radius_px):
    region = np.zeros((200, 300), bool)
    region[100:] = True
    region[70:100, 100:200] = True
    straight = [(100.0, float(col)) for col in range(80, 221, 4)]
    angles = np.linspace(0, 2.1 * np.pi, 17)

    def curl(row, col):
        return [(row + radius_px * (1 - np.cos(a)), col + abs(radius_px) * np.sin(a)) for a in angles]

    middle = len(straight) // 2
    line = {
        "begin": curl(*straight[0]) + straight[1:],
        "middle": straight[:middle] + curl(*straight[middle]) + straight[middle + 1 :],
        "end": straight[:-1] + curl(*straight[-1]),
        "twice": straight[:9] + curl(*straight[9]) + straight[10:20] + curl(*straight[20]) + straight[21:],
        "vertical": straight[:middle] + curl(*straight[middle]) + straight[middle + 1 :],
    }[where]
    if where == "vertical":
        region, line, straight = region.T, [point[::-1] for point in line], [point[::-1] for point in straight]
    assert np.array_equal(_redrawn(region, line), _redrawn(region, straight))
    # Backwards, too.
    assert np.array_equal(_redrawn(region, line[::-1]), _redrawn(region, straight[::-1]))


def test_a_curl_and_steps_back_along_the_line_on_whole_pixels_are_left_out():
    # Steps that lie on one another meet everywhere and nowhere; pytest makes a division by their angle an error.
    region = np.zeros((200, 300), bool)
    region[100:] = True
    region[70:100, 100:200] = True
    straight = [(100.0, float(col)) for col in range(80, 221, 4)]
    curl = [(97.0, 152.0), (97.0, 148.0), (103.0, 148.0), (103.0, 152.0), (100.0, 152.0)]
    line = [*straight[:19], *curl, (100.0, 148.0), (100.0, 144.0), *straight[17:]]
    assert np.array_equal(_redrawn(region, line), _redrawn(region, straight))


def test_a_loop_that_is_most_of_a_line_is_meant():
    region = np.zeros((200, 300), bool)
    region[100:] = True
    angles = np.linspace(0.15, 2 * np.pi - 0.15, 60)
    # A bulge whose ends cross each other before they reach the outline.
    bulge = [(80 + 15 * np.cos(a), 150 + 15 * np.sin(a)) for a in angles]
    line = [(103, 145), *bulge, (103, 155)]
    after = _redrawn(region, line)
    rows, cols = np.mgrid[:200, :300]
    assert after[np.hypot(rows - 80, cols - 150) < 13].all()
