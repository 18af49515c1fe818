"""Experiments of the chapter on local token unlearning (UBT): suspect pool, detection, arms of repair, sweeps, cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal import suspicion, zero_shot
from companion.multimodal.clip_defences import Repair, repair
from companion.multimodal.clip_network import image_embeddings
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.clip_victims import ClipVictim, ClipVictimRecipe, poisoned_pairs, train_clip_victim
from companion.multimodal.clip_worlds import World, scenes_world, world_of
from companion.multimodal.emoji_world import emoji_world
from companion.multimodal.pairs import Pairs
from companion.multimodal.suspicion import Isolation, Overfitting
from companion.multimodal.unlearning import Unlearning, is_word, marked_words, special_of, unlearned, word_effects
from companion.seeding import generator
from companion.statistics import Proportion
from companion.store import ModelStore

SCORES = ("similarity", "low_similarity", "overfitted", "overfitted_random", "gain", "low_loss", "reference", "random")
FEW_SCORES = ("similarity", "low_similarity", "overfitted", "gain", "reference", "random")
"""What is measured of every attack; the others train a copy of their own and are measured of one attack."""
SCORE_TITLES = {
    "similarity": "high similarity, before",
    "low_similarity": "low similarity, before",
    "overfitted": "high similarity after overfitting (UBT)",
    "overfitted_random": "the same, overfitted on random pairs",
    "gain": "gain in similarity by overfitting",
    "low_loss": "low loss (ABL-like isolation)",
    "reference": "low similarity under the clean CLIP",
    "random": "random order",
}
UNLEARNERS = ("local", "whole", "ascent")
ARMS = ("local", "whole", "ascent", "fine_tuning", "cleanclip")
ARM_TITLES = {
    "local": "UBT, words",
    "whole": "whole pairs",
    "ascent": "ABL-like ascent",
    "fine_tuning": "fine-tuning",
    "cleanclip": "CleanCLIP",
    "none": "keeping only",
    "whole_squared": "whole pairs, squared",
}


@dataclass(frozen=True)
class Arena:
    """What all experiments of a run share.

    victim: the recipe of the victims, whose attack is set by each experiment; noise: share of the suspect pool's pairs
    whose texts are exchanged among each other, as in data from the web; suspects: pairs to forget; kept: pairs of the
    pool that retain knowledge, drawn from all but the `unsafe` share with the highest suspicion; clean: pairs of the
    defender for fine-tuning and CleanCLIP; exam: pictures of the examination; top: k of top-k; world: where all
    pairs come from.
    """

    victim: ClipVictimRecipe
    noise: float = 0.1
    suspects: int = 64
    kept: int = 640
    unsafe: float = 0.2
    clean: int = 960
    exam: int = 1200
    probe: int = 960
    top: int = 3
    world: World = field(default_factory=scenes_world)
    overfitting: Overfitting = field(default_factory=Overfitting)
    isolation: Isolation = field(default_factory=Isolation)
    unlearning: Unlearning = field(default_factory=Unlearning)
    repair: ClipTraining = field(default_factory=lambda: ClipTraining(epochs=6, batch_size=64, warmup=5))
    seed: int = 0

    @property
    def target(self) -> int:
        """The target's class."""
        return self.world.classes.index(self.victim.target)


@dataclass(frozen=True, eq=False)
class Exam:
    """Pictures of one thing each, clean and with a trigger, and what to ask about them; see `examination`."""

    pictures: Pairs
    triggered: torch.Tensor
    prompts: torch.Tensor
    attack_prompts: torch.Tensor
    probe: Pairs
    target: int
    top: int


@dataclass(frozen=True)
class Outcome:
    """What an examination counts of one model.

    accuracy, accuracy_top: zero-shot, top-1 and top-k, on clean pictures; recall: of the target class alone;
    success, success_top: attack success on triggered pictures of other classes; probe_accuracy, probe_success: the same
    of a linear classifier on the frozen image embeddings.
    """

    accuracy: Proportion
    accuracy_top: Proportion
    recall: Proportion
    success: Proportion
    success_top: Proportion
    probe_accuracy: Proportion
    probe_success: Proportion

    def percent(self) -> list[float]:
        """Return all of them as percentages."""
        return [100 * getattr(self, name).rate for name in OUTCOMES]


