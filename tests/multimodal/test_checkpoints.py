"""Checkpoints by folder, offline: what was saved comes back, and what is not as expected is refused."""

import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch
from checkpoint_toys import save_all
from safetensors.torch import load_file, save_file

from companion.errors import CompanionError
from companion.multimodal.checkpoints import Checkpoint, load_clip, load_diffusion, load_llama, load_llava, load_model
from companion.seeding import generator

IDS = torch.tensor([[2, 4, 5, 6, 3]])


@pytest.fixture(scope="module", autouse=True)
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket.connect", _no_network)
        yield


def _no_network(*_):
    raise AssertionError("a connection was opened")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder with one checkpoint a kind, and the networks themselves."""
    root = tmp_path_factory.mktemp("checkpoints")
    return root, save_all(root)


@pytest.fixture
def clip(saved, tmp_path):
    """Return a copy of the CLIP's folder, to be spoilt."""
    return shutil.copytree(saved[0] / "clip", tmp_path / "clip")


def images(side=16):
    return torch.rand(2, 3, side, side, generator=generator(0, "images"))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@torch.no_grad()
def test_a_clip_comes_back(saved):
    root, models = saved
    found = load_clip(root / "clip")
    batch = {"input_ids": IDS.expand(2, -1), "pixel_values": images()}
    assert not found.model.training
    assert torch.equal(found.model(**batch).logits_per_image, models["clip"](**batch).logits_per_image)
    assert found.tokenizer("a red star").input_ids == [4, 5, 6]
    assert found.mean is None and found.deviation is None


@torch.no_grad()
def test_the_parts_of_a_diffusion_model_come_back(saved):
    root, models = saved
    found = load_diffusion(root / "diffusion")
    states = [encoder(input_ids=IDS).last_hidden_state for encoder in (found.text_encoder, models["text_encoder"])]
    assert torch.equal(*states)
    noisy, step = images(8)[:1], torch.tensor([7])
    assert torch.equal(*[unet(noisy, step, states[0]).sample for unet in (found.unet, models["unet"])])
    assert type(found.scheduler).__name__ == "DDIMScheduler" and found.scheduler.config.num_train_timesteps == 50
    assert found.tokenizer("star").input_ids == [6]
    assert found.vae is None


@torch.no_grad()
def test_llava_and_llama_come_back(saved):
    root, models = saved
    seen = {"input_ids": torch.tensor([[2, 7, 7, 7, 7, 4, 5]]), "pixel_values": images()[:1]}
    found = load_llava(root / "llava")
    assert torch.equal(found.model(**seen).logits, models["llava"](**seen).logits)
    found = load_llama(root / "llama")
    assert torch.equal(found.model(input_ids=IDS).logits, models["llama"](input_ids=IDS).logits)
    assert found.tokenizer.eos_token_id == 3


def test_loading_draws_nothing_from_the_global_generator(saved):
    before = torch.random.get_rng_state()
    load_diffusion(saved[0] / "diffusion")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_half_precision_and_the_normalisation_that_the_folder_asks_for(clip):
    settings = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "do_resize": True}
    (clip / "preprocessor_config.json").write_text(json.dumps(settings))
    found = load_clip(clip, torch.float16)
    assert (found.mean, found.deviation) == ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    assert found.model.visual_projection.weight.dtype == torch.float16
    (clip / "preprocessor_config.json").write_text(json.dumps(settings | {"image_std": 1}))
    with pytest.raises(CompanionError, match=r"image_std 1: expected three numbers"):
        load_clip(clip)


class Poison:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_a_poisoned_pickle_is_refused_and_not_run(clip, tmp_path, name):
    victim = tmp_path / "executed"
    (clip / "model.safetensors").unlink()
    (clip / name).write_bytes(pickle.dumps(Poison(victim)))
    with pytest.raises(CompanionError, match=rf"in {name} only: expected model.safetensors.*pickles, which run code"):
        load_clip(clip)
    assert not victim.exists()
    pickle.loads((clip / name).read_bytes())  # it is poison indeed
    assert victim.exists()


def test_a_pickle_beside_safetensors_is_not_read(clip, tmp_path):
    victim = tmp_path / "executed"
    (clip / "pytorch_model.bin").write_bytes(pickle.dumps(Poison(victim)))
    load_clip(clip)
    assert not victim.exists()


