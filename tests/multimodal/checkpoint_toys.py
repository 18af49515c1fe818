"""Small, randomly initialised checkpoints of every kind, as save_pretrained writes them."""

import json

from companion.multimodal.initialising import initialised_from
from companion.seeding import generator

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
VISION = TOWER | {"image_size": 16, "patch_size": 8}
TEXT = TOWER | {"vocab_size": 8, "max_position_embeddings": 8, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
LLAMA = TOWER | {"vocab_size": 8, "max_position_embeddings": 32, "bos_token_id": 2, "eos_token_id": 3}


def save_all(root):
    """Save one checkpoint a kind under root and return the networks by name."""
    import diffusers
    import transformers

    with initialised_from(generator(0, "weights")):
        clip = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
        ).eval()
        encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)).eval()
        unet = diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4, in_channels=3,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), out_channels=3,
        ).eval()  # fmt: skip
        llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
        config = {"model_type": "clip_vision_model"} | VISION, {"model_type": "llama"} | LLAMA
        llava = transformers.LlavaForConditionalGeneration(
            transformers.LlavaConfig(vision_config=config[0], text_config=config[1], image_token_index=7)
        ).eval()
    for name, model in {"clip": clip, "llama": llama, "llava": llava}.items():
        model.save_pretrained(root / name)
        words().save_pretrained(root / name)
    encoder.save_pretrained(root / "diffusion/text_encoder")
    unet.save_pretrained(root / "diffusion/unet")
    diffusers.DDIMScheduler(num_train_timesteps=50).save_pretrained(root / "diffusion/scheduler")
    words().save_pretrained(root / "diffusion/tokenizer")
    return {"clip": clip, "text_encoder": encoder, "unet": unet, "llama": llama, "llava": llava}


def save_decoder(folder):
    """Save a decoder of latent pictures as a diffusion model's folder has it."""
    from diffusers import AutoencoderKL

    with initialised_from(generator(0, "decoder")):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3,
            block_out_channels=(8, 16), norm_num_groups=4, sample_size=16,
        )  # fmt: skip
    vae.save_pretrained(folder / "vae")


MEAN, DEVIATION = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def save_normalisation(folder):
    """Say in a CLIP's folder how it wants its pictures normalised: with MEAN and DEVIATION."""
    settings = {"image_mean": MEAN, "image_std": DEVIATION}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def words():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["<pad>", "<unk>", "<s>", "</s>", "a", "red", "star", "<image>"]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)