OUTCOME_TITLES = (
    "clean",
    "clean top-3",
    "target found",
    "success",
    "success top-3",
    "probe: clean",
    "probe: success",
)
OUTCOMES = ("accuracy", "accuracy_top", "recall", "success", "success_top", "probe_accuracy", "probe_success")


def world_named(name: str, store: ModelStore, checkpoint: str = "", device: str = "cpu") -> World:
    """Return the world "scenes", with a published CLIP where a folder of one is given, or "emoji": real drawings."""
    if name not in WORLDS or (name == "emoji" and checkpoint):
        raise CompanionError(
            f"the world {name!r} with the checkpoint {checkpoint!r}: expected one of {', '.join(WORLDS)}, and a "
            "checkpoint for the scenes only."
        )
    return emoji_world(store) if name == "emoji" else world_of(checkpoint, device)


WORLDS = ("scenes", "emoji")


def victims(arena: Arena, attacks: Sequence[str], store: ModelStore) -> dict[str, ClipVictim]:
    """Return the victim of each attack, from the store or trained now."""
    return {attack: train_clip_victim(replace(arena.victim, attack=attack), arena.world, store) for attack in attacks}


def suspect_pool(arena: Arena, victim: ClipVictim) -> tuple[Pairs, torch.Tensor]:
    """Return the pairs that a victim was trained on, some with exchanged texts, and which those are, (N,) bool.

    The exchanged texts are moved on by one place among `noise` of the pairs that are not poisoned.
    """
    if not 0 <= arena.noise < 1:
        raise CompanionError(f"the share of mismatched pairs is {arena.noise}; expected a number in [0, 1).")
    pairs = poisoned_pairs(victim.recipe, victim.trigger, victim.world)
    sound = (~pairs.poisoned).nonzero().squeeze(1)
    stream = generator(arena.seed, "ubt", "noise")
    moved = sound[torch.randperm(len(sound), generator=stream)[: round(arena.noise * len(pairs))]]
    ids, noisy = pairs.ids.clone(), torch.zeros(len(pairs), dtype=torch.bool)
    ids[moved], noisy[moved] = pairs.ids[moved.roll(1)], True
    told = list(pairs.captions)
    for row, other in zip(moved.tolist(), moved.roll(1).tolist(), strict=True):
        told[row] = pairs.captions[other]
    return replace(pairs, ids=ids, captions=tuple(told)), noisy


def examination(arena: Arena, victim: ClipVictim) -> Exam:
    """Return the examination of a victim and of everything made from it."""
    held = arena.world.examine(arena.exam, "test", arena.seed)
    learner = arena.world.examine(arena.probe, "validation", arena.seed)
    triggered = victim.trigger.apply(held.images) if victim.trigger is not None else held.images
    return Exam(held, triggered, arena.world.prompts(), victim.prompts, learner, arena.target, arena.top)


def examine(model: nn.Module, exam: Exam) -> Outcome:
    """Return what the examination counts of a model."""
    labels, k = exam.pictures.labels, exam.top
    clean, fired = image_embeddings(model, exam.pictures.images), image_embeddings(model, exam.triggered)
    scores = clean @ zero_shot.class_embeddings(model, exam.prompts).T
    attacked = fired @ zero_shot.class_embeddings(model, exam.attack_prompts).T
    own = labels == exam.target
    probe = zero_shot.linear_probe(image_embeddings(model, exam.probe.images), exam.probe.labels, len(exam.prompts))
    return Outcome(
        zero_shot.accuracy(scores, labels),
        zero_shot.accuracy(scores, labels, k),
        zero_shot.accuracy(scores[own], labels[own]),
        zero_shot.attack_success(attacked, labels, exam.target),
        zero_shot.attack_success(attacked, labels, exam.target, k),
        zero_shot.accuracy(zero_shot.probe_scores(probe, clean), labels),
        zero_shot.attack_success(zero_shot.probe_scores(probe, fired), labels, exam.target),
    )


