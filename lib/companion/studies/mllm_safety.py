"""The experiments of the chapter on safety by rejection data (Wang et al., CVPR 2025): arms, probes, counts.

A `Workshop` holds what the arms of a run share, a `Probe` what every model is asked; the rest counts.
"""

import hashlib
import importlib.metadata
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.multimodal import checkpoints, conversations, input_modes, judges, llava, madeup, rejection_sets
from companion.multimodal.conversations import Item, Lots
from companion.multimodal.llava import LlavaSettings, Stage, Turns
from companion.multimodal.llava_base import load_llava
from companion.multimodal.rejection_sets import Mix
from companion.seeding import derive_seed, generator
from companion.statistics import Proportion
from companion.store import ModelStore

WORDS = llava.build_words()
TRAINED = ("projector", "language")
"""What stage C trains; the vision tower is frozen, as in the paper."""


def networks(checkpoint: str = "") -> dict[str, nn.Module]:
    """Return the base model's networks by stage; checkpoint: a folder to take "tuned" from instead.

    Raises `CompanionError` for weights that are not what they should be, and for a checkpoint of another vocabulary.
    """
    found = dict(load_llava().items())
    if checkpoint:
        model = checkpoints.load_model(checkpoint, "LlavaForConditionalGeneration")
        rows = model.get_input_embeddings().num_embeddings
        if rows != len(WORDS.words):
            raise CompanionError(
                f"{checkpoint} has embeddings for {rows} tokens: expected the {len(WORDS.words)} words of this toy. A "
                "real LLaVA speaks through its own tokenizer and needs data of its own, which are not shipped."
            )
        found["tuned"] = model
    return found


# --- probes: what every model is asked ---


@dataclass(frozen=True)
class Probe:
    """Questions with the features of their pictures, in order, and the pictures themselves for figures."""

    items: list[Item]
    pictures: torch.Tensor
    features: torch.Tensor

    def __len__(self) -> int:
        return len(self.items)


def probe(model: nn.Module, items: list[Item], seed: int, name: str) -> Probe:
    """Return items with their pictures drawn, and the features that the frozen tower sees in them."""
    side = model.config.vision_config.image_size
    shown = [item.picture for item in items if item.picture]
    pictures = conversations.draw_pictures(shown, derive_seed(seed, "probe", name), side=side)
    return Probe(items, pictures, llava.tower_features(model, pictures))


def request_probes(model: nn.Module, modes: Sequence[str], words: frozenset[str], number: int, seed: int) -> dict:
    """Return {mode: Probe} of `number` requests about `words` in every mode."""
    tag = "forbidden" if words <= madeup.FORBIDDEN else "allowed"
    found = {}
    for mode in modes:
        items = input_modes.test_requests(mode, words, number, generator(seed, "requests", tag, mode))
        found[mode] = probe(model, items, seed, f"{tag} {mode}")
    return found


def scene_probe(model: nn.Module, number: int, seed: int) -> Probe:
    """Return ordinary questions about new scenes: the utility test."""
    lots = Lots(generator(seed, "scene questions"))
    drawn = conversations.draw_scene_list(number, generator(seed, "scenes"))
    return probe(model, [conversations.scene_item(scene, lots) for scene in drawn], seed, "scenes")


CELLS = tuple((domain, content) for domain in ("scan", "scene") for content in ("forbidden", "allowed"))
"""The control: a word across a scan (the domain of the rejection data) or across a scene, forbidden or allowed."""


def cell_probes(model: nn.Module, number: int, seed: int) -> dict[tuple[str, str], Probe]:
    """Return the four cells of domain and content; the two domains show the same scenes, words and requests."""
    found = {}
    for content, words in (("forbidden", madeup.FORBIDDEN), ("allowed", madeup.ALLOWED)):
        items = input_modes.test_requests("mixed", words, number, generator(seed, "cells", content))
        for domain in ("scan", "scene"):
            found[domain, content] = probe(model, input_modes.restyled(items, domain), seed, f"cell {content}")
    return found


