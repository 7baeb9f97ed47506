"""The page of the ballot: two films, one or two questions, arrow keys. It gets everything as JSON."""

from string import Template

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>svd3d curate vote</title>
<style nonce="$nonce">
:root { color-scheme: light dark; --chosen: #3b82d6; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 1em auto; padding: 0 1em; }
header { display: flex; justify-content: space-between; gap: 1em; align-items: center; }
progress { flex: 1; accent-color: var(--chosen); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1em; }
figure { margin: 0; } figcaption { min-height: 3em; opacity: .85; overflow-wrap: anywhere; }
video { width: 100%; aspect-ratio: 16 / 9; background: #000; border-radius: 4px; object-fit: contain; }
.question { display: grid; grid-template-columns: 1fr auto 1fr; gap: 1em; align-items: center; padding: .5em;
  border: 2px solid transparent; border-radius: 6px; }
.question.current { border-color: var(--chosen); }
.question p { margin: 0; text-align: center; min-width: 18em; }
button { font: inherit; padding: .5em 1em; border: 1px solid #8888; border-radius: 6px; background: none;
  color: inherit; cursor: pointer; }
button.chosen { background: var(--chosen); color: white; } button:disabled { opacity: .4; cursor: default; }
footer { display: flex; gap: 1em; align-items: center; margin-top: 1em; flex-wrap: wrap; }
kbd { border: 1px solid #8888; border-radius: 3px; padding: 0 .35em; font-size: .85em; }
#problem { color: #d33; } #problem:empty { display: none; } [hidden] { display: none !important; }
</style></head>
<body>
<header>
<span id="voter"></span><progress id="bar" value="0" max="1"></progress><span id="count"></span>
</header>
<p id="problem" role="alert"></p>
<p id="end" hidden></p>
<main id="ballot" hidden>
<div class="pair">
<figure><video id="film0" muted playsinline></video><figcaption id="caption0"></figcaption></figure>
<figure><video id="film1" muted playsinline></video><figcaption id="caption1"></figcaption></figure>
</div>
<div id="questions"></div>
<footer>
<button id="send" disabled>Send <kbd>Enter</kbd></button>
<button id="again">Play again <kbd>Space</kbd></button>
<button id="skip">Skip <kbd>S</kbd></button>
<span>Answer with <kbd>←</kbd> <kbd>→</kbd>; <kbd>↑</kbd> <kbd>↓</kbd> change the question.</span>
</footer>
</main>
<script nonce="$nonce">
"use strict";
const questions = {
  visual_quality: "Which clip looks better?",
  prompt_following: "Which clip fits its caption better?",
};
const at = (id) => document.getElementById(id);
const films = [at("film0"), at("film1")];
let state = null, winners = {}, current = 0, busy = false;

async function ask(place, body) {
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch(place, body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    at("problem").textContent = "";
    show(told);
  } catch (error) {
    at("problem").textContent = "Not recorded: " + error.message;
  } finally {
    busy = false;
  }
}

function show(told) {
  state = told; winners = {}; current = 0;
  at("voter").textContent = told.voter;
  at("bar").max = told.total || 1; at("bar").value = told.done;
  at("count").textContent = told.done + " of " + told.total + " answers";
  at("ballot").hidden = told.task === null; at("end").hidden = told.task !== null;
  if (told.task === null) {
    films.forEach((film) => film.removeAttribute("src"));
    at("end").textContent = told.done < told.total
      ? "Only skipped pairs are left. Start the server again to see them again."
      : "That was all, thank you. Stop the server and run the same command with --report for the ratings.";
    return;
  }
  told.clips.forEach((clip, side) => {
    const span = clip.start === null ? "" : "#t=" + clip.start + "," + clip.end;
    films[side].src = "film/" + clip.film + span;
    at("caption" + side).textContent = clip.caption;
  });
  replay(); draw();
}

function from(side) { return state.clips[side].start ?? 0; }
function play(film, side) {
  film.currentTime = from(side);
  film.play().catch(() => {});  // a browser may want a click first
}
function replay() { films.forEach(play); }
function watch() {
  films.forEach((film, side) => {
    const end = state?.clips[side]?.end ?? Infinity;
    if (film.ended || film.currentTime >= end - 0.02) play(film, side);
  });
  requestAnimationFrame(watch);
}
films.forEach((film, side) => {
  film.addEventListener("error", () => {
    if (film.hasAttribute("src")) at("problem").textContent =
      "This browser cannot play the " + (side ? "right" : "left") + " clip: skip it.";
  });
});

function draw() {
  at("questions").replaceChildren(...state.axes.map((axis, number) => {
    const row = document.createElement("div"), words = document.createElement("p");
    row.className = "question" + (number === current ? " current" : "");
    words.textContent = questions[axis] ?? axis;
    const [left, right] = [["a", "← left"], ["b", "right →"]].map(([winner, label]) => {
      const button = document.createElement("button");
      button.textContent = label;
      button.className = winners[axis] === winner ? "chosen" : "";
      button.addEventListener("click", () => { current = number; choose(winner); });
      return button;
    });
    row.append(left, words, right);
    return row;
  }));
  at("send").disabled = !complete();
}

function complete() { return state.axes.every((axis) => axis in winners); }
function choose(winner) {
  winners[state.axes[current]] = winner;
  const open = state.axes.findIndex((axis) => !(axis in winners));
  if (open >= 0) current = open;
  draw();
}
function send() { if (complete()) ask("vote", { task: state.task, winners }); }
function skip() { ask("skip", { task: state.task }); }
at("send").addEventListener("click", send);
at("skip").addEventListener("click", skip);
at("again").addEventListener("click", replay);
document.addEventListener("keydown", (event) => {
  if (!state?.task || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const move = (step) => { current = (current + step + state.axes.length) % state.axes.length; draw(); };
  const does = { ArrowLeft: () => choose("a"), ArrowRight: () => choose("b"), ArrowUp: () => move(-1),
    ArrowDown: () => move(1), Enter: send, " ": replay, s: skip, S: skip }[event.key];
  if (does) { event.preventDefault(); does(); }
});
ask("task");
watch();
</script>
</body></html>
""")


def html(nonce: str) -> str:
    """The page; only what carries `nonce` may run in it."""
    return _PAGE.substitute(nonce=nonce)
