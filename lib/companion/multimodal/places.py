"""Where a checkpoint is, as a notebook's parameter says it: a folder, or a name on the Hugging Face hub."""

from pathlib import Path

from companion.multimodal.checkpoint_files import Checkpoint


def place_of(text: str) -> Checkpoint:
    """Return the checkpoint that a text means: a folder that exists, else "owner/model" or "owner/model@revision".

    A name is downloaded, safetensors only, when it is loaded. What is neither (no slash, or a path) stays a folder, so
    that the error names it.

    >>> place_of("owner/model@abc").revision
    'abc'
    """
    owner, *names = text.split("/")
    named = owner not in ("", ".", "..", "~") and len(names) == 1 and names[0]
    if Path(text).expanduser().is_dir() or not named:
        return Checkpoint(folder=Path(text).expanduser())
    model, _, revision = text.partition("@")
    return Checkpoint(name=model, revision=revision or None, network=True)
