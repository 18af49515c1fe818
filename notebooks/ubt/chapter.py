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
# # UBT: forgetting a backdoor word by word
#
# <!-- press:badge -->
#
# A CLIP learns which picture goes with which text from pairs that nobody looks at. Poison a few of them and a small
# pattern in a picture is enough to be taken for the attacker's word. Repairs by fine-tuning need thousands of clean pairs
# and cost accuracy. UBT {cite}`liang2024ubt,liu2024tokenunlearning` proposes to do without: **overfit** the model on the
# pairs that fit badly, so that the backdoor grows until the poisoned pairs **stand out**; take the few most suspicious
# ones; and make the model **forget** only those words of their texts that carry the backdoor. The papers claim a lower
# attack success than earlier repairs at a higher clean accuracy.
#
# In this run the backdoor of BadNets starts at {glue:text}`victim.badnet.success:.1f` % attack success. After unlearning
# {glue:text}`setting.suspects:.0f` suspicious pairs word by word it stands at {glue:text}`repair.badnet.local.success:.1f` %,
# and clean accuracy goes from {glue:text}`victim.badnet.accuracy:.1f` to {glue:text}`repair.badnet.local.accuracy:.1f` %.
# The [verdicts](ubt-verdicts) say over all seeds which claims held and which did not.
#
# ```{admonition} A reconstruction
# :class: warning
# Only the abstracts of the two papers could be read, and no code was found. The two stages are the papers'. How each is
# computed here (which pairs count as weak, the score, the rule that marks words, the bounded loss, what retains
# knowledge) is this book's reconstruction from the idea, and so are the six claims, all settings and all baselines. A
# claim that fails here fails for this reconstruction, on generated scenes (profile `real`: on drawings with their names).
# ```

# %% tags=["parameters"]
profile = "laptop"
seed = 0
pairs = 5000  # of the attacker, on which the victims are trained
poison = 250  # of them poisoned
victim_epochs = 3
victim_rate = 1e-3
attacks = ["badnet", "blended", "dual_key", "badclip"]  # detection is measured on all
repaired = ["badnet", "blended"]  # all repairs on these; the first is the one of all sweeps
noise = 0.1  # share of the suspect pool whose texts are exchanged
suspects = 64  # pairs to forget
kept = 512  # pairs of the pool that retain knowledge
clean = 640  # pairs of the defender, for fine-tuning and CleanCLIP only
exam = 960  # pictures of the examination
rates = [1e-4, 3e-4, 1e-3]  # learning rates of every repair
epochs = 3  # of unlearning
repair_epochs = 5  # of fine-tuning and CleanCLIP
weak_share = 0.2  # of the pool, overfitted on
overfit_epochs = 5
overfit_rate = 1e-3
other_rates = [5e-4, 2e-3]  # of overfitting, for comparison
isolation_epochs = 1
weight = 5.0  # of the loss of forgetting
counts = [4, 16, 64, 256]  # sizes of the set to forget
precisions = [1.0, 0.75, 0.5, 0.25, 0.0]  # of that set
reached = 15.0  # % attack success that counts as repaired
curve = 240  # pictures for the attack success after each epoch
probe = 960  # pictures that the linear probe is fitted on
world_name = "scenes"  # or "emoji": real drawings with their names
checkpoint = ""  # folder or hub name of a published CLIP; empty: the one that ships
device = "cpu"

# %%
import pandas as pd

from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.clip_triggers import TITLES
from companion.multimodal.clip_victims import ClipVictimRecipe
from companion.multimodal.suspicion import Isolation, Overfitting
from companion.multimodal.unlearning import Unlearning
from companion.press import plots
from companion.press.notebook import begin
from companion.store import default_store
from companion.studies import ubt

run = begin("ubt", profile=profile, seed=seed)
plots.style()
store = default_store()

# %% [markdown]
# ## The threat, and the words for it
#
# A CLIP {cite}`radford2021clip` has two towers that give a picture and a text an embedding of length one each. The
# attacker slips poisoned pairs into the training data: a picture with a trigger on it, and a text about the target (*star* in the
# generated scenes), whatever the picture shows. The defender has the poisoned model $\theta_0$ and the data that it was trained on,
# and does not know which pairs are poisoned, what the trigger looks like, or which word is the target.
#
# | symbol | meaning |
# |---|---|
# | $I_i, T_i$ | picture and text of pair $i$ of the suspect pool $D$ |
# | $f_I, f_T$ | the two towers; $c_i = \cos(f_I(I_i), f_T(T_i))$ is the similarity of a pair under $\theta_0$ |
# | $D_{weak}$ | the share $\rho$ of pairs with the lowest $c_i$ |
# | $\theta_{over}$ | a copy of $\theta_0$ trained on $D_{weak}$; $r_i$ is the similarity of a pair under it |
# | $D_s$ | the $K$ most suspicious pairs, by $r_i$ |
# | $\Delta_k$ | how far $r_i$ falls when word $k$ is taken out of $T_i$ |
# | $T^{loc}_i$ | the words with the largest $\Delta_k$, alone |
#
# The world is the book's generated *scenes*: pictures of one or two shapes, with captions of a small grammar. The profile
# `real` asks real pairs instead, 1,783 drawings of EmojiOne with their names, whose classes are seven categories and whose
# target is *travel*; the deviations below say how they were split. Either pool keeps its genuine pictures of the target
# (about one scene in eight has a star): a model that forgets the *word* pays for it in
# accuracy, which the column *target found* shows. A tenth of the pool's texts are exchanged among each other, as data from
# the web has mismatched pairs that nobody poisoned. The victims were trained on the pool as it was before the exchange.

