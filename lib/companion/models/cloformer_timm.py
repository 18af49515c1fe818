"""CloFormer in timm's register: after this import `timm.create_model("cloformer_xxs")` works as for timm's own.

There are no published weights, so `pretrained=True` is refused. The names are those of `cloformer.VARIANTS`.
"""

from timm.models import build_model_with_cfg, register_model

from companion.models.cloformer import VARIANTS, CloFormer

default_cfgs = {
    name: {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 224 / 256,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "stem.0",
        "classifier": "head",
    }
    for name in VARIANTS
}


def _create(variant: str, pretrained: bool = False, **settings) -> CloFormer:
    return build_model_with_cfg(
        CloFormer,
        variant,
        pretrained,
        config=VARIANTS[variant],
        feature_cfg={"out_indices": tuple(range(4)), "feature_cls": "getter"},
        **settings,
    )


@register_model
def cloformer_xxs(pretrained: bool = False, **settings) -> CloFormer:
    """CloFormer-XXS, 4.2 M parameters."""
    return _create("cloformer_xxs", pretrained, **settings)


@register_model
def cloformer_xs(pretrained: bool = False, **settings) -> CloFormer:
    """CloFormer-XS, 7.2 M parameters."""
    return _create("cloformer_xs", pretrained, **settings)


@register_model
def cloformer_s(pretrained: bool = False, **settings) -> CloFormer:
    """CloFormer-S, 12.3 M parameters."""
    return _create("cloformer_s", pretrained, **settings)
