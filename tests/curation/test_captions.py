"""Captions on small random networks in the formats of the real ones, against the library's own calls."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svd3d.curation import captions
from svd3d.curation.captions import ImageCaptioner, Merger, VideoCaptioner
from svd3d.errors import ConfigError, DependencyError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SIZE = 32
TEXT = "a an the cup dog cat car man runs turns left right zooms in out red green blue on table and"
WORDS = TEXT.split()
MARKS = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>", "<user>", "<assistant>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<user>{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% else %}<{{ part['type'] }}>{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FEW = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURE = {"image_size": SIZE, "patch_size": 16, **FEW}
needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="transformers prepares videos with torchvision"
)


def tokens(**settings):
    """A tokenizer of few words; others are letters. It keeps spaces, so a text comes back as it was."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*MARKS, *letters, *(f"Ġ{word}" for word in WORDS)]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {each: n for n, each in enumerate(words)}, unk_token="<unk>", continuing_subword_prefix=""
        )
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=MARKS[4:],
        **settings,
    )


VOCABULARY = len(MARKS) + 256 + len(WORDS)
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def drawn(network_class, config):
    """A network with random weights that are large enough for its words to depend on what it sees."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = network_class(config)
        for name, weights in network.named_parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.6 if "lm_head" in name else 0.35)
    return network.eval()


def preparation():
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )


@pytest.fixture(scope="session")
def blip(tmp_path_factory) -> Path:
    """BLIP: a captioner without words."""
    folder = tmp_path_factory.mktemp("blip")
    text = {**FEW, **IDS, "vocab_size": VOCABULARY, "encoder_hidden_size": 32, "sep_token_id": 2}
    config = transformers.BlipConfig(text_config=text, vision_config=PICTURE, projection_dim=16)
    drawn(transformers.BlipForConditionalGeneration, config).save_pretrained(folder)
    transformers.BlipProcessor(
        transformers.BlipImageProcessorPil(size={"height": SIZE, "width": SIZE}), tokens()
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def git(tmp_path_factory) -> Path:
    """GIT as trained on videos of three frames."""
    folder = tmp_path_factory.mktemp("git")
    config = transformers.GitConfig(
        **FEW, **IDS, vocab_size=VOCABULARY, vision_config=PICTURE, num_image_with_embedding=3
    )
    drawn(transformers.GitForCausalLM, config).save_pretrained(folder)
    transformers.GitProcessor(preparation(), tokens()).save_pretrained(folder)
    return folder


LLAMA = {**FEW, **IDS, "vocab_size": VOCABULARY, "num_key_value_heads": 2, "tie_word_embeddings": False}


@pytest.fixture(scope="session")
def llava(tmp_path_factory) -> Path:
    """LLaVA: a chat about pictures."""
    folder = tmp_path_factory.mktemp("llava")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**PICTURE),
        text_config=transformers.LlamaConfig(**LLAMA),
        image_token_id=4,
        image_seq_length=4,
    )
    drawn(transformers.LlavaForConditionalGeneration, config).save_pretrained(folder)
    transformers.LlavaProcessor(
        preparation(),
        tokens(),
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    """A language model that chats."""
    folder = tmp_path_factory.mktemp("llama")
    drawn(transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA)).save_pretrained(folder)
    tokens(chat_template=TEMPLATE).save_pretrained(folder)
    return folder


def scenes(seed: int, count: int, height: int = 40, width: int = 56) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 3, 3), np.uint8)
    return [np.array(Image.fromarray(each).resize((width, height))) for each in coarse]


VISION = {**PICTURE, "num_channels": 3}


@pytest.fixture(scope="session")
def onevision(tmp_path_factory) -> Path:
    """LLaVA-OneVision: a chat about videos."""
    folder = tmp_path_factory.mktemp("onevision")
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION),
        text_config=transformers.Qwen2Config(**LLAMA),
        image_token_index=4,
        video_token_index=5,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_grid_pinpoints=[[SIZE, SIZE]],
    )
    drawn(transformers.LlavaOnevisionForConditionalGeneration, config).save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[SIZE, SIZE]]),
        tokens(),
        transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def instructblip(tmp_path_factory) -> Path:
    """InstructBlipVideo, which asks without a chat."""
    folder = tmp_path_factory.mktemp("instructblip")
    asker = {**FEW, "vocab_size": VOCABULARY, "encoder_hidden_size": 32, "cross_attention_frequency": 1}
    config = transformers.InstructBlipVideoConfig(
        vision_config=VISION,
        qformer_config=asker,
        text_config=transformers.LlamaConfig(**LLAMA).to_dict(),
        num_query_tokens=2,
        video_token_index=5,
    )
    drawn(transformers.InstructBlipVideoForConditionalGeneration, config).save_pretrained(folder)
    transformers.InstructBlipVideoProcessor(
        transformers.InstructBlipVideoVideoProcessor(size={"height": SIZE, "width": SIZE}),
        tokens(),
        tokens(),
        num_query_tokens=2,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(captions, "LONGEST", 12)


def library(folder: Path, kind: str = "AutoModelForImageTextToText"):
    """The network as a user of transformers reads it."""
    return getattr(transformers, kind).from_pretrained(folder).eval()


def continued(network, processor, inputs) -> str:
    """The words that the library's own call adds to a prompt; inputs of one sample."""
    prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    with torch.inference_mode():
        found = network.generate(**inputs, do_sample=False, max_new_tokens=12)
    return cleaned(processor.decode(found[0, prompt:], skip_special_tokens=True))