def test_shards_are_read_and_only_from_beside_their_index(clip):
    whole = load_file(clip / "model.safetensors")
    (clip / "model.safetensors").unlink()
    names = sorted(whole)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: whole[name] for name in part}, clip / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (clip / "model.safetensors.index.json").write_text(json.dumps(index))
    state = load_clip(clip).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.items())
    (clip / "model-2.safetensors").rename(clip / "elsewhere.safetensors")
    with pytest.raises(CompanionError, match=r"model-2.safetensors is missing: model.safetensors.index.json names it"):
        load_clip(clip)
    for bad in ("../model-2.safetensors", "model-2.bin", 3):
        index["weight_map"][names[0]] = bad
        (clip / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(CompanionError, match=r"names .*: expected files \*.safetensors beside it"):
            load_clip(clip)


def test_digests_are_held_against_the_files(clip):
    right = {"model.safetensors": sha256(clip / "model.safetensors"), "config.json": sha256(clip / "config.json")}
    load_clip(Checkpoint(clip, digests=right))
    wrong = right | {"model.safetensors": "0" * 64}
    with pytest.raises(
        CompanionError, match=rf"model.safetensors has the sha256 {right['model.safetensors']}, expected 0000"
    ):
        load_clip(Checkpoint(clip, digests=wrong))
    with pytest.raises(CompanionError, match=r"no sha256 was given for model.safetensors in .*, but for config.json"):
        load_clip(Checkpoint(clip, digests={"config.json": right["config.json"]}))
    with pytest.raises(CompanionError, match=r"vocabulary.txt is missing: Checkpoint.digests expects it"):
        load_clip(Checkpoint(clip, digests=right | {"vocabulary.txt": "0" * 64}))


def test_digests_of_a_pipeline_name_files_by_their_part(saved):
    folder = saved[0] / "diffusion"
    names = ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
    digests = {name: sha256(folder / name) for name in names}
    load_diffusion(Checkpoint(folder, digests=digests))
    with pytest.raises(CompanionError, match=r"no sha256 was given for text_encoder/model.safetensors"):
        load_diffusion(Checkpoint(folder, digests={names[0]: digests[names[0]]}))


def test_missing_folders_and_files_are_named(saved, clip, tmp_path):
    with pytest.raises(CompanionError, match=r"nowhere is missing: expected the folder of a checkpoint"):
        load_clip(tmp_path / "nowhere")
    with pytest.raises(CompanionError, match=r"config.json is a file: expected the folder"):
        load_clip(clip / "config.json")
    with pytest.raises(CompanionError, match=r'unet is missing: expected the folder of the part "unet"'):
        load_diffusion(clip)
    (clip / "config.json").rename(clip / "kept.json")
    with pytest.raises(CompanionError, match=r"config.json is missing: expected the file that save_pretrained writes"):
        load_clip(clip)
    (clip / "config.json").write_text("{")
    with pytest.raises(CompanionError, match=r"config.json is damaged .*: expected JSON"):
        load_clip(clip)
    (clip / "config.json").write_text("[]")
    with pytest.raises(CompanionError, match=r"holds a list: expected a mapping"):
        load_clip(clip)
    shutil.copy(clip / "kept.json", clip / "config.json")
    (clip / "tokenizer.json").write_text("{}")
    with pytest.raises(CompanionError, match=r"clip has a tokenizer that cannot be read"):
        load_clip(clip)
    (clip / "tokenizer.json").unlink()
    with pytest.raises(
        CompanionError, match=r"clip has no tokenizer\. Expected tokenizer.json or vocab.json and merges"
    ):
        load_clip(clip)
    (clip / "model.safetensors").unlink()
    with pytest.raises(CompanionError, match=r"model.safetensors is missing: expected the weights of CLIPModel"):
        load_clip(clip)


def test_another_class_is_refused(saved, tmp_path):
    root = saved[0]
    with pytest.raises(CompanionError, match=r'has model_type "clip": expected "llava"'):
        load_llava(root / "clip")
    with pytest.raises(CompanionError, match=r'has _class_name null: expected "UNet2DConditionModel"'):
        load_model(root / "clip", "UNet2DConditionModel")
    folder = shutil.copytree(root / "diffusion", tmp_path / "diffusion")
    (folder / "scheduler/scheduler_config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(CompanionError, match=r'_class_name "UNet2DConditionModel": expected a scheduler of diffusers'):
        load_diffusion(folder)


def test_damaged_and_incomplete_weights_are_refused(clip):
    path = clip / "model.safetensors"
    state = load_file(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CompanionError, match=r"cannot be read as CLIPModel: .*SafetensorError"):
        load_clip(clip)
    save_file({name: value for name, value in state.items() if name != "logit_scale"}, path, metadata={"format": "pt"})
    with pytest.raises(CompanionError, match=r"lack 1 tensors of CLIPModel, .*\(logit_scale\): expected all"):
        load_clip(clip)
    state["text_projection.weight"] = torch.zeros(3, 3)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CompanionError, match=r"text_projection.weight"):
        load_clip(clip)


def test_a_name_without_network_is_looked_for_on_this_machine_only(monkeypatch):
    with pytest.raises(CompanionError, match=r"nobody/nothing@v1 is not on this machine, and the network is off"):
        load_clip(Checkpoint(name="nobody/nothing", revision="v1"))
    with pytest.raises(CompanionError, match=r"without folder and name: expected one of them"):
        load_clip(Checkpoint())


def test_a_name_with_network_fetches_safetensors_and_no_pickles(saved, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, **settings):
        asked.append((name, settings))
        return str(saved[0] / "clip")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    load_clip(Checkpoint(name="owner/clip", revision="abc", network=True))
    ((name, settings),) = asked
    assert (name, settings["revision"], settings["local_files_only"]) == ("owner/clip", "abc", False)
    assert "*.safetensors" in settings["allow_patterns"] and not {"*", "*.bin", "*.pt"} & {*settings["allow_patterns"]}

    def fail(name, **settings):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CompanionError, match=r"owner/clip could not be downloaded \(no route to host\)"):
        load_clip(Checkpoint(name="owner/clip", network=True))
