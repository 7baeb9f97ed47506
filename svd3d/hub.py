"""Networks that others have trained, as folders: one on this disk, or a hub id that was downloaded before.

Stages that measure or curate never start a download; they say how to get what is missing.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from svd3d.errors import DependencyError, require

REVISIONS = {"openai/clip-vit-base-patch32": "refs/pr/15"}
"""Where the hub's own safetensors conversion lies, of repositories whose main branch holds a pickle."""
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is fetched of a repository: weights without pickles, settings, vocabularies, chat templates."""


def cached(source: str, *, files: Sequence[str], what: str, extra: str) -> Path:
    """A folder that holds `files`: the one given, or that of a hub id in the hub's cache.

    `what` is what the network is for. Raises `DependencyError`, which says how to get what is missing.
    """
    folder, revision = Path(source), REVISIONS.get(source)
    remedy = f"pass a folder with {', '.join(files)}"
    if not folder.is_dir():
        hub = require("huggingface_hub", extra=extra, reason=what)
        fetch = ["hf", "download", source, *(["--revision", revision] if revision else [])]
        fetch += [part for pattern in PATTERNS for part in ("--include", pattern)]
        remedy += f", or fetch a hub id with: {shlex.join(fetch)}"
        try:
            folder = Path(hub.snapshot_download(source, revision=revision, local_files_only=True))
        except (OSError, ValueError) as error:
            raise DependencyError(
                f"{what}: {source} is neither a folder nor in the cache of the hub; {remedy}"
            ) from error
    for name in files:
        if not (folder / name).is_file():
            raise DependencyError(f"{what}: {folder} holds no {name}; {remedy}")
    return folder