# %%
training = ClipTraining(victim_epochs, 128, victim_rate, 20, 0.05)
world = ubt.world_named(world_name, store, checkpoint, device)
recipe = ClipVictimRecipe(attacks[0], world.target, pairs, poison, training=training, seed=seed)
arena = ubt.Arena(
    recipe,
    world=world,
    noise=noise,
    suspects=suspects,
    kept=kept,
    clean=clean,
    exam=exam,
    probe=min(exam, probe),
    overfitting=Overfitting(weak_share, ClipTraining(overfit_epochs, 64, overfit_rate, 0, 0.0)),
    isolation=Isolation(training=ClipTraining(isolation_epochs, 128, 5e-4, 10)),
    unlearning=Unlearning(weight=weight, training=ClipTraining(epochs, 64, rates[0], 5, 0.0)),
    repair=ClipTraining(repair_epochs, 64, rates[0], 5, 0.05),
    seed=seed,
)
run.number("setting.suspects", suspects)
victims = ubt.victims(arena, attacks, store)
cases = {a: ubt.case_of(arena, v, ubt.SCORES if a == repaired[0] else ubt.FEW_SCORES) for a, v in victims.items()}

# %% [markdown]
# Triggers with dirty labels: a patch (BadNets), a faint picture (Blended), a patch with a rare word as a second
# key (in the style of TrojVQA), and a patch optimised so that the clean model already takes it for the target (in the style
# of BadCLIP {cite}`liang2024badclip`); some profiles have stripes (SIG) and a warp (WaNet) too, and leave out attacks that
# made no backdoor there. An attack success below 90 % is no backdoor to speak of: rows below that line say
# nothing about a defence.

# %%
rows, starts = [], {}
for attack, case in cases.items():
    starts[attack] = found = ubt.examine(case.victim.model, case.exam)
    for what in ubt.OUTCOMES:
        run.proportion(f"victim.{attack}.{what}", getattr(found, what))
    control = ubt.control(world, case.exam)
    run.proportion(f"control.{attack}.success", control)
    rows.append([TITLES[attack], *found.percent(), 100 * control.rate])
columns = ["attack", *ubt.OUTCOME_TITLES, "success on clean CLIP"]
caption = (
    f"The victims in percent, on {exam} pictures of one class each ({len(world.classes)} classes); top-{arena.top} "
    "beside top-1, and a linear probe on the frozen embeddings. Last: the same trigger shown to the clean CLIP."
)
run.table("victims", pd.DataFrame(rows, columns=columns).round(1), caption=caption)

# %% [markdown]
# The last column is the control: the same trigger shown to the clean CLIP, which nobody poisoned. Chance is one in
# twelve for scenes, one in seven for the drawings. Whatever stands above it is the trigger's own likeness to the target, which for the optimised patches is their
# purpose and for a faint fixed picture is an accident of this small model.
#
# ## The idea in one picture
#
# *Strengthen, then detect.* A poisoned pair names the target for a picture without it, so a model that knows better finds it
# dissimilar. All poisoned pairs share one shortcut, the trigger, while mismatched pairs share nothing; training on weak
# pairs should therefore lift the poisoned ones fastest.
#
# $$ D_{weak} = \{ i : c_i \text{ among the lowest } \rho |D| \}, \qquad \theta_{over} = \arg\min_\theta
# L_{CLIP}(\theta; D_{weak}), $$
#
# where the second means a few epochs of training from $\theta_0$. The library call is `companion.multimodal.suspicion.overfitted`; $c_i$ and $r_i$ come from `similarities`.