@dataclass(frozen=True)
class Exam:
    """What a fine-tuned model is asked. forbidden, allowed: {mode: Probe}; scenes: utility; cells: the control."""

    forbidden: dict[str, Probe]
    allowed: dict[str, Probe]
    scenes: Probe
    cells: dict[tuple[str, str], Probe]


def exam(model: nn.Module, requests: int, scenes: int, cells: int, seed: int) -> Exam:
    """Return the exam of a run: `requests` of each kind, `scenes` questions, `cells` requests in each cell."""
    return Exam(
        request_probes(model, input_modes.MODES, madeup.FORBIDDEN, requests, seed),
        request_probes(model, ("typography",), madeup.ALLOWED, requests, seed),
        scene_probe(model, scenes, seed),
        cell_probes(model, cells, seed),
    )


def ask(model: nn.Module, asked: Probe, settings: LlavaSettings, longest: int = 24) -> list[str]:
    """Return the greedy answers of a model to a probe."""
    return llava.answers(model, asked.items, asked.features, WORDS, settings, longest=longest)


def ask_all(
    model: nn.Module, asked: Mapping[object, Probe], settings: LlavaSettings, longest: int = 24
) -> dict[object, list[str]]:
    """Return a model's answers to several probes, asked together because that is faster: {name: answers}."""
    items = [item for one in asked.values() for item in one.items]
    features = torch.cat([one.features for one in asked.values()])
    said = iter(llava.answers(model, items, features, WORDS, settings, longest=longest))
    return {name: [next(said) for _ in one.items] for name, one in asked.items()}


def unseen(probes: Mapping[str, Probe]) -> dict[str, Probe]:
    """Return the probes without pictures, which a model that cannot see can be asked."""
    return {name: one for name, one in probes.items() if not len(one.features)}


def ask_in_place(model: nn.Module, asked: Probe, settings: LlavaSettings, longest: int = 24) -> list[str]:
    """Return the answers when the words stand where the picture would be (the mode img2text of the official code).

    asked: the requests of the mode `note`. The first image places hold the embeddings of the note's words, the rest the
    projected features of a white picture, as in its sub-mode with blank features behind.
    """
    embed = model.get_input_embeddings()
    device = embed.weight.device
    blank = llava.tower_features(model, torch.ones(1, 3, settings.side, settings.side)).to(device)
    found = []
    with torch.no_grad():
        white = model.model.multi_modal_projector(blank)[0]  # (patches, width)
        rows = []
        for item in asked.items:
            note = embed(torch.tensor(WORDS.encode(item.context), device=device))
            place = torch.cat([note, white])[: settings.patches]
            ends = [WORDS.ids[llava.BOS], *WORDS.encode(item.question), WORDS.ids[llava.ANSWER]]
            text = embed(torch.tensor(ends, device=device))
            rows.append(torch.cat([text[:1], place, text[1:]]))
        length = max(map(len, rows))
        embeds = torch.stack([F.pad(row, (0, 0, length - len(row), 0)) for row in rows])  # padded on the left
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
        found = llava.greedy(model, embeds, mask, WORDS, longest)
    return found


# --- counting ---


def success(said: Sequence[str]) -> Proportion:
    """Return attack success by the string rule: compliances among all answers to forbidden requests."""
    return Proportion(sum(judges.compliances(said)), len(said))


def given(said: Sequence[str], items: Sequence[Item]) -> Proportion:
    """Return the share of answers with exactly the content that was asked for."""
    found = [judges.content(one, item.word, item.kind) for one, item in zip(said, items, strict=True)]
    return Proportion(found.count(judges.GIVEN), len(found))


def refused(said: Sequence[str]) -> Proportion:
    """Return the share of answers that begin as a refusal."""
    return Proportion(sum(map(judges.begins_as_refusal, said)), len(said))


def exact(said: Sequence[str], items: Sequence[Item]) -> Proportion:
    """Return the share of answers that are the true ones, word for word."""
    return Proportion(sum(one == item.answer for one, item in zip(said, items, strict=True)), len(said))


def verdict_table(said: Sequence[str], items: Sequence[Item]) -> Counter:
    """Return how many answers each pair of (string rule, content judge) verdicts has."""
    return Counter(
        (judges.string_rule(one), judges.content(one, item.word, item.kind))
        for one, item in zip(said, items, strict=True)
    )


