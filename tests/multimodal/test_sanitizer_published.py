"""The Embedding Sanitizer on a published checkpoint: the whole chapter on small random folders, and what is refused.

The folders are read through the classes that Stable Diffusion is read through. Their tokenizer knows most words of the
grammar and spells the others, as published ones do; their weights are random, so no number means anything.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_toys import TOWER, save_all, save_decoder, save_normalisation

from companion.errors import CompanionError
from companion.multimodal import concepts
from companion.multimodal.checkpoints import load_diffusion
from companion.multimodal.concepts import RED, STAR
from companion.multimodal.guidance import classifier_free
from companion.multimodal.initialising import initialised_from
from companion.multimodal.languages import WORDS, PieceLanguage
from companion.multimodal.pipeline import sample
from companion.multimodal.prompts import vocabulary
from companion.multimodal.tiles import COLOURS, Tile, render
from companion.seeding import generator
from companion.studies import embedding_sanitizer as es
from companion.studies import sanitizer_defences as safeguards
from companion.studies import sanitizer_measures as measures
from companion.studies import sanitizer_prompts as asked

CHAPTER = Path(__file__).resolve().parents[2] / "notebooks/embedding-sanitizer/chapter.py"
SPELLED = ("pentagram", "strawberry", "tangerine")
CONTEXT = 72
SMALL = {
    "prompts": 2, "benign_prompts": 12, "adaptive_prompts": 2, "sampling_steps": 2, "sanitizer_steps": 2,
    "sanitizer_batch": 4, "training_prompts": 12, "attack_tokens": 2, "attack_sweeps": 1, "search_first": 2,
    "search_rounds": 1, "search_sampling_steps": 2, "tuning_pictures": 2, "tuning_steps": 1, "safe_clip_steps": 1,
    "variant_prompts": 2, "adaptive_by_pictures": True, "star_searched": True, "alphas": [0.0, 1.0], "guidance": 7.5,
    "ablations": ["ungated", "words_only", "hard_labels"], "detector_tiles": 14, "reference_pictures": 14,
}  # fmt: skip


def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    known = ["<unk>", "<s>", "</s>", *letters, *(f"##{one}" for one in letters)]
    known += [word for word in vocabulary() if word not in (*SPELLED, *known)]
    inner = Tokenizer(models.WordPiece({word: index for index, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    inner.decoder = decoders.WordPiece()
    special = {"pad_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def save_encoder(folder, seed):
    import transformers

    settings = TOWER | {"vocab_size": 512, "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2}
    with initialised_from(generator(seed, "encoder")):
        encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings, pad_token_id=2))
    encoder.save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder with two diffusion models that share an encoder, one with a decoder, and a CLIP to judge."""
    from diffusers import UNet2DConditionModel

    root = tmp_path_factory.mktemp("published")
    save_all(root)
    save_normalisation(root / "clip")
    shutil.rmtree(root / "diffusion/tokenizer")
    save_encoder(root / "diffusion", 0)
    save_decoder(root / "diffusion")
    shutil.copytree(root / "diffusion", root / "other")
    config = UNet2DConditionModel.load_config(root / "other/unet")
    with initialised_from(generator(1, "other")):
        UNet2DConditionModel.from_config(config).save_pretrained(root / "other/unet")
    return root


@pytest.fixture(scope="module")
def studio(saved):
    return es.open_studio(3.0, 2, *(str(saved / name) for name in ("diffusion", "other", "clip")))


def run_chapter(saved, tmp_path, monkeypatch, **changes):
    """Run the chapter's own code with other parameters; returns what it recorded."""
    monkeypatch.setenv("COMPANION_RUN_DIR", str(tmp_path / "run"))
    _, cells = CHAPTER.read_text(encoding="utf-8").split('# %% tags=["parameters"]\n', 1)
    parameters, rest = cells.split("# %%\n", 1)
    names = {"__name__": "chapter"}
    exec(compile(parameters, "parameters", "exec"), names)
    strange = set(SMALL | changes) - set(names)
    assert not strange, f"the chapter has no parameter {strange}"
    folders = {"checkpoint": str(saved / "diffusion"), "judge": str(saved / "clip")}
    names |= SMALL | folders | {"profile": "paper"} | changes
    exec(compile(rest, str(CHAPTER), "exec"), names)
    return json.loads((tmp_path / "run/results.json").read_text(encoding="utf-8"))


