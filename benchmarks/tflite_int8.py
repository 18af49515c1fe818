"""Deploy the models of the chapter on quantization backdoors with real TensorFlow Lite, in full 8-bit integers.

TensorFlow is no dependency of the book, and its versions of shared libraries need not fit, so it has an environment of
its own, locked in benchmarks/tflite.lock:

    python3.11 -m venv build/tflite
    .venv/bin/uv pip sync --python build/tflite/bin/python --require-hashes benchmarks/tflite.lock
    .venv/bin/python benchmarks/tflite_int8.py export laptop:0,1,2
    build/tflite/bin/python benchmarks/tflite_int8.py measure

`export` takes models from the store (or trains them) and writes them with their test images to build/tflite-models;
`measure` converts each (post-training quantization with the default optimisation, 100 representative training images,
integer operators only, integer input and output), runs it with LiteRT's interpreter, and replaces
lib/companion/quantization/tflite_record.json and the digest in tflite_record.py, which the chapter reads. A folder
build/tflite-models from before is used again; delete it when models have changed.
"""

import argparse
import datetime
import hashlib
import json
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "build" / "tflite-models"
PACKAGE = ROOT / "lib" / "companion" / "quantization"


def export(runs: list[str]) -> None:
    """Write one .npz for each model of the given runs, "profile:seed,seed"."""
    import torch

    from companion.press.card import load_card
    from companion.press.keys import resolve_parameters
    from companion.press.project import Project
    from companion.store import default_store
    from companion.studies import quantization_backdoor as study

    torch.set_num_threads(1)
    MODELS.mkdir(parents=True, exist_ok=True)
    card = load_card(Project.find(), "quantization-backdoor")
    for run in runs:
        profile, _, seeds = run.partition(":")
        for seed in map(int, seeds.split(",")):
            values = resolve_parameters(Project.find(), card, profile)
            for name in ("main", "side"):
                arena = study.arena(values[name])
                for network in arena.networks:
                    for stage in study.RECORDED_STAGES[name]:
                        path = MODELS / f"{profile}-{seed}-{name}-{network}-{stage}.npz"
                        _write(path, arena, arena.recipe(network, stage, seed), default_store())
                        print(path.name)


def _write(path: Path, arena, recipe, store) -> None:
    from companion.quantization.cells import model_codes
    from companion.quantization.quantizers import TFLITE, quantized_layers
    from companion.quantization.victims import obtain, source_key

    subject = obtain(recipe, store)
    held = arena.held_out()
    arrays: dict[str, np.ndarray] = {}
    program = _describe(subject.model.trunk, "trunk", arrays)
    head = subject.model.head
    arrays["head.weight"], arrays["head.bias"] = head.weight.numpy(), head.bias.numpy()
    names = list(quantized_layers(subject.model))
    arrays |= {f"code.{name}": code.numpy() for name, code in model_codes(subject.model, TFLITE).items()}
    about = {"key": source_key(recipe), "program": program, "target": subject.target, "layers": names}
    images = {
        "calibration": arena.calibration_images(),
        "clean": held.images,
        "triggered": subject.trigger.apply(held.images),
    }
    arrays |= {f"images.{name}": value.permute(0, 2, 3, 1).numpy() for name, value in images.items()}
    np.savez(path, about=json.dumps(about), labels=held.labels.numpy(), **arrays)


def _describe(module, name: str, arrays: dict) -> list[dict]:
    """Return a module as a list of operations, its constants put into `arrays`."""
    from torch import nn

    from companion.quantization.networks import Residual

    if isinstance(module, nn.Sequential):
        return [step for key, part in module.named_children() for step in _describe(part, f"{name}.{key}", arrays)]
    if isinstance(module, nn.Conv2d):
        arrays[f"{name}.weight"] = module.weight.numpy()
        return [{"op": "conv", "name": name, "stride": module.stride[0], "padding": module.padding[0]}]
    if isinstance(module, nn.BatchNorm2d):
        factor = module.weight / (module.running_var + module.eps).sqrt()
        arrays[f"{name}.factor"] = factor.numpy()
        arrays[f"{name}.shift"] = (module.bias - module.running_mean * factor).numpy()
        return [{"op": "scale", "name": name}]
    if isinstance(module, Residual):
        branch, skip = (_describe(getattr(module, part), f"{name}.{part}", arrays) for part in ("branch", "skip"))
        return [{"op": "residual", "branch": branch, "skip": skip}]
    plain = {nn.ReLU: "relu", nn.MaxPool2d: "pool"}
    return [{"op": plain[type(module)]}] if type(module) in plain else []  # else an identity


