# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Adversarial examples that travel
#
# <!-- press:badge -->
#
# An adversarial example is made with the gradient of one network, and often fools another one that the attacker has
# never seen. The survey of Gu et al. {cite}`gu2024transferability` orders the many methods that make this more likely:
# by augmenting the input, by steadier optimisation, by another loss, by looking inside the network, or by training a
# generator. It has no table of results of its own that we could check, so this chapter rebuilds the **taxonomy** as code,
# one part a method, and tests nine statements that the literature it surveys shares: that plain iteration overfits, that
# momentum and augmentation help, that architecture matters, that ensembles win, that targets need many steps.
#
# In this run MI-FGSM fools the networks it has not seen on {glue:text}`blackbox.mi:.1f` % of the images, I-FGSM on
# {glue:text}`blackbox.ifgsm:.1f` %, and the method that travels best without an ensemble costs
# {glue:text}`best.cost:.0f` gradients an image. The [verdicts](transferability-verdicts) say over all seeds
# which statements held.

# %% tags=["parameters"]
profile = "laptop"
seed = 0
data = "digits"
networks = ["cnn", "resnet", "mobile", "mixer", "vit", "robust"]
source = "resnet"
stranger = "vit"  # the network of another family than the CNNs
ensemble = ["resnet", "cnn", "mixer"]
held_out = ["cnn", "resnet", "mobile", "mixer", "vit"]
train_count = 0  # training images, 0 for all
test_images = 240
effort = 1.0  # times the usual epochs
epochs = {}  # of networks, where not the usual ones
widths = {}
eps = 0.15  # of a pixel in [0, 1]
steps = 10
copies = 5
long_cost = 60  # gradients an image in the equal-budget view
targeted_steps = 100
targeted_images = 200
ensemble_images = 100
snapshots = 4
generator_epochs = 8
device = "cpu"

# %%
from itertools import product

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown

from companion.attacks.transfer.registry import GROUPS, Scale, entries
from companion.attacks.transfer.state import Budget
from companion.press import plots
from companion.press.labels import name_points
from companion.press.notebook import begin
from companion.seeding import generator
from companion.store import default_store
from companion.studies import transfer_published as published
from companion.studies import transferability as study
from companion.studies.transfer_lab import build_lab

# %%
run = begin("transferability", profile=profile, seed=seed)
plots.style()

# %% [markdown]
# ## The threat, and the words for it
#
# The attacker has a **surrogate** network and its gradients, but cannot ask the **target** network anything. An image may
# be changed by at most $\varepsilon$ in every pixel.
#
# | symbol | meaning |
# |---|---|
# | $x, y$ | clean image with pixels in $[0, 1]$, true class |
# | $x_t$ | the image after $t$ of $T$ steps; $x_0 = x$ |
# | $\varepsilon, \alpha$ | largest change of a pixel; size of a step, $\varepsilon / T$ unless said otherwise |
# | $J$ | cross-entropy of the surrogate; $\nabla J$ its gradient by the image |
# | $\Pi$ | projection to within $\varepsilon$ of $x$ and into $[0, 1]$ |
# | $\mu, g_t$ | decay of the momentum and the momentum |
# | $z, y_t$ | logits, and the class that a targeted attack wants |
#
# **Success** is a wrong answer of the target network on an image that *every* network of this chapter classifies
# correctly when it is clean; a targeted success is the wanted class. Published success rates that count all images hide
# the clean error inside; ours is printed beside, below. Networks normalise their input themselves, so budgets are in
# pixels, and every adversarial image is rounded to 256 levels before it is judged.

# %% [markdown]
# ## Six networks of five families
#
# A plain CNN, a residual net, a depthwise (mobile) net, an MLP-mixer, a vision transformer, and the CNN once more, trained
# on FGSM examples (*robust*, the defended target). All six come from the training function that the whole book shares,
# and from the store. The profile `smoke` leaves out mixer and transformer.

# %%
lab = build_lab(
    data, networks, seed, default_store(), count=test_images, eps=eps, train_count=train_count or None, effort=effort,
    epochs=epochs, widths=widths, device=device,
)  # fmt: skip
budget = Budget(eps, steps)
for name, accuracy in lab.accuracy.items():
    run.proportion(f"accuracy.{name}", accuracy)
run.number("images", len(lab.images))

# %%
rows = []
for name, model in lab.networks.items():
    size = sum(part.numel() for part in model.parameters())
    rows.append([name, model.head.in_features, size, 100 - 100 * lab.accuracy[name].rate])