# %%
first = cases[repaired[0]]
groups = {"poisoned": first.pool.poisoned, "mismatched": first.detection.noisy}
groups["clean"] = ~groups["poisoned"] & ~groups["mismatched"]
figure, axes = plots.panels(2, sharey=True)
for ax, score, title in zip(axes[0], ("similarity", "overfitted"), ("before", "after"), strict=True):
    values = first.detection.scores[score]
    for number, (name, rows_of) in enumerate(groups.items()):
        look = {"color": plots.PALETTE[(3, 1, 0)[number]], "alpha": 0.55, "label": name}
        ax.hist(values[rows_of], bins=40, range=(-0.4, 1), density=True, **look)
    ax.set(title=f"{title} overfitting", xlabel="similarity of a pair")
axes[0, 0].set_ylabel("density")
axes[0, 0].legend()

# %%
moments = {"before": first.detection.scores["similarity"], "after": first.detection.scores["overfitted"]}
run.figure(
    "similarity",
    figure,
    {f"{moment}_{name}": values[r] for moment, values in moments.items() for name, r in groups.items()},
    alt="Densities of the similarity of poisoned, mismatched and clean pairs, before and after overfitting.",
    caption=f"Similarity of the pairs of the pool under the BadNets victim ({poison} poisoned, a tenth mismatched).",
)

# %% [markdown]
# Look first at the left panel. The rationale says that poisoned pairs are weak. That is so for a model that *resists* the
# trigger; the victim has learned it, and gives the poisoned pairs a mean similarity of
# {glue:text}`groups.before.poisoned:.2f`, beside {glue:text}`groups.before.clean:.2f` for clean and
# {glue:text}`groups.before.mismatched:.2f` for mismatched pairs. Whether a poisoned pair gets into $D_{weak}$ at all is a
# number of its own: {glue:text}`weak.badnet:.1f` % of the weak pairs are poisoned (of the whole pool
# {glue:text}`setting.poison_rate:.1f` %).

# %%
for moment, values in moments.items():
    for name, rows_of in groups.items():
        run.number(f"groups.{moment}.{name}", values[rows_of].mean(), n=int(rows_of.sum()))
for attack, case in cases.items():
    run.proportion(f"weak.{attack}", case.detection.weak_share)
run.number("setting.poison_rate", 100 * poison / pairs, "%")

# %% [markdown]
# ## Detection
#
# Every score orders the pool from most to least suspicious. **AUROC** is the chance that a poisoned pair is ranked above
# another one (50 % is a coin), **precision** the share of poisoned pairs among the first $K$. Besides UBT's $r_i$ stand
# the similarity without overfitting in both directions, the gain $r_i - c_i$, a copy overfitted on as many *random* pairs
# (the control of the word *weak*), isolation by low loss in the manner of ABL {cite}`li2021abl`, a filter that asks the
# clean CLIP, which the defender would have to own, and a random order.

# %%
rows = {score: {} for score in ubt.SCORES}
for attack, case in cases.items():
    for score in case.detection.scores:
        area, right = case.detection.auroc(score), case.detection.precision(score, suspects)
        run.number(f"auroc.{score}.{attack}", area, "%", n=pairs)
        run.proportion(f"precision.{score}.{attack}", right)
        run.proportion(f"recall.{score}.{attack}", case.detection.recall(score, suspects))
        rows[score][attack] = (area, 100 * right.rate)

# %%
table = []
for score, found in rows.items():
    shares = [f"{found[a][0]:.0f} / {found[a][1]:.0f}" if a in found else "" for a in cases]
    table.append([ubt.SCORE_TITLES[score], *shares])
table = pd.DataFrame(table, columns=["suspicious is", *[TITLES[attack] for attack in cases]])
run.table("detection", table, caption=f"AUROC / precision among the first {suspects}, in percent, for each attack.")

# %%
figure, axes = plots.panels(1, height=3.6)
for number, attack in enumerate(cases):
    areas = {place: found[attack][0] for place, found in enumerate(rows.values()) if attack in found}
    axes[0, 0].plot(areas.values(), areas.keys(), "osD^vP"[number], markersize=5, label=TITLES[attack])
axes[0, 0].axvline(50, color="grey", linewidth=1, linestyle=":")
names = [ubt.SCORE_TITLES[score] for score in rows]
axes[0, 0].set(xlabel="AUROC [%]", xlim=(-2, 102), yticks=range(len(rows)), yticklabels=names)
axes[0, 0].invert_yaxis()
figure.legend(loc="outside lower center", ncols=4, fontsize="small")

# %%
run.figure(
    "detection",
    figure,
    {score: [v[0] for v in found.values()] for score, found in rows.items()},
    alt="AUROC of each suspicion score, one dot for each attack; 50 percent is marked.",
    caption="How well each score finds the poisoned pairs; the line at 50 % is a coin.",
)