def control(world: World, exam: Exam) -> Proportion:
    """Return the attack success on the world's clean CLIP, which nobody poisoned."""
    found = zero_shot.scores(world.load(), exam.triggered, exam.attack_prompts)
    return zero_shot.attack_success(found, exam.pictures.labels, exam.target)


def success_of(model: nn.Module, exam: Exam, number: int) -> Proportion:
    """Return the attack success on the first `number` pictures alone, quickly, for curves over the training."""
    part = slice(0, number)
    found = zero_shot.scores(model, exam.triggered[part], exam.attack_prompts)
    return zero_shot.attack_success(found, exam.pictures.labels[part], exam.target)


@dataclass(frozen=True, eq=False)
class Detection:
    """The suspicion of every pair of a pool by each of SCORES, and the overfitted copy of the victim.

    weak_share: poisoned pairs among the weak ones that the copy was overfitted on.
    """

    scores: Mapping[str, torch.Tensor]
    poisoned: torch.Tensor
    noisy: torch.Tensor
    model: nn.Module
    weak_share: Proportion

    def auroc(self, score: str) -> float:
        """Return the AUROC of a score in percent: poisoned against all other pairs."""
        return 100 * suspicion.auroc(self.scores[score], self.poisoned)

    def precision(self, score: str, count: int) -> Proportion:
        """Return the share of poisoned pairs among the `count` most suspicious."""
        return suspicion.precision_at(self.scores[score], self.poisoned, count)

    def recall(self, score: str, count: int) -> Proportion:
        """Return the share of the poisoned pairs that are among the `count` most suspicious."""
        return suspicion.recall_at(self.scores[score], self.poisoned, count)


def detect(
    arena: Arena, victim: ClipVictim, pool: Pairs, noisy: torch.Tensor, scores: Sequence[str] = SCORES
) -> Detection:
    """Return the suspicion of every pair of the pool by the scores asked for ("overfitted" always)."""
    name, model = victim.recipe.attack, victim.model
    before = suspicion.similarities(model, pool)
    weak = suspicion.weak_rows(before, arena.overfitting.share)
    stream = generator(arena.seed, "ubt", "overfit", name)
    strong = suspicion.overfitted(model, pool.subset(weak), arena.overfitting, stream)
    after = suspicion.similarities(strong, pool)
    found = {"similarity": before, "low_similarity": -before, "overfitted": after, "gain": after - before}
    if "overfitted_random" in scores:
        stream = generator(arena.seed, "ubt", "overfit at random", name)
        rows = torch.randperm(len(pool), generator=stream)[: len(weak)]
        other = suspicion.overfitted(model, pool.subset(rows), arena.overfitting, stream)
        found["overfitted_random"] = suspicion.similarities(other, pool)
    if "low_loss" in scores:
        stream = generator(arena.seed, "ubt", "isolation", name)
        found["low_loss"] = -suspicion.isolation_losses(arena.world.load(), pool, arena.isolation, stream)
    if "reference" in scores:
        found["reference"] = -suspicion.similarities(arena.world.load(), pool)
    if "random" in scores:
        found["random"] = torch.rand(len(pool), generator=generator(arena.seed, "ubt", "random score", name))
    poisoned = pool.poisoned
    share = Proportion(int(poisoned[weak].sum()), len(weak))
    return Detection({one: found[one] for one in SCORES if one in found}, poisoned, noisy, strong, share)