def cleaned(text: str) -> str:
    return " ".join(text.split()).strip('"')


def chatted(folder: Path, content: list[dict]) -> str:
    """The answer to a chat, as the library's guide asks for it."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return continued(library(folder), processor, inputs)


def differ(texts) -> bool:
    """Whether the answers depend on the questions, and are more than a word."""
    return len(set(texts)) == len(texts) and all(len(text) > 3 for text in texts)


# --- one picture


def test_a_captioner_without_words_says_what_its_library_says(blip):
    images = scenes(0, 3)
    processor = transformers.AutoProcessor.from_pretrained(blip)
    found = ImageCaptioner.load(str(blip)).captions(images)
    expected = [
        continued(library(blip), processor, processor(images=image, return_tensors="pt")) for image in images
    ]
    assert found == expected
    assert differ(found)


def test_a_chat_about_a_picture_says_what_its_library_says(llava):
    images = [*scenes(0, 2), *scenes(1, 1, height=50, width=33)]
    found = ImageCaptioner.load(str(llava)).captions(images)
    words = {"type": "text", "text": captions.IMAGE_PROMPT}
    assert found == [
        chatted(llava, [{"type": "image", "image": Image.fromarray(each)}, words]) for each in images
    ]
    assert differ(found)


@pytest.mark.parametrize("name", ["blip", "llava"])
def test_pictures_in_batches_get_the_captions_they_get_alone(request, name, monkeypatch):
    captioner = ImageCaptioner.load(str(request.getfixturevalue(name)))
    images = scenes(2, 5)
    for image in images:
        image.flags.writeable = False  # as decoders may give them
    alone = [captioner.captions([image])[0] for image in images]
    monkeypatch.setattr(captions, "CAPTIONS_AT_ONCE", 2)
    assert captioner.captions(images) == alone
    assert captioner.captions([]) == []


# --- clips


def test_a_video_network_sees_its_frames_spread_over_the_clip(git):
    clips = [scenes(0, 9), scenes(1, 2), scenes(0, 9)[::-1]]
    network, processor = library(git), transformers.AutoProcessor.from_pretrained(git)
    expected = []
    for clip, places in zip(clips, [(0, 4, 8), (0, 0, 1), (0, 4, 8)], strict=True):
        frames = processor(images=[clip[place] for place in places], return_tensors="pt")["pixel_values"][
            None
        ]
        expected.append(continued(network, processor, {"pixel_values": frames}))
    found = VideoCaptioner.load(str(git)).captions(clips, seconds=[4.5, 1, 4.5])
    assert found == expected
    assert differ(found)  # also of a clip and the same clip backwards


def test_a_chat_about_pictures_sees_eight_frames_of_a_clip_in_their_order(llava):
    clips = [scenes(0, 15), scenes(1, 3)]
    expected = []
    for frames in (clips[0][::2], clips[1]):
        shown = [{"type": "image", "image": Image.fromarray(frame)} for frame in frames]
        expected.append(chatted(llava, [*shown, {"type": "text", "text": captions.FRAMES_PROMPT}]))
    captioner = VideoCaptioner.load(str(llava))
    assert [captioner.captions([clip], seconds=[1])[0] for clip in clips] == expected
    assert captioner.captions(clips, seconds=[7.5, 1.5]) == expected  # of unequal length, in one batch
    assert differ(expected)


@needs_torchvision
def test_a_chat_about_videos_gets_a_video(onevision):
    folder = onevision
    clips = [scenes(0, 15), scenes(1, 6), scenes(2, 1)]
    captioner = VideoCaptioner.load(str(folder))
    processor, network, expected = captioner.processor, library(folder), []
    words = [{"type": "video"}, {"type": "text", "text": captions.VIDEO_PROMPT}]
    prompt = processor.apply_chat_template([{"role": "user", "content": words}], add_generation_prompt=True)
    for clip in clips:
        chosen = [clip[place] for place in captions.spread(len(clip), 8)]
        times = {"fps": 2.0, "total_num_frames": len(clip), "duration": len(clip) / 2}
        times["frames_indices"] = captions.spread(len(clip), 8)
        inputs = processor(
            text=prompt,
            videos=[np.stack(chosen)],
            video_metadata=[times],
            do_sample_frames=False,
            add_special_tokens=False,
            return_tensors="pt",
        )
        expected.append(continued(network, processor, inputs))
    seconds = [len(clip) / 2 for clip in clips]
    assert [
        captioner.captions([clip], seconds=[n])[0] for clip, n in zip(clips, seconds, strict=True)
    ] == expected
    assert differ(expected)
    assert captioner.captions(clips, seconds=seconds) == expected


@needs_torchvision
def test_instructblipvideo_gets_four_frames(instructblip):
    clips = [scenes(0, 10), scenes(1, 2)]
    captioner = VideoCaptioner.load(str(instructblip))
    processor, network, expected = captioner.processor, library(instructblip), []
    for clip, places in zip(clips, [(0, 3, 6, 9), (0, 0, 1, 1)], strict=True):
        frames = np.stack([clip[place] for place in places])
        inputs = processor(images=frames, text=captions.VIDEO_PROMPT, return_tensors="pt")
        with torch.inference_mode():
            found = network.generate(**inputs, do_sample=False, max_new_tokens=12)
        prompt = inputs["input_ids"]
        if torch.equal(found[:, : prompt.shape[1]], prompt):
            found = found[:, prompt.shape[1] :]
        expected.append(cleaned(processor.decode(found[0], skip_special_tokens=True)))
    assert captioner.captions(clips, seconds=[5, 1]) == expected
    assert differ(expected)


def test_a_captioner_of_single_pictures_is_refused_for_clips(blip):
    with pytest.raises(
        DependencyError, match=r"^caption_video: .*takes neither videos nor several pictures; name"
    ):
        VideoCaptioner.load(str(blip))


@given(st.integers(1, 200), st.integers(1, 20))
def test_frames_are_spread_evenly_from_the_first_to_the_last(count, chosen):
    places = captions.spread(count, chosen)
    steps = np.diff(places)
    assert len(places) == chosen
    assert sorted(places) == places
    assert set(places) <= set(range(count))
    assert chosen == 1 or (places[0], places[-1]) == (0, count - 1)
    assert chosen < 3 or steps.max() - steps.min() <= 1
    assert chosen > count or len(set(places)) == chosen


# --- merging


PAIRS = [
    ("a red cup on the table", "the cup turns left"),
    ("dog", "the man and a dog runs right, zooms out"),
    ("a", "b"),
]


@pytest.mark.parametrize("chats", [True, False])
def test_the_merged_caption_has_the_most_probable_words(llama, tmp_path, chats):
    network, tokenizer = library(llama, "AutoModelForCausalLM"), tokens()
    folder = llama
    if not chats:
        folder = tmp_path / "plain"
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    expected = []
    for image, video in PAIRS:
        prompt = captions.MERGE_PROMPT.format(image=image, video=video)
        text = f"<s><user>{prompt}<assistant>" if chats else prompt
        known = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        length = known.shape[1]
        for _ in range(12):  # the whole text anew for each word
            with torch.inference_mode():
                word = network(known).logits[:, -1].argmax(-1)
            if word.item() == tokenizer.eos_token_id:
                break
            known = torch.cat([known, word[:, None]], dim=1)
        expected.append(cleaned(tokenizer.decode(known[0, length:], skip_special_tokens=True)))
    merger = Merger.load(str(folder))
    assert [merger.merge([pair])[0] for pair in PAIRS] == expected
    assert merger.merge(PAIRS) == expected
    assert differ(expected)


def test_a_network_that_says_nothing_gives_none(llama, tmp_path):
    network = library(llama, "AutoModelForCausalLM")
    network.model.norm.weight.data.zero_()  # all words are equally probable, so the first one: padding
    network.save_pretrained(tmp_path)
    tokens(chat_template=TEMPLATE).save_pretrained(tmp_path)
    assert Merger.load(str(tmp_path)).merge(PAIRS[:1]) == [None]


# --- loading


def test_a_network_that_wants_to_sample_is_greedy_all_the_same(llama, tmp_path):
    folder = copied(llama, tmp_path / "model")
    settings = {"do_sample": True, "temperature": 5.0, "top_p": 0.9, "max_length": 20, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert Merger.load(str(folder)).merge(PAIRS) == Merger.load(str(llama)).merge(PAIRS)


def test_loading_and_captioning_leave_the_random_state(llava):
    before = torch.random.get_rng_state()
    ImageCaptioner.load(str(llava)).captions(scenes(0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)


def copied(folder: Path, where: Path, *, without: str = "") -> Path:
    return Path(shutil.copytree(folder, where, ignore=shutil.ignore_patterns(without)))


def test_a_pickle_is_refused(llama, tmp_path):
    folder = copied(llama, tmp_path / "model", without="*.safetensors")
    torch.save(library(llama, "AutoModelForCausalLM").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(
        DependencyError, match=r"^caption_merged: .* cannot be read .*get the whole model, with safe"
    ):
        Merger.load(str(folder))


def test_code_of_a_repository_is_not_run(llama, tmp_path):
    folder = copied(llama, tmp_path / "model")
    marker = tmp_path / "was run"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DependencyError, match=r"^caption_merged: .* cannot be read"):
        Merger.load(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_in_one_line(llama, tmp_path, missing):
    folder = copied(llama, tmp_path / "model", without=missing)
    with pytest.raises(DependencyError, match=r"^caption_merged: ") as caught:
        Merger.load(str(folder))
    assert "\n" not in str(caught.value)


def test_a_network_of_another_kind_is_refused(llama):
    with pytest.raises(DependencyError, match=r"^caption_image: .* cannot be read"):
        ImageCaptioner.load(str(llama))


@pytest.mark.parametrize(
    ("kind", "flag"),
    [(ImageCaptioner, "image-captioner"), (VideoCaptioner, "video-captioner"), (Merger, "language-model")],
)
def test_a_network_that_is_not_named_or_not_there_is_not_downloaded(kind, flag):
    with pytest.raises(DependencyError, match=rf"^{kind.what}: no network is named; pass --{flag}"):
        kind.load(None)
    with pytest.raises(
        DependencyError, match=r"nobody/nothing is neither a folder nor in the cache of the hub"
    ):
        kind.load("nobody/nothing")


def test_a_device_that_is_not_there_is_refused(llama):
    with pytest.raises(ConfigError, match=r"^device nowhere: not usable here"):
        Merger.load(str(llama), device="nowhere")
