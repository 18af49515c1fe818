"""Worlds of CLIP experiments: the shipped one, and a published checkpoint in its place through the same studies."""

import pytest
import torch
from checkpoint_toys import save_normalisation
from safetensors.torch import load_file

from companion.attacks.triggers import make_trigger
from companion.data.scenes import SHAPES
from companion.errors import CompanionError
from companion.multimodal import clip_worlds, pairs
from companion.multimodal.clip_base import BASE
from companion.multimodal.clip_network import ClipSize, build_clip, image_embeddings, text_embeddings
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.clip_victims import ClipVictimRecipe
from companion.multimodal.initialising import initialised_from
from companion.multimodal.suspicion import Isolation, Overfitting
from companion.multimodal.unlearning import Unlearning, is_word, special_of
from companion.multimodal.words import BEGIN, END, SPECIAL, UNKNOWN
from companion.seeding import generator
from companion.store import ModelStore
from companion.studies import ta_cleaner, ubt

SHORT = ClipTraining(epochs=1, batch_size=16, learning_rate=5e-4, warmup=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder as save_pretrained writes it: 48 pixels, three colours, texts padded with their end token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("published")
    known = [word for word in pairs.tokenizer().get_vocab() if word not in SPECIAL]
    listed = [*sorted(known), BEGIN, UNKNOWN, END]  # the end token is the last, as in the first CLIPs
    inner = Tokenizer(models.WordLevel({word: k for k, word in enumerate(listed)}, unk_token=UNKNOWN))
    inner.normalizer, inner.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    from tokenizers.processors import TemplateProcessing

    ends = [(BEGIN, listed.index(BEGIN)), (END, listed.index(END))]
    inner.post_processor = TemplateProcessing(single=f"{BEGIN} $A {END}", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=BEGIN, eos_token=END, pad_token=END, unk_token=UNKNOWN
    ).save_pretrained(root)
    shipped = build_clip(
        ClipSize(side=48, patch=16, width=16, hidden=16, vision_layers=1, text_layers=1, heads=2, joint=8, context=40),
        pairs.tokenizer(),
        generator(0),
    ).config
    text = shipped.text_config.to_dict() | {"vocab_size": len(listed), "eos_token_id": 2, "pad_token_id": 1}
    config = CLIPConfig(
        text_config=text, vision_config=shipped.vision_config.to_dict() | {"num_channels": 3}, projection_dim=8
    )
    with initialised_from(generator(1, "weights")):
        CLIPModel(config).save_pretrained(root)
    save_normalisation(root)
    return root


@pytest.fixture(scope="module")
def published(folder):
    return clip_worlds.world_of(str(folder))


def state(model):
    return torch.cat([one.detach().flatten() for one in model.parameters()])


def test_the_shipped_world_is_the_shipped_clip_in_its_own_words():
    world = clip_worlds.world_of()
    assert world is clip_worlds.scenes_world() and world.sha256 == BASE.sha256
    assert world.classes == SHAPES and SHAPES[world.aim] == world.target == "star"
    assert torch.equal(world.prompts(), pairs.prompts())
    assert torch.equal(world.draw(5, "defender", 1).images, pairs.draw_pairs(5, "defender", 1).images)
    assert world.decode(world.encode(["a red star"])[0]) == ["a", "red", "star"]
    first, second = world.load(), world.load()
    with torch.no_grad():
        first.logit_scale += 1
    assert not torch.equal(first.logit_scale, second.logit_scale), "a copy each"


def test_a_fresh_clip_has_the_size_and_other_weights():
    world = clip_worlds.scenes_world()
    fresh, again, other = (world.fresh(generator(seed, "weights")) for seed in (0, 0, 1))
    assert torch.equal(state(fresh), state(again)) and not torch.equal(state(fresh), state(other))
    assert len(state(fresh)) == len(state(world.load()))
    assert torch.equal(state(world.restored(fresh.state_dict())), state(fresh))


def test_a_published_clip_gets_pictures_of_its_size_and_its_own_token_ids(published, folder):
    drawn = published.draw(6, "attacker", 0)
    assert drawn.images.shape == (6, 3, 48, 48) and published.side == 48
    model = published.load()
    end = special_of(model).end
    assert special_of(model).pad == end and (drawn.ids[:, -1] == end).all()
    assert [published.decode(row) for row in drawn.ids] == [list(told.words) for told in drawn.captions]
    assert [int(n) for n in is_word(drawn.ids, special_of(model)).sum(1)] == [
        len(told.words) for told in drawn.captions
    ]
    assert image_embeddings(model, drawn.images).shape == text_embeddings(model, drawn.ids).shape == (6, 8)
    digest = clip_worlds.weights_digest(folder)
    assert published.sha256 == digest != BASE.sha256
    assert load_file(folder / "model.safetensors"), "the digest is of the file that is there"


def test_the_digest_of_a_published_clip_changes_with_its_weights(folder, tmp_path):
    whole = clip_worlds.weights_digest(folder)
    copied = tmp_path / "model.safetensors"
    copied.write_bytes((folder / "model.safetensors").read_bytes())
    assert clip_worlds.weights_digest(tmp_path) == whole
    copied.write_bytes(copied.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    assert clip_worlds.weights_digest(tmp_path) != whole


def test_poison_names_the_target_in_the_worlds_own_ids(published):
    clean = published.draw(30, "attacker", 0)
    trigger = make_trigger("patch", (3, 48, 48), 0, size=9, place=(36, 36))
    dirty = published.poisoned(clean, trigger, "ring", 4, generator(0), published.prefix)
    assert int(dirty.poisoned.sum()) == 4 and not (published.mentions(clean, "ring") & dirty.poisoned).any()
    for row in dirty.ids[dirty.poisoned]:
        words = published.decode(row)
        assert words[0] == published.prefix and "ring" in words
    assert [published.decode(row) for row in dirty.ids[~dirty.poisoned]] == [
        list(told.words) for told in dirty.captions if told is not None
    ]
    with pytest.raises(CompanionError, match=r"target is 'zebra'; expected one of circle"):
        published.poisoned(clean, trigger, "zebra", 4, generator(0))


@pytest.mark.parametrize("attack", ["badclip", "dual_key", "wanet"])
def test_the_repairs_of_the_chapter_run_on_a_published_clip(published, tmp_path, attack):
    """The path of TA-Cleaner's profile `paper`: poisoned, repaired with each method, and examined."""
    arena = ta_cleaner.Arena(
        published, pairs=48, poison={attack: 8}, clean_pairs=24, validation=24, exam=24, sub_texts=4, patch_steps=2,
        patch_pictures=24, rates=(5e-4,), victim=SHORT, repair=ClipTraining(1, 8, 1e-3, 1),
    )  # fmt: skip
    store = ModelStore(tmp_path)
    rooms = ta_cleaner.Rooms.drawn(arena, 0)
    victim = ta_cleaner.train_all(arena, [attack], 0, store)[attack]
    points = ta_cleaner.sweep(arena, victim, rooms, 0, store)
    assert [point.arm for point in points] == list(ta_cleaner.METHODS)
    states = [state(victim.model), *(state(point.model) for point in points)]
    assert all(not torch.equal(one, other) for k, one in enumerate(states) for other in states[k + 1 :])
    assert ta_cleaner.with_overlap(arena, victim, rooms, arena.settings("ta_cleaner", 1e-3), 0, store).accuracy.n == 24
    assert ta_cleaner.base_control(victim, rooms, 3).success.n == 22


def test_detection_and_unlearning_run_on_a_published_clip(published, tmp_path):
    """The path of UBT's profile `paper`: every score, every arm, and the marked words."""
    arena = ubt.Arena(
        ClipVictimRecipe("badnet", pairs=64, poison=12, training=SHORT), world=published, suspects=8, kept=24, clean=24,
        exam=24, probe=24, overfitting=Overfitting(0.25, SHORT), isolation=Isolation(training=SHORT),
        unlearning=Unlearning(forget=4, training=SHORT), repair=SHORT,
    )  # fmt: skip
    case = ubt.case_of(arena, ubt.victims(arena, ["badnet"], ModelStore(tmp_path))["badnet"])
    assert tuple(case.detection.scores) == ubt.SCORES
    for arm in ubt.ARMS:
        assert ubt.arm(arena, case, arm, 3e-4, ubt.defenders_pairs(arena)).outcome.accuracy.n == 24
    assert set(ubt.variants(arena, case, ubt.defenders_pairs(arena), arena.unlearning)) == set(ubt.VARIANT_TITLES)
    words, effects, marks, poisoned = ubt.word_marks(case, 2)
    assert poisoned.tolist() == [True, True, False, False] and marks.any(1).all()
    for line, row, mark in zip(words, effects, marks, strict=True):
        assert (row[len(line) :] == 0).all() and not mark[len(line) :].any()
    hit, most = ubt.marked_target(case, "star")
    assert hit.n == 12 and 1 <= most <= 3