def overfit_again(arena: Arena, victim: ClipVictim, rate: float, known_rate: float, known: Detection) -> Detection:
    """Return the detection with another learning rate of overfitting; `known` is that of `known_rate`."""
    if rate == known_rate:
        return known
    training = replace(arena.overfitting.training, learning_rate=rate)
    other = replace(arena, overfitting=replace(arena.overfitting, training=training))
    return detect(other, victim, *suspect_pool(arena, victim), ("overfitted",))


def rate_name(rate: float) -> str:
    """Return a learning rate as a part of a metric id: "r1e_03" for 0.001."""
    return f"r{rate:.0e}".replace("-", "_").replace("+", "_")


@dataclass(frozen=True, eq=False)
class Case:
    """A victim with its pool, detection and examination: what every repair starts from."""

    victim: ClipVictim
    pool: Pairs
    detection: Detection
    exam: Exam


def case_of(arena: Arena, victim: ClipVictim, scores: Sequence[str] = SCORES) -> Case:
    """Return the case of a victim."""
    pool, noisy = suspect_pool(arena, victim)
    return Case(victim, pool, detect(arena, victim, pool, noisy, scores), examination(arena, victim))


def auroc_alike(case: Case) -> tuple[dict[str, float], int]:
    """Return each score's AUROC in percent, poisoned pairs against those clean ones whose text is a class prompt too.

    A score that finds the form of the poisoned texts, and not the trigger, is no better than a coin here. Also returns
    how many such clean pairs there are; without any, no score has a value.
    """
    world, poisoned = case.victim.world, case.pool.poisoned
    prompts = {text for word in world.classes for text in world.templates(word)}
    alike = torch.tensor([told is not None and told.text in prompts for told in case.pool.captions]) & ~poisoned
    if not alike.any():
        return {}, 0
    rows = alike | poisoned
    found = case.detection.scores
    areas = {score: 100 * suspicion.auroc(values[rows], poisoned[rows]) for score, values in found.items()}
    return areas, int(alike.sum())


def suspects_of(arena: Arena, case: Case, count: int | None = None) -> Pairs:
    """Return the most suspicious pairs of a pool by UBT's score."""
    rows = suspicion.most_suspicious(case.detection.scores["overfitted"], count or arena.suspects)
    return case.pool.subset(rows)


def suspects_with_precision(arena: Arena, case: Case, precision: float) -> Pairs:
    """Return as many suspects, of which a given share is poisoned: the most suspicious of each kind.

    It needs the ground truth, which a defender has not: it is the sensitivity study, not the defence.
    """
    scores, poisoned = case.detection.scores["overfitted"], case.pool.poisoned
    right = round(precision * arena.suspects)
    if not 0 <= right <= int(poisoned.sum()):
        raise CompanionError(
            f"{right} poisoned suspects were asked for; the pool has {int(poisoned.sum())} poisoned pairs."
        )
    order = scores.argsort(descending=True, stable=True)
    rows = torch.cat([order[poisoned[order]][:right], order[~poisoned[order]][: arena.suspects - right]])
    return case.pool.subset(rows)


def kept_of(arena: Arena, case: Case) -> Pairs:
    """Return the pairs of the pool that retain knowledge: random ones outside the most suspicious share."""
    scores = case.detection.scores["overfitted"]
    safe = scores.argsort(stable=True)[: len(scores) - round(arena.unsafe * len(scores))]
    if not 2 <= arena.kept <= len(safe):
        raise CompanionError(
            f"{arena.kept} pairs to keep: expected 2 to {len(safe)}, the pairs outside the most suspicious share."
        )
    chosen = torch.randperm(len(safe), generator=generator(arena.seed, "ubt", "kept"))[: arena.kept]
    return case.pool.subset(safe[chosen])


