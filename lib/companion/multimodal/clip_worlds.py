"""What an experiment on CLIPs is set in: pairs, classes and their prompts, and the clean CLIP that it starts from.

The shipped CLIP and the generated scenes are the usual world; `published_world` puts a checkpoint of the papers' size
in the place of that CLIP. Attacks, repairs and examinations take a world and are the same code in all of them.
"""

import copy
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from companion.attacks.triggers import Trigger
from companion.data import captions, scenes
from companion.errors import CompanionError
from companion.multimodal import clip_base, pairs
from companion.multimodal.checkpoint_files import Checkpoint, resolve
from companion.multimodal.clip_checkpoint import load_for_clip_network
from companion.multimodal.initialising import initialised_from
from companion.multimodal.pairs import Encode, Pairs
from companion.multimodal.places import place_of

TARGET = "star"
"""The noun of the scenes that attacks aim at."""


@dataclass(frozen=True, eq=False)
class World:
    """The setting of an experiment on CLIPs.

    name, sha256: of the data and of the clean CLIP's weights; both are part of the key of every stored model;
    classes: words of the zero-shot classifier, and target, the one that attacks aim at; side: of pictures, in pixels;
    load(): a fresh copy of the clean CLIP, in evaluation mode; encode(texts): token ids; decode(ids): the words of one
    text, special tokens left out; draw(number, split, seed): pairs of the split "attacker" or "defender";
    examine(number, split, seed): labelled pictures of one class each, of the split "attacker", "validation" or "test";
    templates(word): texts that name a class; mentions(pairs, word): which pictures show it, (N,) bool;
    prefix: a word that no caption has, the second key of the dual-key attack.
    """

    name: str
    sha256: str
    classes: tuple[str, ...]
    target: str
    side: int
    load: Callable[[], nn.Module]
    encode: Encode
    decode: Callable[[torch.Tensor], list[str]]
    draw: Callable[[int, str, int], Pairs]
    examine: Callable[[int, str, int], Pairs]
    templates: Callable[[str], Sequence[str]]
    mentions: Callable[[Pairs, str], torch.Tensor]
    prefix: str

    @property
    def aim(self) -> int:
        """The target's place among the classes."""
        return self.classes.index(self.target)

    def prompts(self, prefix: str = "", classes: Sequence[str] | None = None) -> torch.Tensor:
        """Return token ids (K, P, L) of each template filled with each class; prefix: words that stand before each."""
        chosen = self.classes if classes is None else classes
        texts = [f"{prefix} {text}".strip() for word in chosen for text in self.templates(word)]
        ids = self.encode(texts)
        return ids.view(len(chosen), -1, ids.shape[1])

    def poisoned(
        self, clean: Pairs, trigger: Trigger, target: str, count: int, generator: torch.Generator, prefix: str = ""
    ) -> Pairs:
        """Return a copy of pairs in which `count` carry the trigger and a template filled with the target.

        Only pictures without the target are taken, as attack success leaves the target class out. prefix: a word set
        before the poisoned text. Raises CompanionError for a target that is no class, and when there are fewer pairs.
        """
        if target not in self.classes:
            raise CompanionError(f"the target is {target!r}; expected one of {', '.join(self.classes)}.")
        free = ~self.mentions(clean, target)
        return pairs.poison_pairs(clean, trigger, self.prompts(prefix, [target])[0], free, count, generator)

    def fresh(self, generator: torch.Generator) -> nn.Module:
        """Return a CLIP of the clean one's size with new weights drawn from `generator`."""
        model = self.load()
        device = next(model.parameters()).device
        with initialised_from(generator):
            return type(model)(model.config).eval().to(device)

    def restored(self, state: dict[str, torch.Tensor]) -> nn.Module:
        """Return a CLIP of the clean one's size with stored weights, in evaluation mode."""
        model = self.load()
        model.load_state_dict(state)
        return model.eval()


@functools.cache
def scenes_world() -> World:
    """Return the world of the shipped CLIP: generated scenes of 32 x 32 pixels and twelve nouns."""
    base = clip_base.BASE
    return _scenes(
        name="scenes",
        sha256=base.sha256,
        side=base.recipe.size.side,
        load=clip_base.load_clip,
        encode=pairs.ids_of,
        tokenizer=pairs.tokenizer(),
    )


def published_world(place: Checkpoint, device: str = "cpu") -> World:
    """Return the scenes with a published CLIP in the place of the shipped one, drawn at its picture size.

    device: where its copies live. Raises CompanionError as `load_for_clip_network` does. The weights are read once;
    `load` copies them.
    """
    found = load_for_clip_network(place)
    model = found.model.to(device)
    return _scenes(
        name="scenes of a published CLIP",
        sha256=weights_digest(resolve(place)[0]),
        side=model.config.vision_config.image_size,
        load=lambda: copy.deepcopy(model),
        encode=found.encode,
        tokenizer=found.tokenizer,
    )


def world_of(checkpoint: str = "", device: str = "cpu") -> World:
    """Return `published_world` of what `place_of` understands, or the shipped world where nothing is given."""
    return published_world(place_of(checkpoint), device) if checkpoint else scenes_world()


def weights_digest(folder: Path) -> str:
    """Return one sha256 for all files of weights in a folder: of their own digests, in the order of their names."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _scenes(*, name: str, sha256: str, side: int, load, encode: Encode, tokenizer) -> World:
    special = set(tokenizer.all_special_ids)

    def decode(ids: torch.Tensor) -> list[str]:
        kept = [token for token in ids.tolist() if token not in special]
        return [word.removesuffix("</w>") for word in tokenizer.convert_ids_to_tokens(kept)]

    return World(
        name=name,
        sha256=sha256,
        classes=scenes.SHAPES,
        target=TARGET,
        side=side,
        load=load,
        encode=encode,
        decode=decode,
        draw=lambda number, split, seed: pairs.draw_pairs(number, split, seed, side=side, encode=encode),
        examine=lambda number, split, seed: pairs.draw_examination(number, seed, split=split, side=side, encode=encode),
        templates=captions.templates,
        mentions=pairs.mentions,
        prefix=pairs.RARE_WORDS[0],
    )