@pytest.fixture
def deterministic():
    before = torch.get_deterministic_debug_mode(), torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.set_deterministic_debug_mode(before[0])
    torch.set_num_threads(before[1])
    torch.backends.cudnn.benchmark = before[2]


@pytest.mark.filterwarnings("ignore")
def test_the_whole_chapter_runs_on_checkpoints(saved, tmp_path, monkeypatch, deterministic):
    found = run_chapter(saved, tmp_path, monkeypatch, second=str(saved / "other"))
    metrics = found["metrics"]
    ran = [name for name in safeguards.LABELS if name != "checker"]
    assert {f"asr.{name}.{kind}" for name in ran for kind in asked.BENCHMARKS} <= set(metrics)
    assert {
        "small.none.b1",
        "small.es.b5",
        "adaptive.es",
        "adaptive.pictures.es",
        "star.es.b5",
        "alpha.asr.a100",
    } <= set(metrics)
    assert "asr.checker.b1" not in metrics and "skipped" in found["tables"]
    assert metrics["parameters.text"]["value"] == sum(
        one.numel() for one in load_diffusion(saved / "diffusion").text_encoder.parameters()
    )


@pytest.mark.filterwarnings("ignore")
def test_without_a_second_checkpoint_that_experiment_is_left_out_and_says_so(saved, studio):
    alone = es.open_studio(3.0, 2, str(saved / "diffusion"), "", str(saved / "clip"))
    assert alone.small is None and set(alone.skipped) == {"checker", "second generator"}
    assert set(studio.skipped) == {"checker"} and not es.open_studio(3.0, 2).skipped


def test_what_cannot_be_judged_or_plugged_in_is_refused(saved, tmp_path):
    folders = [str(saved / name) for name in ("diffusion", "other", "clip")]
    with pytest.raises(CompanionError, match="has no judge: expected the folder of a CLIP"):
        es.open_studio(3.0, 2, folders[0])
    with pytest.raises(CompanionError, match="is missing: expected the folder"):
        es.open_studio(3.0, 2, str(tmp_path / "nowhere"), "", folders[2])
    with pytest.raises(CompanionError, match="given without a checkpoint"):
        es.open_studio(3.0, 2, judge=folders[2])
    shutil.copytree(saved / "other", tmp_path / "stranger")
    save_encoder(tmp_path / "stranger", 1)
    with pytest.raises(CompanionError, match="has another text encoder than"):
        es.open_studio(3.0, 2, folders[0], str(tmp_path / "stranger"), folders[2])


def test_drawing_is_the_pipelines_and_a_sanitizer_is_its_edit(saved, studio):
    prompts, noise = ["a red star", "a blue ring on sand", "a box"], studio.noise(3, generator(0, "noise"))
    parts = load_diffusion(saved / "diffusion")
    plain = sample(parts, prompts, noise, generator(0), steps=2, guidance=3.0)
    assert plain.shape == (3, 3, 16, 16)
    assert torch.allclose(safeguards.undefended(studio)(prompts, noise), plain, atol=1e-5)
    training = es.SanitizerTraining(steps=3, batch_size=4, prompts=8)
    module, _ = es.fit(studio, RED, es.variants(studio, training)["es"], 0)
    assert (module.settings.width, module.settings.heads, module.settings.context) == (16, 2, CONTEXT)
    edited = sample(parts, prompts, noise, generator(0), edit=module, steps=2, guidance=3.0)
    assert torch.allclose(safeguards.sanitized(studio, module)(prompts, noise), edited, atol=1e-5)
    assert not torch.allclose(edited, plain, atol=1e-4)
    small = replace(studio.main, batch=2)
    guide = classifier_free(studio.embed(prompts), studio.empty, 3.0)
    assert torch.allclose(small.draw(guide, noise, 2), plain, atol=1e-5), "batches do not matter"