def defenders_pairs(arena: Arena) -> Pairs:
    """Return the defender's clean pairs, which no attacker had."""
    return arena.world.draw(arena.clean, "defender", arena.seed)


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired model, its outcome, and the attack success after each epoch with the pairs trained on by then."""

    model: nn.Module
    outcome: Outcome
    passes: tuple[int, ...]
    curve: tuple[Proportion, ...]


def forget(
    arena: Arena, case: Case, settings: Unlearning, suspects: Pairs, kept: Pairs | None = None, curve: int = 0
) -> Repaired:
    """Return a victim after unlearning; curve: pictures for the attack success after each epoch (0: none)."""
    kept = kept_of(arena, case) if kept is None else kept
    batch = settings.training.batch_size
    each = len(kept) // batch * (batch + (settings.forget if settings.method != "none" else 0))
    stream = generator(arena.seed, "ubt", "unlearning", case.victim.recipe.attack)
    track = _Track(case.exam, curve, each)
    model = unlearned(case.victim.model, suspects, kept, settings, stream, marker=case.detection.model, on_epoch=track)
    return Repaired(model, examine(model, case.exam), tuple(track.passes), tuple(track.found))


def repair_with(arena: Arena, case: Case, method: str, rate: float, clean: Pairs, curve: int = 0) -> Repaired:
    """Return a victim after fine-tuning or CleanCLIP on the defender's clean pairs."""
    training = replace(arena.repair, learning_rate=rate)
    each = len(clean) // training.batch_size * training.batch_size * (2 if method == "cleanclip" else 1)
    track = _Track(case.exam, curve, each)
    model = repair(case.victim.model, clean, Repair(method, training), arena.seed, track, arena.world.encode)
    return Repaired(model, examine(model, case.exam), tuple(track.passes), tuple(track.found))


class _Track:
    """Called after each epoch: notes the pairs that went forward and backward so far, and the attack success."""

    def __init__(self, exam: Exam, number: int, each: int):
        self.exam, self.number, self.each = exam, number, each
        self.passes, self.found = [], []

    def __call__(self, epoch: int, model: nn.Module) -> None:
        if self.number:
            self.passes.append(epoch * self.each)
            self.found.append(success_of(model, self.exam, self.number))


def arm(arena: Arena, case: Case, method: str, rate: float, clean: Pairs, curve: int = 0) -> Repaired:
    """Return a victim after one of ARMS (or "none", "whole_squared") at a learning rate."""
    if method in ("fine_tuning", "cleanclip"):
        return repair_with(arena, case, method, rate, clean, curve)
    return forget(arena, case, with_method(arena, method, rate), suspects_of(arena, case), curve=curve)


def with_method(arena: Arena, method: str, rate: float) -> Unlearning:
    """Return the settings of unlearning with another method and learning rate, all else the same."""
    training = replace(arena.unlearning.training, learning_rate=rate)
    return replace(arena.unlearning, method=method, training=training)


VARIANT_TITLES = {
    "whole_squared": "whole pairs, squared cosine",
    "projections": "words, projections trained only",
    "clean_kept": "words, the defender's clean pairs kept",
    "margin": "words, margin 0.2",
}


def variants(arena: Arena, case: Case, clean: Pairs, settings: Unlearning) -> dict[str, Outcome]:
    """Return the outcome of each of VARIANT_TITLES; clean: the defender's pairs; settings: of what they vary."""
    suspects = suspects_of(arena, case)
    number = min(arena.kept, len(clean))
    planned = {
        "whole_squared": (replace(settings, method="whole_squared"), None),
        "projections": (replace(settings, part="projections"), None),
        "clean_kept": (settings, clean.subset(torch.arange(number))),
        "margin": (replace(settings, margin=0.2), None),
    }
    return {name: forget(arena, case, varied, suspects, kept).outcome for name, (varied, kept) in planned.items()}


