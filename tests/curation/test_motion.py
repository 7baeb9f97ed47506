"""Flow against closed forms: exact warps of real pictures, of which every displacement is known."""

import math

import numpy as np
import pytest

from svd3d.curation import motion, video
from svd3d.curation.video import Frame
from svd3d.errors import DependencyError

cv2 = pytest.importorskip("cv2")
METHODS = ("farneback", "dis")


@pytest.fixture(scope="module")
def flows():
    return {method: motion.load(method) for method in METHODS}


def pairs_of(flow, frames, *, step_s=0.5, step=12):
    """The pairs that a scorer makes of samples."""
    scorer = motion.FlowScorer(flow)
    for index, image in enumerate(frames):
        scorer.see(Frame(index * step, index * step_s, image, False, index * step))
    scorer.end()
    return scorer.pairs


def score(flow, frames, **settings):
    return motion.motion_score(pairs_of(flow, frames, **settings), 0, 10_000)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pan", [0.01, 0.06, 0.2, 0.5])
def test_a_pan_is_measured_up_to_a_quarter_of_the_width_per_sample(flows, film, scenes, method, pan):
    """0.5 widths per second are 0.25 per sample, and the width is 16 / 9 of 16 units."""
    for picture in scenes:
        found = score(flows[method], film(picture, count=2, pan=pan))
        assert found == pytest.approx(pan / 2 * 16 * 16 / 9, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("zoom", "roll"), [(0.4, 0.0), (-0.4, 0.0), (0.0, 15.0)])