def test_words_of_several_tokens_are_found_and_masked_as_a_whole(studio):
    language = studio.language
    assert language.pieces("star") == 1 and language.pieces("pentagram") == 9
    span = concepts.occurrence(STAR, "a large pentagram on sand", language)
    assert span == range(3, 12)
    ids = language.encode(["a large pentagram on sand", "a star"])
    assert ids.shape == (2, CONTEXT) and language.ends(ids).tolist() == [14, 3]
    assert language.word_positions(ids).sum(1).tolist() == [13, 2]
    assert language.texts(ids) == ["a large pentagram on sand", "a star"]
    assert concepts.occurrence(STAR, "a large pentagram on sand") == range(3, 4), "the shipped encoder has words"
    assert not set(SPELLED) & set(language.word_ids()) and set(WORDS.word_ids()) - set(language.word_ids()) == set(
        SPELLED
    )
    module = es.Sanitizer(es.variants(studio, es.SanitizerTraining())["es"].settings, generator(0, "es"))
    marks = torch.zeros(1, CONTEXT, dtype=torch.bool).scatter(1, torch.tensor([list(span)]), True)
    strips = measures.score_strips(studio, module, ["a large pentagram on sand"], marks)
    assert strips.values.shape == (1, 6) and not strips.values.isnan().any() and strips.carriers == [(0, 2)]


def test_searched_prompts_read_back_as_the_tokens_that_were_searched(studio):
    settings = asked.AttackSettings(2, search=asked.prompt_attacks.Search(2, 1, 1, 2), search_steps=1)
    known = concepts.triples(RED, 8, generator(0, "known"), language=studio.language)
    for benchmark in asked.searched_benchmarks(studio, RED, 2, settings, known, 0).values():
        ids = studio.language.encode(benchmark.prompts)
        chosen = ids[benchmark.carriers].tolist()
        assert set(chosen) <= set(RED.allowed(studio.language).tolist()) and len(chosen) == 4
        assert not any(concepts.says(RED, prompt) for prompt in benchmark.prompts)


def test_an_anchor_of_another_length_and_an_unknown_word_are_refused(studio):
    crooked = replace(RED, known={"red": "strawberry"})
    with pytest.raises(CompanionError, match="'red' has 1 tokens and its anchor word 'strawberry' has 10"):
        concepts.triples(crooked, 4, generator(0, "known"), language=studio.language)
    with pytest.raises(CompanionError, match="has a word that the checkpoint's tokenizer does not know"):
        studio.embed(["a £ star"])
    with pytest.raises(CompanionError, match="no end token"):
        PieceLanguage(studio.language.tokenizer, CONTEXT).ends(torch.ones(1, 4, dtype=torch.int64))


def test_the_judge_reads_pictures_by_its_texts(studio):
    judge = studio.judge
    images = render([Tile("star", "red", "large", "centre", "snow")] * 5, generator(0, "tiles"))
    seen = judge.see(images)
    assert seen.thing.all() and len(seen.colour) == 5
    assert torch.equal(judge.shows(RED, images), seen.colour == list(COLOURS).index("red"))
    shares = torch.stack([judge.amount(replace(RED, name=one), images) for one in COLOURS])
    assert torch.allclose(shares.sum(0), torch.ones(5)) and torch.equal(shares.argmax(0), seen.colour)
    texts = torch.eye(16)[: len(COLOURS)]
    judge = type(judge).__new__(type(judge))
    judge.texts, judge.features = {"colour": texts}, lambda images: torch.eye(16)[images]
    assert judge.shows(RED, torch.tensor([0, 1])).tolist() == [True, False]