def preparation(arena: Arena) -> int:
    """Return the pairs trained on before unlearning begins: the overfitting's."""
    weak = round(arena.overfitting.share * arena.victim.pairs)
    batch = arena.overfitting.training.batch_size
    return arena.overfitting.training.epochs * (weak // batch) * batch


def cost_to(found: Repaired, percent: float, before: int = 0) -> tuple[int, bool]:
    """Return the pairs trained on until the attack success stays at or below `percent`, and whether it ever does.

    before: pairs trained on earlier. Where it does not, the whole training's pairs are returned, a lower bound.
    """
    reached = [100 * one.rate <= percent for one in found.curve]
    last_above = max((i for i, low in enumerate(reached) if not low), default=-1)
    if last_above == len(reached) - 1:
        return before + found.passes[-1], False
    return before + found.passes[last_above + 1], True


def best_rate(found: Mapping[float, Outcome], reached: float) -> float:
    """Return the learning rate with the best clean accuracy among those with an attack success of at most `reached` %.

    Where none gets there, the one with the lowest attack success.
    """
    there = {rate: one for rate, one in found.items() if 100 * one.success.rate <= reached}
    if not there:
        return min(found, key=lambda rate: found[rate].success.rate)
    return max(there, key=lambda rate: there[rate].accuracy.rate)


MARKS = ("effects", "marks", "poisoned")


def word_marks(
    case: Case, each: int, most: int = 3
) -> tuple[list[list[str]], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return words, effects (2 each, W), marks (2 each, W) and which are poisoned, of the most suspicious pairs.

    `each` poisoned ones come first, then as many others. Places without a word are 0.
    """
    order = case.detection.scores["overfitted"].argsort(descending=True, stable=True)
    rows = torch.cat([order[case.pool.poisoned[order] == kind][:each] for kind in (True, False)])
    suspects = case.pool.subset(rows)
    effects = word_effects(case.detection.model, suspects)
    marks = marked_words(effects, suspects.ids, most, special_of(case.detection.model))
    words = [case.victim.world.decode(row) for row in suspects.ids]
    return words, effects[:, 1:], marks[:, 1:], suspects.poisoned


def marked_target(case: Case, word: str, most: int = 3) -> tuple[Proportion, float]:
    """Return in how many of the pool's poisoned pairs `word` is marked, and the mean number of words marked in them."""
    suspects = case.pool.subset(case.pool.poisoned)
    special = special_of(case.detection.model)
    marks = marked_words(word_effects(case.detection.model, suspects), suspects.ids, most, special)
    named = case.victim.world.encode([word])
    target = torch.isin(suspects.ids, named[is_word(named, special)])
    return Proportion(int((marks & target).any(1).sum()), len(suspects)), float(marks.sum(1).float().mean())


def plane(before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean (D,) and the two principal directions (D, 2) of embeddings (N, D), each with a fixed sign."""
    mean = before.mean(0)
    directions = torch.linalg.svd(before - mean, full_matrices=False).Vh[:2].T
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return mean, directions * signs


def embedding_map(models: Mapping[str, nn.Module], exam: Exam, number: int) -> dict[str, dict[str, torch.Tensor]]:
    """Return points (n, 2) of clean target pictures, other pictures, the latter with the trigger, and class texts.

    The plane is that of the principal components of each model's own clean and triggered pictures.
    """
    labels = exam.pictures.labels
    own, others = (labels == exam.target).nonzero().squeeze(1), (labels != exam.target).nonzero().squeeze(1)[:number]
    found = {}
    for name, model in models.items():
        clean, fired = image_embeddings(model, exam.pictures.images), image_embeddings(model, exam.triggered[others])
        mean, directions = plane(torch.cat([clean, fired]))
        found[name] = {
            "others": (clean[others] - mean) @ directions,
            "triggered": (fired - mean) @ directions,
            "target": (clean[own] - mean) @ directions,
        }
    return found


def text_images(model: nn.Module, exam: Exam) -> tuple[float, float]:
    """Return mean cosines of triggered pictures of other classes with the target's prompts, and their own class's."""
    labels = exam.pictures.labels
    others = labels != exam.target
    scores = zero_shot.scores(model, exam.triggered[others], exam.attack_prompts)
    own = scores.gather(1, labels[others][:, None]).mean()
    return float(scores[:, exam.target].mean()), float(own)


CLOUD_TITLES = {"others": "other classes", "triggered": "other classes with the trigger", "target": "target"}