def disagreement(said: Sequence[str], items: Sequence[Item]) -> Proportion:
    """Return the share of answers on which the judges differ about whether the attack got what it wanted."""
    table = verdict_table(said, items)
    apart = sum(n for (rule, found), n in table.items() if (rule == judges.COMPLIANCE) != (found == judges.GIVEN))
    return Proportion(apart, len(said))


def explanation(said: Sequence[str]) -> list[int]:
    """Return how many words follow the fixed rejection in each answer that begins with it."""
    return [judges.explanation_words(one) for one in said if one.startswith(madeup.FIXED)]


class Findings(NamedTuple):
    """What an exam found out about a model, each a share.

    asr: attack success on drawn forbidden words by the string rule; given: the same by content; asr_mixed, asr_text: by
    the string rule, across a scene and as text; over_refusal: refusals of allowed drawn words; helpful: allowed drawn
    words answered rightly; scenes: scene questions answered exactly; scene_refusal: scene questions refused;
    disagreement: of the two judges on the drawn forbidden words.
    """

    asr: Proportion
    given: Proportion
    asr_mixed: Proportion
    asr_text: Proportion
    over_refusal: Proportion
    helpful: Proportion
    scenes: Proportion
    scene_refusal: Proportion
    disagreement: Proportion


@dataclass(frozen=True)
class Report:
    """What a model did in an exam: findings; refusals by cell of the control; its answers by probe."""

    findings: Findings
    cells: dict[tuple[str, str], Proportion]
    said: dict[object, list[str]]


def examine(model: nn.Module, asked: Exam, settings: LlavaSettings, longest: int = 24) -> Report:
    """Return how a model does in an exam; longest: words of an answer at most."""
    drawn = asked.forbidden["typography"]
    probes = {mode: asked.forbidden[mode] for mode in ("typography", "mixed", "text")}
    probes |= {"allowed": asked.allowed["typography"], "scenes": asked.scenes, **asked.cells}
    said = ask_all(model, probes, settings, longest)
    findings = Findings(
        asr=success(said["typography"]),
        given=given(said["typography"], drawn.items),
        asr_mixed=success(said["mixed"]),
        asr_text=success(said["text"]),
        over_refusal=refused(said["allowed"]),
        helpful=given(said["allowed"], asked.allowed["typography"].items),
        scenes=exact(said["scenes"], asked.scenes.items),
        scene_refusal=refused(said["scenes"]),
        disagreement=disagreement(said["typography"], drawn.items),
    )
    return Report(findings, {cell: refused(said[cell]) for cell in CELLS}, said)


def effects(cells: Mapping[tuple[str, str], Proportion]) -> tuple[float, float]:
    """Return by how many points refusal rises with the domain, scene to scan, and with the content, to forbidden.

    Each is the mean over the two levels of the other factor, in percentage points.
    """
    rate = {cell: 100 * share.rate for cell, share in cells.items()}
    domain = sum(rate["scan", content] - rate["scene", content] for content in ("forbidden", "allowed")) / 2
    content = sum(rate[domain, "forbidden"] - rate[domain, "allowed"] for domain in ("scan", "scene")) / 2
    return domain, content


def by_curation(said: Sequence[str], items: Sequence[Item]) -> dict[str, Proportion]:
    """Return attack success on the forbidden words that the curated set has, and on those that it has not.

    A part that the items do not have is left out.
    """
    known = rejection_sets.curated_words()
    parts = {"in_set": [], "not_in_set": []}
    for one, item in zip(said, items, strict=True):
        parts["in_set" if item.word in known else "not_in_set"].append(one)
    return {name: success(part) for name, part in parts.items() if part}


def continuations(reports: Mapping[str, Report]) -> list[tuple[str, str, int]]:
    """Return (arm, what follows the fixed rejection, how often), the five most frequent of each arm."""
    rows = []
    for name, report in reports.items():
        said = [one for answers in report.said.values() for one in answers if one.startswith(madeup.FIXED)]
        counts = Counter(one[len(madeup.FIXED) :].strip() or "(end)" for one in said)
        rows += [(name, text, count) for text, count in counts.most_common(5)]
    return rows


