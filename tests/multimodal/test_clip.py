"""A tiny CLIP of the real class: embeddings, zero-shot answers, triggers, repairs that leave the victim as it was."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from companion.errors import CompanionError
from companion.metrics import attack_success_rate
from companion.multimodal import checkpoints, clip_network, clip_training, clip_triggers, zero_shot
from companion.multimodal.clip_augmentation import changed_images, changed_words
from companion.multimodal.clip_checkpoint import fold_normalisation, load_for_clip_network
from companion.multimodal.clip_defences import METHODS, Repair, repair
from companion.multimodal.clip_worlds import scenes_world
from companion.multimodal.initialising import initialised_from
from companion.multimodal.pairs import draw_examination, draw_pairs, prompts, prompts_of, tokenizer
from companion.seeding import generator

SIZE = clip_network.ClipSize(width=16, hidden=16, vision_layers=1, text_layers=1, heads=2, joint=8)


@pytest.fixture(scope="module")
def model():
    return clip_network.build_clip(SIZE, tokenizer(), generator(0, "weights"))


@pytest.fixture(scope="module")
def clean():
    return draw_pairs(24, "defender", 0)


def state(model):
    return torch.cat([one.detach().flatten() for one in model.parameters()])


def test_initial_weights_come_from_the_generator_alone(model):
    before = torch.random.get_rng_state()
    again = clip_network.build_clip(SIZE, tokenizer(), generator(0, "weights"))
    other = clip_network.build_clip(SIZE, tokenizer(), generator(1, "weights"))
    assert torch.equal(state(model), state(again)) and not torch.equal(state(model), state(other))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert float(model.logit_scale.exp().detach()) == pytest.approx(1 / 0.07, rel=1e-3)


def test_edge_energies_know_their_direction():
    stripes = (torch.arange(32) % 8 < 4).float().expand(1, 3, 32, 32)  # vertical edges: the gradient points across
    seen = clip_network.perceived(stripes)
    assert seen.shape == (1, 9, 32, 32)
    energy = seen[0, 3:].mean((1, 2))
    assert energy.argmax() == 0 and energy.argmin() == 3
    turned = clip_network.perceived(stripes.transpose(2, 3))[0, 3:].mean((1, 2))
    assert turned.argmax() == 3
    flat = clip_network.perceived(torch.full((1, 3, 32, 32), 0.5))
    assert (flat[:, :3] == 0).all() and flat[:, 3:].unique().numel() == 1


def test_embeddings_have_length_one_and_padding_makes_no_difference(model, clean):
    images = clip_network.image_embeddings(model, clean.images)
    assert torch.allclose(images.norm(dim=1), torch.ones(24), atol=1e-5)
    together = clip_network.text_embeddings(model, clean.ids)
    alone = torch.cat([clip_network.text_embeddings(model, row[None]) for row in clean.ids])
    assert torch.allclose(together, alone, atol=1e-5)
    with pytest.raises(CompanionError, match="no end token"):
        clip_network.embed_texts(model, torch.ones(1, 5, dtype=torch.int64))
    with pytest.raises(CompanionError, match="context of 24"):
        clip_network.embed_texts(model, torch.full((1, 25), 2))


def test_our_forward_is_the_forward_of_the_class(model, clean):
    """The oracle: transformers' own similarity, with its own loss, on ids in which the end token is the largest."""
    renamed = torch.where(clean.ids == 2, len(tokenizer()) - 1, clean.ids)
    kept = model.text_model.embeddings.token_embedding.weight.data
    before = kept.clone()
    kept[len(tokenizer()) - 1] = kept[2]
    out = model(input_ids=renamed, pixel_values=clip_network.perceived(clean.images), return_loss=True)
    kept.copy_(before)
    ours = clip_training.clip_loss(model, clean.images, clean.ids, torch.arange(24))
    assert float(ours.detach()) == pytest.approx(float(out.loss.detach()), rel=1e-4)


def test_every_word_of_a_text_counts(model):
    """transformers would stop reading at the word with the largest id, because the end token is 2 here."""
    ids = prompts_of([["a star on the sand", "a star on the sea", "a moon on the sand"]])[0]
    found = clip_network.text_embeddings(model, ids)
    assert torch.pdist(found).min() > 1e-4


def test_class_embeddings_are_the_normalised_mean_of_normalised_prompts(model):
    words = prompts(["star", "ring"])
    each = clip_network.text_embeddings(model, words[1])
    assert torch.allclose(zero_shot.class_embeddings(model, words)[1], F.normalize(each.mean(0), dim=0), atol=1e-5)