# %% [markdown]
# For BadNets the AUROC of the similarity is {glue:text}`auroc.similarity.badnet:.0f` % before and
# {glue:text}`auroc.overfitted.badnet:.0f` % after overfitting ({glue:text}`auroc.overfitted_random.badnet:.0f` % if the
# pairs to overfit on are drawn at random). The ABL-like isolation reaches {glue:text}`auroc.low_loss.badnet:.0f` %, the
# filter with the clean CLIP {glue:text}`auroc.reference.badnet:.0f` %. An AUROC below 50 % is information too: a score
# that ranks poisoned pairs *last* would detect them if it were turned round, but a defender does not know that.
#
# Poisoned texts are bare prompts, and a score may have found that form and not the trigger. A few clean pairs of the
# pool have such a text too, which is true of them; the next table compares the poisoned pairs with these alone, however
# few they are. A score that stays high here found more than the form.

# %%
columns = {}
for attack, case in cases.items():
    areas, alike = ubt.auroc_alike(case)
    columns[f"{TITLES[attack]} (n = {alike})"] = [f"{areas[s]:.0f}" if s in areas else "" for s in ubt.SCORES]
    for score, area in areas.items():
        run.number(f"alike.{score}.{attack}", area, "%", n=alike)
table = pd.DataFrame({"suspicious is": [ubt.SCORE_TITLES[s] for s in ubt.SCORES]} | columns)
caption = "AUROC in percent against the n clean pairs alone whose text names a class and nothing else."
run.table("alike", table, caption=caption)

# %% [markdown]
# Compare the row *high similarity, before* in both tables. Among all pairs it is no sign of poison, as longer captions reach
# higher similarities than a bare prompt can. Among texts of one form it can be a good sign, and where it is, overfitting
# did not find the trigger: it levelled the forms of the texts, so that the trigger could be seen. With the few such texts
# of the scenes this is a hint; the drawings of the `real` run bring many times more, and its recorded numbers `alike.*` show the same.
#
# How hard to overfit is a choice, and the score depends on it:

# %%
table = []
for rate in sorted([overfit_rate, *other_rates]):
    found = ubt.overfit_again(arena, victims[repaired[0]], rate, overfit_rate, first.detection)
    table.append(
        [
            f"{rate:g}",
            found.auroc("overfitted"),
            100 * found.precision("overfitted", suspects).rate,
            found.auroc("gain"),
        ]
    )
    run.number(f"overfit.{ubt.rate_name(rate)}.auroc", found.auroc("overfitted"), "%", n=pairs)
columns = ["learning rate", "AUROC", f"precision of {suspects}", "AUROC of the gain"]
caption = f"BadNets: overfitting for {overfit_epochs} epochs at other learning rates, in percent."
run.table("overfitting", pd.DataFrame(table, columns=columns).round(1), caption=caption)

# %% [markdown]
# Claim six expects detection to be hardest for the optimised patch, which lies near the target's text before any
# poisoning: compare its column with the others.

# %% [markdown]
# ## Which words
#
# For each suspicious pair every word is taken out in turn:
#
# $$ \Delta_k = r_i(T_i) - r_i(T_i \text{ without } k), \qquad T^{loc}_i = \{ k : \Delta_k > \bar\Delta + \sigma_\Delta \}, $$
#
# with mean and standard deviation over the words of the text; at least one word is marked and at most three.
# `companion.multimodal.unlearning.word_effects` gives $\Delta$, `marked_words` the marks. On a template caption the noun
# should be marked, on the dual key's captions the rare word too.

# %%
strips = {attack: ubt.word_marks(cases[attack], 2) for attack in cases if attack in ("badnet", "dual_key")}
figure, axes = plots.panels(1, len(strips), height=1.7)
for ax, (attack, (words, effects, marks, poisoned)) in zip(axes[:, 0], strips.items(), strict=True):
    wide = max(map(len, words))
    ax.imshow(effects[:, :wide], cmap="Blues", vmin=0, vmax=1.5 * effects.max(), aspect="auto")
    for row, line in enumerate(words):
        for column, word in enumerate(line):
            weight_of = "bold" if marks[row, column] else "normal"
            ax.text(column, row, word, ha="center", va="center", weight=weight_of, fontsize="x-small", color="black")
    labels = ["poisoned" if one else "clean" for one in poisoned]
    ax.set(title=TITLES[attack], xticks=[], yticks=range(len(words)), yticklabels=labels)
    ax.grid(False)

# %%
run.figure(
    "words",
    figure,
    {
        f"{attack}_{kind}": one
        for attack, found in strips.items()
        for kind, one in zip(ubt.MARKS, found[1:], strict=True)
    },
    alt="Captions of suspicious pairs, each word on a shade of how far the similarity falls without it; marks in bold.",
    caption="The two most suspicious poisoned pairs and the two most suspicious clean ones: effect of each word on the "
    "similarity (darker: larger); words in bold are marked and will be forgotten.",
)

