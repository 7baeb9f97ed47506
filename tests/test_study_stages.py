"""`scripts/study_stages.py`: its arms cost the same, nothing held out is learnt, and all of it runs."""

import base64
import dataclasses
import importlib
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from svd3d import images, runs, train
from svd3d.curation import table
from svd3d.data import latents
from svd3d.data.dataset import Batches
from svd3d.errors import InputError
from svd3d.model import checkpoints
from svd3d.model.video_pipeline import TextToVideoPipeline

SCRIPT = Path(__file__).parents[1] / "scripts/study_stages.py"


@pytest.fixture(scope="module")
def script():
    for package in ("av", "cv2", "embreex", "pyarrow", "scenedetect", "rapidocr"):
        pytest.importorskip(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return importlib.import_module(SCRIPT.stem)


@pytest.fixture(scope="module")
def quick(script, tmp_path_factory):
    """A whole study of one seed, in its folder, and what it found."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.page, "write", lambda run: run)  # takes a second; told by tests of its own
        plan = dataclasses.replace(script.QUICK, seeds=1, scraped=10, milestones=(2,), captions=1)
        return script.Chain(out, plan, 0), script.study(out, plan, jobs=1)


@pytest.fixture
def chain(script, tmp_path):
    return script.Chain(tmp_path, script.Plan(), seed=3)


@pytest.mark.parametrize("plan", ["Plan", "GPU_PLAN", "QUICK"])
def test_all_arms_cost_the_same(script, tmp_path, plan):
    plan = script.Plan() if plan == "Plan" else getattr(script, plan)
    chain = script.Chain(tmp_path, plan, seed=1)
    frames = {script.frames_seen(chain, name) for name in script.ARMS}
    assert frames == {plan.milestones[-1] * plan.clips_at_once * plan.frames}
    assert plan.milestones[0] > plan.image_steps


def test_arms_differ_in_what_their_names_say_alone(script, chain):
    videos = {name: chain.videos(name, until=1000) for name in script.ARMS}
    base = videos["image-then-video"]
    assert base.model == str(script.last_checkpoint(chain.images("image-then-video")))
    assert base.max_train_steps == 1000 - chain.plan.image_steps
    alone = dataclasses.replace(
        videos["video-alone"], out=base.out, model=base.model, max_train_steps=base.max_train_steps
    )
    uncurated = dataclasses.replace(videos["uncurated"], out=base.out, model=base.model, data=base.data)
    assert alone == uncurated == base
    assert videos["uncurated"].data == chain.out / "data/scraped/latents"
    first, other = chain.images("image-then-video"), chain.images("uncurated")
    assert (first.num_views, first.trains, base.num_views, base.trains) == (1, "spatial", None, "all")
    assert dataclasses.replace(other, out=first.out, data=first.data) == first
    assert first.model == videos["video-alone"].model == str(chain.start)


def test_a_milestone_is_on_the_way_to_the_next_one(script, chain):
    early, late = (chain.videos("video-alone", until=step) for step in (600, 1400))
    assert dataclasses.replace(early, max_train_steps=1400) == late
    rates = [[train.learning_rate_factor(each, step) for step in range(1, 601)] for each in (early, late)]
    assert rates[0] == rates[1]


def test_obedience_and_chance_are_those_of_a_table_by_hand(script):
    asked = [
        {"direction": way, "colour": colour, "speed": "fast"}
        for way, colour in itertools.product(("left", "up"), ("red", "blue"))
    ]
    shown = [
        {"direction": "left", "colour": "red", "speed": "fast"},
        {"direction": "left", "colour": "red", "speed": "slowly"},
        {"direction": "up", "colour": None, "speed": None},
        {"direction": None, "colour": "blue", "speed": "fast"},
    ]
    found = script.matches(shown, asked)
    right = {name: script.obeyed(each[None])[0].tolist() for name, each in found.items()}
    assert right == {
        "direction": [True, True, True, False],
        "colour": [True, False, False, True],
        "speed": [True, False, False, True],
        "direction and colour": [True, False, False, False],
    }
    assert {name: each.mean() for name, each in found.items()} == {
        "direction": 3 / 8, "colour": 3 / 8, "speed": 1 / 2, "direction and colour": 2 / 16,
    }  # fmt: skip


def test_each_word_of_a_caption_is_one_token(script):
    model = script.text_model
    captions = [
        case.caption() for held_out in (True, False) for case in script.simple_videos.cases(held_out=held_out)
    ]
    tokenizer = model.make_tokenizer(captions)
    assert tokenizer.model_max_length == 9  # seven words and the full stop, begin and end
    for caption in captions:
        words = re.findall(r"\w+|\.", caption.lower())
        assert [token.removesuffix("</w>") for token in tokenizer.tokenize(caption)] == words
    assert len(tokenizer.tokenize("zebra")) > 1


def test_the_study_runs_and_curation_finds_what_is_spoilt(script, quick):
    chain, found = quick
    counts = found["curation"]
    assert sum(each["scraped"] for each in counts.values()) == 10
    assert counts["clean"]["kept"] == counts["clean"]["scraped"] > 0
    assert sum(counts[kind]["kept"] for kind in script.simple_videos.SPOILS) == 0
    assert sum(counts[kind]["scraped"] for kind in script.simple_videos.SPOILS) > 0
    curated = [row["id"] for row in table.rows(chain.out / "data/curated" / table.NAME)]
    truths = {truth["id"]: truth for truth in script.truths(chain.out, "scraped")}
    assert all(truths[uid]["spoil"] is None for uid in curated)
    for part, each in found["parts"].items():
        assert each["true"]["truth"] == dict.fromkeys(script.MEASURES, 100.0), part
    for name, arm in script.ARMS.items():
        step = chain.videos(name, until=2).max_train_steps
        assert [path.name for path in (chain.folder / name / "video/checkpoints").iterdir()] == [
            f"step-{step}"
        ]
        assert (chain.folder / name / "image").exists() == arm.images_first


def test_what_is_held_out_is_in_no_clip_to_learn_from(script, quick):
    chain, _ = quick
    learnt = {truth["caption_video"] for truth in script.truths(chain.out, "scraped")}
    asked = script.truths(chain.out, "held-out")
    assert asked
    assert not learnt & {truth["caption_video"] for truth in asked}
    objects = [
        {row["uid"] for row in runs.read_lines(chain.out / f"data/{part}/objects/objects.jsonl")}
        for part in script.SEEDS
    ]
    assert len(set.union(*objects)) == sum(map(len, objects))


def test_what_is_learnt_from_are_the_captions_of_the_clips(script, quick):
    """Through the cache: hidden states in a batch are those of the texts that the pipeline is asked for."""
    chain, _ = quick
    pipeline = TextToVideoPipeline.load(str(chain.out / "model"))
    digest = latents.vae_digest(checkpoints.from_folder(chain.start).network("vae"))
    clips = latents.open_any(chain.out / "data/curated/latents", vae_digest=digest)
    batch = next(iter(Batches(clips, seed=0, global_batch=2, micro_batch=2, held_out=0.0)))
    truths = {truth["id"]: truth for truth in script.truths(chain.out, "scraped")}
    assert batch["caption"] == [truths[uid]["caption_video"] for uid in batch["uid"]]
    from svd3d.model.video_pipeline import hidden_states

    expected = hidden_states(pipeline.text_encoder, pipeline.tokenizer, batch["caption"], device="cpu")
    np.testing.assert_allclose(batch["text"], expected, atol=2e-3)


def test_strips_show_what_each_arm_makes_of_the_first_captions(script, quick):
    chain, _ = quick
    axes = script.strips(chain).axes
    names = ["true", "decoded", *script.ARMS]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == names
    folders = [chain.out / "data/truth", chain.out / "data/decoded"]
    folders += [chain.samples(name, step=chain.plan.milestones[-1]) for name in script.ARMS]
    for axis, part in zip(axes, script.PARTS, strict=False):
        (truth,) = script.truths(chain.out, part)
        assert axis.get_title() == f"{truth['caption_video']} ({part})"
        (drawn,) = axis.get_images()
        rows = np.split(np.asarray(drawn.get_array()), len(names))
        for row, folder in zip(rows, folders, strict=True):
            np.testing.assert_array_equal(row, images.read(folder / part / f"{truth['id']}.png"))


def test_the_page_shows_the_figure_and_the_strips(script, quick):
    chain, _ = quick
    page = (chain.out / "index.html").read_text("utf-8")
    assert re.findall(r'src="(.{22})', page) == ["data:image/png;base64,"] * 2
    for name in ("study.png", "strips.png"):
        assert base64.b64encode((chain.out / name).read_bytes()).decode() in page


def test_running_it_again_learns_and_samples_nothing(script, quick, monkeypatch):
    chain, found = quick
    for name in ("sample", "write_shown"):
        monkeypatch.setattr(script, name, None)
    monkeypatch.setattr(script.text_model, "make", None)
    monkeypatch.setattr(train, "run", None)
    shutil.rmtree(chain.out / "data/scores/thumbnails", ignore_errors=True)
    assert script.study(chain.out, chain.plan, jobs=1) == found


def test_the_report_tells_seeds_intervals_and_chance(script, quick):
    _, found = quick
    page = script.markdown(found)
    assert "Number of seeds: 1." in page
    assert "95 % intervals" in page
    assert "| clean |" in page
    for part in script.PARTS:
        assert f"## 1 {part} captions" in page
    tables = [each for each in page.split("\n\n") if each.startswith("|  |")]
    assert len(tables) == 2
    for each in tables:
        names = [line.split("|")[1].strip() for line in each.splitlines()[2:]]
        assert names == [
            *script.ARMS,
            *(f"{name} - chance" for name in script.ARMS),
            *(f"{one} - {other}" for one, other in script.PAIRS),
            "chance",
            "true clips",
            "true clips, encoded and decoded",
        ]


def test_the_figure_has_a_curve_for_each_arm_and_the_ceiling(script, quick):
    _, found = quick
    axes = script.figure(found).axes
    assert len(axes) == len(script.PARTS) * len(script.MEASURES)
    labels = {line.get_label() for line in axes[0].get_lines()}
    assert labels == {*script.ARMS, "chance", "true clips"}


# --- study_interpolation.py, on what a study of the stages has left


@pytest.fixture(scope="module")
def between(script):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return importlib.import_module("study_interpolation")


def test_frames_between_two_are_filled_in_by_what_learnt_from_both_starts(
    between, quick, tmp_path, monkeypatch
):
    monkeypatch.setattr(train.page, "write", lambda run: run)
    chain, _ = quick
    found = between.study(chain.out, tmp_path, between.QUICK, jobs=1)
    interpolating = between.Chain(chain, tmp_path, between.QUICK)
    for start in between.STARTS:
        weights = [
            checkpoints.folder_weights(folder, "unet")["conv_in.weight"][:, 16:]
            for folder in (
                interpolating.folder / start / "start",
                interpolating.folder / start / "run/checkpoints/step-2",
            )
        ]
        assert [bool(each.any()) for each in weights] == [False, True]
        assert weights[0].shape[1] == 17
    for part in between.study_stages.PARTS:
        each = found["parts"][part]
        assert each["clips"] == 1
        ((uid, frames),) = between.true_clips(chain.out, part).items()
        film = between.read_strip(interpolating.filled("random", steps=2) / part / f"{uid}.png")
        assert np.array_equal(film[[0, -1]], frames[[0, -1]])
        expected = between.score(film / 255, frames / 255)
        assert each["psnr"]["of"]["random"][-1]["mean"] == pytest.approx(expected["psnr"])
        assert each["ssim"]["without"]["autoencoder"]["mean"] > 0.8
    text = (tmp_path / "study.md").read_text()
    assert "ahead of" in text
    assert "text-to-video - random" in text
    with monkeypatch.context() as patch:
        patch.setattr(between, "fill", lambda *_: pytest.fail("filled in again"))
        assert between.study(chain.out, tmp_path, between.QUICK, jobs=1) == found
    with pytest.raises(InputError, match=r"no such plan of study_stages.py"):
        between.study(tmp_path / "nowhere", tmp_path / "other", between.QUICK, jobs=1)


def test_what_needs_no_model_is_the_nearer_end_and_the_blend_of_both(between):
    ends = np.array([0.2, 1.0])[:, None, None, None] * np.ones((2, 16, 24, 3))
    true = np.linspace(ends[0], ends[1], 5)
    found = between.without_model(np.concatenate([ends[:1], np.full((3, 16, 24, 3), np.nan), ends[1:]]))
    assert np.allclose(found["blend"], true)
    assert found["nearer end"][:, 0, 0, 0].tolist() == [0.2, 0.2, 0.2, 1.0, 1.0]
    assert between.score(found["blend"], true)["psnr"] == 100
    differences = np.array([0.2, 0.4, 0.2])
    assert between.score(found["nearer end"], true)["psnr"] == pytest.approx(
        (-20 * np.log10(differences)).mean()
    )
