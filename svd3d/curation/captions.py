"""Captions as the paper makes them: of the middle frame, of the clip, and of both (SVD, appendix C).

The paper used CoCa, V-BLIP and a language model. Here each is any network of transformers that its Auto
classes know, in a folder or in the hub's cache:

- of a picture: a captioner without words (BLIP, GIT), or a chat about pictures (LLaVA, Qwen-VL, Gemma 3, …);
- of a clip: a chat about videos (LLaVA-OneVision, Qwen-VL, SmolVLM, …) or about several pictures, an
  InstructBlipVideo, or a GIT trained on videos;
- merging: a causal language model, with a chat template or without.

Weights come from safetensors only, code of repositories is never run, nothing is downloaded. Decoding is
greedy, so that the same network says the same each time.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from svd3d import hub
from svd3d.curation import networks
from svd3d.errors import DependencyError

IMAGE_PROMPT = "Describe this picture in one sentence."
VIDEO_PROMPT = (
    "Describe in one sentence what happens in this video, with the motion of things and of the camera."
)
FRAMES_PROMPT = f"These pictures are frames of a video in their order. {VIDEO_PROMPT}"
MERGE_PROMPT = (
    "Two captions describe a video clip.\nOf its middle frame: {image}\nOf the whole clip: {video}\n"
    "Merge them into one caption of one sentence, adding nothing. Answer with that caption only.\nCaption:"
)
FRAMES = 8
"""Pictures of a clip that a chat sees: as a video exactly (of short clips some twice), else at most."""
FRAMES_OF_BLIP = 4
"""InstructBlipVideo takes no other number."""
LONGEST = 64
"""Tokens of a caption."""
GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
"""Whatever a network's own settings say, each word is the most probable one."""
CAPTIONS_AT_ONCE = 8

T = TypeVar("T")
C = TypeVar("C", bound="_Captioner")
Picture = UInt8[np.ndarray, "_ _ 3"]


class _Captioner:
    """A network that answers, and what prepares its inputs."""

    what: str
    """The column that it fills."""
    flag: str
    """How the user names it."""
    kinds: tuple[str, str] = ("AutoModelForImageTextToText", "AutoProcessor")

    def __init__(self, network: Any, processor: Any) -> None:
        self.network, self.processor = network, processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.tokenizer.padding_side = "left"  # answers follow the prompt
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token

    @classmethod
    def load(cls: type[C], source: str | None, *, device: str = "cpu") -> C:
        """The network of a folder, or of a hub id in the hub's cache; on a CPU in single precision.

        Raises `DependencyError` with the reason and what to do, also where it is of a kind that cannot do it,
        and `ConfigError` for a device that is not there. The random state stays as it is.
        """
        if source is None:
            raise DependencyError(
                f"{cls.what}: no network is named; pass {cls.flag} with a folder or a hub id"
            )
        folder = hub.cached(source, files=("config.json",), what=cls.what, extra="curation")
        transformers = networks.transformers(cls.what)
        with networks.reading(cls.what, source):
            kind, preparation = (getattr(transformers, name) for name in cls.kinds)
            processor = preparation.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            network = networks.placed(networks.read(kind, folder), device)
            found = cls(network.float() if network.device.type == "cpu" else network, processor)
        found._check(source)
        return found

    def _check(self, source: str) -> None:
        """Refuse a network that cannot do it."""

    def _chat(self, content: list[dict[str, str]]) -> str:
        """The prompt of a chat in which the user says this."""
        said = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(said, tokenize=False, add_generation_prompt=True)

    def _say(self, **given: Any) -> list[str | None]:
        """What the network answers to each of a batch of prompts with pictures."""
        if "text" in given:
            start = self.tokenizer.bos_token
            has_start = bool(start) and given["text"][0].startswith(start)
            given |= {"padding": True, **({"add_special_tokens": False} if has_start else {})}
        return self._answers(self.processor(**given, return_tensors="pt"))

    def _answers(self, inputs: Any) -> list[str | None]:
        import torch

        inputs = inputs.to(self.network.device)
        wide = {
            name: each.to(self.network.dtype) if torch.is_tensor(each) and each.is_floating_point() else each
            for name, each in inputs.items()
        }
        with torch.inference_mode():
            found = self.network.generate(**wide, **GREEDY, max_new_tokens=LONGEST)
        prompt = inputs.get("input_ids")
        if prompt is not None and torch.equal(found[:, : prompt.shape[1]], prompt):
            found = found[:, prompt.shape[1] :]  # decoders repeat the prompt
        texts = self.tokenizer.batch_decode(found, skip_special_tokens=True)
        return [" ".join(text.split()).strip('"') or None for text in texts]


class ImageCaptioner(_Captioner):
    """Says what single pictures show."""

    what, flag = "caption_image", "--image-captioner"

    def captions(self, images: Sequence[Picture]) -> list[str | None]:
        """A caption of each RGB picture, in batches; None where the network says nothing."""
        return _in_batches(images, self._few)

    def _few(self, images: list[np.ndarray]) -> list[str | None]:
        images = _picked(images, range(len(images)))
        if not _talks(self.processor):
            return self._say(images=images)
        prompt = self._chat([{"type": "image"}, {"type": "text", "text": IMAGE_PROMPT}])
        return self._say(text=[prompt] * len(images), images=[[image] for image in images])


