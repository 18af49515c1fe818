"""The choice of queries: CutMix changes the box alone, SAC-w takes wrong answers alone, FRI forgets the space."""

import pytest
import torch

from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.ownership import fingerprints as sac
from companion.ownership.correlation import correlation
from companion.ownership.corruptions import jpeg
from companion.seeding import generator


def held(count=20, side=32):
    images = torch.rand(count, 3, side, side, generator=generator(0, "held"))
    return ImageSet(images, torch.arange(count) % 4, ("a", "b", "c", "d"), "toy", "test")


def test_normal_takes_the_first_and_refuses_what_is_not_there():
    assert torch.equal(sac.normal(held(), 5), held().images[:5])
    for count in (1, 21):
        with pytest.raises(CompanionError, match=f"{count} query samples from 20"):
            sac.normal(held(), count)


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_changes_its_box_alone_and_copies_from_another_image(seed):
    images = held().images
    rows, columns = sac.cutmix_box(32, generator(seed))
    mixed = sac.cutmix(images, generator(seed))
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[rows, columns] = True
    assert torch.equal(mixed[:, :, ~inside], images[:, :, ~inside])
    source = [[torch.equal(a[:, inside], b[:, inside]) for b in images].index(True) for a in mixed]
    assert sorted(source) == list(range(20)) and source != list(range(20))  # a permutation


def test_the_cutmix_box_lies_in_a_corner_and_is_at_most_six_pixels_long():
    boxes = [sac.cutmix_box(32, generator(seed)) for seed in range(300)]
    lengths = {part.stop - part.start for box in boxes for part in box}
    assert max(lengths) == 6 and min(lengths) >= 3  # int(0.2 * 32), clipped at the border
    middles = {(part.start + part.stop) / 2 for box in boxes for part in box}
    assert all(place < 32 / 3 or place > 32 * 2 / 3 for place in middles)
    corners = {(box[0].start < 16, box[1].start < 16) for box in boxes}
    assert len(corners) == 4


def test_misclassified_takes_wrong_answers_in_order():
    data = held()
    predicted = data.labels.clone()
    predicted[[3, 7, 11]] = (predicted[[3, 7, 11]] + 1) % 4
    assert torch.equal(sac.misclassified(data, predicted, 10), data.images[[3, 7, 11]])
    assert torch.equal(sac.misclassified(data, predicted, 2), data.images[[3, 7]])
    with pytest.raises(CompanionError, match=r"0 of 20 .*at least 2"):
        sac.misclassified(data, data.labels, 10)
    with pytest.raises(CompanionError, match="one for each"):
        sac.misclassified(data, predicted[:5], 10)


def test_label_only_knows_the_answer_and_nothing_else():
    logits = torch.tensor([[1.0, 5.0, 2.0], [-9.0, 0.1, 0.0], [3.0, 2.0, 1.0]])
    found = sac.label_only(logits)
    expected = torch.tensor([0.01, 1.0, 0.01]).softmax(0)
    torch.testing.assert_close(found[0], expected)
    assert torch.equal(found[0], found[1]) and torch.equal(found.argmax(1), logits.argmax(1))
    matrix = correlation(found)
    assert matrix[0, 1] == pytest.approx(0, abs=1e-12) and matrix[0, 2] > 0.1


def test_reference_features_forget_rotation_scale_and_dimension():
    embeddings = torch.randn(9, 5, generator=generator(0)).double()
    references = torch.randn(4, 5, generator=generator(1)).double()
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator(2)).double())
    found = sac.reference_features(embeddings, references)
    assert found.shape == (9, 4)
    torch.testing.assert_close(sac.reference_features(embeddings @ turn * 2, references @ turn * 7), found)
    wider = [torch.cat([part, torch.zeros(len(part), 3)], 1) for part in (embeddings, references)]
    torch.testing.assert_close(sac.reference_features(*wider), found)
    assert found[2, 1] == pytest.approx(float(torch.cosine_similarity(embeddings[2], references[1], dim=0)))


def test_reference_features_refuse_what_does_not_fit():
    with pytest.raises(CompanionError, match=r"\(9, 5\).*\(4, 6\)"):
        sac.reference_features(torch.ones(9, 5), torch.ones(4, 6))
    with pytest.raises(CompanionError, match="at least one"):
        sac.reference_features(torch.ones(9, 5), torch.ones(0, 5))


def test_variants_make_what_their_names_say():
    data, predicted = held(), (held().labels + 1) % 4
    made = {name: make(data, lambda images: predicted, 6, generator(0)) for name, make in sac.VARIANTS.items()}
    assert torch.equal(made["normal"], data.images[:6]) and torch.equal(made["wrong"], data.images[:6])
    assert torch.equal(made["jpeg"], jpeg(data.images[:6], 25))
    assert torch.equal(made["cutmix"], sac.cutmix(data.images[:6], generator(0)))


def test_images_outside_the_range_and_too_few_are_refused():
    data = held()
    bright = ImageSet(data.images * 255, data.labels, data.classes, "toy", "test")
    with pytest.raises(CompanionError, match=r"expected \[0, 1\]"):
        sac.normal(bright, 5)
    with pytest.raises(CompanionError, match="at least 2 square"):
        sac.cutmix(data.images[:1], generator(0))
    with pytest.raises(CompanionError, match="empty"):
        sac.cutmix_box(4, generator(0))