columns = ["network", "features", "parameters", "clean error [%]"]
caption = f"The networks and their clean error on {lab.accuracy[source].n} test images of {data}. Attacked are "
caption += f"{len(lab.images)} images that all networks get right."
run.table("networks", pd.DataFrame(rows, columns=columns).round(1), caption=caption)

# %% [markdown]
# ## The idea
#
# A perturbation that is made for one network follows that network's own bumps as well as what all networks share. The
# methods of the survey try to follow the bumps less: by averaging over steps (momentum), over neighbours (variance
# tuning), over copies of the input (augmentation) or over networks (ensembles).

# %%
chosen = entries(Scale(
    copies=copies, samples=copies, scales=3, partners=2, members=len(ensemble), snapshots=snapshots, inner=4,
    masks=2 * copies, rate=1.25, rates=(1.1, 1.2, 1.3, 1.4, 1.5), kernel=5,
))  # fmt: skip

# %%
shown = {name: chosen[name].method for name in ("ifgsm", "mi", "di", "ti", "vmi")}
pictures = study.examples(lab, shown, source, budget, 2)
columns = ["clean", *[chosen[name].title for name in shown]]
digits = [f"class {lab.images.classes[label]}" for label in lab.images.labels[:2]]
figure = plots.picture_rows(list(zip(*pictures, strict=True)), columns, digits)
run.figure(
    "examples",
    figure,
    dict(zip(("clean", *shown), pictures, strict=True)),
    alt="Two images, clean and attacked by I-FGSM, MI, DI, TI and VMI; the changes are visible as grey texture.",
    caption=f"Adversarial images made with the network {source}. No pixel changes by more than {eps:.3g}.",
)

# %% [markdown]
# ## The method: parts that fit
#
# Every step of every method is
#
# $$ x_{t+1} = \Pi\bigl(x_t + \alpha\,\mathrm{sign}(g_{t+1})\bigr), \qquad
#    g_{t+1} = \mu\,g_t + \frac{G_t}{\overline{\lvert G_t \rvert}}, \qquad
#    G_t = \frac1m \sum_i \nabla J\bigl(\tau_i(x_t)\bigr), $$
#
# with copies $\tau_i$ of the input. The mean in the denominator is taken over each image by itself. In the library a
# `companion.attacks.transfer.method.Method` names a *gradient source* (where $G_t$ is taken), a *transform* ($\tau_i$), an
# *objective* ($J$ or a feature-level one), a *change inside the network* and a *momentum rule*, so that methods compose:
# `Method(source=VarianceTuned(), transform=ResizePad(), smoothing=5)` is VMI-DI-TI. Random draws come from one stream an
# image, so no image's result depends on the others in its batch.
#
# The tables come from the code's own registry. Groups are those of the survey's summary table, and their borders are
# soft: the survey's companion list files ILA, FIA and NAA under losses, the table has FIA and NAA under model components.

# %%
registry = pd.DataFrame(study.taxonomy(Scale(), steps))
run.number("methods", len(registry))
caption = f"Every method of the library, with the gradients an image that {steps} steps cost at the references' "
caption += "settings. * marks a place in the taxonomy that is ours. Verified: the update rule was read in a reference "
caption += "implementation; the others are our reconstruction."
run.table("taxonomy", registry, caption=caption)

# %%
Markdown(study.formulas())

# %% [markdown]
# ## Every method from one network
#
# All untargeted methods attack from the residual net. *White box* is the success on the networks whose gradients the
# method used, *black box* the mean over the undefended networks it has not seen (for ensembles, that is fewer), *robust*
# the success on the adversarially trained network. Methods with copies get the same number of them.

