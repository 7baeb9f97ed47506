import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from svd3d.curation import elo, histogram, page, selection, table
from svd3d.curation.histogram import Histogram
from svd3d.errors import InputError

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)> ' & \n</title></style>"


NO_WEIGHTS = "no weights & no network"


def clip(number, video="a.mp4", length=2.0, **scores):
    start = 10.0 * number
    return table.Clip(
        id=f"clip-{number}", video=video, video_id=video, clip=number, start_frame=250 * number,
        end_frame=250 * number + round(25 * length), start_s=start, end_s=start + length, fps=25.0, width=64,
        height=36, **scores,
    )  # fmt: skip


def write_table(folder, clips, **facts):
    table.write(folder / table.NAME, clips, facts=lambda: {"videos": "/videos", "not_computed": {}, **facts})
    return folder / table.NAME


class Elements(HTMLParser):
    """Tags with their attributes, and all text outside of style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


@pytest.fixture
def folder(tmp_path):
    """Forty clips of four videos; the motion of clip n is n / 10, every tenth clip has no CLIP score."""
    strip = np.zeros((90, 480, 3), np.uint8)
    (tmp_path / "thumbnails").mkdir()
    clips = []
    for number in range(40):
        strip[:, :160], strip[:, 160:] = 6 * number, 255 - 6 * number
        Image.fromarray(strip).save(tmp_path / f"thumbnails/{number}.jpg")
        clips.append(
            clip(
                number % 10,
                video=f"{number // 10}.mp4",
                length=1.0 + number % 4,
                motion=number / 10,
                clip_score=None if number % 10 == 9 else 0.3 - number / 1000,
                text_area=number % 10 / 100,
                camera_motion="pan" if number < 10 else "static",
                caption_image="a cup" if number % 2 else None,
                duplicate_of="clip-0" if number == 7 else None,
                thumbnails=f"thumbnails/{number}.jpg",
            )
        )
        clips[-1] = table.Clip(**{**vars(clips[-1]), "id": f"clip-{number}"})
    write_table(
        tmp_path,
        clips,
        not_computed={"aesthetic": NO_WEIGHTS, "caption_video": "no model", "embedding": NO_WEIGHTS},
    )
    return tmp_path


def rows(text, heading):
    """Cells of the first table after a heading, row by row."""
    part = text[text.index(f">{heading}</h") :]
    part = part[: part.index("</table>")]
    return [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>.*?</tr>", part)]


def test_table_1_of_the_paper_in_closed_form(folder):
    found = page.measure(folder / table.NAME)
    assert found == page.Measured(clips=40, videos=4, seconds=100.0, frames=2500, captioned=20, duplicates=1)
    assert found.cuts_per_minute == pytest.approx(36 / (100 / 60))
    text = page.write(folder).read_text()
    assert text[: text.index("LVD, as published")].count("all clips") == 1
    assert rows(text, "Curated clips: " + folder.name) == [
        ["", "all clips", "LVD, as published", "LVD-F, as published"],
        ["clips", "40", "577M", "152M"],
        ["mean length of a clip in s", "2.50", "11.58", "10.53"],
        ["duration", "1 min 40 s", "212.09 years", "50.64 years"],
        ["mean frames of a clip", "62", "325", "301"],
        ["clips per video", "10.00", "11.09", "4.76"],
        ["cuts per minute", "21.60", "–", "–"],
        ["clips with a caption", "20 (50%)", "577M (100%)", "152M (100%)"],
        ["near-duplicates of an earlier clip", "1 (2%)", "–", "–"],
    ]


def test_the_paper_is_cited_rightly(shared_data):
    """Its Table 1 as our notes of the paper have it."""
    notes = (shared_data.parent / "paper.md").read_text()
    (line,) = (line for line in notes.splitlines() if "Table 1 (LVD / LVD-F" in line)
    for column, facts in enumerate(page.PAPER.values()):
        clips, length, duration, frames, per_video, *_ = facts
        for name, said in [("clips", clips), ("clip s", length), ("years", duration.removesuffix(" years")),
                           ("mean frames", frames), ("clips per video", per_video)]:  # fmt: skip
            told = re.search(rf"\b{name} ([\w./-]+)", line[line.index("WebVid / InternVid)") :])
            assert told is not None
            assert told[1].split("/")[column] == said


def test_long_durations_are_told_in_hours_and_years(tmp_path):
    clips = write_table(tmp_path, [clip(0, length=212.09 * 365.25 * 86400)])
    assert page._facts(page.measure(clips), cuts=True)[2] == "1,859,181 h (212.09 years)"


def test_a_selection_is_set_beside_all_clips(folder):
    rules = selection.Rules(drop_motion=0.25, drop_clip=0.5, min_seconds=2, drop_duplicates=True)
    made = selection.select(folder / table.NAME, rules, folder / "chosen.parquet")
    text = page.write(folder, selection=folder / "chosen.parquet").read_text()
    head, clips, *_ = rows(text, "Curated clips: " + folder.name)
    assert head[1:3] == ["all clips", "chosen: chosen.parquet"]
    assert clips[1:3] == ["40", str(made.chosen)]
    head, everything, *steps = rows(text, "What each rule removed")
    assert everything[4] == "40"
    assert [int(row[2]) for row in steps] == [step.removed for step in made.funnel]
    assert int(steps[-1][4]) == made.chosen == 40 - sum(int(row[2]) for row in steps) > 0
    assert "; cut at 1</figcaption>" in text[text.index("<b>motion</b>") :][:200]
    assert "; cut at 2</figcaption>" in text[text.index("<b>seconds</b>") :][:200]
    assert "cut at" not in text[text.index("<b>text_area</b>") :][:150]
    everything, chosen = (
        sum(
            int(count)
            for count in re.findall(rf": (\d+) clips, {layer}<", text[: text.index("<b>motion</b>")])
        )
        for layer in ("all", "chosen")
    )
    assert (everything, chosen) == (40, made.chosen)
    assert "drop_clip</code>: 0.5" in text
    assert "min_aesthetic" not in text


def test_without_a_selection_the_shares_of_the_paper_are_shown(folder):
    text = page.write(folder).read_text()
    assert "Nothing is selected yet" in text
    selected = selection.select(folder / table.NAME, selection.Rules(drop_text=0.25), folder / "s.parquet")
    bound = f"drops 25%, which would cut at {selected.thresholds['text_area']:.4g}<"
    assert bound in text[text.index("<b>text_area</b>") :][:300]
    assert text[: text.index("<b>motion</b>")].count('stroke="var(--mark)"') == 1


def test_a_bound_of_zero_is_a_bound(folder):
    selection.select(folder / table.NAME, selection.Rules(max_text=0.0), folder / "chosen.parquet")
    text = page.write(folder, selection=folder / "chosen.parquet").read_text()
    assert "; cut at 0</figcaption>" in text[text.index("<b>text_area</b>") :][:300]
    assert "max_text</code>: 0.0" in text
    assert "drop_duplicates" not in text


def test_a_selection_of_another_table_is_refused(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    other = write_table(elsewhere, [clip(n, video="b", motion=float(n)) for n in range(50, 54)])
    selection.select(other, selection.Rules(drop_motion=0.25), elsewhere / "chosen.parquet")
    with pytest.raises(InputError, match=r"chosen\.parquet: its clip 'clip-51' is not in .*; select again"):
        page.write(folder, selection=elsewhere / "chosen.parquet")
    with pytest.raises(InputError, match="make a selection of it"):
        page.write(folder, selection=folder / table.NAME)


def test_every_bin_shows_clips_that_belong_to_it(folder):
    text = page.write(folder).read_text()
    part = text[text.index("<b>motion</b>") : text.index("<b>clip_score</b>")]
    bins = re.findall(r"<h4>([\d.]+) to ([\d.]+) \(clips: (\d+)\)</h4>(.*?)</div>", part)
    assert sum(int(count) for _, _, count, _ in bins) == 40
    for low, high, count, figures in bins:
        shown = [int(number) / 10 for number in re.findall(r'title="clip-(\d+):', figures)]
        assert len(shown) == min(int(count), page.EXAMPLES)
        assert all(float(low) <= motion <= float(high) for motion in shown)
        assert figures.count("data:image/webp;base64,") == len(shown)
    assert page.write(folder).read_text() == text


def test_what_is_missing_is_said_with_its_reason(folder):
    (folder / "votes.csv").write_text("a,b,winner\nx,<y>,a\n")
    elo.report(folder / "votes.csv", folder)
    text = page.write(folder, failures={"no_video": 1, "da<maged": 2}).read_text()
    assert "<code>aesthetic, embedding</code>: not computed, because no weights &amp; no network<" in text
    assert "<code>caption_video</code>: not computed, because no model<" in text
    assert "<code>clip_score</code>: 4 of 40 clips have none" in text
    assert "<b>aesthetic</b>" not in text
    assert "<code>motion</code>" not in text
    assert rows(text, "Videos that failed") == [["class", "videos"], ["da&lt;maged", "2"], ["no_video", "1"]]
    assert rows(text, "Motion of the camera")[1:] == [["pan", "10", "25.0%"], ["static", "30", "75.0%"]]
    assert rows(text, "Votes")[1:] == [
        ["x", "visual quality", "1000.5", "1000.5 to 1000.5", "1"],
        ["&lt;y&gt;", "visual quality", "999.5", "999.5 to 999.5", "1"],
    ]
    digest = re.search(r"SHA-256 of clips.parquet</code>: ([0-9a-f]{64})<", text)
    assert digest


def test_names_cannot_write_into_the_page(tmp_path):
    folder = tmp_path / HOSTILE.replace("/", "-")
    folder.mkdir()
    clips = [
        clip(n, video=HOSTILE, motion=float(n), camera_motion=HOSTILE, caption_image=HOSTILE * (n % 2))
        for n in range(4)
    ]  # fmt: skip
    write_table(folder, [table.Clip(**{**vars(c), "id": f"{HOSTILE}{c.clip}"}) for c in clips],
                not_computed={HOSTILE: HOSTILE}, **{HOSTILE: HOSTILE})  # fmt: skip
    chosen = folder / "<b>.parquet"
    selection.select(folder / table.NAME, selection.Rules(drop_motion=0.5), chosen)
    failures = {HOSTILE: 3, os.fsdecode(b"\xff"): 1}
    text = page.write(folder, selection=chosen, failures=failures).read_text()
    assert "<td>\\udcff</td>" in text
    found = Elements(text)
    assert found.open == []
    assert not {"script", "img", "b.parquet"} & {tag for tag, _ in found.tags}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert "".join(found.texts).count("<script>alert(1)</script>") > 10


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/hostname", "x/../../secret.jpg", "gone.jpg", "text.jpg", "png.jpg", ""]
)
def test_only_thumbnails_of_the_folder_are_shown(tmp_path, name):
    folder = tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    Image.new("RGB", (8, 8)).save(folder / "png.jpg", format="PNG")
    (folder / "text.jpg").write_text("<svg onload=alert(1)>")
    write_table(folder, [clip(0, motion=1.0, thumbnails=name), clip(1, motion=2.0)])
    assert "<img" not in page.write(folder).read_text()


def test_no_clip_and_no_score_at_all_make_a_page_too(tmp_path):
    write_table(tmp_path, [])
    text = page.write(tmp_path).read_text()
    assert rows(text, "Curated clips: " + tmp_path.name)[1][1] == "0"
    Elements(text)
    write_table(tmp_path, [clip(0)])
    assert "<code>motion</code>: 1 of 1 clips have none" in page.write(tmp_path).read_text()


def test_without_a_table_there_is_no_page(tmp_path):
    with pytest.raises(InputError, match="no such table of clips"):
        page.write(tmp_path)
    assert not (tmp_path / page.NAME).exists()


# Histograms

VALUES = arrays.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(-1e3, 1e3, width=32) | st.just(float("nan"))
).filter(lambda values: np.isfinite(values).any())


@given(VALUES)
def test_every_value_falls_into_its_bin(values):
    found = Histogram.of(values)
    edges, known = found.edges, np.isfinite(values)
    assert len(found.labels()) == len(edges) - 1 <= histogram.BINS + 1
    assert (found.bins[~known] == -1).all()
    assert found.counts(known).sum() == known.sum()
    rounding = 1e-9 * (edges[1] - edges[0])
    assert (edges[found.bins[known]] <= values[known] + rounding).all()
    assert (values[known] <= edges[found.bins[known] + 1] + rounding).all() or found.open_ended
    assert np.diff(edges) == pytest.approx(edges[1] - edges[0])


def test_an_edge_belongs_to_the_bin_above_it_and_the_last_to_the_last():
    found = Histogram.of(np.arange(11.0))
    assert found.edges.tolist() == np.arange(0, 10.5, 0.5).tolist()
    assert found.bins.tolist() == [*range(0, 20, 2), 19]
    assert (found.labels()[2], found.labels()[19]) == ("1 to 1.5", "9.5 to 10")


def test_a_few_far_values_do_not_squeeze_the_others():
    values = np.concatenate([np.linspace(0, 1, 1000), [100.0, np.inf]])
    found = Histogram.of(values)
    assert found.open_ended
    assert found.edges[-1] <= 1.1
    assert found.labels()[-1].endswith("and more")
    assert found.bins[-2:].tolist() == [len(found.edges) - 2, -1]


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-9])
def test_equal_values_make_one_bin(value):
    found = Histogram.of(np.full(5, value))
    assert found.counts(np.ones(5, bool)).tolist() == [5]
    assert 'height="150.0"' in histogram.svg(found, name="x", chosen=None, bounds=[value])


def test_lines_stand_where_the_bounds_are():
    found = Histogram.of(np.arange(11.0))
    picture = histogram.svg(found, name="x", chosen=None, bounds=[found.edges[0], found.edges[-1], 1e9])
    lines = [float(x) for x in re.findall(r'd="M([\d.]+) 10V', picture)]
    right = histogram.WIDTH - histogram.RIGHT
    assert lines == [histogram.LEFT, right, right]
