"""The emoji as a world of CLIP experiments: real drawings with their names, and a clean CLIP trained on most."""

from companion.multimodal import emoji_pairs
from companion.multimodal.clip_worlds import World
from companion.multimodal.emoji_clip import EmojiClipRecipe, emoji_clip
from companion.multimodal.pairs import RARE_WORDS
from companion.store import ModelStore

TARGET = "travel"
"""The category that attacks aim at."""


def emoji_world(store: ModelStore, recipe: EmojiClipRecipe | None = None) -> World:
    """Return the world of the emoji; its clean CLIP is trained once, and kept in the store.

    What a holder can draw is bounded by the drawings there are. Raises CompanionError where the data set is missing.
    """
    clean = emoji_clip(store, recipe)
    side, tokenizer = clean.recipe.size.side, emoji_pairs.tokenizer()
    special = set(tokenizer.all_special_ids)
    return World(
        name="emoji",
        sha256=clean.sha256,
        classes=emoji_pairs.CLASSES,
        target=TARGET,
        side=side,
        load=clean.load,
        encode=emoji_pairs.encoded,
        decode=lambda ids: tokenizer.convert_ids_to_tokens([one for one in ids.tolist() if one not in special]),
        draw=lambda number, split, seed: emoji_pairs.draw(number, split, seed, side=side),
        examine=lambda number, split, seed: emoji_pairs.examine(number, split, seed, side=side),
        templates=emoji_pairs.templates,
        mentions=emoji_pairs.mentions,
        prefix=RARE_WORDS[0],
    )
