"""Pairs of emoji: words that all encode, splits that share no drawing, balanced pictures, and a CLIP of the recipe."""

import functools

import pytest
import torch

from companion.data import emoji, local
from companion.data.emoji import Emoji
from companion.data.manifest import load_manifest
from companion.errors import CompanionError
from companion.multimodal import emoji_clip, emoji_pairs, emoji_world
from companion.multimodal.clip_network import ClipSize, image_embeddings, text_embeddings
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.clip_victims import ClipVictimRecipe
from companion.multimodal.suspicion import Isolation, Overfitting
from companion.multimodal.unlearning import Unlearning
from companion.multimodal.words import PAD_ID
from companion.seeding import generator
from companion.store import ModelStore
from companion.studies import ubt

REAL = emoji.emoji  # as imported, before the toys take its place
LONGEST = "raised hand with part between middle and ring fingers tone 5"
TINY = emoji_clip.EmojiClipRecipe(
    ClipSize(width=16, hidden=16, vision_layers=1, text_layers=1, heads=2, joint=8),
    copies=1,
    training=ClipTraining(1, 32, 1e-3, 2, 0.05),
    start="nothing",
)


@functools.cache
def toys() -> tuple[list[Emoji], torch.Tensor]:
    """Sixty drawings of each category, five tones of each fourth person among them."""
    records = []
    for kind in (*emoji_pairs.SPOKEN, "regional"):
        for k in range(60):
            name = f"{kind[:3]} number {k}"
            records.append(Emoji(name, 0, kind, ("cold", "statue of liberty", "animal"), name, "", ""))
            if kind == "people" and k % 4 == 0:
                records += [Emoji(f"{name} tone {tone}", tone, kind, (), name, "", "") for tone in range(1, 6)]
    records.append(Emoji(LONGEST, 5, "people", ("vacation", "punctuation"), LONGEST, "", ""))
    pixels = torch.randint(256, (len(records), 4, 64, 64), generator=generator(0, "toys"), dtype=torch.uint8)
    return emoji.shared_out(records), pixels