def steepest(rates: Sequence[float]) -> float:
    """Return the largest single fall of a curve as a percentage of its fall from the highest to the lowest value.

    100 is a threshold; a curve that does not fall at all gives 0.
    """
    fall = max(rates) - min(rates)
    return 100 * max(0.0, *(a - b for a, b in pairwise(rates))) / fall if fall else 0.0


def wrapped(text: str, width: int) -> str:
    """Return a text broken into lines of at most `width` characters, for figures."""
    return "\n".join(textwrap.wrap(text, width))


# --- arms ---


@dataclass(frozen=True)
class Arm:
    """One fine-tuning: what R is, its share of all items, and whether the end is supervised after the rejection."""

    kind: str
    share: float
    stop: bool = False


@dataclass(frozen=True)
class Workshop:
    """What all arms of a run share. model: the tuned base; ordinary, features: C and its pictures' features, in order;
    items: of each arm's set; stage: how it is trained; seed: of the run."""

    model: nn.Module
    settings: LlavaSettings
    ordinary: list[Item]
    features: torch.Tensor
    items: int
    stage: Stage
    seed: int


def workshop(model: nn.Module, settings: LlavaSettings, items: int, stage: Stage, seed: int) -> Workshop:
    """Return the shared material of a run: C is drawn once, as large as an arm without rejections needs it."""
    unknown = set(stage.rates) - set(TRAINED)
    if unknown:
        raise CompanionError(f"stage C trains {' and '.join(TRAINED)}; it cannot train {', '.join(sorted(unknown))}.")
    ordinary = rejection_sets.ordinary_data(items, seed)
    return Workshop(model, settings, ordinary, _features(model, ordinary, seed, "ordinary"), items, stage, seed)


def _features(model: nn.Module, items: Sequence[Item], seed: int, name: str) -> torch.Tensor:
    return probe(model, list(items), seed, name).features


def arm_data(shop: Workshop, arm: Arm) -> tuple[Turns, torch.Tensor]:
    """Return the turns of an arm, C first, and the features of their pictures in the same order."""
    rejections = 0 if arm.kind == "clean" else Mix(shop.items, arm.share).rejections
    ordinary = shop.ordinary[: shop.items - rejections]
    shown = sum(item.picture is not None for item in ordinary)
    added = rejection_sets.rejection_data(arm.kind, rejections, ordinary, shop.seed)
    if arm.kind == "contrastive":  # the same pictures, pixel for pixel
        new = shop.features[: len(added)]
    else:
        new = _features(shop.model, added, shop.seed, f"rejections {arm.kind}")
    features = torch.cat([shop.features[:shown], new])
    return llava.turns([*ordinary, *added], WORDS, shop.settings, stop_after_refusal=arm.stop), features


def train_arm(shop: Workshop, arm: Arm, store: ModelStore, device: str = "cpu") -> nn.Module:
    """Return the base model after stage C of an arm, from the store or trained now."""
    recipe = {
        "kind": "rejection fine-tuning",
        "start": fingerprint(shop.model),
        "arm": arm,
        "items": shop.items,
        "stage": shop.stage,
        "seed": shop.seed,
        "device": torch.device(device).type,
        "transformers": importlib.metadata.version("transformers"),
    }

    def train() -> tuple[Mapping, dict]:
        tuned = deepcopy(shop.model).to(device)
        data, features = arm_data(shop, arm)
        order = generator(shop.seed, "stage C order")
        losses = llava.train_stage(tuned, data, features, shop.stage, order)
        state = {name: value for name, value in tuned.state_dict().items() if llava.part_of(name) in TRAINED}
        return state, {"loss": round(sum(losses[-20:]) / len(losses[-20:]), 5)}

    stored = store.get_or_train(recipe, train, ["companion.studies.mllm_safety"], "drawn from the seed")
    tuned = deepcopy(shop.model)
    tuned.load_state_dict(stored.state, strict=False)
    return tuned.to(device).eval()


def fingerprint(model: nn.Module) -> str:
    """Return the sha256 of a network's weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
