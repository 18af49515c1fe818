"""The experiments of the chapter on weighted contrastive hashing: roles, recipes, and every path of it at tiny size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from companion.errors import CompanionError
from companion.hashing.codes import pack
from companion.hashing.protocols import PROTOCOLS, protocol
from companion.hashing.retrieval import mean_average_precision
from companion.store import ModelStore
from companion.studies import wch

TINY = {
    "data": "digits",
    "splits": ["all"],
    "rule": {"queries": 4, "train": 10, "database": "rest", "top": 50},
    "limit": 12,
    "backbone": {"side": 16, "patch": 8, "channels": 1, "width": 16, "depth": 1, "heads": 2},
    "warmup": {"epochs": 1, "batch_size": 50},
    "hashing": {"epochs": 1, "batch_size": 25, "hidden": 16},
    "tuning": {"epochs": 1, "batch_size": 25, "hidden": 16, "backbone_rate": 0.001},
    "views": {"blur_share": 0.0},
}
SHORT = (8, 16)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def scene(store):
    return wch.open_scene(wch.make_arena(TINY), 0, store)


def test_queries_are_neither_trained_on_nor_searched(scene):
    assert [len(part) for part in (scene.queries, scene.train, scene.database)] == [40, 100, 120]
    queries = scene.queries.images.flatten(1)
    for others in (scene.train, scene.database):
        distances = torch.cdist(queries, others.images.flatten(1))
        assert (distances.amin(1) == 0).sum() == 0
    assert scene.features["database"].shape == (120, 16)


def test_a_scene_comes_back_from_the_store_bit_for_bit(scene, store):
    trained = store.trained
    again = wch.open_scene(scene.arena, 0, store)
    assert store.trained == trained
    assert torch.equal(again.features["queries"], scene.features["queries"])


def test_wrong_descriptions_are_named():
    with pytest.raises(CompanionError, match="does not fit"):
        wch.make_arena(TINY | {"colour": 3})
    with pytest.raises(CompanionError, match="does not fit"):
        wch.make_arena({name: value for name, value in TINY.items() if name != "rule"})
    with pytest.raises(CompanionError, match="cannot be cut into patches"):
        wch.make_arena(TINY | {"backbone": TINY["backbone"] | {"patch": 5}})
    with pytest.raises(CompanionError, match="cannot be split over 3 attention heads"):
        wch.make_arena(TINY | {"backbone": TINY["backbone"] | {"heads": 3}})
    with pytest.raises(CompanionError, match="no protocol 'coco'"):
        wch.make_arena(TINY | {"rule": "coco"})


def test_protocols_keep_an_arenas_counts_unless_it_has_published_ones():
    small = wch.make_arena(TINY)
    found = {name: wch.rule_like(small, name) for name in PROTOCOLS}
    assert {(rule.queries, rule.train) for rule in found.values()} == {(4, 10)}
    assert [rule.database for rule in found.values()] == ["unseen", "rest", "train"]
    published = replace(small, rule=protocol("cifar10"))
    assert wch.rule_like(published, "cifar10-2") == protocol("cifar10-2")


def test_a_learned_code_ranks_as_the_library_says(scene, store):
    specs = wch.specs_of(wch.TRAINED, SHORT)
    codes = wch.learned_codes(scene, specs, store)
    assert list(codes) == list(specs) and len(codes) == 14
    found = codes["wch", 16]
    labels = scene.queries.labels.numpy(), scene.database.labels.numpy()
    expected = mean_average_precision(pack(found.queries), pack(found.database), *labels, 50)
    assert wch.precisions(scene, found).mean() == pytest.approx(100 * expected)
    assert wch.precisions(scene, found, "order", wch.class_order(scene)).shape == (40,)


def test_packed_distances_are_those_of_a_multiplication(scene):
    codes = wch.classical_codes(scene, SHORT)["lsh", 16]
    assert wch.packed_mismatches(codes) == (0, 40 * 120)


def test_tuned_codes_share_a_backbone_only_if_the_arena_says_so(scene, store):
    joint = wch.tuned_codes(scene, wch.TRAINED["wch"], store, SHORT)
    assert joint.backbones[8] is joint.backbones[16]
    apart = wch.tuned_codes(scene._replace(arena=replace(scene.arena, joint=False)), wch.TRAINED["wch"], store, SHORT)
    assert apart.backbones[8] is not apart.backbones[16]
    for method in (joint, apart):
        for bits in SHORT:
            assert torch.equal(method.encode(scene.queries.images, bits), method.codes[bits].queries)


@pytest.mark.parametrize("name", list(wch.ABLATIONS))
def test_every_ablation_trains_and_is_weighed(scene, store, name):
    method = wch.tuned_codes(scene, wch.ABLATIONS[name], store, SHORT)
    found = wch.weighing(scene, "patch", wch.TEMPERATURES.get(name, 1.0), 2, method.backbones[16])
    assert found.values.shape == (2, 25, 25) and 0 <= found.auc <= 100
    same, other = found.by_class()
    assert len(same) + len(other) == 2 * 25 * 24
    assert name in wch.NAMES


def test_another_rate_is_another_training(scene, store):
    base, faster = (wch.tuned_codes(s, wch.TRAINED["plain"], store, SHORT) for s in (scene, wch.at_rate(scene, 0.1)))
    assert not torch.equal(base.backbones[8].pos_embed, faster.backbones[8].pos_embed)


def test_weighing_uses_the_same_pairs_for_every_kind(scene):
    patch, whole = (wch.weighing(scene, kind, 0.0, 2) for kind in ("patch", "global"))
    assert torch.equal(patch.labels, whole.labels)
    assert torch.allclose(patch.values.diagonal(dim1=1, dim2=2), torch.ones(2, 25))
    with pytest.raises(CompanionError, match="5 batches of 25"):
        wch.weighing(scene, "patch", 0.0, 5)


def test_the_reference_lies_between_chance_and_a_perfect_ranking(scene):
    found = wch.reference(scene)
    assert 5 < found.chance < found.features < 100 and found.nearest[1] == 40


def test_chance_is_what_a_random_ranking_gives(scene):
    draw = np.random.default_rng(0)
    relevant = scene.queries.labels[:, None] == scene.database.labels
    scores = []
    for _ in range(30):
        order = torch.from_numpy(draw.permutation(len(scene.database)))[:50]
        hits = relevant[:, order].double()
        precision = (hits.cumsum(1) / torch.arange(1, 51) * hits).sum(1) / hits.sum(1).clamp(min=1)
        scores.append(100 * float(precision.mean()))
    assert wch.reference(scene).chance == pytest.approx(np.mean(scores), abs=4 * np.std(scores) / 30**0.5 + 0.1)


def test_curves_end_at_full_recall(scene, store):
    codes = wch.classical_codes(scene, SHORT)["lsh", 16]
    precision, recall = wch.curve(scene, codes, [1, 60, 120])
    assert recall[-1] == pytest.approx(100) and precision[-1] == pytest.approx(10, abs=0.5)
    assert (np.diff(recall) >= 0).all()
    assert wch.curve_points(54000)[:3] == [1, 500, 1000] and wch.curve_points(54000)[-1] == 10000
    assert max(wch.curve_points(120)) <= 120


def test_every_protocol_of_a_trained_method(scene, store):
    method = wch.tuned_codes(scene, wch.TRAINED["plain"], store, SHORT)
    found = {name: wch.under_protocol(scene, name, {"plain": method}, 16) for name in PROTOCOLS}
    assert [one.database for one in found.values()] == [120, 120, 100]
    assert all(one.queries == 40 and 0 <= one.values["plain"].mean() <= 100 for one in found.values())


def test_hits_are_sorted_and_queries_cover_the_classes(scene, store):
    codes = wch.classical_codes(scene, SHORT)["itq", 16]
    chosen = wch.one_query_a_class(scene, 5)
    assert scene.queries.labels[chosen].tolist() == [0, 1, 2, 3, 4]
    order, distances = wch.nearest_images(scene, codes, chosen, 6)
    assert order.shape == (5, 6) and (np.diff(distances.astype(int), axis=1) >= 0).all()
    expected = (codes.queries[chosen[0]] != codes.database[order[0, 0]]).sum()
    assert distances[0, 0] == expected


def test_a_gain_is_paired():
    base = np.linspace(0, 100, 50)
    found = wch.gain(base + 2, base, 0)
    assert found.mean == pytest.approx(2) and found.interval.low == pytest.approx(2)


def test_the_papers_recipe_at_tiny_size(store):
    """timm's backbone, images resized, a backbone for each code length, one learning rate for all."""
    rate = {"learning_rate": 1e-5, "backbone_rate": 1e-5, "batch_size": 25, "epochs": 1, "hidden": 16}
    backbone = {"side": 32, "patch": 16, "channels": 1, "width": 16, "depth": 1, "heads": 2, "kind": "timm"}
    paper = wch.make_arena(
        TINY | {"backbone": backbone, "tuning": rate, "joint": False, "warmup": {"epochs": 0, "batch_size": 50}}
    )
    scene = wch.open_scene(paper, 0, store)
    assert scene.queries.shape == (1, 16, 16), "resized by the backbone, a batch at a time"
    method = wch.tuned_codes(scene, wch.TRAINED["wch"], store, SHORT)
    assert wch.precisions(scene, method.codes[16]).shape == (40,)
    with pytest.raises(CompanionError, match="cannot be read"):
        wch.open_scene(replace(paper, weights="missing.npz"), 0, store)