def test_zoom_and_roll_move_each_point_by_its_distance_from_the_centre(
    flows, film, scenes, method, zoom, roll
):
    rows, columns = np.indices((144, 256))
    radius = np.hypot(rows - 71.5, columns - 127.5).mean() * 16 / 144
    lever = abs(2 ** (zoom / 2) * np.exp(-1j * math.radians(roll / 2)) - 1)
    found = score(flows[method], film(scenes[0], count=2, zoom=zoom, roll=roll))
    assert found == pytest.approx(lever * radius, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_the_flow_points_where_the_content_goes(flows, film, scenes, method):
    """The camera goes right and up, so the content goes left and down."""
    (pair,) = pairs_of(flows[method], film(scenes[1], count=2, pan=0.1, tilt=0.1))
    assert np.median(pair.flow, axis=(0, 1)) == pytest.approx([-0.05 * 16 * 16 / 9, 0.05 * 16], rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_still_picture_does_not_move_and_grain_and_flicker_are_no_motion(flows, film, scenes, method):
    for picture in scenes:
        assert score(flows[method], film(picture, count=3)) == pytest.approx(0, abs=1e-3)
        assert score(flows[method], film(picture, count=3, noise=3, flicker=0.1)) < motion.STATIC


@pytest.mark.parametrize("method", METHODS)
def test_a_subject_counts_by_its_share_of_the_picture(flows, film, scenes, method):
    frames = film(
        scenes[0], count=3, subject=scenes[2][:400, :700], subject_share=0.2, subject_speed=(0.2, 0)
    )
    assert score(flows[method], frames) == pytest.approx(0.2 * 0.1 * 16 * 16 / 9, rel=0.25)


def test_the_score_does_not_depend_on_the_resolution(flows, film, make_texture):
    large = film(make_texture(3, height=600, width=1100), height=360, width=640, pan=0.1, zoom=0.1)
    expected = score(flows["farneback"], large)
    for size in ((320, 180), (201, 113), (1281, 720)):
        resized = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in large]
        assert score(flows["farneback"], resized) == pytest.approx(expected, rel=0.03)


def test_a_turned_video_has_the_same_score(flows, film, make_texture):
    frames = film(make_texture(4, height=500, width=900), pan=0.1)
    turned = [np.ascontiguousarray(np.rot90(image)) for image in frames]
    assert score(flows["farneback"], turned) == pytest.approx(score(flows["farneback"], frames), rel=0.02)


def test_the_score_is_per_half_a_second_whatever_lies_between_the_samples(flows, film, make_texture):
    picture = make_texture(5, height=300, width=700)
    every_half = score(flows["farneback"], film(picture, pan=0.1))
    every_second = score(flows["farneback"], film(picture, pan=0.2), step_s=1.0)
    assert every_second == pytest.approx(every_half, rel=0.02)


def test_a_pair_across_a_cut_counts_for_neither_clip(flows, film, make_texture):
    """Two still shots: the only motion would be that of the pair from one to the other."""
    shots = [film(make_texture(seed, height=300, width=500), count=3) for seed in (6, 7)]
    pairs = pairs_of(flows["farneback"], [*shots[0], *shots[1]])
    assert len(pairs) == 5
    for start, end in ((0, 36), (30, 72), (25, 37), (36, 72)):
        inside = [(pair.index0, pair.index1) for pair in motion.within(pairs, start, end)]
        assert inside == [(a, a + 12) for a in range(0, 60, 12) if start <= a and a + 12 < end]
    assert motion.motion_score(pairs, 0, 36) == pytest.approx(0, abs=1e-3)
    assert motion.motion_score(pairs, 36, 72) == pytest.approx(0, abs=1e-3)
    assert motion.motion_score(pairs, 30, 48) is None


def test_the_same_samples_give_the_same_flow_to_the_bit(flows, film, scenes):
    frames = film(scenes[0], count=3, pan=0.1, subject=scenes[1][:300, :500], noise=3)
    first, second = (pairs_of(flows["farneback"], frames) for _ in range(2))
    later = pairs_of(motion.load("farneback"), frames[1:])
    assert [pair.flow.tobytes() for pair in first] == [pair.flow.tobytes() for pair in second]
    assert first[1].flow.tobytes() == later[0].flow.tobytes()


@pytest.mark.parametrize("size", [(24, 24), (33, 49), (90, 400)])
def test_small_odd_and_long_pictures_are_measured(flows, film, make_texture, size):
    frames = film(make_texture(10, height=300, width=800), count=2, height=size[0], width=size[1], pan=0.1)
    assert score(flows["farneback"], frames) == pytest.approx(0.05 * 16 * size[1] / min(size), rel=0.15)


def test_pictures_without_any_texture_have_none(flows):
    plain = [np.full((90, 160, 3), level, np.uint8) for level in (0, 0, 255)]
    pairs = pairs_of(flows["farneback"], plain)
    assert [pair.texture for pair in pairs] == [0, 0]
    assert motion.motion_score(pairs, 0, 99) == 0


def test_real_videos_move_as_their_truth_says(flows, real_videos):
    """Bottles on a table before a still camera, and a camera held by hand."""
    pytest.importorskip("av")
    scores = {}
    for name in ("bottle-detection", "realshort"):
        frames = video.frames(video.probe(real_videos / f"{name}.mp4"), short_side=240, limit_s=1.2)
        scores[name] = score(flows["farneback"], [frame.image for frame in frames if frame.index % 15 == 0])
    assert 5 * scores["bottle-detection"] < 5 * motion.STATIC < scores["realshort"]


class TestRaft:
    """The network's own weights cannot be had here: the path around it is proven on other networks."""

    def test_it_is_not_computed_without_the_published_weights(self, tmp_path, monkeypatch):
        torch = pytest.importorskip("torch")
        pytest.importorskip("torchvision")
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        with pytest.raises(DependencyError, match=r"^raft: .*is not there; .*raft_large"):
            motion.load("raft")
        other = tmp_path / motion.RAFT_FILE
        other.write_bytes(b"of somebody else")
        with pytest.raises(DependencyError, match="is not the published file"):
            motion.load("raft", raft_weights=other)

    def test_without_torchvision_it_says_what_is_missing(self, monkeypatch):
        pytest.importorskip("torch")
        monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
        with pytest.raises(DependencyError, match="torchvision"):
            motion.load("raft")

    def test_pictures_and_flow_keep_their_units(self, film, make_texture):
        """A network that always answers 25 % of the width to the right, at any size."""
        torch = pytest.importorskip("torch")

        class Constant(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))
                self.sizes = set()

            def forward(self, before, after):
                assert before.shape == after.shape
                assert -1 <= before.min() < -0.5 < 0.5 < before.max() <= 1
                self.sizes.add(tuple(before.shape))
                flow = torch.zeros(1, 2, *before.shape[2:])
                flow[:, 0] = before.shape[3] / 4
                return [flow * 0, flow]

        network = Constant()
        frames = film(make_texture(8, height=300, width=500), count=2)
        assert score(motion.Raft(network), frames) == pytest.approx(16 * 16 / 9 / 4, rel=1e-5)
        assert network.sizes == {(1, 3, 448, 800)}

    def test_the_network_of_torchvision_runs(self, film, make_texture):
        torch = pytest.importorskip("torch")
        models = pytest.importorskip("torchvision.models.optical_flow")
        torch.manual_seed(0)
        network = models.raft_small(weights=None).eval()
        frames = film(make_texture(9, height=300, width=500), count=2, height=144, width=144)
        (pair,) = pairs_of(motion.Raft(network), frames)
        assert pair.flow.shape == (16, 16, 2)
        assert np.isfinite(pair.flow).all()
