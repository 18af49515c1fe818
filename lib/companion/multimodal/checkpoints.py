"""Checkpoints of CLIP, diffusion models, LLaVA and Llama, read through transformers' and diffusers' own classes.

They are the classes that the small models of this book are built from, so a real checkpoint goes where a small one
went. Weights are read from safetensors only: the older formats are pickles, which run code when they are read.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.checkpoint_files import (
    Checkpoint,
    check_digests,
    need_class,
    need_folder,
    read_json,
    resolve,
    weight_files,
)
from companion.multimodal.initialising import initialised_from
from companion.seeding import generator

Place = Checkpoint | str | Path
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
STEMS = {"transformers": "model", "diffusers": "diffusion_pytorch_model"}


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
    folder, digests = resolve(_checkpoint(place))
    model = load_model(folder, "CLIPModel", dtype, digests=digests)
    mean, deviation = _normalisation(folder)
    return Clip(model, _tokenizer(folder), mean, deviation)


def load_diffusion(place: Place, dtype: torch.dtype = torch.float32) -> Diffusion:
    """Return the parts of a pipeline that lies as diffusers saves it: unet/, scheduler/, text_encoder/, tokenizer/, and
    vae/ if it has one; other parts (safety checkers) stay unread. Raises `CompanionError` as `load_model` does."""
    folder, digests = resolve(_checkpoint(place))
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
    folder, digests = resolve(_checkpoint(place))
    return Language(load_model(folder, "LlavaForConditionalGeneration", dtype, digests=digests), _tokenizer(folder))


def load_llama(place: Place, dtype: torch.dtype = torch.float32) -> Language:
    """Return a Llama, a causal language model. Raises `CompanionError` as `load_model` does."""
    folder, digests = resolve(_checkpoint(place))
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
    need_folder(root, "a checkpoint")
    here = root / part
    if part:
        need_folder(here, f'the part "{part}" of a checkpoint')
    library, told_by, expected = CLASSES[kind]
    need_class(here / "config.json", told_by, expected, kind)
    files = weight_files(here, STEMS[library], kind)
    check_digests(root, files, digests or {})
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


def _checkpoint(place: Place) -> Checkpoint:
    return place if isinstance(place, Checkpoint) else Checkpoint(folder=place)


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
    need_folder(folder, 'the part "scheduler" of a checkpoint')
    path = folder / "scheduler_config.json"
    name = read_json(path).get("_class_name")
    import diffusers

    kind = getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    if not isinstance(kind, type) or not issubclass(kind, diffusers.SchedulerMixin):
        raise CompanionError(
            f"{path} has _class_name {json.dumps(name)}: expected a scheduler of diffusers, such as DDIMScheduler. "
            "Give the folder of a text-to-image pipeline."
        )
    return kind.from_pretrained(folder, local_files_only=True)


def _tokenizer(folder: Path) -> Any:
    need_folder(folder, "a tokenizer")
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
    settings = read_json(path)
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