# %%
tools = study.equip(lab, source, ensemble, budget, snapshots, generator_epochs)
per_step = {name: entry.method.evaluations(1) for name, entry in chosen.items()}
raced = ["mi", "vmi", "di", "ti", "si", "dem", "admix", "ssm", "sia", "bsr"]
longest = {name: max(1, long_cost // per_step[name]) for name in ["ifgsm", "ni", *raced]}
found = study.campaign(lab, chosen, source, tools, budget, longest)
table = study.summaries(lab, chosen, found, source, tools, steps)

# %%
bounds = {name: study.interval(lab, row.black, "black box", name) for name, row in table.items()}
for name, row in table.items():
    run.number(f"whitebox.{name}", 100 * row.white.mean(), "%", len(row.white))
    run.number(f"blackbox.{name}", 100 * row.black.mean(), "%", len(row.black), bounds[name])
    run.number(f"norm.{name}", row.norm, "pixels")
    run.number(f"rank.{name}", row.rank, "places")
    if row.robust is not None:
        run.number(f"robust.{name}", 100 * row.robust.mean(), "%", len(row.robust))
alone = {name: row for name, row in table.items() if row.entry.needs != "ensemble"}
best = max(alone, key=lambda name: alone[name].black.mean())
run.number("best.cost", table[best].cost, "gradients")
for name in sorted(set(lab.names) - {source}):
    run.number(f"success.mi.{name}", 100 * found["mi"].of(name, at=steps).mean(), "%", len(lab.images))

# %%
rows = []
for name, row in table.items():
    bound = bounds[name]
    shares = [100 * row.white.mean(), 100 * row.black.mean(), bound.low, bound.high, 100 * row.robust.mean()]
    rows.append([row.entry.group, row.entry.title, row.cost, *shares, row.norm, row.rank])
columns = ["group", "method", "gradients", "white box [%]", "black box [%]", "low", "high", "robust [%]", "L2", "rank"]
caption = f"Success of every method from {source}, {steps} steps, with 95 % bootstrap intervals over images for the "
caption += "black-box mean. The rank of the true class counts from 0, in the networks that the method has not seen."
run.table("methods", pd.DataFrame(rows, columns=columns).round(2), caption=caption)

# %%
order = sorted(table, key=lambda name: table[name].black.mean())
points = {name: np.array([100 * table[name].black.mean(), bounds[name].low, bounds[name].high]) for name in order}
colours = {name: plots.PALETTE[GROUPS.index(row.entry.group)] for name, row in table.items()}
groups = {row.entry.group: colours[name] for name, row in table.items()}
titles = [table[name].entry.title for name in order]

# %%
figure, axes = plots.panels(1, height=5.6)
for place, name in enumerate(order):
    axes[0, 0].plot(points[name][1:], [place, place], color=colours[name])
    axes[0, 0].plot(points[name][0], place, "o", color=colours[name])
for group, colour in groups.items():
    axes[0, 0].plot([], [], "o-", color=colour, label=group)
axes[0, 0].set(xlabel="black-box success [%]", yticks=range(len(order)), yticklabels=titles)
axes[0, 0].legend(fontsize="small", loc="lower right")
run.figure(
    "methods",
    figure,
    points,
    alt="Black-box success of every method with intervals, sorted, coloured by the group of the taxonomy.",
    caption="Black-box success with 95 % bootstrap intervals over images. Ensembles are judged on fewer networks.",
)

# %% [markdown]
# Momentum and variance tuning are the ladder of the literature: from I-FGSM with {glue:text}`blackbox.ifgsm:.1f` % to MI
# with {glue:text}`blackbox.mi:.1f` % and VMI with {glue:text}`blackbox.vmi:.1f` %. Where intervals overlap widely, these
# images hardly tell the methods apart (all methods attack the same images, so a difference can be surer than the two
# intervals look). The defended network is another matter: MI fools it on {glue:text}`robust.mi:.1f` % of the images, TI on
# {glue:text}`robust.ti:.1f` %. And the column *white box* is no guide to *black box*: I-FGSM has
# {glue:text}`whitebox.ifgsm:.1f` % at home.

# %% [markdown]
# ## From every network to every network
#
# Rows are surrogates, columns are targets. Compare rows first: who makes the examples matters more than by which of
# these three methods. Then compare the block of CNNs with the columns and rows of the mixer and the transformer.

# %%
kinds = [name for name in ("mi", "di", "ti") if name in chosen]
squares = study.matrices(lab, {name: chosen[name].method for name in kinds}, lab.names, budget)
matrix = {kind: 100 * np.stack([one.fooled[-1].mean(1) for one in square.values()]) for kind, square in squares.items()}
rows = []
for kind, row, column in product(kinds, lab.names, lab.names):
    values = squares[kind][row].of(column)
    rows.append([kind, row, column, 100 * values.mean(), *study.ends(lab, values, kind, row, column)])
columns = ["method", "source", "target", "success [%]", "low", "high"]
caption = "Success from every source to every target, with 95 % bootstrap intervals over images."
run.table("matrices", pd.DataFrame(rows, columns=columns).round(1), caption=caption)

# %%
figure, axes = plots.panels(len(kinds), height=3.0)
for ax, kind in zip(axes[0], kinds, strict=True):
    look = {"annot": True, "fmt": ".0f", "cmap": "viridis", "vmin": 0, "vmax": 100, "cbar": False, "square": True}
    sns.heatmap(matrix[kind], ax=ax, xticklabels=lab.names, yticklabels=lab.names, annot_kws={"size": 7}, **look)
    ax.set(title=chosen[kind].title, xlabel="target network")
axes[0, 0].set_ylabel("source network")
run.figure(
    "matrices",
    figure,
    matrix,
    alt="Heat maps of success in percent from each source network to each target network, for MI, DI and TI.",
    caption="Success [%] from each source (row) to each target (column). The diagonal is the white box.",
)

# %%
for name, value in study.family_matrix(lab, squares["mi"], stranger).items():
    run.number(f"architecture.{name}", 100 * value, "%")
gaps = study.family_gaps(lab, {name: found[name] for name in alone}, source, stranger, steps)
run.number("architecture.gap", 100 * gaps["mi"].mean(), "%", len(lab.images), study.interval(lab, gaps["mi"], "gap"))
run.number("architecture.smallest_gap", 100 * min(gap.mean() for gap in gaps.values()), "%", len(lab.images))

# %% [markdown]
# From one CNN to another MI reaches {glue:text}`architecture.within:.1f` % on average, from CNNs to the transformer
# {glue:text}`architecture.across:.1f` %, and from the transformer back to the CNNs {glue:text}`architecture.back:.1f` %.
# Transfer is not symmetric. The last row shows a surrogate that is hard to attack itself. One reading of it: what fools
# the adversarially trained network has to use what the others look at as well.

# %% [markdown]
# ## More steps
#
# The size of a step stays $\varepsilon / 10$ while the attack goes on. If plain iteration overfits its surrogate, I-FGSM
# stops gaining, or loses, while momentum keeps what it has.

# %%
others = lab.undefended(source)
curves = {name: study.curve(found[name], others) for name in ("ifgsm", "mi", "ni", "di")}
for name, curve in curves.items():
    run.number(f"long.{name}.gain", curve[-1] - curve[min(steps, len(curve)) - 1], "%", len(lab.images))
arrays = {f"{name}_steps": found[name].steps for name in curves} | {f"{name}_success": curves[name] for name in curves}

# %%
figure, axes = plots.panels(1)
for (name, curve), mark in zip(curves.items(), "osD^", strict=True):
    axes[0, 0].plot(found[name].steps, curve, marker=mark, markevery=5, label=chosen[name].title)
axes[0, 0].axvline(steps, color="black", linestyle="--", linewidth=1)
axes[0, 0].set(xlabel="steps", ylabel="black-box success [%]")
axes[0, 0].legend()
run.figure(
    "steps",
    figure,
    arrays,
    alt="Black-box success against the number of steps for I-FGSM, MI, NI and DI; a dashed line marks the usual number.",
    caption=f"Success on unseen networks while the attack goes on from {source}; dashed: the usual {steps} steps.",
)

# %% [markdown]
# From the dashed line to the right edge I-FGSM moves by {glue:text}`long.ifgsm.gain:+.1f` points, MI by
# {glue:text}`long.mi.gain:+.1f`, DI by {glue:text}`long.di.gain:+.1f` and NI by {glue:text}`long.ni.gain:+.1f`. NI looks
# ahead along its momentum, and a momentum that never decays grows with the steps, so that it looks ever further.

# %% [markdown]
# ## What a gradient buys
#
# A row of a results table hides that VMI asks for several times the gradients of MI. Here every method may spend the same
# number, by going on for as many steps as that buys.

# %%
usual = {name: table[name].black for name in raced}
equal = {name: study.at_cost(found[name], max(long_cost, per_step[name]), *others) for name in raced}
for name, values in equal.items():
    run.number(f"equal.{name}", 100 * values.mean(), "%", len(values), study.interval(lab, values, "equal", name))
turned, sure, pairs = study.reversals(usual, equal, lab)
run.number("equal_budget.turned", turned, "pairs", pairs)
run.number("equal_budget.sure", sure, "pairs", pairs)
best_augmented = max(equal[name].mean() for name in ("si", "dem", "admix", "ssm", "sia", "bsr"))
run.number("equal_budget.di_lead", 100 * (equal["di"].mean() - best_augmented), "%", len(lab.images))

# %%
ranking = {name: np.array([100 * usual[name].mean(), 100 * equal[name].mean()]) for name in raced}
lines = {name: study.curve(found[name], others) for name in raced}
figure, axes = plots.panels(2, height=3.6)
for place, name in enumerate(raced):
    line, look = lines[name], {"color": plots.PALETTE[place], "marker": "osD^v<>pP*"[place], "markersize": 4}
    axes[0, 0].plot(found[name].cost, line, markevery=max(1, len(line) // 6), label=chosen[name].title, **look)
    axes[0, 1].plot([0, 1], ranking[name], **look)
ticks = [tick for tick in (1, 3, 10, 30, 100) if tick < long_cost] + [long_cost]
axes[0, 0].set(xlabel="gradients an image", ylabel="black-box success [%]", xscale="log")
axes[0, 0].set_xticks(ticks, [str(tick) for tick in ticks])
axes[0, 0].minorticks_off()

# %%
axes[0, 1].set(xticks=[0, 1], xticklabels=[f"{steps} steps", f"{long_cost} gradients"], xlim=(-0.2, 1.2))
figure.legend(loc="outside lower center", ncols=5, fontsize="small")
caption = f"Left: what each gradient buys. Right: the ranking at {steps} steps and at {long_cost} gradients for all."
run.figure(
    "equal-budget",
    figure,
    ranking,
    alt="Left: success against gradients spent, one line a method. Right: each method's success at the usual steps and "
    "at equal cost; lines that cross are pairs whose order changes.",
    caption=caption + " Crossing lines are pairs of methods whose order changes.",
)

# %% [markdown]
# Of {glue:text}`methods:.0f` methods the figure shows ten that are run long enough to compare. DI asks for one gradient a
# step and may take many steps; with the same number of gradients its distance to the best of its successors is
# {glue:text}`equal_budget.di_lead:+.1f` points. The order changes for {glue:text}`equal_budget.turned:.0f` pairs of
# methods, for {glue:text}`equal_budget.sure:.0f` of them by more than chance on these images.

# %% [markdown]
# ## Reaching a chosen class
#
# A targeted attack (TI-MI-DI, $\alpha = \varepsilon/8$) with three losses: cross-entropy of the target, Po+Trip, and the
# target's logit {cite}`zhao2021success`.

# %%
thirds = (max(1, targeted_steps // 15), max(1, targeted_steps // 3))
aim = Budget(eps, targeted_steps, eps / 8)
keep = sorted({*thirds, *range(max(1, targeted_steps // 20), targeted_steps, max(1, targeted_steps // 20))})
aimed = study.targeted(lab, source, aim, keep, Scale(rate=1.25, kernel=5), targeted_images)
reached = {name: study.curve(one, others) for name, one in aimed.items()}
for name, outcome in aimed.items():
    third = reached[name][outcome.steps.index(thirds[1])]
    run.number(f"targeted.{name}.final", reached[name][-1], "%", outcome.fooled.shape[-1])
    run.number(f"targeted.{name}.late_gain", reached[name][-1] - third, "%", outcome.fooled.shape[-1])

# %%
figure, axes = plots.panels(1)
for (name, outcome), mark in zip(aimed.items(), "oDs", strict=True):
    label = {"ce": "cross-entropy", "potrip": "Po+Trip"}.get(name, name)
    axes[0, 0].plot(outcome.steps, reached[name], marker=mark, markersize=4, label=label)
axes[0, 0].set(xlabel="steps", ylabel="targeted success [%]")
axes[0, 0].legend()
run.figure(
    "targeted",
    figure,
    {"steps": aimed["ce"].steps, **reached},
    alt="Targeted success on unseen networks against steps for cross-entropy, Po+Trip and logit losses.",
    caption="Targeted success on unseen networks, by loss.",
)

# %% [markdown]
# In the last two thirds of the steps cross-entropy gains {glue:text}`targeted.ce.late_gain:+.1f` points and the logit loss
# {glue:text}`targeted.logit.late_gain:+.1f`. On ImageNet the gradient of the cross-entropy dies once the surrogate is
# sure of the target. Networks trained with smoothed labels, as these are, are never that sure, and ten classes leave few
# wrong ways to go: two reasons to expect less of a difference here.

# %% [markdown]
# ## How many surrogates
#
# One network is held out; ensembles of the other undefended ones attack it by the mean of their logits. The line's end is
# the full ensemble, the hollow mark the best single network, chosen after the fact, which an attacker cannot do.

# %%
sizes = {name: study.ensemble_sizes(lab, name, budget, ensemble_images) for name in held_out if name in lab.names}
levels = {name: {size: 100 * values.mean(1) for size, values in one.items()} for name, one in sizes.items()}
for name, one in levels.items():
    full = max(one)
    run.number(f"ensemble.{name}.all", one[full].mean(), "%", sizes[name][full].shape[-1])
    run.number(f"ensemble.{name}.best_single", one[1].max(), "%", sizes[name][full].shape[-1])
    run.number(f"ensemble.{name}.gain", one[full].mean() - one[1].max(), "%", sizes[name][full].shape[-1])

# %%
figure, axes = plots.panels(1)
for place, (name, one) in enumerate(levels.items()):
    look = {"color": plots.PALETTE[place], "marker": "osD^v"[place]}
    axes[0, 0].plot(list(one), [values.mean() for values in one.values()], label=name, **look)
    axes[0, 0].plot(1, one[1].max(), linestyle="none", fillstyle="none", markersize=9, **look)
axes[0, 0].set(xlabel="networks in the ensemble", ylabel="success [%]", xticks=list(one))
axes[0, 0].legend(title="held out", fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
run.figure(
    "ensemble",
    figure,
    {f"{name}_{size}": values for name, one in levels.items() for size, values in one.items()},
    alt="Success on each held-out network against the size of the ensemble; hollow marks show the best single surrogate.",
    caption=f"Mean over ensembles of each size ({ensemble_images} images). Hollow: the best single surrogate.",
)

# %% [markdown]
# ## Which layer
#
# ILA goes on from an I-FGSM example along the change of a layer; FIA suppresses what matters in it.

# %%
inner = study.layers(lab, source, budget, 2 * copies)
depth = {kind: 100 * np.array([one.of(*others).mean() for one in outcomes]) for kind, outcomes in inner.items()}
for kind, values in depth.items():
    run.number(f"layer.{kind}.best", values.max(), "%", len(lab.images))
    run.number(f"layer.{kind}.worst", values.min(), "%", len(lab.images))

# %%
figure, axes = plots.panels(1, height=2.4)
for (kind, values), mark in zip(depth.items(), "os", strict=True):
    axes[0, 0].plot(range(len(values)), values, marker=mark, label=kind.upper())
axes[0, 0].axhline(100 * table["mi"].black.mean(), color="black", linestyle="--", linewidth=1, label="MI")
axes[0, 0].set(xlabel="layer, from early to late", ylabel="black-box success [%]", xticks=range(len(values)))
axes[0, 0].legend()
run.figure(
    "layers",
    figure,
    {**depth, "mi": 100 * table["mi"].black.mean()},
    alt="Black-box success of ILA and FIA at each layer of the surrogate, with MI as a dashed line.",
    caption="Feature-level attacks by layer; dashed: MI, which looks at no layer.",
)

# %% [markdown]
# MI stands at {glue:text}`blackbox.mi:.1f` %; ILA lies between {glue:text}`layer.ila.worst:.1f` and
# {glue:text}`layer.ila.best:.1f` % over the layers, FIA between {glue:text}`layer.fia.worst:.1f` and
# {glue:text}`layer.fia.best:.1f` %. Whether a layer is well chosen can only be said after trying.

# %% [markdown]
# ## The length of a perturbation
#
# All methods stay within the same $\varepsilon$ in every pixel, but not all fill it. The L2 norm of the perturbation is
# what remains free. A positive rank correlation does not say that length is the cause: steadier gradients both fill the
# budget and travel.

# %%
names = [name for name in table if name != "gap" and table[name].entry.needs != "ensemble"]
norms, blacks = [table[name].norm for name in names], [100 * table[name].black.mean() for name in names]
rho, bound = study.rank_correlation(norms, blacks, generator(seed, "norm"))
run.number("norm_transfer.spearman", rho, n=len(names), ci=bound)
run.number("norm_transfer.low", bound.low, n=len(names))

# %%
figure, axes = plots.panels(1, height=4.2)
shades, labels = [colours[name] for name in names], [table[name].entry.title.removesuffix("-FGSM") for name in names]
name_points(axes[0, 0], norms, blacks, labels, shades)
axes[0, 0].set(xlabel="mean L2 norm of the perturbation [pixels]", ylabel="black-box success [%]")
run.figure(
    "norms",
    figure,
    {"norm": norms, "success": blacks},
    alt="Scatter of black-box success against the mean L2 norm of the perturbation, one named point a method.",
    caption=f"Norm and transfer at one L-infinity budget (Spearman's correlation {rho:.2f}, 95 % interval over methods "
    f"{bound.low:.2f} to {bound.high:.2f}); colours are the groups of the taxonomy, -FGSM is left out.",
)

# %% [markdown]
# ## How far the true class drops
#
# A network that is fooled may still hold the true class in second place. The **interest-class rank** is the place of the
# true class among the logits, 0 being the first; a method may fool as many networks as another and push the true class
# further down.

# %%
ranks = [table[name].rank for name in names]
rho, bound = study.rank_correlation(ranks, blacks, generator(seed, "rank"))
run.number("rank_transfer.spearman", rho, n=len(names), ci=bound)
figure, axes = plots.panels(1, height=4.2)
name_points(axes[0, 0], ranks, blacks, labels, shades)
axes[0, 0].set(xlabel="mean rank of the true class in unseen networks", ylabel="black-box success [%]")
run.figure(
    "ranks",
    figure,
    {"rank": ranks, "success": blacks},
    alt="Scatter of black-box success against the mean rank of the true class, one named point a method.",
    caption=f"Methods above the others at one rank fool networks without pushing the true class far down (Spearman's "
    f"correlation {rho:.2f}, 95 % interval over methods {bound.low:.2f} to {bound.high:.2f}).",
)

# %% [markdown]
# ## Beside what peers published
#
# The absolute numbers of other people's tables belong to ImageNet networks and $\varepsilon = 16/255$. What can be compared
# is the **order** of methods: Spearman's correlation with a bootstrap interval over methods. For Zhao et al.
# {cite}`zhao2021success` it is the order of losses and stages (after 1/15, 1/3 and all of the steps).

# %%
theirs = published.transfer_attack_means()
common = [name for name in names if name in theirs]
pairs = [[100 * table[name].black.mean() for name in common], [theirs[name] for name in common]]
rho, bound = study.rank_correlation(*pairs, generator(seed, "peers"))
run.number("peers.transferattack", rho, n=len(common), ci=bound)
rows = [[chosen[name].title, 100 * table[name].black.mean(), theirs[name]] for name in common]
frame = pd.DataFrame(rows, columns=["method", "ours [%]", "TransferAttack [%]"]).round(1)
caption = "Black-box means, ours and (on seven ImageNet networks) TransferAttack's, for their order only: Spearman's "
caption += f"correlation {rho:.2f}, 95 % interval over methods {bound.low:.2f} to {bound.high:.2f}. "
run.table("peers", frame, caption=caption + published.TRANSFER_ATTACK_SOURCE + ".")

# %%
places = [aimed["ce"].steps.index(step) for step in (*thirds, targeted_steps)]
zhao = [value for values in published.zhao_means().values() for value in values]
ours = [reached[loss][place] for loss in published.ZHAO for place in places]
rho, bound = study.rank_correlation(ours, zhao, generator(seed, "zhao"))
run.number("peers.zhao", rho, n=len(ours), ci=bound)
stages = [f"{loss}, {share} of the steps" for loss in published.ZHAO for share in ("1/15", "1/3", "all")]
frame = pd.DataFrame({"loss and stage": stages, "ours [%]": ours, "Zhao et al. [%]": zhao}).round(1)
caption = "Targeted black-box success, ours and the mean over eight pairs of ImageNet networks: Spearman's correlation "
caption += f"{rho:.2f}, 95 % interval over losses and stages {bound.low:.2f} to {bound.high:.2f}. "
run.table("targeted-losses", frame, caption=caption + published.ZHAO_SOURCE + ".")

# %%
figure, axes = plots.panels(1, height=4.2)
shades, labels = [colours[name] for name in common], [chosen[name].title.removesuffix("-FGSM") for name in common]
name_points(axes[0, 0], pairs[1], pairs[0], labels, shades)
axes[0, 0].set(xlabel="TransferAttack's table, ImageNet [%]", ylabel="ours [%]")
run.figure(
    "peers",
    figure,
    {"ours": pairs[0], "theirs": pairs[1]},
    alt="Scatter of our black-box means against TransferAttack's published means, one point a method.",
    caption="If the order of methods were the same, the points would rise from left to right.",
)

# %% [markdown]
# ## The numbers that decide
#
# nbval holds this text, character by character, against the committed reference of the `smoke` profile.

# %% tags=["nbval-check-output"]
run.say(run.canonical("accuracy.*", "blackbox.*", "targeted.*", "ensemble.*", "equal_budget.*", "layer.*"))

# %%
run.finish()

# %% [markdown]
# (transferability-verdicts)=
# ## Verdicts
#
# A claim held if every part of it holds in every seed, and failed if no part holds in more than half of them.
#
# <!-- press:claims -->
#
# ## Beside the paper
#
# The survey's body was not read and no table of results of its own is known, so the values below are those of peers that
# measured the same statements.
#
# <!-- press:paper-values -->
#
# <!-- press:artifacts -->
#
# ## What failed, what was guessed, what differs
#
# - **The transformer is no hard target here.** On ImageNet transformers resist what CNNs' gradients make. On the
#   digits, a transformer trained by SGD falls to them about as often as another CNN does, while its own examples hardly
#   travel. A first, worse trained one was the easiest target of all. So at this scale the claim about architecture
#   depends on how well the target was trained. What remains is that transfer depends on the pair of networks.
# - **Small images change the ranking.** Shuffling and turning blocks, or dropping most of a residual branch's gradient,
#   helps where images are large and networks are deep. A shuffled digit of 16 pixels is no digit, and a net with three
#   blocks has little to skip. Low rows of SIA, BSR and SGM say nothing about ImageNet. The other way round, smoothing a
#   gradient (TI, and PI's spreading) suits strokes that are smooth themselves.
# - **Plain iteration has not filled its budget after the usual steps**, so more of them help it first. Overfitting, in the
#   sense of transfer that falls while the white box stays, is what to look for at the right edge of the figure of steps.
# - **An average of logits has a loudest voice.** When the transformer of a first try was trained without label smoothing,
#   its logits were larger than the others', and ensembles of logits attacked little but the transformer. All networks
#   share one smoothing now. `Output(average="probabilities")` and `"losses"` are there to compare. An ensemble also pays
#   for its strangers: where one member is a close relative of the target, that member alone is hard to beat.
# - **A generator that only brightens.** Before its output was normalised, the generator's training ended at a uniform
#   change of brightness, from where a saturated tanh gives no gradient.
# - **One surrogate a seed.** The table of methods starts from one residual net. The matrices show how much it matters.
#   Intervals are over images; the spread over seeds is in the verdicts.
#
# <!-- press:deviations -->
#
# ## Exercises
#
# ```{exercise} Compose
# :label: transferability-compose
#
# Put VMI, DI and TI together in one `Method`. Predict its cost in gradients, check it with `method.evaluations(10)`, and
# compare its black-box success with that of its parts by `study.campaign` or `transfer_lab.run`.
# ```
#
# ```{solution} transferability-compose
# :class: dropdown
#
# `Method(source=VarianceTuned(5), transform=ResizePad((1.25,)), smoothing=5)` costs $6 \cdot 1 \cdot 10 = 60$ gradients:
# sources multiply with copies, smoothing is free. `run(lab, method, ["resnet"], Budget(eps))` gives the outcome; its
# `of(*lab.undefended("resnet")).mean()` is the number to compare.
# ```
#
# ```{exercise} The loudest voice
# :label: transferability-voice
#
# Multiply the logits of one member of an ensemble by 10 (wrap the network). What happens to the success on the other
# members for `Output(average="logits")`, `"losses"` and `"probabilities"`?
# ```
#
# ```{solution} transferability-voice
# :class: dropdown
#
# The mean of logits follows the loud member, because its logits decide the softmax. The mean of probabilities saturates
# at one vote a member. The mean of losses gives the loud member's gradient ten times the weight while it is right and
# resists, and none of the three is neutral: standardise logits first, or train all members alike.
# ```
#
# ```{exercise} An honest denominator
# :label: transferability-denominator
#
# Count success as one minus accuracy over *all* test images, as some tables do. How much of the adversarially trained
# network's "success" is its clean error? What would the table say of an attack that does nothing?
# ```
#
# ```{solution} transferability-denominator
# :class: dropdown
#
# Attack all test images instead of `lab.images` and subtract `1 - lab.accuracy["robust"].rate`. An attack that does
# nothing has exactly the clean error as its success, which on ImageNet is about 40 % for the adversarially trained network
# of the TransferAttack table: there, I-FGSM's 39.7 % is next to nothing.
# ```
#
# ## Further reading
#
# The survey {cite}`gu2024transferability`; momentum {cite}`dong2018boosting`; variance tuning {cite}`wang2021enhancing`;
# input diversity {cite}`xie2019improving`; the logit loss {cite}`zhao2021success`; skip gradients {cite}`wu2020sgm`; an
# evaluation under equal budgets {cite}`zhao2023revisiting`; a library of more than a hundred attacks
# {cite}`transferattack`.