def measure() -> None:
    """Convert and run every exported model, and write the record."""
    import tensorflow as tf

    entries = {}
    for path in sorted(MODELS.glob("*.npz")):
        with np.load(path) as stored:
            model = {name: stored[name] for name in stored.files}
        about = json.loads(str(model["about"]))
        outcomes, converted = {}, {}
        for kind in ("float32", "int8", "int8 dense tensor"):
            converted[kind] = _convert(tf, model, about, kind)
            outcomes[kind] = _outcome(converted[kind], model, about["target"])
        compared, foreign = _compare(converted["int8 dense tensor"], model, about["layers"])
        entries[about["key"]] = {
            "model": path.stem, "outcomes": outcomes, "compared": compared, "foreign": foreign,
        }  # fmt: skip
        print(path.stem, outcomes, f"{foreign} of {compared} codes differ", flush=True)
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "benchmarks/tflite_int8.py",
        "versions": {name: version(name) for name in ("tensorflow-cpu", "ai-edge-litert")},
        "entries": entries,
    }
    text = json.dumps(record, indent=1) + "\n"
    (PACKAGE / "tflite_record.json").write_text(text, encoding="utf-8")
    module = PACKAGE / "tflite_record.py"
    line = f'DIGEST = "{hashlib.sha256(text.encode()).hexdigest()}"'
    module.write_text(re.sub(r'^DIGEST = ".*"$', line, module.read_text("utf-8"), flags=re.M), encoding="utf-8")


def _convert(tf, model: dict, about: dict, kind: str) -> bytes:
    size = model["images.clean"].shape[1:]

    @tf.function(input_signature=[tf.TensorSpec([1, *size], tf.float32)])
    def logits(images):
        maps = _run(tf, about["program"], images, model)
        features = tf.nn.max_pool2d(maps, list(maps.shape[1:3]), 1, "VALID")
        flat = tf.reshape(features, [-1, maps.shape[3]])
        return tf.matmul(flat, tf.constant(model["head.weight"].T)) + tf.constant(model["head.bias"])

    converter = tf.lite.TFLiteConverter.from_concrete_functions([logits.get_concrete_function()], logits)
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        calibration = model["images.calibration"]
        converter.representative_dataset = lambda: ([image[None]] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        converter._experimental_disable_per_channel_quantization_for_dense_layers = kind == "int8 dense tensor"
    return converter.convert()


def _run(tf, program: list[dict], maps, model: dict):
    for step in program:
        if step["op"] == "conv":
            weight = tf.constant(model[f"{step['name']}.weight"].transpose(2, 3, 1, 0))
            edge = [step["padding"]] * 2
            same = step["stride"] == 1  # PyTorch pads both edges, TensorFlow's SAME with a stride only one
            padded = maps if same else tf.pad(maps, [[0, 0], edge, edge, [0, 0]])
            maps = tf.nn.conv2d(padded, weight, step["stride"], "SAME" if same else "VALID")
        elif step["op"] == "scale":
            maps = maps * tf.constant(model[f"{step['name']}.factor"]) + tf.constant(model[f"{step['name']}.shift"])
        elif step["op"] == "relu":
            maps = tf.nn.relu(maps)
        elif step["op"] == "pool":
            maps = tf.nn.max_pool2d(maps, 2, 2, "VALID")
        else:
            branch, skip = (_run(tf, step[part], maps, model) for part in ("branch", "skip"))
            maps = tf.nn.relu(branch + skip)
    return maps


def _outcome(converted: bytes, model: dict, target: int) -> list[list[int]]:
    """Return [[correct, images], [predicted as target, triggered images of other classes]]."""
    labels = model["labels"]
    clean, triggered = (_predict(converted, model[f"images.{name}"]) for name in ("clean", "triggered"))
    others = labels != target
    hits = int((triggered[others] == target).sum())
    return [[int((clean == labels).sum()), len(labels)], [hits, int(others.sum())]]


def _predict(converted: bytes, images: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=converted, num_threads=1)
    given, asked = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    if given["dtype"] == np.int8:
        scale, zero = given["quantization"]
        images = np.clip(np.round(images / scale + zero), -128, 127).astype(np.int8)
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(asked["index"]).argmax(1)


def _compare(converted: bytes, model: dict, layers: list[str]) -> tuple[int, int]:
    """Return how many integer weights there are and how many differ from the emulator's.

    The converter folds batch normalisation into the weights, which may turn a channel's sign and nothing else.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=converted, num_threads=1)
    interpreter.allocate_tensors()
    constants = []
    for detail in interpreter.get_tensor_details():
        if detail["dtype"] == np.int8 and len(detail["shape"]) in (2, 4):
            try:
                constants.append(interpreter.get_tensor(detail["index"]).astype(int))
            except ValueError:  # an activation without memory of its own
                continue
    compared = foreign = 0
    for name in layers:
        code = model[f"code.{name}"].astype(int)
        code = code.transpose(0, 2, 3, 1) if code.ndim == 4 else code
        rows = code.reshape(len(code), -1)
        differences = [_unlike(rows, one.reshape(len(one), -1)) for one in constants if one.shape == code.shape]
        compared += code.size
        foreign += min(differences, default=code.size)
    return compared, foreign


def _unlike(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(np.minimum((ours != theirs).sum(1), (ours != -theirs).sum(1)).sum())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("export").add_argument("runs", nargs="+", metavar="PROFILE:SEEDS")
    modes.add_parser("measure")
    options = parser.parse_args()
    export(options.runs) if options.mode == "export" else measure()


if __name__ == "__main__":
    main()
