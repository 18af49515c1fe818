"""Checkpoints of CLIP, diffusion models, LLaVA and Llama, read through transformers' and diffusers' own classes.

They are the classes that the small models of this book are built from, so a real checkpoint goes where a small one
went. Weights are read from safetensors only: the older formats are pickles, which run code when they are read.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.initialising import initialised_from
from companion.seeding import generator

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
READ_FROM_A_HUB = ("*.safetensors", "*.json", "*.txt", "*.model")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
STEMS = {"transformers": "model", "diffusers": "diffusion_pytorch_model"}


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

    def __str__(self) -> str:
        return f"folder {self.folder}" if self.folder else f"{self.name}{f'@{self.revision}' if self.revision else ''}"


Place = Checkpoint | str | Path


@dataclass(frozen=True, eq=False)
class Clip:
    """model: transformers.CLIPModel in evaluation mode; tokenizer: as its folder has it; mean, deviation: of the three
    colours, with which it wants images in [0, 1] normalised, or None where the folder does not say."""

    model: nn.Module
    tokenizer: Any
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Diffusion:
    """unet: diffusers.UNet2DConditionModel; scheduler: the one that the checkpoint names; text_encoder:
    transformers.CLIPTextModel; tokenizer; vae: diffusers.AutoencoderKL, or None where images are denoised directly."""

    unet: nn.Module
    scheduler: Any
    text_encoder: nn.Module
    tokenizer: Any
    vae: nn.Module | None = None


@dataclass(frozen=True, eq=False)
class Language:
    """model: transformers.LlavaForConditionalGeneration or LlamaForCausalLM in evaluation mode; tokenizer."""

    model: nn.Module
    tokenizer: Any


def load_clip(place: Place, dtype: torch.dtype = torch.float32) -> Clip:
    """Return a CLIP; place: a folder, or a `Checkpoint`. `Clip.model` is on the CPU.

    Raises `CompanionError` as `load_model` does.
    """
    folder, digests = _resolve(place)
    model = load_model(folder, "CLIPModel", dtype, digests=digests)
    mean, deviation = _normalisation(folder)
    return Clip(model, _tokenizer(folder), mean, deviation)


def load_diffusion(place: Place, dtype: torch.dtype = torch.float32) -> Diffusion:
    """Return the parts of a pipeline that lies as diffusers saves it: unet/, scheduler/, text_encoder/, tokenizer/, and
    vae/ if it has one; other parts (safety checkers) stay unread. Raises `CompanionError` as `load_model` does."""
    folder, digests = _resolve(place)
    return Diffusion(
        unet=load_model(folder, "UNet2DConditionModel", dtype, part="unet", digests=digests),
        scheduler=_scheduler(folder / "scheduler"),
        text_encoder=load_model(folder, "CLIPTextModel", dtype, part="text_encoder", digests=digests),
        tokenizer=_tokenizer(folder / "tokenizer"),
        vae=load_model(folder, "AutoencoderKL", dtype, part="vae", digests=digests)
        if (folder / "vae").is_dir()
        else None,
    )


def load_llava(place: Place, dtype: torch.dtype = torch.float32) -> Language:
    """Return a LLaVA. Raises `CompanionError` as `load_model` does."""
    folder, digests = _resolve(place)
    return Language(load_model(folder, "LlavaForConditionalGeneration", dtype, digests=digests), _tokenizer(folder))


def load_llama(place: Place, dtype: torch.dtype = torch.float32) -> Language:
    """Return a Llama, a causal language model. Raises `CompanionError` as `load_model` does."""
    folder, digests = _resolve(place)
    return Language(load_model(folder, "LlamaForCausalLM", dtype, digests=digests), _tokenizer(folder))


def load_model(
    folder: str | Path,
    kind: str,
    dtype: torch.dtype = torch.float32,
    *,
    part: str = "",
    digests: Mapping[str, str] | None = None,
) -> nn.Module:
    """Return one network of a checkpoint's folder, in evaluation mode, on the CPU.

    kind: name of a class in `CLASSES`; part: the folder inside it that has the network; digests: see `Checkpoint`.
    Raises `CompanionError` for a folder, configuration or weights that are missing or damaged, a configuration of
    another class, weights that are not safetensors, a wrong sha256, and tensors that are missing or of another shape.
    """
    root = Path(folder)
    _need_folder(root, "a checkpoint")
    here = root / part
    if part:
        _need_folder(here, f'the part "{part}" of a checkpoint')
    library, told_by, expected = CLASSES[kind]
    _need_class(here / "config.json", told_by, expected, kind)
    files = _weights(here, STEMS[library], kind)
    _check_digests(root, files, digests or {})
    with _quiet(), initialised_from(generator(0, "overwritten")):
        try:
            model, found = _class(library, kind).from_pretrained(
                here,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # to be named below
                **_settings(library, dtype),
            )
        except Exception as error:  # each library has its own for each kind of damage
            raise CompanionError(
                f"{here} cannot be read as {kind}: {str(error).strip()[:300]} ({type(error).__name__}). Expected the "
                "config.json and the safetensors that save_pretrained wrote. Fetch or save the checkpoint again."
            ) from error
    lacking = sorted(map(str, [*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])]))
    if lacking:
        raise CompanionError(
            f"the weights in {here} lack {len(lacking)} tensors of {kind}, or have them in another shape "
            f"({', '.join(lacking[:3])}): expected all, as what is missing would be random. Fetch or save it again."
        )
    for tensor in (*model.parameters(), *model.buffers()):
        # out of the mapped file, where tensors lie at odd addresses, for which kernels give other last bits
        tensor.data = tensor.data.clone()
    return model.eval()


CLASSES = {
    "CLIPModel": ("transformers", "model_type", "clip"),
    "CLIPTextModel": ("transformers", "model_type", "clip_text_model"),
    "LlavaForConditionalGeneration": ("transformers", "model_type", "llava"),
    "LlamaForCausalLM": ("transformers", "model_type", "llama"),
    "UNet2DConditionModel": ("diffusers", "_class_name", "UNet2DConditionModel"),
    "AutoencoderKL": ("diffusers", "_class_name", "AutoencoderKL"),
}
"""{class: (library, field of config.json that tells it, what stands there)}."""


def _resolve(place: Place) -> tuple[Path, Mapping[str, str]]:
    """Return the folder of a checkpoint and its digests, after a download where that is allowed."""
    checkpoint = place if isinstance(place, Checkpoint) else Checkpoint(folder=place)
    if checkpoint.folder:
        return Path(checkpoint.folder), checkpoint.digests
    if not checkpoint.name:
        raise CompanionError("a checkpoint without folder and name: expected one of them. Set Checkpoint.folder.")
    from huggingface_hub import snapshot_download

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
            f"checkpoint {checkpoint} {where} ({said}): expected a model's name on the Hugging Face hub. {remedy}"
        ) from error
    return Path(folder), checkpoint.digests


def _need_folder(path: Path, what: str) -> None:
    if not path.is_dir():
        kind = "a file" if path.exists() else "missing"
        raise CompanionError(
            f"{path} is {kind}: expected the folder of {what}, as save_pretrained writes it. Give the right folder; "
            "a name on the Hugging Face hub goes into Checkpoint.name."
        )


def _read_json(path: Path) -> dict[str, Any]:
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


def _need_class(config: Path, told_by: str, expected: str, kind: str) -> None:
    found = _read_json(config).get(told_by)
    if found != expected:
        raise CompanionError(
            f'{config} has {told_by} {json.dumps(found)}: expected "{expected}", as {kind} is wanted here. Give the '
            "folder of such a checkpoint."
        )


def _weights(folder: Path, stem: str, kind: str) -> list[Path]:
    """Return the files of weights that will be read: one, or the shards that an index names."""
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = _read_json(index).get("weight_map")
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


def _check_digests(root: Path, weights: list[Path], digests: Mapping[str, str]) -> None:
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


def _class(library: str, name: str) -> Any:
    if library == "transformers":  # each import takes seconds, the whole library more
        import transformers

        return getattr(transformers, name)
    import diffusers

    return getattr(diffusers, name)


def _settings(library: str, dtype: torch.dtype) -> dict[str, Any]:
    if library == "transformers":
        return {"dtype": dtype, "trust_remote_code": False}
    return {"torch_dtype": dtype, "low_cpu_mem_usage": False}  # True needs the package accelerate


def _scheduler(folder: Path) -> Any:
    _need_folder(folder, 'the part "scheduler" of a checkpoint')
    path = folder / "scheduler_config.json"
    name = _read_json(path).get("_class_name")
    import diffusers

    kind = getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
        raise CompanionError(
            f"{path} has _class_name {json.dumps(name)}: expected a scheduler of diffusers, such as DDIMScheduler. "
            "Give the folder of a text-to-image pipeline."
        )
    return kind.from_pretrained(folder, local_files_only=True)


def _tokenizer(folder: Path) -> Any:
    _need_folder(folder, "a tokenizer")
    remedy = f"Expected {' or '.join(' and '.join(files) for files in TOKENIZERS)}. Fetch them as well."
    if not any(all((folder / name).is_file() for name in files) for files in TOKENIZERS):
        # transformers would return one without words
        raise CompanionError(f"{folder} has no tokenizer. {remedy}")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as many kinds as there are tokenizers
        said = f"{str(error).strip()[:200]} ({type(error).__name__})"
        raise CompanionError(f"{folder} has a tokenizer that cannot be read: {said}. {remedy}") from error


def _normalisation(folder: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None, None
    settings = _read_json(path)
    found = [settings.get(name) for name in ("image_mean", "image_std")]
    for value in found:
        if not (isinstance(value, list) and len(value) == 3 and all(isinstance(part, int | float) for part in value)):
            raise CompanionError(
                f"{path} has image_mean {found[0]!r} and image_std {found[1]!r}: expected three numbers each. Fetch it "
                "again."
            )
    return tuple(map(float, found[0])), tuple(map(float, found[1]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and warnings about tensors, which are errors here, out of a notebook."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    bars = of_transformers.is_progress_bar_enabled()
    levels = [(library, library.get_verbosity()) for library in (of_diffusers, of_transformers)]
    of_transformers.disable_progress_bar()
    for library, _ in levels:
        library.set_verbosity_error()
    try:
        yield
    finally:
        if bars:
            of_transformers.enable_progress_bar()
        for library, level in levels:
            library.set_verbosity(level)