def test_top_k_and_attack_success_by_hand():
    found = torch.tensor([[3.0, 2, 1, 0], [0, 3, 2, 1], [1, 0, 3, 2], [3, 2, 0, 1]])
    labels = torch.tensor([0, 0, 3, 1])
    assert [zero_shot.accuracy(found, labels, k).successes for k in (1, 2, 3, 4)] == [1, 3, 3, 4]
    assert zero_shot.attack_success(found, labels, 0).n == 2
    assert [zero_shot.attack_success(found, labels, 0, k).successes for k in (1, 2, 3)] == [1, 1, 2]
    assert zero_shot.attack_success(found, labels, 0) == attack_success_rate(found, labels, 0)
    with pytest.raises(CompanionError, match="top-5 of 4"):
        zero_shot.accuracy(found, labels, 5)
    with pytest.raises(CompanionError, match="no image is left"):
        zero_shot.attack_success(found, torch.zeros(4, dtype=torch.int64), 0)


def test_the_probe_separates_what_is_separable_and_not_noise():
    stream = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = F.one_hot(labels, 3).float() + 0.1 * torch.randn(90, 3, generator=stream)
    weights = zero_shot.linear_probe(features, labels, 3)
    assert weights.shape == (4, 3)
    assert zero_shot.accuracy(zero_shot.probe_scores(weights, features), labels).rate == 1
    noise = torch.randn(90, 3, generator=stream)
    weights = zero_shot.linear_probe(noise, labels, 3)
    fresh = zero_shot.probe_scores(weights, torch.randn(300, 3, generator=stream))
    assert zero_shot.accuracy(fresh, torch.arange(300) % 3).rate < 0.5


def test_every_trigger_is_visible_and_a_patch_stays_in_its_place(clean):
    for attack in ("blended", *clip_triggers.FIXED):
        trigger = clip_triggers.fixed_trigger(attack, 32, 0)
        stamped = trigger.apply(clean.images)
        assert stamped.min() >= 0 and stamped.max() <= 1 and (stamped - clean.images).abs().mean() > 1e-3
    patch = clip_triggers.central_patch(torch.full((3, 6, 6), 0.3), 32)
    changed = (patch.apply(clean.images) != clean.images).any(1).any(0)
    assert changed.nonzero().aminmax()[0] >= 13 and changed.nonzero().aminmax()[1] <= 18
    with pytest.raises(CompanionError, match="no fixed trigger"):
        clip_triggers.fixed_trigger("badclip", 32, 0)
    with pytest.raises(CompanionError, match="does not fit"):
        clip_triggers.central_patch(torch.zeros(3, 40, 40), 32)


def test_an_optimised_patch_draws_pictures_to_the_target_and_leaves_the_model_alone(model):
    exam = draw_examination(48, 0, split="attacker")
    aim = 4
    others, own = exam.images[exam.labels != aim], exam.images[exam.labels == aim]
    before = state(model)
    texts = zero_shot.class_embeddings(model, prompts())

    def share(steps, weight):
        search = clip_triggers.PatchSearch(6, steps, 16, 0.05, weight)
        pattern = clip_triggers.optimise_patch(model, others, own, prompts(), aim, search, generator(0, "patch"))
        assert pattern.shape == (3, 6, 6) and pattern.min() >= 0 and pattern.max() <= 1
        stamped = clip_triggers.central_patch(pattern, 32).apply(others)
        cosine = clip_network.image_embeddings(model, stamped) @ texts.T
        return float((cosine[:, aim] - cosine.mean(1)).mean())

    assert share(30, 0.0) > share(1, 0.0), "more steps bring the text of the target nearer"
    share(2, 5.0)
    assert torch.equal(before, state(model)) and all(one.requires_grad for one in model.parameters())