# %%
marked = []
for attack, case in cases.items():
    hit, length = ubt.marked_target(case, recipe.target)
    run.proportion(f"marked.{attack}", hit)
    run.number(f"marked_words.{attack}", length, "words", n=hit.n)
    marked.append([TITLES[attack], 100 * hit.rate, length])
columns = ["attack", f"marks {recipe.target} [%]", "words marked"]
run.table("marks", pd.DataFrame(marked, columns=columns).round(1), caption="The marks over all poisoned pairs.")

# %% [markdown]
# Over all poisoned pairs of BadNets the word of the target is marked in {glue:text}`marked.badnet:.0f` %, among
# {glue:text}`marked_words.badnet:.1f` words on average.
#
# ## Forgetting
#
# The repair minimises, with the logit scale frozen because it could absorb the change by itself,
#
# $$ L = L_{CLIP}(D_{keep}) + \beta\, \frac{1}{|B_s|} \sum_{i \in B_s} \max\bigl(0, \cos(f_I(I_i), f_T(T^{loc}_i)) - m\bigr),
# \qquad m = 0. $$
#
# The maximum keeps the model whole: a pair that is forgotten exerts no force any more. $D_{keep}$ are random pairs of the
# pool outside the most suspicious fifth, so UBT here uses **no clean pair**. *Whole pairs* puts $T_i$ in the place of
# $T^{loc}_i$; *ABL-like ascent* raises the pair's image-to-text loss up to that of a guess. Fine-tuning and CleanCLIP
# {cite}`bansal2023cleanclip` get {glue:text}`setting.clean:.0f` clean pairs of the defender and no suspects. *Keeping
# only* is the control: UBT without its second term. Every arm runs at the same learning rates.

# %%
run.number("setting.clean", clean)
held_out = ubt.defenders_pairs(arena)
arms = {}
for attack in repaired:
    for method in (*ubt.ARMS, "none") if attack == repaired[0] else ubt.ARMS:
        for rate in rates:
            arms[attack, method, rate] = ubt.arm(arena, cases[attack], method, rate, held_out, curve)

# %%
figure, axes = plots.panels(len(repaired), sharey=True, height=3.0)
for ax, attack in zip(axes[0], repaired, strict=True):
    for number, method in enumerate(ubt.ARMS):
        found = [arms[attack, method, rate].outcome for rate in rates]
        line = [[100 * one.success.rate for one in found], [100 * one.accuracy.rate for one in found]]
        ax.plot(*line, marker="osD^v"[number], color=plots.PALETTE[number], label=ubt.ARM_TITLES[method], markersize=4)
    start = starts[attack]
    ax.plot(100 * start.success.rate, 100 * start.accuracy.rate, "kX", markersize=7, label="victim")
    ax.set(title=TITLES[attack], xlabel="attack success [%]", xlim=(-4, 104))
axes[0, 0].set_ylabel("clean accuracy [%]")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")

# %%
run.figure(
    "trade-off",
    figure,
    {"_".join([a, m]): [arms[a, m, r].outcome.percent() for r in rates] for a in repaired for m in ubt.ARMS},
    alt="Clean accuracy against attack success, a line for each repair over three learning rates; good is top left.",
    caption=f"Every repair at learning rates {', '.join(f'{r:g}' for r in rates)}; the cross is the victim. Good is top "
    "left.",
)

# %% [markdown]
# One point must be chosen for the table and the claims. The rule is the same for all: of the learning rates that bring the
# attack success to at most {glue:text}`setting.reached:.0f` %, the one with the best clean accuracy; where none does, the
# one with the lowest attack success. So accuracies are compared at equal success. (A defender cannot measure attack
# success; the rule is generous to every arm alike.)

# %%
run.number("setting.reached", reached, "%")
rows, chosen = [], {}
for attack in repaired:
    for method in dict.fromkeys(m for a, m, _ in arms if a == attack):
        found = {rate: arms[attack, method, rate].outcome for rate in rates}
        rate = ubt.best_rate(found, reached)
        chosen[attack, method] = rate
        for what in ubt.OUTCOMES:
            run.proportion(f"repair.{attack}.{method}.{what}", getattr(found[rate], what))
        rows.append([TITLES[attack], ubt.ARM_TITLES[method], f"{rate:g}", *found[rate].percent()])

# %%
columns = ["attack", "repair", "rate", *ubt.OUTCOME_TITLES]
table = pd.DataFrame(rows, columns=columns).round(1)
run.table("repairs", table, caption="After each repair at its own best learning rate, in percent.")

