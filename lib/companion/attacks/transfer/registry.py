"""Every method of the library by name, with its formula, its place in the survey's taxonomy and where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

from companion.attacks.transfer.blocks import BlockChanges, BlockShuffle
from companion.attacks.transfer.ensembles import OneOfMany, VarianceReduced
from companion.attacks.transfer.features import (
    FeatureDisruption,
    FeatureImportance,
    IntermediateLevel,
    NeuronAttribution,
    Output,
    TransferablePerturbation,
)
from companion.attacks.transfer.gradients import (
    Enhanced,
    Generated,
    LookAhead,
    PenalisedNorm,
    Relevance,
    ReversePerturbation,
    VarianceTuned,
)
from companion.attacks.transfer.losses import Logit, PoincareTriplet
from companion.attacks.transfer.method import Method
from companion.attacks.transfer.model_level import Ghost, LinearBackward, SkipGradient
from companion.attacks.transfer.rules import DecayIndicator, Jump, Momentum, PatchWise
from companion.attacks.transfer.transforms import Admix, Identity, ResizePad, Scales, Spectrum

TECHNIQUE, AUGMENTATION = "optimisation technique", "data augmentation"
LOSS, COMPONENT, GENERATION = "loss objective", "model component", "generation"
GROUPS = (TECHNIQUE, AUGMENTATION, LOSS, COMPONENT, GENERATION)


@dataclass(frozen=True)
class Entry:
    """A method of the registry.

    name: lower-case, as metric ids use it; title: as the literature writes it; group: of the survey's taxonomy, where
    the survey's table does not name the method (`placed`) the place is ours; formula: LaTeX, of what is special to the
    method; source: authors and year; verified: the update rule was checked against a
    reference implementation (else it is our reconstruction); needs: "", "targets", "ensemble", "snapshots", "generator"
    or "partners"; method: its composition.
    """

    name: str
    title: str
    group: str
    formula: str
    source: str
    verified: bool
    placed: bool
    needs: str
    method: Method


@dataclass(frozen=True)
class Scale:
    """How large the registry's methods are.

    copies: neighbours or copies of VMI, VNI, GRA, PGN, SSM, SIA and BSR; samples: of EMI; scales, partners: of SI and
    Admix; members: networks of an ensemble; snapshots: of LGV; inner: steps of RAP's search, and of SVRE a network;
    masks: of FIA and NAA; rate, rates: DI's and DEM's; kernel: of TI. The defaults are the references', but for
    images of 32 pixels and less a TI kernel of 5 and rates of about 1.25 (see the chapter's deviations).
    """

    copies: int = 20
    samples: int = 11
    scales: int = 5
    partners: int = 3
    members: int = 4
    snapshots: int = 40
    inner: int = 8
    masks: int = 30
    rate: float = 1.1
    rates: tuple[float, ...] = (1.14, 1.27, 1.40, 1.53, 1.66)
    kernel: int = 15


def entries(scale: Scale | None = None) -> Mapping[str, Entry]:
    """Return all methods by name, in the order of the taxonomy's groups.

    >>> entries()["vmi"].method.evaluations(steps=10)
    210
    """
    scale = scale or Scale()
    rows = [*_techniques(scale), *_augmentations(scale), *_losses(), *_components(scale), *_generation()]
    return {row[0]: Entry(*row) for row in rows}


def _techniques(scale: Scale) -> list[tuple]:
    group, ensemble = TECHNIQUE, scale.members
    return [
        ("fgsm", "FGSM", group, r"x + \varepsilon\,\mathrm{sign}\,\nabla J(x)", "Goodfellow et al. 2015",
         True, False, "", Method(rule=Momentum(0.0), single_step=True)),
        ("ifgsm", "I-FGSM", group, r"g_{t+1} = \nabla J(x_t)", "Kurakin et al. 2017", True,
         False, "", Method(rule=Momentum(0.0))),
        ("mi", "MI-FGSM", group, r"g_{t+1} = \mu g_t + \nabla J(x_t) / \overline{\lvert\nabla J(x_t)\rvert}",
         "Dong et al. 2018", True, False, "", Method()),
        ("ni", "NI-FGSM", group, r"\text{as MI, with } \nabla J(x_t + \alpha\mu g_t)", "Lin et al. 2020",
         True, False, "", Method(LookAhead())),
        ("pi", "PI-FGSM", group,
         r"a_{t+1} = a_t + \beta\alpha\,\mathrm{sign}\,g + \gamma\,\mathrm{sign}(W * \mathrm{cut}_\varepsilon(a_t))",
         "Gao et al. 2020", True, True, "", Method(rule=PatchWise(decay=0.0))),
        ("vmi", "VMI-FGSM", group,
         r"\nabla J(x_t) + V_t,\; V_{t+1} = \tfrac1N\sum_i \nabla J(x_t + r_i) - \nabla J(x_t)", "Wang & He 2021",
         True, False, "", Method(VarianceTuned(scale.copies))),
        ("vni", "VNI-FGSM", group, r"\text{as VMI, with } \nabla J(x_t + \alpha\mu g_t) + V_t", "Wang & He 2021",
         True, False, "", Method(VarianceTuned(scale.copies, decay=1.0))),
        ("emi", "EMI-FGSM", group, r"\tfrac1n\sum_i \nabla J(x_t + c_i\,\alpha\,\bar g_{t-1})", "Wang et al. 2021",
         True, True, "", Method(Enhanced(scale.samples))),
        ("gra", "GRA", group, r"s\,G + (1-s)\,\bar G,\; s = \cos(G, \bar G)", "Zhu et al. 2023", False,
         False, "", Method(Relevance(scale.copies), rule=DecayIndicator())),
        ("pgn", "PGN", group,
         r"(1-\gamma)\nabla J(x') + \gamma\nabla J(x' - \alpha\nabla J(x')/\overline{\lvert\nabla J(x')\rvert})",
         "Ge et al. 2023", False, True, "", Method(PenalisedNorm(scale.copies))),
        ("rap", "RAP", group, r"\nabla J(x_t + n),\; n = \arg\min_{\lVert n\rVert_\infty\le\varepsilon_n} J(x_t + n)",
         "Qin et al. 2022", False, False, "", Method(ReversePerturbation(scale.inner))),
        ("ens", "Ensemble (logits)", group, r"\nabla J(\tfrac1K\sum_k z_k(x_t))", "Dong et al. 2018",
         True, True, "ensemble", Method(members=ensemble)),
        ("svre", "SVRE", group, r"\nabla J_k(\tilde x) - (\nabla J_k(x_t) - \tfrac1K\textstyle\sum_j\nabla J_j(x_t))",
         "Xiong et al. 2022", False, False, "ensemble",
         Method(VarianceReduced(ensemble, scale.inner // 2 * ensemble))),
        ("lgv", "LGV", group, r"\nabla J(x_t; w_k),\; w_k \text{ along a run of SGD}", "Gubri et al. 2022",
         False, False, "snapshots", Method(OneOfMany(scale.snapshots))),
    ]  # fmt: skip


def _augmentations(scale: Scale) -> list[tuple]:
    group, copies = AUGMENTATION, scale.copies
    return [
        ("di", "DI", group, r"\nabla J(\mathrm{pad}(\mathrm{resize}(x_t))) \text{ with probability } p",
         "Xie et al. 2019", True, False, "", Method(transform=ResizePad((scale.rate,)))),
        ("ti", "TI", group, r"W_{\text{Gauss}} * \nabla J(x_t)", "Dong et al. 2019", True, False, "",
         Method(smoothing=scale.kernel)),
        ("si", "SI", group, r"\tfrac1m\sum_{i<m} \nabla J(x_t / 2^i)", "Lin et al. 2020", True,
         False, "", Method(transform=Scales(scale.scales))),
        ("dem", "DEM", group, r"\tfrac1m\sum_i \nabla J(\mathrm{DI}_{r_i}(x_t))", "Zou et al. 2020",
         False, False, "", Method(transform=ResizePad(scale.rates))),
        ("admix", "Admix", group, r"\tfrac{1}{m_1m_2}\sum_{i,j} \nabla J((x_t + \eta x'_j) / 2^i)", "Wang et al. 2021",
         True, False, "partners", Method(transform=Admix(0.2, scale.partners, scale.scales))),
        ("ssm", "SSM", group, r"\nabla J(\mathrm{IDCT}(\mathrm{DCT}(x_t + \xi) \odot M))", "Long et al. 2022",
         False, True, "", Method(transform=Spectrum(copies))),
        ("sia", "SIA", group, r"\nabla J(\text{each block of } x_t \text{ changed in its own way})", "Wang et al. 2023",
         True, True, "", Method(transform=BlockChanges(copies))),
        ("bsr", "BSR", group, r"\nabla J(\text{blocks of } x_t \text{ shuffled and turned})", "Wang et al. 2024",
         True, True, "", Method(transform=BlockShuffle(copies))),
    ]  # fmt: skip


def _losses() -> list[tuple]:
    group = LOSS
    return [
        ("logit", "Logit", group, r"\max z_{y_t}", "Zhao et al. 2021", True, False, "targets",
         Method(objective=Output(Logit()))),
        ("potrip", "Po+Trip", group, r"\min d_{\text{Poincar\'e}}(z, y_t) + \lambda L_{\text{trip}}", "Li et al. 2020",
         False, False, "targets", Method(objective=Output(PoincareTriplet()))),
    ]  # fmt: skip


def _components(scale: Scale) -> list[tuple]:
    group, plain = COMPONENT, Method(rule=Momentum(0.0))
    return [
        ("tap", "TAP", group,
         r"J + \lambda\sum_l\lVert\tilde f_l(x) - \tilde f_l(x_t)\rVert^2"
         r" + \eta\,\textstyle\sum\lvert\mathrm{pool}(x - x_t)\rvert",
         "Zhou et al. 2018", True, False, "", Method(objective=TransferablePerturbation())),
        ("ila", "ILA", group, r"\max \langle f_l(x'') - f_l(x),\, f_l(x') - f_l(x)\rangle", "Huang et al. 2019",
         True, True, "", Method(objective=IntermediateLevel(plain))),
        ("fia", "FIA", group, r"\min \textstyle\sum \Delta \odot f_l(x_t)", "Wang et al. 2021", True,
         False, "", Method(objective=FeatureImportance(masks=scale.masks))),
        ("naa", "NAA", group, r"\text{as FIA, } \Delta \text{ by integrated gradients}", "Zhang et al. 2022",
         False, False, "", Method(objective=NeuronAttribution(along=scale.masks))),
        ("fda", "FDA", group, r"\max \log\lVert f_l^{\text{low}}\rVert - \log\lVert f_l^{\text{high}}\rVert",
         "Ganeshan et al. 2019", False, False, "", Method(objective=FeatureDisruption())),
        ("sgm", "SGM", group, r"\partial f_{\text{branch}} \to \gamma\,\partial f_{\text{branch}}", "Wu et al. 2020",
         True, False, "", Method(change=SkipGradient())),
        ("linbp", "LinBP", group, r"\partial\,\mathrm{ReLU} \to \text{renormalised identity}", "Guo et al. 2020",
         True, False, "", Method(change=LinearBackward())),
        ("ghost", "Ghost", group, r"\text{skip} \to \lambda\,\text{skip},\; \lambda\sim U[1-\Lambda, 1+\Lambda)",
         "Li et al. 2020", False, True, "", Method(change=Ghost())),
    ]  # fmt: skip


def _generation() -> list[tuple]:
    method = Method(Generated(), Identity(), rule=Jump(), single_step=True)
    return [
        ("gap", "GAP-like", GENERATION, r"x + \varepsilon\,G(x),\; G(x)\in[-1,1]", "Poursaeed et al. 2018",
         False, False, "generator", method),
    ]  # fmt: skip
