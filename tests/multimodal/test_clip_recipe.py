"""The recipe of clip-scenes: the same weights each time, every property asked about, and what ships knows its world."""

from dataclasses import replace

import torch

from companion.data import captions, scenes
from companion.multimodal import clip_recipe
from companion.multimodal.base_models import BaseModel
from companion.multimodal.clip_base import BASE, load_clip
from companion.multimodal.clip_network import ClipSize, text_embeddings
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.pairs import prompts_of, tokenizer

TINY = clip_recipe.ClipRecipe(
    size=ClipSize(width=16, hidden=16, vision_layers=1, text_layers=1, heads=2, joint=8),
    pairs=32,
    training=ClipTraining(2, 8, 1e-3, 1),
    seen_first=16,
    seeing=ClipTraining(1, 8, 1e-3, 1),
)


def test_the_recipe_gives_the_same_weights_twice_and_others_for_another_seed():
    def weights(recipe):
        model, report = clip_recipe.train(recipe, torch.device("cpu"))
        assert len(report["losses"]) == 2 and len(report["seeing"]) == 1 and report["pairs"] == 32
        return torch.cat([one.detach().flatten() for one in model.parameters()])

    first = weights(TINY)
    assert torch.equal(first, weights(TINY))
    assert not torch.equal(first, weights(replace(TINY, seed=1)))


def test_questions_name_every_answer_and_only_words_that_exist():
    for what, answers in clip_recipe.PROPERTIES.items():
        asked = clip_recipe.questions(what)
        assert len(asked) == len(answers) and not (asked == tokenizer().unk_token_id).any()
        stream = torch.Generator().manual_seed(0)
        for _ in range(20):
            texts = clip_recipe._word_texts(what, stream)
            for answer, text in zip(answers, texts, strict=True):
                known = {answer, *captions.SYNONYMS.get(answer, ())}
                assert known & set(text.split()), (answer, text)


def test_labels_are_those_of_the_scene():
    pairs = clip_recipe.draw_examination(24, 5)
    for what, answers in clip_recipe.PROPERTIES.items():
        found = [answers[k] for k in clip_recipe._answers(pairs, what).tolist()]
        wanted = [scene.ground if what == "ground" else getattr(scene.things[0], what) for scene in pairs.scenes]
        assert found == wanted


def test_what_ships_is_hard_but_not_hopeless_and_reads_whole_texts():
    assert isinstance(BASE, BaseModel)
    model = load_clip()
    found = clip_recipe.evaluate(model, clip_recipe.ClipEvaluation(images=240, pairs=60))
    assert 0.55 <= found["zero_shot.shape.top1"] <= 0.95
    for what, floor in (("colour", 0.9), ("place", 0.85), ("ground", 0.85), ("texture", 0.4)):
        assert found[f"zero_shot.{what}.top1"] >= floor, what
    texts = [f"a red star on the {ground}" for ground in scenes.GROUNDS]
    cosine = text_embeddings(model, prompts_of([texts])[0])
    assert (cosine @ cosine.T).fill_diagonal_(0).max() < 0.9, "the last word of a text counts"
