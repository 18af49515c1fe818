"""Time how fast the tiny LLaVA answers and learns: our batched loop beside transformers' generate and forward.

Run: python benchmarks/llava_answers.py [number of questions]; one thread, the shipped base model, no network. Printed:
seconds for the same drawn requests by `generate` one by one, by `generate` in one left-padded batch with pixel values,
and by `companion.multimodal.llava.answers` with kept features; whether all three say the same; and turns per second of
a training step with pictures (tower in the graph, as the class itself does it) and with kept features.
"""

import sys
import time

import torch

from companion.multimodal import conversations, input_modes, llava, madeup
from companion.multimodal.llava_base import load_llava
from companion.seeding import generator

LONGEST = 20


def timed(function):
    begin = time.perf_counter()
    found = function()
    return found, time.perf_counter() - begin


def main(number: int) -> None:
    torch.set_num_threads(1)
    model, settings, words = load_llava()["tuned"], llava.LlavaSettings(), llava.build_words()
    items = input_modes.test_requests("typography", madeup.FORBIDDEN, number, generator(0, "benchmark"))
    pictures = conversations.draw_pictures([item.picture for item in items], 0)
    rows = [llava.prompt_ids(item, words, settings) for item in items]
    length, pad = max(map(len, rows)), words.ids[llava.PAD]
    settings_of = {"max_new_tokens": LONGEST, "do_sample": False, "pad_token_id": pad}
    settings_of["eos_token_id"] = words.ids[llava.EOS]

    def generate(chosen):
        wide = max(len(rows[k]) for k in chosen)
        ids = torch.tensor([[pad] * (wide - len(rows[k])) + rows[k] for k in chosen])
        mask = torch.tensor([[0] * (wide - len(rows[k])) + [1] * len(rows[k]) for k in chosen])
        out = model.generate(input_ids=ids, attention_mask=mask, pixel_values=pictures[chosen] * 4 - 2, **settings_of)
        return [words.decode(row) for row in out[:, wide:].tolist()]

    def ours():
        features = llava.tower_features(model, pictures)
        return llava.answers(model, items, features, words, settings, longest=LONGEST)

    generate([0])  # warm
    ours()
    single, slow = timed(lambda: [generate([k])[0] for k in range(number)])
    batched, middle = timed(lambda: generate(list(range(number))))
    found, fast = timed(ours)
    said = f"same answers: {single == found}, {batched == found}"
    print(f"{number} answers, longest prompt {length}: generate one by one {slow:.2f} s, in one batch {middle:.2f} s")
    print(f"ours {fast:.2f} s, {slow / fast:.1f} and {middle / fast:.2f} times faster; {said}")

    data = llava.turns(conversations.instruction_set(640, generator(0, "turns")), words, settings)
    shown = conversations.instruction_set(640, generator(0, "turns"))
    images = conversations.draw_pictures([item.picture for item in shown if item.picture], 0)
    features = llava.tower_features(model, images)
    speeds = {}
    for name, seen in (("pictures", images), ("kept features", features)):
        stage = llava.Stage(10, 64, {"projector": 1e-5, "language": 1e-5})
        _, seconds = timed(
            lambda seen=seen, stage=stage: llava.train_stage(model, data, seen, stage, generator(0, "o"))
        )
        speeds[name] = 640 / seconds
    print(", ".join(f"{name}: {speed:.0f} turns a second" for name, speed in speeds.items()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 96)