@pytest.fixture(scope="module", autouse=True)
def drawn():
    """The toys in the place of the real data, for every test but the one that restores it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji, "emoji", toys)
        forget()
        yield
    forget()


def forget() -> None:
    emoji_pairs._everything.cache_clear()
    emoji_pairs.tokenizer.cache_clear()


def shown(pairs) -> set[str]:
    return {one.group for one in pairs.scenes}


def test_no_drawing_is_in_two_splits_however_it_is_drawn():
    held = {name: set() for name in ("attacker", "defender", "validation", "test")}
    for seed in (0, 1):
        for name in ("attacker", "defender"):
            held[name] |= shown(emoji_pairs.draw(40, name, seed))
        for name in ("attacker", "validation", "test"):
            held[name] |= shown(emoji_pairs.examine(30, name, seed))
    names = list(held)
    assert not any(held[a] & held[b] for k, a in enumerate(names) for b in names[k + 1 :])
    assert shown(emoji_pairs.copies(1, 0)) >= held["attacker"], "the attacker poisons a copy of the web"


def test_pairs_follow_their_seed_alone():
    first, again, other = (emoji_pairs.draw(50, "attacker", seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images) and torch.equal(first.ids, again.ids)
    assert not torch.equal(first.images, other.images) and not torch.equal(first.ids, other.ids)
    assert first.images.shape == (50, 3, 32, 32) and first.images.dtype == torch.float32
    assert torch.equal(first.as_bytes().images.float() / 255, first.images), "256 levels"
    assert len({one.name for one in first.scenes}) == 50, "no drawing again before all came"
    assert not bool(first.poisoned.any())


def test_a_drawing_comes_again_as_another_picture_with_another_caption():
    count = len(emoji_pairs.members("defender"))
    thrice = emoji_pairs.draw(3 * count, "defender", 0)
    rounds = [tuple(one.name for one in thrice.scenes[k * count : (k + 1) * count]) for k in range(3)]
    assert all(sorted(rounds[0]) == sorted(one) for one in rounds) and rounds[0] != rounds[1]
    first, again = 0, count + rounds[1].index(rounds[0][0])
    assert not torch.equal(thrice.images[first], thrice.images[again])
    told = {one.text for one, shown in zip(thrice.captions, thrice.scenes, strict=True) if shown.category == "travel"}
    assert len(told) > len({one.name for one in thrice.scenes if one.category == "travel"})


def test_only_the_web_has_tones_of_skin_and_no_split_has_letters():
    rows = {name: [toys()[0][row] for row in emoji_pairs.members(name)] for name in ("web", "defender", "test")}
    assert any(one.tone for one in rows["web"])
    assert not any(one.tone for name in ("defender", "test") for one in rows[name])
    assert {one.category for one in rows["web"]} == set(emoji_pairs.SPOKEN)


def test_pictures_of_an_examination_take_turns_over_the_classes():
    number = 3 * len(emoji_pairs.CLASSES)
    exam = emoji_pairs.examine(number, "test", 0)
    assert exam.labels.bincount().tolist() == [3] * len(emoji_pairs.CLASSES)
    assert [emoji_pairs.CLASSES[k] for k in exam.labels] == [one.category for one in exam.scenes]
    assert len(shown(exam)) == number, "one picture of each group"


def test_a_pair_of_the_eighth_category_has_no_label_and_is_never_examined():
    every = emoji_pairs.draw(len(emoji_pairs.members("web")), "attacker", 0)
    assert {one.category for one, k in zip(every.scenes, every.labels, strict=True) if k < 0} == {"activity"}
    whole = emoji_pairs.examine(len(emoji_pairs.members("test", single=True)), "test", 0)
    assert whole.labels.min() == 0 and "activity" not in {one.category for one in whole.scenes}


def test_mentions_are_the_category_said_or_not():
    pairs = emoji_pairs.draw(120, "attacker", 0)
    found = emoji_pairs.mentions(pairs, "travel")
    assert found.tolist() == [one.category == "travel" for one in pairs.scenes] and 0 < int(found.sum()) < 60
    said = torch.tensor(["travel" in one.words for one in pairs.captions])
    assert (said <= found).all() and not torch.equal(said, found)


def test_every_caption_and_prompt_encodes_and_reads_back():
    rolls = [(k / 40, k / 40, 0.0, 0.999) for k in range(40)]
    records = [toys()[0][-1], toys()[0][0]]
    told = [emoji_pairs.caption(one, four) for one in records for four in rolls]
    texts = [one.text for one in told] + [t for word in emoji_pairs.CLASSES for t in emoji_pairs.templates(word)]
    ids = emoji_pairs.encoded(texts)
    for text, row in zip(texts, ids, strict=True):
        kept = row[row != PAD_ID][1:-1]
        assert emoji_pairs.tokenizer().convert_ids_to_tokens(kept.tolist()) == text.split()
    assert any(len(one.words) >= 16 for one in told), "the longest name with its key words fits"
    assert all(one.text == " ".join(one.words) and "  " not in one.text for one in told)
    with pytest.raises(CompanionError, match="the word 'zebra'"):
        emoji_pairs.encoded(["a picture of a zebra"])


def test_some_captions_say_the_category_alone_and_some_only_the_name():
    one = toys()[0][0]
    told = {emoji_pairs.caption(one, (k / 100, k / 100, 0.5, 0.5)).text for k in range(100)}
    assert told & set(emoji_pairs.templates("people")) and one.name in told
    assert any("animal" in text for text in told) and not any("liberty" in text for text in told)


@pytest.mark.parametrize("number", [0, 10_000])
def test_more_pictures_than_there_are_is_an_error_with_the_number(number):
    count = emoji_pairs.COPIES * len(emoji_pairs.members("defender"))
    with pytest.raises(CompanionError, match=rf"{number} emoji of the split 'defender'.*expected 1 to {count}"):
        emoji_pairs.draw(number, "defender", 0)
    single = len(emoji_pairs.members("test", single=True))
    with pytest.raises(
        CompanionError, match=f"{number} emoji of the split 'test'.*expected 1 to {single}, one of each"
    ):
        emoji_pairs.examine(number, "test", 0)
    with pytest.raises(CompanionError, match="no split 'pretraining' of emoji; expected one of attacker"):
        emoji_pairs.draw(1, "pretraining", 0)


def test_grounds_are_soft_and_copies_are_posed():
    grounds = emoji_pairs.soft_grounds(20, 32, generator(0))
    assert grounds.shape == (20, 3, 32, 32) and grounds.min() >= 0.35 and grounds.max() <= 1
    steps = torch.cat([grounds.diff(dim=2).flatten(), grounds.diff(dim=3).flatten()]).abs()
    assert steps.max() < 0.65 / 31 * 2, "straight gradients have no edge"
    corners = grounds[:, :, ::31, ::31]
    assert torch.allclose(corners[..., 0, 0] + corners[..., 1, 1], corners[..., 0, 1] + corners[..., 1, 0], atol=1e-5)
    twice = emoji_pairs.copies(2, 0)
    count = len(emoji_pairs.members("web"))
    assert len(twice) == 2 * count and twice.scenes[0] == twice.scenes[count]
    assert not torch.equal(twice.images[0], twice.images[count])


def test_the_recipe_gives_one_clip_and_its_digest_is_of_the_weights(tmp_path):
    found = emoji_clip.emoji_clip(ModelStore(tmp_path / "a"), TINY)
    again = emoji_clip.emoji_clip(ModelStore(tmp_path / "b"), TINY)
    assert found.sha256 == again.sha256 and found.info["pairs"] == len(emoji_pairs.members("web"))
    other = dict(found.state)
    other["logit_scale"] = other["logit_scale"] + 1
    assert emoji_clip.digest(other) != found.sha256
    with pytest.raises(CompanionError, match="start 'base' of an emoji CLIP: expected one of scenes, nothing"):
        emoji_clip.EmojiClipRecipe(start="base")


def test_the_world_speaks_its_own_words(tmp_path):
    store = ModelStore(tmp_path)
    world = emoji_world.emoji_world(store, TINY)
    assert world.name == "emoji" and world.classes[world.aim] == world.target == "travel" and world.side == 32
    assert emoji_world.emoji_world(store, TINY).sha256 == world.sha256 and store.reused == 1
    model, pairs = world.load(), world.draw(12, "defender", 0)
    assert image_embeddings(model, pairs.images).shape == text_embeddings(model, pairs.ids).shape == (12, 8)
    assert [world.decode(row) for row in pairs.ids] == [one.words for one in pairs.captions]
    assert world.prompts(world.prefix).shape[:2] == (7, len(emoji_pairs.TEMPLATES))
    with torch.no_grad():
        model.logit_scale += 1
    assert not torch.equal(model.logit_scale, world.load().logit_scale), "a fresh copy each time"


def test_detection_and_every_repair_of_the_chapter_run_on_emoji(tmp_path):
    """The path of UBT's profile `real`: CleanCLIP's synonyms are known words, and no score needs the scenes."""
    store, short = ModelStore(tmp_path), ClipTraining(1, 16, 5e-4, 0)
    arena = ubt.Arena(
        ClipVictimRecipe("badnet", emoji_world.TARGET, 96, 12, training=short, search_pictures=40),
        world=emoji_world.emoji_world(store, TINY), suspects=8, kept=32, clean=48, exam=35, probe=28,
        overfitting=Overfitting(0.25, short), isolation=Isolation(training=short),
        unlearning=Unlearning(forget=4, training=short), repair=short,
    )  # fmt: skip
    case = ubt.case_of(arena, ubt.victims(arena, ["badnet"], store)["badnet"])
    assert tuple(case.detection.scores) == ubt.SCORES and int(case.pool.poisoned.sum()) == 12
    assert not (emoji_pairs.mentions(case.pool, "travel") & case.pool.poisoned).any()
    areas, count = ubt.auroc_alike(case)
    assert set(areas) == set(ubt.SCORES) and areas["similarity"] + areas["low_similarity"] == pytest.approx(100)
    prompts = {text for word in emoji_pairs.CLASSES for text in emoji_pairs.templates(word)}
    rows = [k for k, told in enumerate(case.pool.captions) if told is not None and told.text in prompts]
    scores, dirty = case.detection.scores["reference"], case.pool.poisoned
    above = [float(a > b) + 0.5 * float(a == b) for a in scores[dirty] for b in scores[rows]]
    assert areas["reference"] == pytest.approx(100 * sum(above) / len(above)) and 0 < len(rows) == count < 40
    for method in ubt.ARMS:
        assert ubt.arm(arena, case, method, 3e-4, ubt.defenders_pairs(arena)).outcome.success.n == 30
    assert ubt.marked_target(case, "travel")[0].n == 12
    patched = ubt.victims(arena, ["dual_key"], store)["dual_key"]
    assert emoji_pairs.tokenizer().convert_ids_to_tokens(patched.prompts[0, 0].tolist())[1] == "remember"


def test_the_real_emoji_give_pairs():
    """Runs where COMPANION_DATA has them: every caption that can be drawn encodes, and the splits have these sizes."""
    if local.locate(load_manifest("emoji_captions")) is None:
        pytest.skip("emoji_captions is not on this machine")
    with pytest.MonkeyPatch.context() as patch:
        forget()
        patch.setattr(emoji, "emoji", REAL)
        sizes = [len(emoji_pairs.members(name)) for name in ("attacker", "defender")]
        sizes += [len(emoji_pairs.members(name, single=True)) for name in ("attacker", "validation", "test")]
        told = emoji_pairs.draw(sizes[0], "attacker", 0)
        forget()
    assert sizes == [1134, 175, 779, 109, 186]
    assert len(told) == 1134 and told.ids.shape == (1134, 24)