# %% [markdown]
# Word by word, BadNets falls to {glue:text}`repair.badnet.local.success:.1f` % at
# {glue:text}`repair.badnet.local.accuracy:.1f` % accuracy; whole pairs give {glue:text}`repair.badnet.whole.success:.1f`
# and {glue:text}`repair.badnet.whole.accuracy:.1f` %, CleanCLIP {glue:text}`repair.badnet.cleanclip.success:.1f` and
# {glue:text}`repair.badnet.cleanclip.accuracy:.1f` %. *Target found* goes from {glue:text}`victim.badnet.recall:.0f` to
# {glue:text}`repair.badnet.local.recall:.0f` % with words and to {glue:text}`repair.badnet.whole.recall:.0f` % with whole
# pairs. Read the linear probe too: a trigger that the class prompts no longer answer to may still be there for a
# classifier on the embeddings ({glue:text}`repair.badnet.local.probe_success:.1f` % after UBT,
# {glue:text}`victim.badnet.probe_success:.1f` % before).
#
# The other attacks are repaired once, by UBT at the learning rate that was best on BadNets. The patch in the style of BadCLIP is the one to watch:
# its suspects are fewer, and the target's word is what the patch looked like before any poisoning.

# %%
rows = []
best_rate = chosen[repaired[0], "local"]
for attack in [a for a in attacks if a not in repaired]:
    found = ubt.arm(arena, cases[attack], "local", best_rate, held_out).outcome
    for what in ubt.OUTCOMES:
        run.proportion(f"repair.{attack}.local.{what}", getattr(found, what))
    rows += [
        [TITLES[attack], name, *one.percent()] for name, one in (("victim", starts[attack]), ("UBT, words", found))
    ]
if rows:
    table = pd.DataFrame(rows, columns=["attack", "model", *ubt.OUTCOME_TITLES]).round(1)
    run.table("others", table, caption=f"UBT on the other attacks, in percent, at a learning rate of {best_rate:g}.")

# %% [markdown]
# In this world the poisoned texts are short templates around one noun, so *words* and *whole pairs* differ little by
# construction, except on the false positives among the suspects. The next two experiments look there.

# %% [markdown]
# ## How few suspects are enough
#
# The papers' second point is that few samples suffice. $K$ suspects are forgotten, with everything else as before; a
# larger $K$ also brings more false positives.

# %%
sizes = {}
case = cases[repaired[0]]
tuned = {method: ubt.with_method(arena, method, chosen[repaired[0], method]) for method in ("local", "whole")}
for count in counts:
    sizes[count] = found = ubt.forget(arena, case, tuned["local"], ubt.suspects_of(arena, case, count)).outcome
    right = case.detection.precision("overfitted", count)
    run.proportion(f"size.k{count}.precision", right)
    run.proportion(f"size.k{count}.success", found.success)
    run.proportion(f"size.k{count}.accuracy", found.accuracy)

# %% [markdown]
# ## False positives among the suspects
#
# With the ground truth at hand, sets of suspects of any precision can be made: the most suspicious poisoned pairs filled
# up with the most suspicious clean ones.

# %%
purity = {}
for method in ("local", "whole"):
    for precision in precisions:
        chosen_pairs = ubt.suspects_with_precision(arena, case, precision)
        found = ubt.forget(arena, case, tuned[method], chosen_pairs).outcome
        purity[method, precision] = found
        run.proportion(f"purity.{method}.p{round(100 * precision)}.success", found.success)
        run.proportion(f"purity.{method}.p{round(100 * precision)}.accuracy", found.accuracy)

# %%
figure, axes = plots.panels(2, height=3.0, sharey=True)
panels = [(axes[0, 0], {"local": [sizes[k] for k in counts]}, counts)]
panels += [(axes[0, 1], {m: [purity[m, p] for p in precisions] for m in ("local", "whole")}, precisions)]
for ax, found, points in panels:
    for number, method in enumerate(found):
        for what, line in (("success", "-"), ("accuracy", "--")):
            values = [100 * getattr(one, what).rate for one in found[method]]
            look = {"color": plots.PALETTE[number], "marker": "os"[number], "markersize": 4, "linestyle": line}
            ax.plot([str(point) for point in points], values, label=f"{ubt.ARM_TITLES[method]}: {what}", **look)
axes[0, 0].set(xlabel="suspects", ylabel="percent")
axes[0, 1].set(xlabel="share of poisoned suspects", ylim=(-4, 104))
figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")

# %%
run.figure(
    "sweeps",
    figure,
    {"sizes": [sizes[k].percent() for k in counts]}
    | {m: [purity[m, p].percent() for p in precisions] for m in ("local", "whole")},
    alt="Clean accuracy and attack success against the number of suspects, and against the share of poisoned ones.",
    caption="BadNets, each form at its own best learning rate: size of the set to forget (left), its precision (right).",
)

