"""Real checkpoints through this book's functions give what transformers and diffusers give for them."""

import json

import pytest
import torch
from checkpoint_toys import DEVIATION, MEAN, save_all, save_decoder, save_normalisation

from companion.errors import CompanionError
from companion.multimodal import clip_network
from companion.multimodal.checkpoints import load_clip, load_diffusion
from companion.multimodal.clip_checkpoint import load_for_clip_network
from companion.multimodal.pipeline import sample, text_states
from companion.seeding import generator

TEXTS = ["a red star", "star"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder of checkpoints whose CLIP tells its normalisation and whose diffusion model has a decoder."""
    root = tmp_path_factory.mktemp("real")
    save_all(root)
    save_normalisation(root / "clip")
    save_decoder(root / "diffusion")
    return root


@torch.no_grad()
@pytest.mark.parametrize("end", [3, 2])
def test_a_real_clip_embeds_as_transformers_does(saved, end):
    """end: what the configuration says; the first CLIPs' says 2, whatever their end token is."""
    path = saved / "clip/config.json"
    config = json.loads(path.read_text())
    config["text_config"]["eos_token_id"] = end
    path.write_text(json.dumps(config))
    model, encode, _ = load_for_clip_network(saved / "clip")
    theirs = load_clip(saved / "clip").model
    theirs.text_model.eos_token_id = 3
    images = torch.rand(4, 3, 16, 16, generator=generator(0, "images"))
    normalised = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    found, wanted = clip_network.image_embeddings(model, images), theirs.get_image_features(normalised).pooler_output
    assert torch.allclose(found, torch.nn.functional.normalize(wanted, dim=-1), atol=1e-5)
    ids = encode(TEXTS)
    assert ids.tolist() == [[4, 5, 6, 3], [6, 3, 3, 3]]
    wanted = [theirs.get_text_features(torch.tensor([row])).pooler_output for row in ([4, 5, 6, 3], [6, 3])]
    found = clip_network.text_embeddings(model, ids)
    assert torch.allclose(found, torch.nn.functional.normalize(torch.cat(wanted), dim=-1), atol=1e-5)


def test_a_long_text_and_a_clip_without_normalisation_are_refused(saved, tmp_path):
    encode = load_for_clip_network(saved / "clip").encode
    with pytest.raises(CompanionError, match=r"has 9 tokens: this CLIP has a context of 8"):
        encode(["a red star a red star a red"])
    (saved / "clip/preprocessor_config.json").rename(tmp_path / "kept.json")
    try:
        with pytest.raises(CompanionError, match=r"has no preprocessor_config.json: expected one with image_mean"):
            load_for_clip_network(saved / "clip")
    finally:
        (tmp_path / "kept.json").rename(saved / "clip/preprocessor_config.json")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning:diffusers")
@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler", "EulerAncestralDiscreteScheduler"])
def test_sampling_gives_the_pictures_of_diffusers_own_pipeline(saved, kind):
    import diffusers

    parts = load_diffusion(saved / "diffusion")
    parts.tokenizer.model_max_length = 8
    scheduler = getattr(diffusers, kind)(num_train_timesteps=50)
    parts = type(parts)(parts.unet, scheduler, parts.text_encoder, parts.tokenizer, parts.vae)
    pipeline = diffusers.StableDiffusionPipeline(
        parts.vae, parts.text_encoder, parts.tokenizer, parts.unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 3, 8, 8, generator=generator(0, "noise"))
    wanted = pipeline(
        TEXTS, num_inference_steps=4, guidance_scale=3.0, latents=noise, generator=generator(0), output_type="pt"
    ).images
    found = sample(parts, TEXTS, noise, generator(0), steps=4, guidance=3.0)
    assert found.shape == (2, 3, 16, 16)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_an_edit_reaches_the_prompts_alone(saved):
    parts = load_diffusion(saved / "diffusion")
    noise = torch.randn(2, 3, 8, 8, generator=generator(0, "noise"))
    seen = []

    def edit(states):
        seen.append(states)
        return text_states(parts, ["star", "star"])

    found = sample(parts, TEXTS, noise, generator(0), steps=2, edit=edit)
    assert torch.equal(seen[0], text_states(parts, TEXTS))
    assert torch.equal(found, sample(parts, ["star", "star"], noise, generator(0), steps=2))
    assert not torch.equal(found, sample(parts, TEXTS, noise, generator(0), steps=2))


def test_a_long_prompt_and_strange_noise_are_refused(saved):
    parts = load_diffusion(saved / "diffusion")
    with pytest.raises(CompanionError, match=r"has 9 tokens: this text encoder has a context of 8"):
        text_states(parts, ["a red star a red star a red star"])
    with pytest.raises(CompanionError, match=r"noise of shape \(1, 4, 8, 8\) for 2 prompts: expected \(2, 3\)"):
        sample(parts, TEXTS, torch.zeros(1, 4, 8, 8), generator(0))