class VideoCaptioner(_Captioner):
    """Says what happens in clips."""

    what, flag = "caption_video", "--video-captioner"

    def captions(self, clips: Sequence[Sequence[Picture]], *, seconds: Sequence[float]) -> list[str | None]:
        """A caption of each clip, in batches; None where the network says nothing.

        A clip is RGB pictures that are evenly spread over so many seconds; the network sees some of them.
        """
        return _in_batches(list(zip(clips, seconds, strict=True)), self._few)

    def _check(self, source: str) -> None:
        if not (_talks(self.processor) or self._watches or self._frames_of_git):
            raise DependencyError(
                f"{self.what}: {source} takes neither videos nor several pictures; "
                f"name another with {self.flag}"
            )

    @property
    def _watches(self) -> bool:
        """Whether videos can be handed over as such."""
        return getattr(self.processor, "video_processor", None) is not None

    @property
    def _frames_of_git(self) -> int:
        """How many frames a GIT was trained on, 0 if on pictures."""
        return getattr(self.network.config, "num_image_with_embedding", None) or 0

    def _few(self, timed: list[tuple[Sequence[np.ndarray], float]]) -> list[str | None]:
        clips, seconds = zip(*timed, strict=True)
        text = [VIDEO_PROMPT] * len(clips)
        if self._frames_of_git:
            frames = [
                image for clip in clips for image in _picked(clip, spread(len(clip), self._frames_of_git))
            ]
            inputs = self.processor(images=frames, return_tensors="pt")
            inputs["pixel_values"] = inputs["pixel_values"].unflatten(0, (len(clips), -1))
            return self._answers(inputs)
        if not _talks(self.processor):
            videos = [np.stack(_picked(clip, spread(len(clip), FRAMES_OF_BLIP))) for clip in clips]
            return self._say(images=videos, text=text)
        if not self._watches:
            shown = [_picked(clip, spread(len(clip), min(FRAMES, len(clip)))) for clip in clips]
            ask = {"type": "text", "text": FRAMES_PROMPT}
            text = [self._chat([*[{"type": "image"}] * len(each), ask]) for each in shown]
            return self._say(text=text, images=shown)
        text = [self._chat([{"type": "video"}, {"type": "text", "text": VIDEO_PROMPT}])] * len(clips)
        places = [spread(len(clip), FRAMES) for clip in clips]  # equally many, or they make no batch
        videos = [np.stack(_picked(*each)) for each in zip(clips, places, strict=True)]
        times = [_times(*each) for each in zip(clips, places, seconds, strict=True)]
        return self._say(text=text, videos=videos, video_metadata=times, do_sample_frames=False)


class Merger(_Captioner):
    """Makes one caption of two."""

    what, flag = "caption_merged", "--language-model"
    kinds = ("AutoModelForCausalLM", "AutoTokenizer")

    def merge(self, pairs: Sequence[tuple[str, str]]) -> list[str | None]:
        """One caption for each caption of a picture and caption of a video, in batches.

        None where the network says nothing.
        """
        return _in_batches(pairs, self._few)

    def _few(self, pairs: list[tuple[str, str]]) -> list[str | None]:
        prompts = [MERGE_PROMPT.format(image=image, video=video) for image, video in pairs]
        if not _talks(self.tokenizer):
            return self._answers(self.tokenizer(prompts, padding=True, return_tensors="pt"))
        said = [[{"role": "user", "content": prompt}] for prompt in prompts]
        inputs = self.tokenizer.apply_chat_template(
            said,
            add_generation_prompt=True,
            enable_thinking=False,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        return self._answers(inputs)


def spread(count: int, chosen: int) -> list[int]:
    """So many places of 0 to count - 1, evenly spread from first to last; some twice if they are more.

    >>> spread(9, 3), spread(2, 4), spread(5, 1)
    ([0, 4, 8], [0, 0, 1, 1], [2])
    """
    if chosen == 1:
        return [count // 2]
    return [round(place * (count - 1) / (chosen - 1)) for place in range(chosen)]


def _talks(processor: Any) -> bool:
    """Whether prompts are chats."""
    return getattr(processor, "chat_template", None) is not None


def _picked(clip: Sequence[np.ndarray], places: Sequence[int]) -> list[np.ndarray]:
    return [np.array(clip[place]) for place in places]  # writable, as torch wants them


def _times(clip: Sequence[np.ndarray], places: list[int], seconds: float) -> dict[str, Any]:
    """When the pictures were that are handed over as a video, in the library's words."""
    return {
        "fps": len(clip) / seconds,
        "total_num_frames": len(clip),
        "duration": seconds,
        "frames_indices": places,
    }


def _in_batches(items: Sequence[T], answers: Callable[[list[T]], list[str | None]]) -> list[str | None]:
    starts = range(0, len(items), CAPTIONS_AT_ONCE)
    return [text for start in starts for text in answers(list(items[start : start + CAPTIONS_AT_ONCE]))]
