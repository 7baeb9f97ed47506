import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from svd3d.curation import elo
from svd3d.curation.elo import PROMPT, QUALITY, Vote
from svd3d.errors import InputError

VOTES = st.lists(
    st.builds(
        lambda pair, score: Vote(*pair, score),
        st.sampled_from(list(itertools.permutations("wxyz", 2))),
        st.sampled_from([0.0, 0.5, 1.0]),
    ),
    min_size=1,
    max_size=12,
)


def by_item(votes, **settings):
    return {each.item: each for each in elo.ratings(votes, **settings)}


def as_the_paper_says(votes, k=1.0, start=1000.0):
    """One series of games, written from the equations of App. E.1 with nothing of ours."""
    rating = {}
    for vote in votes:
        r1, r2 = rating.get(vote.a, start), rating.get(vote.b, start)
        e1 = 1 / (1 + math.pow(10, (r2 - r1) / 400))
        e2 = 1 / (1 + math.pow(10, (r1 - r2) / 400))
        rating[vote.a] = r1 + k * (vote.score - e1)
        rating[vote.b] = r2 + k * ((1 - vote.score) - e2)
    return rating


def simulated(strengths, number, seed, voters=1):
    """Votes of people who choose by the given strengths; `voters` per task."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.combinations(strengths, 2))
    votes = []
    for task in range(number):
        a, b = rng.permutation(pairs[rng.integers(len(pairs))])
        chance = 1 / (1 + 10 ** ((strengths[b] - strengths[a]) / 400))
        votes += [Vote(str(a), str(b), float(rng.random() < chance), task=f"t{task}") for _ in range(voters)]
    return votes


def test_one_vote_moves_half_a_point():
    found = by_item([Vote("x", "y", 1.0)], bootstraps=10)
    assert (found["x"].rating, found["y"].rating) == (1000.5, 999.5)
    assert (found["x"].won, found["y"].won, found["x"].votes) == (1.0, 0.0, 1)
    assert found["x"].ci95 == (1000.5, 1000.5)


def test_two_and_three_votes_in_closed_form():
    second = 1000.5 + 1 - 1 / (1 + 10 ** (-1 / 400))
    votes = [Vote("x", "y", 1.0), Vote("y", "x", 0.0)]
    assert by_item(votes, bootstraps=10)["x"].rating == pytest.approx(second, abs=1e-9)
    third = second + 1 - 1 / (1 + 10 ** (-2 * (second - 1000) / 400))
    assert by_item([*votes, votes[0]], bootstraps=10)["x"].rating == pytest.approx(third, abs=1e-9)


def test_a_tie_between_equals_changes_nothing():
    assert by_item([Vote("x", "y", 0.5)], bootstraps=3)["x"].rating == 1000


def test_mean_over_all_orders_written_from_the_equations():
    votes = [
        Vote("x", "y", 1.0), Vote("y", "z", 1.0), Vote("z", "x", 1.0), Vote("x", "w", 0.0),
        Vote("w", "y", 0.5), Vote("z", "y", 0.0),
    ]  # fmt: skip
    k = 40.0  # so large that the order matters
    runs = [as_the_paper_says(order, k=k) for order in itertools.permutations(votes)]
    found = by_item(votes, k=k, bootstraps=4000)
    for item in "wxyz":
        exact = np.array([run[item] for run in runs])
        assert exact.std() > 0.1
        assert found[item].rating == pytest.approx(exact.mean(), abs=5 * exact.std() / math.sqrt(4000))


@given(VOTES)
def test_points_are_neither_made_nor_lost(votes):
    found = by_item(votes, k=32.0, bootstraps=8)
    assert sum(each.rating for each in found.values()) == pytest.approx(1000 * len(found))
    assert sum(each.won * each.votes for each in found.values()) == pytest.approx(len(votes))


@given(VOTES)
def test_turned_votes_mirror_the_ratings_and_swapped_sides_change_nothing(votes):
    found = by_item(votes, k=32.0, bootstraps=8)
    turned = by_item([Vote(v.a, v.b, 1 - v.score) for v in votes], k=32.0, bootstraps=8)
    swapped = by_item([Vote(v.b, v.a, 1 - v.score) for v in votes], k=32.0, bootstraps=8)
    for item, each in found.items():
        assert turned[item].rating == pytest.approx(2000 - each.rating)
        assert turned[item].ci95 == pytest.approx([2000 - end for end in reversed(each.ci95)])
        assert swapped[item].rating == pytest.approx(each.rating)


def test_many_votes_agree_with_bradley_and_terry():
    """Where Elo stands still, wins equal expected wins: the maximum-likelihood equations, here by scipy."""
    votes = simulated({"w": 1120, "x": 1040, "y": 960, "z": 880}, 6000, seed=1)
    wins = np.zeros((4, 4))
    for vote in votes:
        winner, loser = (vote.a, vote.b) if vote.score else (vote.b, vote.a)
        wins["wxyz".index(winner), "wxyz".index(loser)] += 1

    def unlikely(strength):
        return (wins * np.logaddexp(0, strength[None] - strength[:, None])).sum()

    fit = minimize(unlikely, np.zeros(4)).x * 400 / math.log(10)
    expected = 1000 + fit - fit.mean()
    found = by_item(votes, bootstraps=50)
    for item, strength in zip("wxyz", expected, strict=True):
        assert found[item].rating == pytest.approx(strength, abs=8)


def test_intervals_hold_the_known_strengths():
    strengths = {"drop 0 %": 970, "drop 12.5 %": 1000, "drop 25 %": 1050, "drop 50 %": 980}
    studies = [simulated(strengths, 2500, seed=seed) for seed in range(3)]
    found = [each for votes in studies for each in elo.ratings(votes, k=2.0, bootstraps=80)]
    assert np.mean([each.ci95[0] <= strengths[each.item] <= each.ci95[1] for each in found]) >= 0.9
    assert max(each.ci95[1] - each.ci95[0] for each in found) < 60


def test_few_votes_leave_ratings_near_the_start_as_the_module_says():
    """A K of 1 has this price: 50 points show as 15 after 200 votes per item, and as 37 after 750."""
    strengths = {"w": 970, "x": 1000, "y": 1050, "z": 980}
    for number, seen in ((400, 15), (1500, 37)):
        studies = [simulated(strengths, number, seed=seed) for seed in range(3)]
        above = [by_item(votes, bootstraps=10)["y"].rating - 1000 for votes in studies]
        assert np.mean(above) == pytest.approx(seen, abs=8)


def test_votes_that_repeat_one_task_do_not_narrow_the_interval():
    """Three voters who always agree know no more than one."""
    votes = simulated({"x": 1000, "y": 1000}, 60, seed=3)
    echoed = [vote for vote in votes for _ in range(3)]
    as_if_new = [Vote(vote.a, vote.b, vote.score) for vote in echoed]

    def width(votes):
        low, high = by_item(votes)["x"].ci95
        return high - low

    assert width(echoed) > 1.5 * width(as_if_new)


def test_tasks_of_unequal_size_are_drawn_whole():
    """Of two tasks with 1 and 3 votes a draw holds 2, 4 or 6 games, each in a quarter or more."""
    votes = [Vote("x", "y", 1.0, task="1"), *[Vote("x", "y", 1.0, task="2")] * 3]
    low, high = by_item(votes)["x"].ci95
    assert low == pytest.approx(as_the_paper_says(votes[:2])["x"], abs=1e-9)
    assert high == pytest.approx(as_the_paper_says([*votes, *votes][:6])["x"], abs=1e-9)


def test_axes_are_rated_apart_and_the_seed_decides():
    votes = [Vote("x", "y", 1.0, QUALITY), Vote("x", "y", 0.0, PROMPT), Vote("x", "z", 0.0, "smoothness")]
    found = elo.ratings(votes, bootstraps=5, seed=4)
    assert [(each.axis, each.item) for each in found] == [
        (QUALITY, "x"), (QUALITY, "y"), (PROMPT, "y"), (PROMPT, "x"),
        ("smoothness", "z"), ("smoothness", "x"),
    ]  # fmt: skip
    many = simulated({"x": 1000, "y": 1010, "z": 990}, 50, seed=0)
    assert elo.ratings(many, seed=1) == elo.ratings(many, seed=1) != elo.ratings(many, seed=2)
    assert elo.ratings([]) == []


def test_csv_and_json_lines_say_the_same(tmp_path):
    rows = [
        {"a": "drop, 0 %", "b": "drop 25 %", "winner": "a", "axis": PROMPT, "task": "1", "voter": "ann"},
        {"a": "drop 25 %", "b": "drop, 0 %", "winner": "tie", "axis": "", "task": "", "voter": ""},
    ]
    table, lines = tmp_path / "votes.csv", tmp_path / "votes.jsonl"
    head = "\ufeffb,a,winner,axis,task,voter,note"
    first, second = 'drop 25 %,"drop, 0 %",a,prompt_following,1,ann,!', '"drop, 0 %",drop 25 %,tie'
    table.write_text(f"{head}\n{first}\n{second}\n", encoding="utf-8")
    lines.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    expected = [Vote("drop, 0 %", "drop 25 %", 1.0, PROMPT, "1", "ann"), Vote("drop 25 %", "drop, 0 %", 0.5)]
    assert elo.read(table) == elo.read(lines) == expected


def test_a_voter_counts_once_per_task_and_axis(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text(
        "a,b,winner,axis,task,voter\n"
        "x,y,a,,1,ann\nx,y,b,,1,ann\nx,y,b,,1,bob\nx,y,b,prompt_following,1,ann\nx,y,a,,,ann\nx,y,a,,,ann\n"
    )
    assert [vote.score for vote in elo.read(path)] == [1, 0, 0, 1, 1]


def test_a_torn_last_line_is_no_vote(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text('{"a": "x", "b": "y", "winner": "a"}\n{"a": "x", "b"')
    assert elo.read(path) == [Vote("x", "y", 1.0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,winner\nx,y,a\nx,y,left\n", "line 3: winner is 'left', expected a, b or tie"),
        ("a,b,winner\nx,x,a\n", "line 2: a is 'x' and b is 'x', expected two different items"),
        ("a,b,winner\nx\n", "line 2: a is 'x' and b is ''"),
        ("left,right\nx,y\n", "line 1: no column a, b, winner"),
        ("", "line 1: no column a, b, winner"),
        ('{"a": "x", "b": "y", "winner": "a"}\n{"a"\n{}\n', "line 2: is not JSON"),
        ('{"a": "x", "b": 3, "winner": "a"}\n', "line 1: b is 3, expected text"),
        ('{"a": "x", "b": "y", "winner": "a"}\n\n7\n', "line 3: is not a record"),
        (f"a,b,winner\n{'x' * 200_000},y,a\n", "is not CSV (field larger than"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, words):
    path = tmp_path / "votes"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        elo.read(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "votes.csv").write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "votes.csv", tmp_path / "absent.csv", tmp_path):
        with pytest.raises(InputError, match="votes cannot be read"):
            elo.read(path)


def test_the_report_says_in_json_and_in_words_what_was_rated(tmp_path):
    votes = tmp_path / "votes.csv"
    votes.write_text("a,b,winner\nx|1,y\t2,a\n")
    rated = elo.report(votes, tmp_path, bootstraps=7, seed=3)
    written = json.loads((tmp_path / "votes-ratings.json").read_text())
    assert (written["k"], written["start"], written["bootstraps"], written["seed"]) == (1.0, 1000.0, 7, 3)
    assert written["ratings"] == elo.as_json(rated)
    assert written["ratings"][0] == {
        "axis": QUALITY, "item": "x|1", "rating": 1000.5, "ci95": [1000.5, 1000.5], "votes": 1, "won": 1.0,
    }  # fmt: skip
    assert elo.read_ratings(tmp_path / "votes-ratings.json") == rated
    text = (tmp_path / "votes-ratings.md").read_text()
    assert "## Visual quality" in text
    assert "| x\\|1 | 1000.5 | 1000.5 to 1000.5 | 1 | 100.0% |\n| y 2 | 999.5 |" in text


def test_a_report_needs_votes(tmp_path):
    (tmp_path / "votes.csv").write_text("a,b,winner\n")
    for name in ("votes.csv", "absent.csv"):
        with pytest.raises(InputError, match=f"{name}: holds no votes; cast some with: svd3d curate vote"):
            elo.report(tmp_path / name, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ratings": [{"axis": "x"}]}', '{"ratings": [3]}'])
def test_what_is_no_rating_is_refused(tmp_path, text):
    (tmp_path / "x-ratings.json").write_text(text)
    with pytest.raises(InputError, match="not the ratings of svd3d curate vote"):
        elo.read_ratings(tmp_path / "x-ratings.json")
