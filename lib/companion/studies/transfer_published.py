"""What peers published, for the order of methods only; typed from the project's fact sheet, with evidence.

It stands in the library and not in a data file beside the chapter because then it belongs to a run's key.
"""

import numpy as np

TRANSFER_ATTACK_SOURCE = (
    "TransferAttack, README of 27 Feb 2026 (companion paper arXiv 2602.23117): untargeted, surrogate ResNet-50, "
    "eps 16/255, 10 steps, MI as base; success in percent of all images, evidence V (read in the repository)"
)

TRANSFER_ATTACK_COLUMNS = (
    "ResNet-50", "VGG-16", "MobileNet-V2", "Inception-V3", "ViT-B/16", "PiT-B", "Visformer-S", "Swin-T", "DiffPure"
)  # fmt: skip

TRANSFER_ATTACK = {
    "fgsm": (49.2, 54.6, 48.2, 32.8, 11.9, 14.1, 18.7, 19.4, 15.8),
    "ifgsm": (99.6, 36.5, 33.6, 17.7, 7.5, 11.7, 14.4, 15.7, 8.7),
    "mi": (99.9, 57.9, 53.4, 37.4, 14.5, 22.5, 26.2, 28.1, 13.3),
    "ni": (100.0, 66.5, 59.3, 38.9, 15.4, 23.4, 30.1, 29.7, 12.7),
    "pi": (98.8, 74.9, 59.2, 57.9, 16.3, 16.9, 25.3, 20.6, 38.3),
    "vmi": (99.6, 70.8, 66.9, 57.3, 31.9, 47.0, 54.5, 53.5, 22.9),
    "vni": (99.9, 76.9, 72.9, 60.8, 30.0, 47.0, 58.5, 55.5, 20.9),
    "emi": (100.0, 84.7, 81.7, 64.3, 25.2, 43.1, 56.2, 53.1, 19.1),
    "gra": (97.5, 84.6, 83.5, 81.9, 46.3, 61.9, 72.9, 70.9, 41.3),
    "pgn": (98.7, 88.7, 86.3, 85.5, 50.1, 68.7, 76.9, 73.6, 44.5),
    "rap": (99.9, 87.8, 85.9, 63.0, 23.8, 40.8, 54.1, 53.7, 21.0),
    "di": (98.7, 71.0, 66.2, 57.1, 27.5, 39.7, 49.5, 45.3, 19.9),
    "ti": (97.8, 57.9, 46.9, 38.9, 15.3, 16.5, 23.2, 19.0, 32.3),
    "si": (100.0, 70.2, 64.4, 52.1, 24.5, 36.9, 48.1, 43.5, 17.7),
    "dem": (99.9, 93.1, 89.3, 91.0, 48.2, 63.5, 78.2, 71.4, 35.6),
    "admix": (100.0, 79.9, 77.7, 67.7, 32.5, 49.3, 62.5, 58.2, 20.7),
    "ssm": (98.0, 88.8, 86.4, 83.1, 50.7, 68.3, 76.3, 75.7, 35.0),
    "sia": (99.4, 94.3, 92.7, 83.1, 50.0, 76.7, 86.5, 83.6, 27.8),
    "bsr": (99.0, 96.8, 95.6, 90.8, 54.3, 79.9, 89.3, 84.7, 32.4),
    "tap": (99.9, 93.4, 93.8, 64.8, 15.2, 25.4, 44.3, 40.2, 15.5),
    "ila": (98.7, 68.7, 64.6, 33.4, 12.8, 23.5, 31.9, 32.1, 11.3),
    "fia": (98.0, 71.2, 65.8, 40.2, 12.6, 19.9, 33.2, 33.1, 12.1),
    "naa": (84.7, 61.6, 58.6, 38.2, 19.5, 29.6, 36.6, 39.0, 12.6),
    "sgm": (100.0, 73.2, 75.7, 45.9, 18.9, 33.5, 41.1, 41.9, 15.0),
    "linbp": (100.0, 87.7, 81.2, 47.5, 18.9, 22.7, 44.0, 37.2, 17.1),
    "lgv": (91.4, 97.2, 95.8, 80.6, 28.0, 35.8, 58.8, 55.9, 18.0),
}
"""Success by method, in percent, column by column. Ghost is left out: one of its values looks like a typo."""

ZHAO_SOURCE = (
    "Zhao, Liu, Larson, NeurIPS 2021, Table 1: targeted TI-MI-DI, success in percent after 20, 100 and 300 steps, "
    "eight pairs of source and target; evidence V (figure in the repository)"
)

ZHAO = {
    "ce": (
        (26.9, 39.4, 42.6), (17.3, 27.3, 30.4), (2.4, 3.8, 4.1), (13.1, 17.3, 19.4), (7.7, 10.8, 10.9),
        (0.7, 0.4, 0.6), (0.5, 0.3, 0.1), (0.8, 2.5, 2.9),
    ),
    "potrip": (
        (26.7, 53.0, 54.7), (18.8, 34.2, 34.4), (2.9, 6.0, 5.9), (10.1, 14.7, 14.7), (6.7, 8.3, 7.7),
        (0.6, 0.8, 0.5), (0.6, 0.6, 0.7), (0.8, 3.1, 3.3),
    ),
    "logit": (
        (29.3, 63.3, 72.5), (24.0, 55.7, 62.7), (3.0, 7.2, 9.4), (17.2, 39.7, 43.7), (13.5, 35.3, 38.7),
        (3.3, 8.7, 11.2), (3.6, 11.7, 13.2), (1.2, 2.8, 5.3),
    ),
}  # fmt: skip
"""Success by loss, pair and number of steps, in percent."""


def transfer_attack_means() -> dict[str, float]:
    """Return each method's mean success on the seven plain networks that are not the surrogate, in percent."""
    return {name: float(np.mean(row[1:8])) for name, row in TRANSFER_ATTACK.items()}


def zhao_means() -> dict[str, tuple[float, ...]]:
    """Return each loss's success after 20, 100 and 300 steps, averaged over the pairs, in percent."""
    return {name: tuple(np.mean(rows, axis=0).tolist()) for name, rows in ZHAO.items()}
