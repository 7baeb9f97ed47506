"""From pairs in memory to rows: the public scripts restated, baselines, cameras, what is shown."""

import dataclasses
import threading

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity

from svd3d import images as pictures
from svd3d.cameras import Orbit
from svd3d.errors import ConfigError, DependencyError, ImageError, SampleError
from svd3d.metrics import baselines, inputs, pairing, protocols, scoring, semantic, tables
from svd3d.metrics import images as measures
from svd3d.metrics.baselines import TrainingViews
from svd3d.metrics.pairing import Views
from svd3d.metrics.report import Row
from svd3d.metrics.scoring import MeshPair, ViewPair, evaluate_views, score_meshes, score_views
from svd3d.metrics.semantic import Measure

SVD_MV = dataclasses.replace(protocols.get("svd-mv"), metrics=("psnr", "ssim", "mask-iou"))


def soft_views(seed: int, *, count: int, size: int) -> np.ndarray:
    """RGBA pictures of a disc with a soft edge, colours everywhere, some pixels without any alpha."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    alpha = np.clip((0.42 - np.hypot(x, y)) * 6 + 0.5, 0, 1)
    waves = rng.uniform(2, 9, (count, 3, 2))
    phase = np.einsum("vca,ahw->vchw", waves, np.stack([x, y])) + rng.uniform(0, 6, (count, 3, 1, 1))
    colour = 0.5 + 0.4 * np.sin(phase).transpose(0, 2, 3, 1)
    return pictures.to_uint8(
        np.concatenate([colour, np.broadcast_to(alpha, (count, size, size))[..., None]], axis=-1)
    )


def ring(images: np.ndarray, **orbit: float) -> Views:
    cameras = Orbit.static(num_views=len(images), **orbit).cameras(
        height=images.shape[1], width=images.shape[2]
    )
    return Views(images, cameras)


def values(rows: list[Row], metric: str) -> list[float]:
    return [row.value for row in rows if row.metric == metric]


def structure(x: np.ndarray, y: np.ndarray, *, data_range: float) -> np.ndarray:
    """Map of structural similarity by SciPy's Gaussian of 11 pixels, the picture continued by reflection.

    In double precision: in single precision torchmetrics is off by up to 2e-4 where much is white.
    """

    def mean(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, 1.5, truncate=3.5, mode="mirror", axes=(0, 1))

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    return (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def restated_syncdreamer(prediction: np.ndarray, reference: np.ndarray) -> dict[str, list[float]]:
    """Its script for one object, with the SSIM of the torchmetrics of then and of now."""
    found: dict[str, list[float]] = {"psnr": [], "ssim": [], "ssim-with-border": []}
    for pair in zip(prediction, reference, strict=True):
        x, y = (rgba[..., :3] / 255 * (rgba[..., 3:] / 255) + 1 - rgba[..., 3:] / 255 for rgba in pair)
        error = np.mean((x.reshape(-1, 3) - y.reshape(-1, 3)) ** 2, axis=0)
        found["psnr"].append(10 * np.log10(1 / np.mean(error)))
        everywhere = structure(x, y, data_range=max(x.max() - x.min(), y.max() - y.min()))
        found["ssim-with-border"].append(everywhere.mean())
        found["ssim"].append(everywhere[5:-5, 5:-5].mean())
    return found


def restated_eschernet(prediction: np.ndarray, reference: np.ndarray) -> dict[str, list[float]]:
    """Its script for one object: 25 reference views, 15 predictions of half the size."""
    found: dict[str, list[float]] = {"psnr": [], "ssim": []}
    for ours, theirs in zip(prediction, reference[10:], strict=True):
        compared = []
        for rgba in (ours, theirs):
            picture = np.array(Image.fromarray(rgba).resize(prediction.shape[1:3]))
            picture[picture[..., 3] == 0] = 255
            compared.append(np.ascontiguousarray(picture[..., :3]))
        found["psnr"].append(cv2.PSNR(*compared))
        found["ssim"].append(structural_similarity(*compared, channel_axis=2))
    return found


def test_the_syncdreamer_protocol_gives_the_numbers_of_its_public_script():
    protocol = dataclasses.replace(protocols.get("syncdreamer"), size=64)  # quicker than 256
    reference = soft_views(1, count=16, size=64)
    prediction = soft_views(2, count=16, size=64) // 4 + reference // 4 * 3
    rows = evaluate_views(Views(prediction), Views(reference), protocol)
    for metric, expected in restated_syncdreamer(prediction, reference).items():
        assert values(rows, metric) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("held", [15, 25], ids="predictions of {} views".format)
def test_the_eschernet_protocol_gives_the_numbers_of_its_public_script(held):
    protocol = dataclasses.replace(protocols.get("eschernet"), size=64)  # quicker than 256
    reference = soft_views(3, count=25, size=128)
    small = np.stack([np.array(Image.fromarray(view).resize((64, 64))) for view in reference])
    prediction = soft_views(4, count=25, size=64) // 4 + small // 4 * 3
    rows = evaluate_views(Views(prediction[-held:]), Views(reference), protocol)
    for metric, expected in restated_eschernet(prediction[10:], reference).items():
        assert values(rows, metric) == pytest.approx(expected, abs=1e-4)
    assert sorted({row.view for row in rows}) == list(range(10, 25))
    blended = dataclasses.replace(protocol, soft_edges="blended")
    other = evaluate_views(Views(prediction[-held:]), Views(reference), blended, ["psnr"])
    assert np.mean(values(other, "psnr")) > np.mean(values(rows, "psnr")) + 0.05  # soft edges matter


def test_syncdreamers_chicken_scores_as_a_restatement_of_its_script_says(shared_data):
    prediction, reference = (
        np.stack([pictures.read(file) for file in inputs.picture_files(shared_data / "multiview" / name)])
        for name in ("chicken_syncdreamer_pred", "chicken_gt")
    )
    rows = evaluate_views(Views(prediction), Views(reference), protocols.get("syncdreamer"))
    for metric, expected in restated_syncdreamer(prediction, reference).items():
        assert len(expected) == 16
        assert values(rows, metric) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "views", "orbit", "message"),
    [
        ("syncdreamer", 21, {"elevation_deg": 30}, "21 views, protocol syncdreamer has 16"),
        ("syncdreamer", 16, {"elevation_deg": 10},
         "protocol syncdreamer wants: reference view 0: elevation is 10.00 degrees, expected 30 to 30"),
        ("svd-mv", 16, {}, "16 views, protocol svd-mv has 21"),
        ("sv3d-dynamic", 21, {}, "not a dynamic orbit that protocol sv3d-dynamic wants.*the orbit is static"),
        ("eschernet", 16, {}, "16 views, protocol eschernet has 25"),
    ],
)  # fmt: skip
def test_the_cameras_of_another_protocol_are_refused(name, views, orbit, message):
    reference = ring(soft_views(0, count=views, size=16), **orbit)
    with pytest.raises(SampleError, match=f"cup: .*{message}"):
        evaluate_views(reference, reference, protocols.get(name), object="cup")


def test_a_dynamic_orbit_goes_once_around_in_order():
    images = soft_views(0, count=21, size=16)
    orbit = Orbit.dynamic(np.random.default_rng(0), elevation_range_deg=(-5, 30))
    cameras = orbit.cameras(height=16, width=16)
    protocol = dataclasses.replace(protocols.get("sv3d-dynamic"), metrics=("psnr",), size=None)
    moving = Views(images, cameras)
    assert len(evaluate_views(moving, moving, protocol)) == 20
    swapped = Views(images, cameras.view([0, 2, 1, *range(3, 21)]))
    with pytest.raises(SampleError, match=r"reference view 2: azimuth is .* the view before has"):
        evaluate_views(swapped, swapped, protocol)
    with pytest.raises(SampleError, match="not a static orbit"):
        evaluate_views(moving, moving, protocols.get("sv3d-static"))


def test_the_prediction_of_some_views_is_checked_against_their_cameras():
    images = soft_views(0, count=25, size=24)
    whole = ring(images)
    part = Views(images[10:], whole.cameras.view(range(10, 25)))
    protocol = dataclasses.replace(protocols.get("eschernet"), size=None)
    assert min(values(evaluate_views(part, whole, protocol), "psnr")) == 100
    shifted = Views(images[10:], whole.cameras.view(range(9, 24)))
    with pytest.raises(SampleError, match="view 0: prediction and reference have different cameras"):
        evaluate_views(shifted, whole, protocol)
    with pytest.raises(SampleError, match="the prediction has 14 views, the reference 25 or 15"):
        evaluate_views(Views(images[11:]), whole, protocol)


def test_the_silhouette_has_the_true_outline_in_the_inputs_mean_colour():
    reference = ring(soft_views(5, count=21, size=32))
    made = baselines.silhouette(reference, SVD_MV)
    inside = reference.images[0][reference.images[0, ..., 3] > 127][:, :3]
    assert (made.images[..., 3] == reference.images[..., 3]).all()
    assert made.images[7, 3, 3, :3] == pytest.approx(inside.mean(axis=0), abs=0.5)
    scores = score_views([ViewPair("cup", {"ours": reference}, reference)], protocol=SVD_MV)
    assert scores.methods["silhouette"]["mask-iou"].mean == 1
    assert scores.methods["silhouette"]["psnr"].mean < 100


def test_the_nearest_training_orbit_is_turned_so_that_its_view_is_the_input():
    near, far, short = (soft_views(seed, count=count, size=48) for seed, count in ((6, 21), (7, 21), (6, 8)))
    training = TrainingViews.of([lambda v=v: ring(v) for v in (far, near, short)], SVD_MV)
    seen = ring(np.roll(near, 5, axis=0))  # the input is view 16 of an orbit that was trained on
    made = training.nearest(seen, SVD_MV)
    assert (made.images == seen.images).all()
    scores = score_views([ViewPair("cup", {"ours": ring(far)}, seen)], protocol=SVD_MV, training=training)
    assert scores.methods[baselines.NEAREST]["psnr"].mean == 100
    without = score_views([ViewPair("cup", {"ours": ring(far)}, seen)], protocol=SVD_MV)
    assert "no training views were given" in without.not_computed[baselines.NEAREST]
    with pytest.raises(SampleError, match="no training orbit has 16 views"):
        training.nearest(ring(near[:16]), SVD_MV)
    with pytest.raises(SampleError, match="protocol eschernet is of no orbit"):
        training.nearest(seen, protocols.get("eschernet"))


def test_baselines_that_a_reference_does_not_allow_are_named():
    opaque = soft_views(8, count=25, size=16)
    opaque[..., 3] = 255
    protocol = dataclasses.replace(protocols.get("eschernet"), size=None, metrics=("psnr",))
    scores = score_views([ViewPair("cup", {"ours": Views(opaque)}, Views(opaque))], protocol=protocol)
    assert set(scores.methods) == {"ours", "input-copied", "white"}
    assert "cameras are not known" in scores.not_computed["input-copied-mirrored"]
    assert "cup: no transparency" in scores.not_computed["silhouette"]


def test_views_that_are_identical_are_told_because_they_lift_a_mean_of_decibels():
    reference = ring(soft_views(9, count=21, size=16))
    protocol = dataclasses.replace(SVD_MV, exclude_condition_view=False, metrics=("psnr",))
    scores = score_views([ViewPair("cup", {"ours": reference}, reference)], protocol=protocol)
    notes = scores.protocol["measured"]["notes"]
    assert "input-copied: views identical to the reference, which count as 100 dB: 1" in notes
    assert "ours: views identical to the reference, which count as 100 dB: 21" in notes


@pytest.mark.parametrize("name", ["views", "eschernet"])
def test_what_lies_under_no_alpha_at_all_changes_nothing(name):
    """Values come from the parts of the pictures that show something; a view may show nothing."""
    protocol = dataclasses.replace(
        protocols.get(name), size=None, num_views=None, views=None, background=(0.2, 0.5, 1.0)
    )
    reference, prediction = np.zeros((2, 4, 64, 56, 4), np.uint8)
    reference[:3, :24, 30:54], prediction[:3, 2:26, 31:55] = (
        soft_views(seed, count=3, size=24) for seed in (1, 2)
    )
    metrics = ("psnr", "ssim", "ssim-with-border", "mse", "mask-iou")
    rows = evaluate_views(Views(prediction), Views(reference), protocol, metrics)
    x, y = (pairing.colours(views, protocol) for views in (prediction, reference))
    window = "uniform" if protocol.ssim == "uniform" else "gaussian"
    assert values(rows, "psnr") == pytest.approx(measures.psnr(x, y), abs=1e-6)
    assert values(rows, "mse") == pytest.approx(measures.mse(x, y), abs=1e-9)
    assert values(rows, "ssim") == pytest.approx(measures.ssim(x, y, window=window), abs=1e-6)
    border = measures.ssim(x, y, data_range=None, border=True)
    assert values(rows, "ssim-with-border") == pytest.approx(border, abs=1e-6)
    alphas = (views[..., 3] / 255 for views in (prediction, reference))
    assert values(rows, "mask-iou") == pytest.approx(measures.mask_iou(*alphas))
    assert [row.value for row in rows if row.view == 3] == [100, 1, 1, 0, 1]
    noise = np.random.default_rng(0).integers(0, 256, prediction.shape).astype(np.uint8)
    prediction[..., :3] = np.where(prediction[..., 3:] > 0, prediction[..., :3], noise[..., :3])
    assert evaluate_views(Views(prediction), Views(reference), protocol, metrics) == rows
    with pytest.raises(ImageError, match="object: prediction: view 3: the mask is empty"):
        evaluate_views(Views(prediction), Views(reference), protocol, ["foreground-psnr"])


def test_the_worst_and_the_best_objects_are_shown_in_order():
    rng, pairs = np.random.default_rng(0), []
    reference = ring(soft_views(10, count=21, size=16))
    amounts = rng.permutation(10) + 1
    for amount in amounts:
        noise = rng.integers(-2 * amount, 2 * amount + 1, reference.images.shape)
        noise[..., 3] = 0
        noisy = (reference.images + noise).clip(0, 255).astype(np.uint8)
        pairs.append(ViewPair(f"noise-{amount:02d}", {"ours": ring(noisy)}, reference))
    scores = score_views(pairs, protocol=dataclasses.replace(SVD_MV, metrics=("psnr",), baselines=False))
    shown = [f"noise-{amount:02d}" for amount in (10, 9, 8, 7, 4, 3, 2, 1)]
    assert list(scores.strips) == shown
    assert scores.strip_rows[:2] == ("reference", "ours")
    assert [row[0] for row in tables.extremes(scores)[1:]] == shown
    assert [row.object for row in scores.rows if row.view == 1] == [
        pair.object for pair in pairs
    ]  # in the order they came, whatever the threads did


def test_networks_are_loaded_once_and_what_they_are_stands_in_the_report(monkeypatch):
    loads = []

    def load(metric, networks):
        loads.append(metric)
        if metric == "lpips-vgg":
            raise DependencyError("lpips-vgg: no weights; get some")
        return Measure(metric, {"network": "a constant"}, 1, lambda x, y: np.abs(x - y).mean(axis=(1, 2, 3)))

    monkeypatch.setattr(semantic, "load", load)
    protocol = dataclasses.replace(SVD_MV, metrics=("lpips-alex", "lpips-vgg"))
    reference = ring(soft_views(11, count=21, size=16))
    other = ring(soft_views(12, count=21, size=16))
    pairs = [ViewPair(name, {"ours": other}, reference) for name in ("cup", "vase")]
    scores = score_views(pairs, protocol=protocol)
    assert loads == ["lpips-alex", "lpips-vgg"]
    assert scores.not_computed["lpips-vgg"] == "no weights; get some"
    assert scores.protocol["measured"]["networks"] == {"lpips-alex": {"network": "a constant"}}
    difference = pictures.composite(other.images[1:]) - pictures.composite(reference.images[1:])
    assert scores.methods["ours"]["lpips-alex"].mean == pytest.approx(np.abs(difference).mean(), abs=1e-6)
    with pytest.raises(DependencyError, match="no weights"):
        score_views(pairs, protocol=protocol, metrics=("lpips-vgg",))


def test_consistency_goes_by_the_predictions_depth_or_the_references(make_sample):
    reference = make_sample(num_views=21, size=32)
    protocol = dataclasses.replace(SVD_MV, metrics=("psnr", "reprojection-psnr"))
    inside_out = Views(reference.images[::-1].copy(), reference.cameras)
    pairs = [
        ViewPair("ball", {"same": dataclasses.replace(reference, depth=None), "mixed": inside_out}, reference)
    ]
    scores = score_views(pairs, protocol=protocol).methods
    own = scores["reference"]["reprojection-psnr"]
    assert set(scores["reference"]) == {"reprojection-psnr"}
    assert (scores["same"]["reprojection-psnr"].mean, own.n) == (own.mean, 20)
    assert "reprojection-psnr" not in scores["input-copied"]
    blind = dataclasses.replace(reference, depth=None)
    without = score_views([ViewPair("ball", {"ours": blind}, blind)], protocol=protocol)
    assert "depth" in without.not_computed["reprojection-psnr"]
    deep = score_views([ViewPair("ball", {"ours": reference}, blind)], protocol=protocol)
    assert deep.not_computed["reference"] == "ball: the reference has no depth"
    assert deep.methods["ours"]["reprojection-psnr"].mean == own.mean


def test_rows_and_costs_from_elsewhere_are_read_when_the_pairs_are_done():
    reference = ring(soft_views(13, count=21, size=16))
    rows, costs = [], {}

    def pairs():
        yield ViewPair("cup", {"ours": reference}, reference)
        rows.extend(Row("ours", "cup", view, "camera-fit", 0.5) for view in range(1, 21))
        costs["ours"] = {"generate (s)": 2.0}

    scores = score_views(pairs(), protocol=SVD_MV, rows=rows, costs=costs)
    assert scores.methods["ours"]["camera-fit"].mean == 0.5
    assert scores.costs["ours"] == {"generate (s)": 2.0}
    assert scores.costs["scoring"]["peak memory (GB)"] > 0
    assert "costs" not in scores.to_json()


def test_objects_are_worked_on_together_but_come_out_in_order(monkeypatch):
    monkeypatch.setattr(scoring.os, "sched_getaffinity", lambda pid: {0, 1, 2})
    meet = threading.Barrier(3, timeout=30)
    taken = []

    def items():
        for item in range(6):
            taken.append(item)
            yield item

    def work(item: int) -> int:
        meet.wait()  # passes only while three are worked on at once
        return item * item

    results = scoring.in_order(work, items())
    assert next(results) == 0
    assert len(taken) <= 4  # never the whole list in memory
    assert list(results) == [1, 4, 9, 16, 25]

    def fail(item: int) -> int:
        raise ImageError(f"view {item}")

    with pytest.raises(ImageError, match="view 0"):
        list(scoring.in_order(fail, range(6)))


def test_metrics_that_a_protocol_cannot_give_are_refused():
    with pytest.raises(
        ConfigError, match="normal-consistency: the vertices points of protocol mesh-eschernet"
    ):
        score_meshes([], protocol=protocols.get("mesh-eschernet"), metrics=("normal-consistency",))
    with pytest.raises(DependencyError, match="camera-fit: known to reconstructions only"):
        score_views([], protocol=SVD_MV, metrics=("camera-fit",))
    with pytest.raises(ConfigError, match="protocol mesh compares meshes, not views"):
        score_views([], protocol=protocols.get("mesh"))


def test_the_arithmetic_of_meshes_follows_the_protocol(monkeypatch):
    from svd3d.metrics import geometry, peer_meshes
    from svd3d.metrics.geometry import Surface

    trimesh = pytest.importorskip("trimesh")
    ball, box = trimesh.creation.icosphere(subdivisions=2, radius=0.5), trimesh.creation.box((0.9, 0.8, 0.7))
    ours, theirs = (
        Surface(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))
        for mesh in (box, ball)
    )
    pair = MeshPair("ball", {"ours": ours}, theirs)
    monkeypatch.setattr(peer_meshes, "visible_points", lambda surface: surface.vertices[::2])  # quicker
    authors = score_meshes([pair], protocol=protocols.get("mesh-syncdreamer"))
    seen = [peer_meshes.visible_points(surface) for surface in (ours, theirs)]
    expected = geometry.chamfer(*geometry.nearest_distances(*seen))
    assert authors.methods["ours"]["chamfer"].mean == pytest.approx(expected)
    assert authors.methods["ours"]["iou"].mean == pytest.approx(
        peer_meshes.mesh2sdf_iou(ours, theirs, resolution=64)
    )
    assert set(authors.methods) == {"ours"}  # these points are no samples: nothing to sample again
    vertices = score_meshes([pair], protocol=protocols.get("mesh-eschernet"))
    scaled = Surface(ours.vertices / 0.9, ours.faces)
    corners = geometry.nearest_distances(scaled.vertices, theirs.vertices)
    assert vertices.methods["ours"]["chamfer"].mean == pytest.approx(geometry.chamfer(*corners))
    moves = vertices.protocol["measured"]["moves"]["ours/ball"]
    assert np.diag(np.array(moves)) == pytest.approx([1 / 0.9] * 3 + [1], abs=1e-5)