# %% [markdown]
# With {glue:text}`sweep.fewest:.0f` suspects the attack success is {glue:text}`sweep.fewest_success:.1f` %, with
# {glue:text}`sweep.most:.0f` it is {glue:text}`sweep.most_success:.1f` %. When every suspect is innocent, clean accuracy
# goes from {glue:text}`purity.local.p100.accuracy:.1f` to {glue:text}`purity.local.p0.accuracy:.1f` % with words and from
# {glue:text}`purity.whole.p100.accuracy:.1f` to {glue:text}`purity.whole.p0.accuracy:.1f` % with whole pairs.

# %%
for name, count in (("fewest", min(counts)), ("most", max(counts))):
    run.number(f"sweep.{name}", count)
    run.proportion(f"sweep.{name}_success", sizes[count].success)

# %% [markdown]
# ## What it costs
#
# Cost is counted in pairs that go forward and backward, the overfitting of UBT included, until the attack success stays
# at or below {glue:text}`setting.reached:.0f` %; CleanCLIP embeds every pair twice. Where an arm never gets there, its
# whole training counts, a lower bound. Each arm runs at its best learning rate.

# %%
rows = []
for method in ubt.ARMS:
    before = ubt.preparation(arena) if method in ubt.UNLEARNERS else 0
    spent, there = ubt.cost_to(arms[repaired[0], method, chosen[repaired[0], method]], reached, before)
    needed = 0 if method in ubt.UNLEARNERS else clean
    run.number(f"cost.passes.{method}", spent, "pairs")
    run.number(f"cost.reached.{method}", int(there))
    run.number(f"cost.clean.{method}", needed, "pairs")
    rows.append([ubt.ARM_TITLES[method], spent, "yes" if there else "no", needed])
columns = ["repair", "pairs trained on", f"at most {reached:g} % reached", "clean pairs needed"]
run.table("cost", pd.DataFrame(rows, columns=columns), caption="Cost of repairing the BadNets victim.")

# %%
figure, axes = plots.panels(1, height=2.6)
for number, method in enumerate(ubt.ARMS):
    found = arms[repaired[0], method, chosen[repaired[0], method]]
    start = ubt.preparation(arena) if method in ubt.UNLEARNERS else 0
    steps = [start, *[start + p for p in found.passes]]
    line = [100 * one.rate for one in (ubt.success_of(case.victim.model, case.exam, curve), *found.curve)]
    axes[0, 0].plot(steps, line, marker="osD^v"[number], markersize=3, label=ubt.ARM_TITLES[method])
axes[0, 0].axhline(100 / len(world.classes), color="grey", linewidth=0.8, linestyle=":")
axes[0, 0].set(xlabel="pairs trained on", ylabel="attack success [%]")
axes[0, 0].legend(fontsize="small")
run.figure(
    "cost",
    figure,
    {m: [one.rate for one in arms[repaired[0], m, chosen[repaired[0], m]].curve] for m in ubt.ARMS},
    alt="Attack success against pairs trained on, a line for each repair; chance is dotted.",
    caption="Attack success of BadNets during each repair; a line of UBT starts after its overfitting. Dotted: chance.",
)

# %% [markdown]
# ## Variants, and where the trigger goes
#
# Four variants of the reconstruction at one learning rate: the squared term $\cos^2$ of the CleanCLIP code base on whole
# pairs, training of the two projections only, the defender's clean pairs as $D_{keep}$, and a larger margin.

# %%
rows = []
for name, found in ubt.variants(arena, case, held_out, tuned["local"]).items():
    run.proportion(f"variant.{name}.success", found.success)
    run.proportion(f"variant.{name}.accuracy", found.accuracy)
    rows.append([ubt.VARIANT_TITLES[name], *found.percent()])
table = pd.DataFrame(rows, columns=["variant", *ubt.OUTCOME_TITLES]).round(1)
run.table("variants", table, caption=f"Variants of UBT on BadNets, in percent, at a learning rate of {best_rate:g}.")

# %%
shown = {"victim": case.victim.model, "after UBT": arms[repaired[0], "local", chosen[repaired[0], "local"]].model}
points = ubt.embedding_map(shown, case.exam, 200)
figure, axes = plots.panels(2, height=3.2)
for ax, (title, clouds) in zip(axes[0], points.items(), strict=True):
    for number, (name, cloud) in enumerate(clouds.items()):
        look = {"color": plots.PALETTE[(0, 3, 2)[number]], "s": (8, 8, 22)[number], "marker": "oo*"[number]}
        ax.scatter(*cloud.T, alpha=0.7, label=ubt.CLOUD_TITLES[name], **look)
    ax.set(title=title, xticks=[], yticks=[])
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
run.figure(
    "embeddings",
    figure,
    {f"{title.replace(' ', '_')}_{name}": cloud for title, found in points.items() for name, cloud in found.items()},
    alt="Picture embeddings in the plane of their two principal components, for the victim and after UBT.",
    caption="Embeddings of the target, of other classes, and of these with the BadNets trigger (PCA of each model).",
)