def test_every_repair_changes_a_copy_only_and_is_repeatable(model, clean):
    before = state(model)
    training = clip_training.ClipTraining(1, 8, 1e-3, 1)
    found = {}
    for method in METHODS:
        settings = Repair(method, training, sub_texts=2, excluded=("star",))
        found[method] = state(repair(model, clean, settings, 0))
        assert torch.equal(found[method], state(repair(model, clean, settings, 0)))
        assert not torch.equal(found[method], before)
    assert torch.equal(state(model), before)
    assert not torch.equal(found["cleanclip"], found["ta_cleaner"])
    idle = Repair("ta_cleaner", training, sub_texts=2, sub_text_weight=0.0)
    assert torch.equal(state(repair(model, clean, idle, 0)), found["cleanclip"]), "without its term it is CleanCLIP"
    plain = Repair("cleanclip", training, self_weight=0.0)
    apart = (state(repair(model, clean, plain, 0)) - found["fine_tuning"]).abs().mean()
    usual = (found["cleanclip"] - found["fine_tuning"]).abs().mean()
    assert apart < 0.05 * usual, "without its term CleanCLIP is fine-tuning, up to rounding"


def test_repairs_refuse_poison_and_settings_that_mean_nothing(model, clean):
    trigger = clip_triggers.fixed_trigger("badnet", 32, 0)
    dirty = scenes_world().poisoned(clean, trigger, "star", 2, generator(0))
    with pytest.raises(CompanionError, match="2 of the defender's 24 pairs are poisoned"):
        repair(model, dirty, Repair("cleanclip"), 0)
    with pytest.raises(CompanionError, match="repair 'clean_clip'"):
        Repair("clean_clip")
    with pytest.raises(CompanionError, match="65 sub-texts"):
        Repair("ta_cleaner", sub_texts=65)
    with pytest.raises(CompanionError, match="fewer than a batch"):
        repair(model, clean, Repair("fine_tuning"), 0)
    with pytest.raises(CompanionError, match="loss is nan"):
        broken = replace(clean, images=clean.images * math.nan)
        repair(model, broken, Repair("fine_tuning", clip_training.ClipTraining(1, 8, 1e-3, 1)), 0)


def test_a_checkpoint_of_the_published_form_takes_the_same_path(tmp_path, clean):
    """The path of the profile `paper`: a folder as transformers saves it, three channels, read and repaired."""
    from transformers import CLIPConfig, CLIPModel

    shipped = clip_network.build_clip(SIZE, tokenizer(), generator(0, "weights")).config
    vision = shipped.vision_config.to_dict() | {"num_channels": 3}
    config = CLIPConfig(text_config=shipped.text_config.to_dict(), vision_config=vision, projection_dim=SIZE.joint)
    with initialised_from(generator(1, "weights")):
        CLIPModel(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    settings = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    read = checkpoints.load_clip(tmp_path).model
    real = load_for_clip_network(tmp_path).model
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in settings.values())
    theirs = F.normalize(read.get_image_features((clean.images - mean) / deviation).pooler_output, dim=-1)
    assert torch.allclose(clip_network.embed_images(real, clean.images), theirs, atol=1e-5)
    with pytest.raises(CompanionError, match="tower of 9 channels"):
        fold_normalisation(real, *settings.values())
    found = zero_shot.scores(real, clean.images, prompts())
    assert found.shape == (24, 12) and found.abs().max() <= 1 + 1e-5
    settings = Repair("ta_cleaner", clip_training.ClipTraining(1, 8, 1e-3, 1), sub_texts=2)
    assert not torch.equal(state(repair(real, clean, settings, 0)), state(real))
    with pytest.raises(CompanionError, match="nowhere"):
        checkpoints.load_clip(tmp_path / "nowhere")


def test_image_augmentation_keeps_the_range_and_differs_by_picture(clean):
    changed = changed_images(clean.images, generator(0))
    assert changed.shape == clean.images.shape and changed.min() >= 0 and changed.max() <= 1
    alike = changed_images(clean.images[:1].expand(6, -1, -1, -1), generator(0))
    assert torch.cdist(alike.flatten(1), alike.flatten(1)).fill_diagonal_(9).min() > 0.1


def test_text_augmentation_is_one_small_operation():
    words = ["a", "large", "red", "star", "stands", "on", "the", "left"]
    seen = set()
    for seed in range(60):
        changed = changed_words(words, {"red": ("crimson",), "large": ("big",)}, generator(seed))
        assert abs(len(changed) - len(words)) <= 1
        seen.add(len(changed) - len(words))
        assert set(changed) <= {*words, "crimson", "big"}
    assert seen == {-1, 0, 1}, "insertions, deletions and changes in place all occur"
    assert changed_words(["star"], {}, generator(0)) == ["star"]
    with pytest.raises(CompanionError, match=r"expected a number in \(0, 1\]"):
        changed_words(words, {}, generator(0), 0.0)
