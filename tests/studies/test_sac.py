"""The experiments: arenas, distances by hand, sub-matrices, ranks, verification, and errors."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.ownership import correlation as sample
from companion.seeding import generator
from companion.store import ModelStore
from companion.studies import sac
from companion.studies.sac_arena import Arena, Plan, open_arena, verification
from companion.training import features, logits

SMALL = {"epochs": 1, "irrelevant": 3, "stolen": 2, "architectures": [["cnn", 4], ["cnn", 6]], "source": ["cnn", 6]}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def digits(store):
    return open_arena("objects", Plan("digits", 200, 150, **SMALL), 0, store)


@pytest.fixture(scope="module")
def faces(store):
    plan = Plan("faces", 100, 120, people=5, **{**SMALL, "source": ["cnn", 4], "architectures": [["cnn", 4]]})
    return open_arena("verification", plan, 0, store, references=20)


def test_distances_equal_those_by_hand(digits):
    asked = digits.queries("normal", 12)
    found = sac.distances(digits, asked)
    assert set(found) == set(digits.families)
    source = sample.correlation(logits(digits.zoo.source, asked))
    for family in ("irrelevant", "fine_tune_all", "transfer"):
        by_hand = [
            sample.correlation_distance(source, sample.correlation(logits(model, asked)))
            for model in digits.zoo.family(family).models
        ]
        np.testing.assert_allclose(found[family], by_hand, rtol=0, atol=1e-12)


def test_a_part_of_the_matrices_is_the_matrix_of_fewer_queries(digits):
    asked, chosen = digits.queries("jpeg", 15), torch.tensor([9, 2, 7, 0])
    part = sac.distances_of(sac.matrices(digits, asked), chosen)
    alone = sac.distances(digits, asked[chosen])
    for family in part:
        np.testing.assert_allclose(part[family], alone[family], rtol=0, atol=1e-6)


def test_transferred_models_are_held_against_those_of_their_label_set():
    found = {name: np.array([1.0, 2.0]) for name in ("irrelevant", "fine_tune_all", "transfer")}
    found["transfer_irrelevant"] = np.array([3.0, 4.0])
    separated = sac.separations(found)
    assert set(separated) == {"fine_tune_all", "transfer"}
    assert separated["fine_tune_all"].auc == 0.5 and separated["transfer"].auc == 1
    assert sac.mean_auc(found) == 0.75 and sac.mean_auc(found, without=["transfer"]) == 0.5
    assert sac.relative(found)["transfer"].tolist() == [1 / 3.5, 2 / 3.5]


def test_verification_compares_features_from_reference_images(faces):
    asked = faces.queries("jpeg", 10)
    model = faces.zoo.family("irrelevant").models[0]
    embeddings, references = features(model, asked), features(model, faces.references)
    by_hand = torch.cosine_similarity(embeddings[:, None], references[None], dim=2)
    torch.testing.assert_close(faces.outputs(model, asked), by_hand, rtol=0, atol=1e-5)
    assert faces.variants == ("normal", "cutmix", "jpeg")
    with pytest.raises(CompanionError, match="no fingerprint 'wrong' for verification"):
        faces.queries("wrong", 10)
    gap = (faces.references[:, None] - faces.held.images[None]).abs().amax((2, 3, 4))
    assert gap.min() > 0  # no reference image is asked about


def test_persons_of_owner_others_and_queries_are_different():
    for data in ("faces", "orl_faces"):
        task, held, _ = verification(Plan(data, 50, 50, people=4))
        parts = (task.owner, task.others, held)
        spans = [
            part.classes or (part.options["first_person"], part.options["first_person"] + part.options["people"])
            for part in parts
        ]
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_verification_auc_of_separated_and_of_equal_embeddings():
    persons = torch.arange(6) % 3
    axes = torch.eye(3)[persons]
    assert sac.verification_auc(axes, persons) == 1
    assert sac.verification_auc(torch.ones(6, 3), persons) == 0.5
    assert sac.verification_auc(axes, torch.arange(6) // 2) < 0.5


def test_the_order_of_held_out_images_depends_on_the_seed(store):
    plan = Plan("digits", 200, 150, **SMALL)
    first, same, other = (open_arena("objects", plan, seed, store).held.images for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_architecture_control_asks_for_the_sources_architecture():
    family = SimpleNamespace(architectures=[("cnn", 6), ("cnn", 4), ("cnn", 6), ("cnn", 4)])
    zoo = SimpleNamespace(family=lambda name: family, settings=SimpleNamespace(source=("cnn", 6)))
    found = {"irrelevant": np.array([0.1, 0.5, 0.2, 0.6])}
    assert sac.architecture_control(SimpleNamespace(zoo=zoo), found) == 1
    assert sac.architecture_control(SimpleNamespace(zoo=zoo), {"irrelevant": np.ones(4)}) == 0.5
    zoo.settings.source = ("resnet", 6)
    with pytest.raises(CompanionError, match="0 of 4 irrelevant models have the source's architecture"):
        sac.architecture_control(SimpleNamespace(zoo=zoo), found)


def test_the_interval_of_a_mean_auc_draws_models_anew():
    apart = {"irrelevant": np.array([3.0, 4.0, 5.0]), "fine_tune_all": np.array([1.0, 2.0])}
    one = sac.mean_auc_interval(apart, generator(0))
    assert (one.low, one.high) == (1, 1)
    mixed = {"irrelevant": np.array([1.0, 2.0, 3.0]), "extract_label": np.array([1.0, 2.5]), **{"transfer": np.ones(2)}}
    mixed["transfer_irrelevant"] = np.ones(2)
    found = sac.mean_auc_interval(mixed, generator(0))
    assert 0 < found.low < sac.mean_auc(mixed) < found.high < 1
    assert found == sac.mean_auc_interval(mixed, generator(0))
    assert found.low >= 0.25 and found.high <= 0.75  # transfer is a coin, always


def test_a_matched_auc_counts_pairs_of_one_architecture():
    families = {"extract_label": ["a", "b"], "irrelevant": ["a", "b", "a"], "fine_tune_all": ["c"]}
    zoo = SimpleNamespace(family=lambda name: SimpleNamespace(architectures=families[name]))
    arena = SimpleNamespace(zoo=zoo)
    found = {"extract_label": np.array([0.1, 0.9]), "irrelevant": np.array([0.2, 0.8, 0.05])}
    assert sac.matched_auc(arena, found, "extract_label") == pytest.approx(
        1 / 3
    )  # of 3 pairs, 0.1 < 0.2 alone is right
    with pytest.raises(CompanionError, match="no irrelevant model has an architecture of fine_tune_all"):
        sac.matched_auc(arena, {**found, "fine_tune_all": np.ones(1)}, "fine_tune_all")


def test_series_cover_what_they_say(digits):
    asked = digits.queries("normal", 12)
    assert len(sac.auc_by_severity(digits, 12)) == 6
    assert sac.auc_by_severity(digits, 12)[1] == sac.auc_by_enlargement(digits, 12, [1])[0]
    by_count = sac.auc_by_count(digits, asked, [3, 12], 2)
    assert by_count[1] == pytest.approx(sac.mean_auc(sac.distances(digits, asked)))
    corrupted = sac.compare_corruptions(digits, 1, 12)
    assert len(corrupted) == 11 and corrupted["none"] == sac.auc_by_severity(digits, 12)[0]
    for counts in ([1, 5], [13]):
        with pytest.raises(CompanionError, match="expected 2 to all"):
            sac.auc_by_count(digits, asked, counts, 1)


def test_ranks_start_at_one_and_share_the_better_place():
    values = {"a": 0.9, "b": 0.9, "c": 0.5, "d": 0.95}
    assert [sac.rank(values, name) for name in "abcd"] == [2, 2, 4, 1]


def test_costs_count_passes(digits):
    assert sac.make_fingerprint(digits, "jpeg", 10)[1].passes == 10
    assert sac.make_fingerprint(digits, "wrong", 10)[1].passes == 10 + 150
    assert sac.make_boundary(digits, 10, 3)[1].passes == 10 * (3 * 3 + 2)
    found, cost = sac.make_conferrable(digits, 10, 2)
    trained = 4 * 200 * 1 * 3  # surrogates and references, images, epochs, passes of a training step
    assert cost.passes == found.passes + trained
    distances = sac.point_distances(digits, found)
    assert not any(family.startswith("transfer") for family in distances)


def test_quality_rows_tell_accuracy_or_verification(digits, faces):
    rows = sac.quality_rows(digits)
    predicted = logits(digits.zoo.source, digits.held.images).argmax(1)
    assert rows[0][:3] == ["objects", "source", 1]
    assert rows[0][3] == pytest.approx(100 * float((predicted == digits.held.labels).double().mean()))
    embeddings = features(faces.zoo.source, faces.held.images)
    expected = 100 * sac.verification_auc(embeddings, faces.held.labels)
    assert sac.quality_rows(faces)[0][3] == pytest.approx(expected)


def test_errors(store):
    with pytest.raises(CompanionError, match=r"unknown task 'speech'.*objects, emotion, verification"):
        open_arena("speech", Plan("digits", 10, 10), 0, store)
    plan = Plan("faces", 20, 20, people=2, **SMALL)
    with pytest.raises(CompanionError, match="30 reference images of 20"):
        open_arena("verification", plan, 0, store, references=30)
    images = torch.rand(1, 1, 16, 16, generator=generator(0))
    held = ImageSet(images, torch.zeros(1, dtype=torch.int64), ("a",), "toy", "test")
    arena = Arena(
        SimpleNamespace(generator=lambda *names: generator(0), task=SimpleNamespace(embeds=False)), held, None, None
    )
    with pytest.raises(CompanionError, match="1 held-out images"):
        arena.queries("normal", 2)


def test_the_papers_networks_take_the_same_way(store):
    """A tiny run of what the profile `paper` does with torchvision's networks."""
    large = {"source": ["mobilenet_v2", 0], "architectures": [["resnet18", 0]], "irrelevant": 2, "stolen": 2}
    arena = open_arena("objects", Plan("digits", 40, 30, epochs=1, owned=1, **large), 0, store)
    asked = arena.queries("jpeg", 10)
    source = arena.zoo.source
    for family in ("irrelevant", "extract_probability", "fine_tune_last", "fine_prune"):
        models = arena.zoo.family(family).models
        own, theirs = (sample.correlation(arena.outputs(model, asked)) for model in (source, models[0]))
        assert 0 < sample.correlation_distance(own, theirs) < 2
