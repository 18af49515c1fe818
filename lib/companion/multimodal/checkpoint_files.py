"""The files of a checkpoint, looked at before any of them is read as weights: folder, configuration, format, sha256."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from companion.errors import CompanionError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
READ_FROM_A_HUB = ("*.safetensors", "*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint is: a folder, or a name on the Hugging Face hub (`owner/model`), of which `folder` wins.

    revision: commit, branch or tag of a name; network: whether a name may be downloaded, else it must lie in the hub's
    cache on this machine; digests: {file in the checkpoint: its sha256}, which are checked before anything is read;
    if there are any, every file of weights needs one.
    """

    folder: str | Path | None = None
    name: str | None = None
    revision: str | None = None
    network: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)


def resolve(checkpoint: Checkpoint) -> tuple[Path, Mapping[str, str]]:
    """Return the folder of a checkpoint and its digests, after a download where that is allowed.

    Raises `CompanionError` for a name that is neither in the hub's cache nor can be downloaded.
    """
    if checkpoint.folder:
        return Path(checkpoint.folder), checkpoint.digests
    if not checkpoint.name:
        raise CompanionError("a checkpoint without folder and name: expected one of them. Set Checkpoint.folder.")
    from huggingface_hub import snapshot_download

    name = f"{checkpoint.name}@{checkpoint.revision}" if checkpoint.revision else checkpoint.name
    try:
        folder = snapshot_download(
            checkpoint.name,
            revision=checkpoint.revision,
            local_files_only=not checkpoint.network,
            allow_patterns=READ_FROM_A_HUB,
        )
    except (OSError, ValueError) as error:  # also what the hub's client raises for HTTP, and for a name of wrong form
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = (
            "Look at the name and the connection, or download it elsewhere and give its folder."
            if checkpoint.network
            else "Give the folder of a checkpoint (Checkpoint.folder), or allow the download with network=True."
        )
        where = "could not be downloaded" if checkpoint.network else "is not on this machine, and the network is off"
        raise CompanionError(
            f"checkpoint {name} {where} ({said}): expected a model's name on the Hugging Face hub. {remedy}"
        ) from error
    return Path(folder), checkpoint.digests


def need_folder(path: Path, what: str) -> None:
    """Raise `CompanionError` unless `path` is a folder; what: that it should be the folder of."""
    if not path.is_dir():
        kind = "a file" if path.exists() else "missing"
        raise CompanionError(
            f"{path} is {kind}: expected the folder of {what}, as save_pretrained writes it. Give the right folder; "
            "a name on the Hugging Face hub goes into Checkpoint.name."
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a file; raises `CompanionError` if it is missing or holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CompanionError(
            f"{path} is missing: expected the file that save_pretrained writes beside the weights. Fetch it as well."
        ) from None
    except ValueError as error:
        raise CompanionError(f"{path} is damaged ({error}): expected JSON. Fetch it again.") from error
    if not isinstance(content, dict):
        raise CompanionError(f"{path} holds a {type(content).__name__}: expected a mapping in JSON. Fetch it again.")
    return content


def need_class(config: Path, told_by: str, expected: str, kind: str) -> None:
    """Raise `CompanionError` unless the configuration's field `told_by` is `expected`, as that of the class `kind`."""
    found = read_json(config).get(told_by)
    if found != expected:
        raise CompanionError(
            f'{config} has {told_by} {json.dumps(found)}: expected "{expected}", as {kind} is wanted here. Give the '
            "folder of such a checkpoint."
        )


def weight_files(folder: Path, stem: str, kind: str) -> list[Path]:
    """Return the files of weights that will be read: <stem>.safetensors, or the shards that its index names.

    kind: the class, for errors. Raises `CompanionError` if there are none, or only pickles, which are not opened.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = read_json(index).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else {None}
        for name in names:
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
                raise CompanionError(f"{index} names {name!r}: expected files *.safetensors beside it. Fetch it again.")
        for path in (found := sorted(folder / name for name in names)):
            if not path.is_file():
                raise CompanionError(f"{path} is missing: {index.name} names it. Fetch it as well.")
        return found
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise CompanionError(
            f"{folder} has its weights in {', '.join(pickles[:3])} only: expected {single.name}. Such files are "
            "pickles, which run code when they are read, so they are not. Take a checkpoint (or its revision) with "
            "safetensors, or convert it where that does no harm: from_pretrained, then save_pretrained."
        )
    raise CompanionError(f"{single} is missing: expected the weights of {kind}. Fetch or save the checkpoint again.")


def check_digests(root: Path, weights: list[Path], digests: Mapping[str, str]) -> None:
    """Raise `CompanionError` for a file in `digests` with another sha256, and for weights that have none there.

    root: the checkpoint's folder, from which `digests` names files; without any digests nothing is compared.
    """
    if not digests:
        return
    without = [path.relative_to(root).as_posix() for path in weights]
    without = [name for name in without if name not in digests]
    if without:
        raise CompanionError(
            f"no sha256 was given for {', '.join(without)} in {root}, but for {', '.join(sorted(digests))}: expected "
            "one for every file of weights. Add it to Checkpoint.digests."
        )
    for name, expected in sorted(digests.items()):
        path = root / name
        if not path.is_file():
            raise CompanionError(f"{path} is missing: Checkpoint.digests expects it. Fetch the checkpoint again.")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected.lower():
            raise CompanionError(
                f"{path} has the sha256 {found}, expected {expected} (Checkpoint.digests): it is damaged or another "
                "version. Fetch it again, or correct the digest if the new version is meant."
            )