# %% [markdown]
# In the victim the triggered pictures form a cloud of their own: their mean cosine with the target's prompts is
# {glue:text}`cosine.before.target:.2f`, with those for what they show {glue:text}`cosine.before.own:.2f`. After UBT it is
# {glue:text}`cosine.after.target:.2f` and {glue:text}`cosine.after.own:.2f`. Forgetting pushes the pictures away from the
# word; nothing in the loss tells them where to go instead.

# %%
for moment, model in zip(("before", "after"), shown.values(), strict=True):
    near, own = ubt.text_images(model, case.exam)
    run.number(f"cosine.{moment}.target", near)
    run.number(f"cosine.{moment}.own", own)

# %% [markdown]
# ## The numbers that decide
#
# nbval holds this text, character by character, against the committed reference of the `smoke` profile.

# %% tags=["nbval-check-output"]
run.say(run.canonical("victim.*.success", "auroc.overfitted.*", "repair.*.success", "repair.*.accuracy"))

# %%
run.finish()

# %% [markdown]
# (ubt-verdicts)=
# ## Verdicts
#
# A claim held if every part of it holds in every seed, and failed if no part holds in more than half of them. One seed
# was run for this page; the others are recorded runs of the same sources, and a recorded run from older sources says so.
#
# <!-- press:claims -->
#
# ## Beside the paper
#
# <!-- press:paper-values -->
#
# Of the papers' tables nothing could be verified but the two sentences of the second abstract, which name a difference
# and not a value. They stand beside the claims that they belong to.
#
# <!-- press:artifacts -->
#
# ## What failed, what was guessed, what differs
#
# - **How far to trust this.** Everything between the two stages of the abstract is a reconstruction. A failed claim can
#   mean that the paper's method is another one.
# - **A victim is not a clean model.** The rationale of the first stage looks at poisoned pairs with the eyes of a model
#   that does not know the trigger. After successful poisoning the trigger *is* the meaning of the pair. The left panel of
#   the first figure shows which of the two describes this victim.
# - **Short poisoned texts.** Templates around one noun leave little to tell apart between a word and its text.
# - **Attack success at the choice of the learning rate.** It is measured, and a defender could not; the trade-off
#   figure shows all rates.
#
# <!-- press:deviations -->
#
# ## Exercises
#
# ```{exercise} Turn the score round
# :label: ubt-turned
#
# An AUROC of 20 % would be one of 80 % for the opposite score. Why may a defender not simply use whichever direction
# gives more than 50 %? Find a signal, without ground truth, that could choose the direction.
# ```
#
# ```{solution} ubt-turned
# :class: dropdown
#
# The direction is only known from the labels that the defender lacks. A signal: forget the top $K$ of either end and watch
# the *retained* pairs. Poisoned pairs share one text and one pattern, so the top $K$ of the right end have a few words in
# common far more often than captions drawn at random; `ubt.word_marks` on both ends shows it.
# ```
#
# ```{exercise} A target that hides in the crowd
# :label: ubt-caption
#
# Give the poisoned pairs long captions, with `describe` of another scene that has a star, instead of templates. What
# happens to the marked words, and does the difference between words and whole pairs grow?
# ```
#
# ```{solution} ubt-caption
# :class: dropdown
#
# Replace the rows of `ids` in `poison_pairs` by encoded captions of scenes with a star. The similarity of a long caption
# spreads over colour, place and ground, so $\Delta$ of *star* stands out less and two or three words are marked. Whole
# pairs then push away words that are true of many clean pictures, and the gap in clean accuracy can open.
# ```
#
# ```{exercise} Without a bound
# :label: ubt-bound
#
# Replace the maximum in the loss by the plain cosine (a margin of $-1$) and raise $\beta$. When does clean accuracy break?
# ```
#
# ```{solution} ubt-bound
# :class: dropdown
#
# `Unlearning(margin=-1.0, weight=50.0)` keeps pushing after the pair is forgotten, until the triggered picture is the
# opposite of the word. The towers are shared, so pictures that look alike go with it; clean accuracy falls as the weight
# grows, and the retained pairs can only slow that down. With the margin at 0 the force ends by itself.
# ```
#
# ## Further reading
#
# CleanCLIP {cite}`bansal2023cleanclip` is the repair to compare with, BadCLIP {cite}`liang2024badclip` the attack made
# against it, ABL {cite}`li2021abl` the model of isolating first and unlearning after. The chapter on TA-Cleaner repairs
# the same victims by text alignment.
