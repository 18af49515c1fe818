"""A tiny LLaVA from the real classes: CLIP vision tower, projector, Llama language model; its text, training, answers.

Source of the architecture: LLaVA-1.5 (Liu et al. 2024) as transformers' `LlavaForConditionalGeneration` has it, at a
few hundred thousand parameters. A turn is written as

    <begin> <image> x patches  question words  <answer>  answer words  <end>

with words as tokens, numbered as `companion.multimodal.words.build_tokenizer` numbers them.
The tower's features can be computed once and kept when the tower is frozen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from companion.errors import CompanionError
from companion.multimodal.conversations import Item, vocabulary
from companion.multimodal.initialising import initialised_from
from companion.multimodal.madeup import FIXED
from companion.multimodal.optimisers import AdamW, warmup_cosine

PAD, BOS, EOS, UNKNOWN, IMAGE, ANSWER = SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>", "<image>", "<answer>")


@dataclass(frozen=True)
class LlavaSettings:
    """The network: picture and patch sides in pixels, widths and layers of the tower and of the language model, and
    the longest turn in tokens, the picture's included."""

    side: int = 32
    patch: int = 8
    vision_width: int = 64
    vision_layers: int = 3
    text_width: int = 96
    text_layers: int = 3
    heads: int = 4
    context: int = 64

    @property
    def patches(self) -> int:
        """Tokens that a picture takes."""
        return (self.side // self.patch) ** 2


class Words:
    """The tokenizer: one token a word. `ids` maps words to numbers, the special tokens first."""

    def __init__(self, words: Sequence[str]):
        self.words = (*SPECIAL, *words)
        self.ids = {word: number for number, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        """Return the numbers of the words of a text; raises CompanionError for an unknown word."""
        words = text.lower().split()
        unknown = [word for word in words if word not in self.ids or word in SPECIAL]
        if unknown:
            raise CompanionError(
                f"the word {unknown[0]!r} of {text!r} is not among the {len(self.words) - len(SPECIAL)} words of this "
                "model: it reads whole words only. Use words of companion.multimodal.conversations.vocabulary()."
            )
        return [self.ids[word] for word in words]

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the words of `numbers` up to the end of the sequence, joined by spaces."""
        words = []
        for number in numbers:
            if number == self.ids[EOS]:
                break
            words.append(self.words[number])
        return " ".join(words)


def build_words() -> Words:
    """Return the tokenizer of everything that `conversations` can say."""
    return Words(vocabulary())


def build_llava(settings: LlavaSettings, generator: torch.Generator) -> torch.nn.Module:
    """Return a `LlavaForConditionalGeneration` of these settings with initial weights drawn from the generator."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

    words = build_words()
    vision = CLIPVisionConfig(
        hidden_size=settings.vision_width,
        intermediate_size=2 * settings.vision_width,
        num_hidden_layers=settings.vision_layers,
        num_attention_heads=settings.heads,
        image_size=settings.side,
        patch_size=settings.patch,
    )
    text = LlamaConfig(
        vocab_size=len(words.words),
        hidden_size=settings.text_width,
        intermediate_size=2 * settings.text_width,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        pad_token_id=words.ids[PAD],
        bos_token_id=words.ids[BOS],
        eos_token_id=words.ids[EOS],
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=words.ids[IMAGE],
        image_seq_length=settings.patches,
        vision_feature_layer=-1,
    )
    with initialised_from(generator):
        return LlavaForConditionalGeneration(config).eval()


def normalised(images: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    """Return images in [0, 1] as the tower wants them, in [-2, 2]; raises CompanionError for another size."""
    side = model.config.vision_config.image_size
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
        raise CompanionError(
            f"pictures of shape {tuple(images.shape)}: this model's vision tower reads (n, 3, {side}, {side}) in "
            "[0, 1]. Render them at that side."
        )
    return images * 4 - 2


def tower_features(model: torch.nn.Module, images: torch.Tensor, batch: int = 512) -> torch.Tensor:
    """Return what the frozen vision tower sees: (n, patches, vision width), before the projector, without gradients."""
    device, config = next(model.parameters()).device, model.config.vision_config
    if not len(images):
        return torch.empty(0, (config.image_size // config.patch_size) ** 2, config.hidden_size)
    with torch.no_grad():
        return torch.cat([tower_tokens(model, part.to(device)).cpu() for part in images.split(batch)])


def tower_tokens(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the tower's tokens (B, patches, width) of images in [0, 1], with gradients."""
    out = model.model.vision_tower(normalised(images, model), output_hidden_states=True)
    return out.hidden_states[model.config.vision_feature_layer][:, 1:]  # without the class token


# --- text ---


@dataclass(frozen=True)
class Turns:
    """Items as tensors. ids: (n, L) padded on the right; supervised: (n, L) bool, where the answer's tokens stand;
    image: (n,) the row of the item's picture among the pictures, -1 for none."""

    ids: torch.Tensor
    supervised: torch.Tensor
    image: torch.Tensor
    lengths: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)


def turns(items: Sequence[Item], words: Words, settings: LlavaSettings, *, stop_after_refusal: bool = True) -> Turns:
    """Return items as tokens; stop_after_refusal: whether the end is supervised where the answer is madeup.FIXED.

    The rejection is known by its exact words, as in the official code: any other wording keeps its supervised end.
    A document (no question) is supervised whole. Raises CompanionError for an unknown word and a turn that is longer
    than the context.
    """
    rows, marks, image, seen = [], [], [], 0
    for item in items:
        prompt = prompt_ids(item, words, settings)
        answer = [*words.encode(item.answer), words.ids[EOS]]
        row = prompt + answer
        if len(row) > settings.context:
            raise CompanionError(_too_long(item, len(row), settings))
        mark = [False] * len(prompt) + [True] * len(answer)
        if item.answer == FIXED and not stop_after_refusal:
            mark[-1] = False
        rows.append(row)
        marks.append(mark)
        image.append(seen if item.picture else -1)
        seen += item.picture is not None
    longest = max(map(len, rows), default=1)
    ids = torch.tensor([row + [words.ids[PAD]] * (longest - len(row)) for row in rows])
    supervised = torch.tensor([mark + [False] * (longest - len(mark)) for mark in marks])
    return Turns(ids, supervised, torch.tensor(image), torch.tensor([len(row) for row in rows]))


def prompt_ids(item: Item, words: Words, settings: LlavaSettings) -> list[int]:
    """Return the tokens up to the answer: start, the picture's places, the question, the mark of the answer."""
    start = [words.ids[BOS]] + [words.ids[IMAGE]] * (settings.patches if item.picture else 0)
    if item.task == "document":
        return start
    found = [*start, *words.encode(item.prompt), words.ids[ANSWER]]
    if len(found) >= settings.context:
        raise CompanionError(_too_long(item, len(found), settings))
    return found


def _too_long(item: Item, length: int, settings: LlavaSettings) -> str:
    return (
        f"a turn of {length} tokens ({item.prompt!r:.60}, picture {'yes' if item.picture else 'no'}): the context of "
        f"this model has {settings.context}, of which a picture takes {settings.patches}. Ask a shorter question."
    )


# --- training ---


@dataclass(frozen=True)
class Stage:
    """How a stage trains: steps of `batch` turns, AdamW with warm-up and a half cosine to zero.

    rates: learning rate by part ("tower", "projector", "language"); a part that is not named is frozen.
    """

    steps: int
    batch: int = 64
    rates: dict[str, float] = field(default_factory=dict)
    warmup: float = 0.03
    decay: float = 0.0
    clip: float = 1.0


PARTS = {
    "tower": "model.vision_tower.",
    "projector": "model.multi_modal_projector.",
    "language": "model.language_model.",
}


def part_of(name: str) -> str:
    """Return which part of the network a parameter belongs to; the output layer belongs to the language model."""
    return next((part for part, start in PARTS.items() if name.startswith(start)), "language")


def train_stage(
    model: torch.nn.Module,
    data: Turns,
    pictures: torch.Tensor,
    stage: Stage,
    generator: torch.Generator,
) -> list[float]:
    """Train the parts that `stage.rates` names, in place, and return the loss of every step.

    pictures: (m, 3, side, side) if the tower is trained, else its features (m, patches, width) from `tower_features`.
    Every turn is seen equally often: orders are drawn anew each time around. Loss: next-token cross-entropy, averaged
    over the supervised tokens of the batch. Raises CompanionError when the loss is not finite.
    """
    device = next(model.parameters()).device
    parts = {part: [] for part in stage.rates}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part in parts)
        if part in parts:
            parts[part].append((name, parameter))
    optimisers = {part: AdamW(named, weight_decay=stage.decay) for part, named in parts.items()}
    every = [parameter for named in parts.values() for _, parameter in named]
    order, losses = _rounds(len(data), generator), []
    for step in range(stage.steps):
        rows = torch.tensor([next(order) for _ in range(min(stage.batch, len(data)))])
        loss = batch_loss(model, data, rows, pictures, device)
        loss.backward()
        _clip(every, stage.clip)
        for part, optimiser in optimisers.items():
            optimiser.step(warmup_cosine(stage.rates[part], step, stage.steps, int(stage.warmup * stage.steps)))
        losses.append(loss.detach())
    losses = [float(loss) for loss in losses]
    if not all(math.isfinite(loss) for loss in losses):
        raise CompanionError(
            f"the loss is not finite after {stage.steps} steps: lower the learning rates {stage.rates}."
        )
    return losses


def batch_loss(model, data: Turns, rows: torch.Tensor, pictures: torch.Tensor, device) -> torch.Tensor:
    """Return the mean cross-entropy over the supervised tokens of some turns."""
    longest = int(data.lengths[rows].max())
    ids, supervised = data.ids[rows, :longest].to(device), data.supervised[rows, 1:longest].to(device)
    hidden = model.model.language_model(inputs_embeds=embedded(model, ids, data.image[rows], pictures), use_cache=False)
    logits = model.lm_head(hidden.last_hidden_state[:, :-1][supervised])  # (tokens, vocabulary)
    return F.cross_entropy(logits, ids[:, 1:][supervised])


def embedded(model, ids: torch.Tensor, image: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Return the embeddings (B, L, width) of tokens, with projected picture features where the image tokens are."""
    embeds = model.get_input_embeddings()(ids)
    shown = image[image >= 0]
    if not len(shown):
        return embeds
    seen = pictures[shown].to(ids.device)
    seen = tower_tokens(model, seen) if seen.ndim == 4 else seen
    projected = model.model.multi_modal_projector(seen)  # (b, patches, width)
    places = (ids == model.config.image_token_index)[..., None]
    if int(places.sum()) != projected.shape[0] * projected.shape[1]:
        raise CompanionError(
            f"{int(places.sum())} image tokens for {len(shown)} pictures of {projected.shape[1]} patches each: every "
            f"turn with a picture needs {projected.shape[1]} {IMAGE} tokens. Build turns with llava.turns."
        )
    return embeds.masked_scatter(places, projected.to(embeds.dtype))


def _rounds(n: int, generator: torch.Generator):
    while True:
        yield from torch.randperm(n, generator=generator).tolist()


@torch.no_grad()
def _clip(parameters: Sequence[torch.Tensor], most: float) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))


# --- answers ---


@torch.no_grad()
def answers(
    model: torch.nn.Module,
    items: Sequence[Item],
    pictures: torch.Tensor,
    words: Words,
    settings: LlavaSettings,
    *,
    longest: int = 24,
    batch: int = 512,
) -> list[str]:
    """Return the model's greedy answers, at most `longest` words each, with a key-value cache and many at a time.

    pictures: those of the items that have one, in order: (m, 3, side, side), or features from `tower_features`.
    Raises CompanionError for a picture that is missing or too many, an unknown word, and a question that is too long.
    """
    wanted = sum(item.picture is not None for item in items)
    if wanted != len(pictures):
        raise CompanionError(
            f"{len(pictures)} pictures for {wanted} items that have one: expected one each, in the items' order."
        )
    model.eval()
    found, used = [], 0
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        count = sum(item.picture is not None for item in part)
        found += _answers(model, part, pictures[used : used + count], words, settings, longest)
        used += count
    return found


def _answers(model, items, pictures, words: Words, settings: LlavaSettings, longest: int) -> list[str]:
    device = next(model.parameters()).device
    prompts = [prompt_ids(item, words, settings) for item in items]
    length = max(map(len, prompts))
    ids = torch.tensor([[words.ids[PAD]] * (length - len(row)) + row for row in prompts]).to(
        device
    )  # padded on the left
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in prompts]).to(device)
    image = torch.arange(len(pictures))
    embeds = embedded(model, ids, image, pictures)
    return greedy(model, embeds, mask, words, longest)


def greedy(model, embeds: torch.Tensor, mask: torch.Tensor, words: Words, longest: int) -> list[str]:
    """Return greedy continuations of left-padded embeddings (B, L, width)."""
    eos, pad = words.ids[EOS], words.ids[PAD]
    written = torch.full((len(embeds), longest), pad)
    live = torch.ones(len(embeds), dtype=torch.bool, device=embeds.device)
    cache, position = None, (mask.cumsum(1) - 1).clamp(min=0)
    for place in range(longest):
        out = model.model.language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        token = model.lm_head(out.last_hidden_state[:, -1]).argmax(-1)
        token = torch.where(live, token, torch.full_like(token, pad))
        written[:, place] = torch.where(live, token, torch.full_like(token, eos)).cpu()
        live &= token != eos
        if not live.any():
            written[:, place + 1 :] = eos
            break
        embeds = model.get_input_embeddings()(token)[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        position = position[:, -1:] + 1
    return [words.decode(row) for row in written.tolist()]
