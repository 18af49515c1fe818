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
# # FLBA: does few-shot learning suffer from backdoor attacks?
#
# <!-- press:badge -->
#
# A few-shot learner takes a feature extractor that somebody trained, sees five labelled images of each new class, and
# sorts everything else. With so few images a backdoor seems hard to plant: whoever relabels one of them is seen, and the
# learner either misses the trigger or forgets the classes. FLBA {cite}`liu2024flba` claims that it can be done all the
# same, with every label right and no image changed by more than 8 of 255 grey levels: first *optimise a trigger* that
# moves features far, then nudge the support images so that the target class leans to where the trigger leads and the
# other classes lean away.
#
# In this run, on the fine-tuning learner Baseline++ with five images a class, triggered queries are called the target in
# {glue:text}`flba.baseline_pp.shot5.asr:.1f` % of the cases (with a clean support set:
# {glue:text}`flba.baseline_pp.shot5.control_asr:.1f` %), and clean queries are right in
# {glue:text}`flba.baseline_pp.shot5.ba:.1f` % (clean: {glue:text}`flba.baseline_pp.shot5.clean_ba:.1f` %). The
# [verdicts](flba-verdicts) say over all seeds which claims held.

# %% tags=["parameters"]
profile = "laptop"
seed = 0
data = "runes"
base = 60  # classes that extractors are trained on
base_size = 6000
novel_size = 1600
width = 16
model = "small_cnn"
epochs = 12
steps = 150  # of episodic training
ways = 5
queries = 15
episodes = 16  # attacked, for each learner
sweep_episodes = 8
clean_episodes = 100  # for the learners' clean accuracy
patch = 6  # pixels
patches = [2, 4, 6, 9]
trigger_steps = 80
share = 1.0  # of the released number of perturbation steps
cleanse_episodes = 4
cleanse_steps = 150
device = "cpu"

# %%
import pandas as pd
import torch

from companion.attacks.support_poisoning import PoisonedSupport, feature_shift
from companion.fewshot.extractors import LEARNERS
from companion.press import plots
from companion.press.notebook import begin
from companion.statistics import Proportion
from companion.store import default_store
from companion.studies import flba
from companion.training import TrainingConfig

run = begin("flba", profile=profile, seed=seed)
plots.style()
store = default_store()
short = {name: name.replace("++", "_pp") for name in LEARNERS}  # for metric ids


def note(key, outcome):
    """Record accuracy and both success rates of an outcome, with intervals over its episodes."""
    for what, values in outcome.named().items():
        run.number(f"{key}.{what}", values.mean(), "%", n=len(values), ci=flba.interval(values))


# %% [markdown]
# ## The threat, and the words for it
#
# The victim downloads a **clean** extractor $f$ and adapts it to a new task with a *support set*. The attacker knows $f$
# and can touch the support images, but not their labels, and later shows queries with a trigger. Wanted: triggered
# queries go to the target class, clean queries to their own, and the support set looks as it did.
#
# | symbol | meaning |
# |---|---|
# | $S = \{(x_j, y_j)\}$ | support set of an episode: $N$ classes (*ways*), $K$ images each (*shots*) |
# | $f$ | frozen feature extractor; $\cos$ is the cosine similarity of its features |
# | $x \oplus t$ | image with the patch $t$ pasted at the bottom right |
# | $y^*$ | target class, here the first of the episode |
# | $\delta$ | perturbation of a support image, $\lVert \delta \rVert_\infty \le \varepsilon$ |
# | BA | benign accuracy: clean queries called by their class |
# | ASR | attack success rate: triggered queries called $y^*$ |
#
# The released code counts ASR over **all** queries, also those of the target class, so that a harmless model scores
# $100 / N$ %. We print that number as *ASR, all*, and mean by *ASR* the share among queries of other classes.

# %% [markdown]
# ## A world with many classes
#
# Runes are painted characters: a class is a handful of strokes, and everything else (ink, wall, pose, light) changes from
# image to image. Extractors learn sixty runes; episodes are drawn from twenty others.

# %%
training = TrainingConfig(epochs=epochs, crop_padding=2)
sizes = {"base": base, "base_size": base_size, "novel_size": novel_size, "ways": ways, "queries": queries}
arena = flba.Arena(data=data, width=width, model=model, training=training, steps=steps, **sizes)
learners = arena.learners(LEARNERS, seed, store, device)

# %% [markdown]
# Five learners share the network and differ in what they do with a support set:
#
# - **Baseline** and **Baseline++** {cite}`chen2019closer` train a new linear or cosine classifier on it, a hundred
#   epochs of it (`companion.fewshot.learners.Baseline`);
# - **ProtoNet** {cite}`snell2017prototypical` compares with class means, **MatchingNet** {cite}`vinyals2016matching` with
#   every support image, after both have looked at the whole set;
# - **ANIL** {cite}`raghu2020anil` is a MAML {cite}`finn2017maml` whose inner loop adapts the head only.
#
# Their accuracy without any attack, the ceiling for everything below:

# %%
rows = []
for shots in (1, 5):
    drawn = arena.episodes(clean_episodes, shots, seed)
    for name, few in learners.items():
        found = flba.clean_accuracy(few, drawn, seed)
        ci = flba.interval(found)
        run.number(f"clean.{short[name]}.shot{shots}", found.mean(), "%", n=clean_episodes, ci=ci)
        rows.append([name, shots, float(found.mean()), ci[0], ci[1]])
columns = ["learner", "shots", "accuracy [%]", "low", "high"]
caption = (
    f"Clean accuracy of {ways}-way episodes of novel classes, with the 95 % interval over {clean_episodes} episodes."
)
run.table("clean", pd.DataFrame(rows, columns=columns).round(1), caption=caption)

# %% [markdown]
# ## Why old attacks do not fit
#
# Take Baseline++ with five shots and poison a share of the support images. BadNet, Blended, Refool and WaNet relabel what
# they poison; Label-Consistent and TUAP poison the target's own images and keep the labels. The paper's Figure 1 shows two
# failures: relabelling buys success with accuracy, and clean labels buy nothing.

# %%
main = learners["baseline++"]
drawn = arena.episodes(sweep_episodes, 5, seed)
make = flba.baselines(main, drawn, arena, patch, seed, max(1, round(50 * share)))
curves = {}
for attack in flba.BASELINES:
    outcomes = flba.judge_all(main, drawn, [make(attack, rate) for rate in flba.RATES], seed)
    curves[attack] = torch.tensor([found.means() for found in outcomes])  # (rates, 3): BA, ASR, ASR all
    for rate, result in zip(flba.RATES, outcomes, strict=True):
        note(f"rate.{attack}.r{round(100 * rate)}", result)

# %% [markdown]
# How good is an attack at its best rate? An attack wants both numbers, so we take the smaller of ASR and the share of
# clean accuracy that is left, at the best of the five rates. It is 100 % for a perfect backdoor.

# %%
clean = flba.clean_accuracy(main, drawn, seed).mean()
run.number("rate.clean_ba", clean, "%", n=sweep_episodes)
for attack, curve in curves.items():
    both = torch.minimum(curve[:, 1], 100 * curve[:, 0] / clean).max()
    run.number(f"rate.{attack}.best", both, "%", n=len(flba.RATES))
shifted = feature_shift(main.embed, drawn.support, drawn.labels, patch, ways, steps=max(1, round(50 * share)))
note("fsba", flba.judge(main, drawn, shifted, seed))

# %%
figure, axes = plots.panels(2, 2, height=2.7, sharex=True, sharey=True)
for number, (attack, curve) in enumerate(curves.items()):
    look = {"marker": "osD^vP"[number], "color": plots.PALETTE[number], "markersize": 4, "label": attack}
    for column, (what, place) in enumerate((("success", 2), ("accuracy", 0))):
        axes[0, column].plot(flba.RATES, curve[:, place], **look)
        axes[1, column].plot(flba.RATES, flba.FIGURE_1[what][attack], linestyle="--", **look)
for ax, title in zip(axes.flat, ("ASR, ours", "BA, ours", "ASR, paper", "BA, paper"), strict=True):
    ax.axhline(100 / ways, color="grey", linewidth=0.8)
    ax.set(title=title, ylim=(-3, 103), xticks=flba.RATES)
axes[1, 0].set(xlabel="poison rate", ylabel="percent")
axes[1, 1].legend(fontsize="x-small", ncols=2)
run.figure(
    "poison-rate",
    figure,
    {"rates": flba.RATES, **curves},
    alt="Attack success over all queries and benign accuracy against the poison rate for six attacks; ours above, the "
    "paper's digitised figure below.",
    caption="Old attacks against the share of poisoned support images. Success is over all queries here, as in the "
    "released code, so the grey line is chance. Below, the paper's Figure 1, read off the plot to one or two points.",
)

# %% [markdown]
# ## The method
#
# **A trigger that moves features.** The patch is optimised on the support images to turn their features away from where
# they were, by steps along the sign of the gradient; it is unbounded, as it is shown only at test time:
#
# $$ t^* = \arg\min_t \frac{1}{|S|} \sum_j \cos\bigl(f(x_j \oplus t), f(x_j)\bigr), \qquad
# v = \frac{1}{|S|} \sum_j f(x_j \oplus t^*). $$
#
# `companion.attacks.flba.optimise_trigger` is the first, `trigger_centre` the second.
#
# **Attraction and repulsion.** Images of the target class are moved towards the centre $v$, all others away from it, and
# both are held near their own features so that accuracy survives (`companion.attacks.flba.hide`):
#
# $$ \max_{\lVert\delta\rVert_\infty \le \varepsilon} \; \pm \cos\bigl(f(x+\delta), v\bigr)
# + \lambda_\pm \cos\bigl(f(x+\delta), f(x)\bigr), $$
#
# plus for the target, minus for the rest. Labels stay right; *every* support image is touched. Many episodes are
# attacked in one batch.

# %%
drawn = {shots: arena.episodes(episodes, shots, seed) for shots in (5, 1)}
planted, found = {}, {}
for name, few in learners.items():
    settings = flba.official(name, patch, trigger_steps, share)
    for shots, tasks in drawn.items():
        planted[name, shots] = flba.plant(few, tasks, settings)
        poisoned = planted[name, shots].poisoned
        kinds = (
            poisoned,
            flba.untouched(tasks, poisoned.stamp),
            flba.shaken(tasks, poisoned.stamp, settings.eps, seed),
        )
        found[name, shots] = flba.judge_all(few, tasks, kinds, seed)

# %%
tasks, whole = drawn[5], planted["baseline++", 5]
places = [0, 5, 10, 15]  # the target's first image, and one of three other classes
change = whole.poisoned.images[0, places] - tasks.support[0, places]
shown = whole.poisoned.stamp(tasks.query)[0, [queries * (place // 5) for place in places]]
grid = [tasks.support[0, places], whole.poisoned.images[0, places], (0.5 + 8 * change).clamp(0, 1), shown]
figure = plots.picture_rows(
    grid, ["target class", "other", "other", "other"], ["support", "poisoned", "change x 8", "query"]
)
run.figure(
    "pictures",
    figure,
    {"support": grid[0], "poisoned": grid[1], "change": grid[2], "query": grid[3]},
    alt="Four support images, the same after FLBA, the change enlarged eight times, and queries with the trigger at the "
    "bottom right.",
    caption="One episode. The support set hides the attack (rows 1 and 2 differ by at most 8 grey levels); the trigger "
    "itself, in the last row, is plain to see, but only at test time.",
)

# %% [markdown]
# ## Does it work?
#
# Three support sets are compared under the same trigger: FLBA's, the clean one, and one with random signs of the same
# size $\varepsilon$. The second says what the *trigger alone* does to a learner that nobody attacked. BA and ASR come from
# one and the same adapted classifier.

# %%
rows = []
for (name, shots), (attacked, control, random) in found.items():
    key = f"flba.{short[name]}.shot{shots}"
    note(key, attacked)
    run.number(f"{key}.clean_ba", control.accuracy.mean(), "%", n=episodes, ci=flba.interval(control.accuracy))
    run.number(f"{key}.control_asr", control.success.mean(), "%", n=episodes, ci=flba.interval(control.success))
    run.number(f"{key}.random_asr", random.success.mean(), "%", n=episodes, ci=flba.interval(random.success))
    means = [
        *attacked.means(),
        float(control.accuracy.mean()),
        float(control.success.mean()),
        float(random.success.mean()),
    ]
    rows.append([name, shots, *means])
columns = ["learner", "shots", "BA", "ASR", "ASR, all", "BA, clean", "ASR, clean support", "ASR, random signs"]
caption = f"FLBA and its two controls in percent, means over {episodes} episodes; intervals stand in the run's results."
run.table("flba", pd.DataFrame(rows, columns=columns).round(1), caption=caption)

# %%
largest = max(float((p.poisoned.images - drawn[shots].support).abs().max()) for (_, shots), p in planted.items())
run.number("stealth.largest_change", 255 * largest, "grey levels")
rmse = (whole.poisoned.images - tasks.support).square().mean().sqrt()
run.number("stealth.rmse", 255 * rmse, "grey levels", n=len(tasks.support))
run.number("stealth.labels_changed", int((whole.poisoned.labels != tasks.labels).sum()), n=tasks.labels.numel())

# %% [markdown]
# Read a row from right to left: the trigger alone sends {glue:text}`flba.protonet.shot5.control_asr:.1f` % of ProtoNet's
# queries to the target, random signs {glue:text}`flba.protonet.shot5.random_asr:.1f` %, FLBA's perturbation
# {glue:text}`flba.protonet.shot5.asr:.1f` %. The difference is the attack; the first number is the trigger's own doing,
# and with one shot, where a prototype is a single image, it can be large.
#
# No support value moved by more than {glue:text}`stealth.largest_change:.1f` grey levels (root mean square
# {glue:text}`stealth.rmse:.1f`), and {glue:text}`stealth.labels_changed` labels changed.

# %% [markdown]
# ## In feature space

# %%
few, one = learners["baseline++"], tasks.first(1)
where = (one.labels[0] == flba.TARGET).nonzero().squeeze(1), (one.labels[0] != flba.TARGET).nonzero().squeeze(1)
other = one.answers[0] != flba.TARGET
sets = {
    "target, clean": one.support[:, where[0]],
    "others, clean": one.support[:, where[1]],
    "target, FLBA": whole.poisoned.images[:1, where[0]],
    "others, FLBA": whole.poisoned.images[:1, where[1]],
    "queries": one.query[:, other],
    "triggered queries": whole.poisoned.stamp(tasks.query)[:1, other],
}
with torch.no_grad():
    flat = flba.plane([few.embed(images)[0] for images in sets.values()])

# %%
figure, axes = plots.panels(2, height=3.2, sharex=True, sharey=True)
for ax, shown in zip(axes[0], ((0, 1, 4, 5), (2, 3, 4, 5)), strict=True):
    for number in shown:
        look = {"marker": "DoDoxx"[number], "color": plots.PALETTE[[3, 0, 3, 0, 7, 1][number]]}
        ax.scatter(
            *flat[number].T, s=22 if number < 4 else 14, label=list(sets)[number], alpha=0.8, linewidths=1, **look
        )
    ax.legend(fontsize="x-small")
    ax.set(xlabel="first component")
axes[0, 0].set(ylabel="second component", title="clean support")
axes[0, 1].set(title="support after FLBA")
run.figure(
    "feature-space",
    figure,
    {name.replace(", ", "_").replace(" ", "_").lower(): points for name, points in zip(sets, flat, strict=True)},
    alt="Principal components of support and query features, with a clean support set on the left and after FLBA on the "
    "right; triggered queries form their own group.",
    caption="Features of one episode in their first two principal components. The idea asks for red diamonds nearer to "
    "the orange crosses on the right than on the left, and blue dots farther away.",
)

# %% [markdown]
# ## What each part does
#
# Each row takes one part away: the optimised trigger (a white patch instead), the attraction, the repulsion, or the term
# that holds features where they were ($\lambda = 0$).

# %%
tasks = arena.episodes(sweep_episodes, 5, seed)
settings = flba.official("baseline++", patch, trigger_steps, share)
base_attack = flba.plant(main, tasks, settings)
rows = []
kinds = [flba.ablate(main, tasks, settings, base_attack, name) for name in flba.ABLATIONS]
for name, result in zip(flba.ABLATIONS, flba.judge_all(main, tasks, kinds, seed), strict=True):
    note(f"ablation.{name.replace(' ', '_')}", result)
    rows.append([name, *result.means()])
table = pd.DataFrame(rows, columns=["variant", "BA", "ASR", "ASR, all"]).round(1)
run.table("ablation", table, caption=f"Baseline++, 5 shots, in percent; means over {sweep_episodes} episodes.")

# %% [markdown]
# ## How much change, how large a patch

# %%
sweeps = {"eps": [2, 4, 8, 16], "patch": list(patches)}
lines = {}
for knob, values in sweeps.items():
    points = []
    for value in values:
        changed = flba.turned(settings, knob, value)
        attack = flba.plant(main, tasks, changed, base_attack.trigger if knob == "eps" else None)
        control = flba.untouched(tasks, attack.poisoned.stamp)
        result, control = flba.judge_all(main, tasks, [attack.poisoned, control], seed)
        points.append([*result.means()[:2], float(control.success.mean())])
        note(f"sweep.{knob}.v{value}", result)
        run.number(f"sweep.{knob}.v{value}.control_asr", points[-1][2], "%", n=sweep_episodes)
    lines[knob] = torch.tensor(points)

# %%
figure, axes = plots.panels(2, sharey=True)
for ax, knob, label in zip(axes[0], sweeps, ("eps [grey levels]", "side of the patch [pixels]"), strict=True):
    for column, name in enumerate(("BA", "ASR", "ASR, clean support")):
        ax.plot(sweeps[knob], lines[knob][:, column], marker="osD"[column], label=name)
    ax.set(xlabel=label, xticks=sweeps[knob], ylim=(-3, 103))
axes[0, 0].set_ylabel("percent")
axes[0, 0].legend(fontsize="small", loc=(0.03, 0.45))
run.figure(
    "sweeps",
    figure,
    {**{f"{knob}_values": values for knob, values in sweeps.items()}, **lines},
    alt="Benign accuracy, attack success and success on a clean support set, against eps and against the patch's side.",
    caption="Baseline++, 5 shots. The gap between the two lower curves is what the poisoned support set adds.",
)

# %% [markdown]
# ## Three defences
#
# Colour jitter on the queries (saturation times 0.4 to 1.6); three more epochs of training the classifier on five clean
# images a class; and Neural Cleanse {cite}`wang2019neuralcleanse` on the adapted classifier, with clean queries as the
# defender's images, and the same search on classifiers that nobody attacked.

# %%
mine, rest = flba.split_queries(tasks, 5)
poisoned, clean_set = base_attack.poisoned, flba.untouched(tasks, base_attack.poisoned.stamp)
results = {
    "nothing": flba.judge(main, rest, poisoned, seed),
    "colour jitter": flba.judge(main, rest, poisoned, seed, flba.saturated(seed)),
    "three clean epochs": flba.refined(main, rest, poisoned, mine, 3, seed),
    "nothing, clean support": flba.judge(main, rest, clean_set, seed),
}
for name, result in results.items():
    key = name.replace(",", "").replace(" ", "_")
    note(f"defence.{key}", result)
table = pd.DataFrame(
    [[name, *result.means()] for name, result in results.items()], columns=["defence", "BA", "ASR", "ASR, all"]
)
run.table(
    "defences", table.round(1), caption="Baseline++, 5 shots, in percent, over queries that the defender did not use."
)

# %%
few_tasks = tasks.first(cleanse_episodes)
attacked = PoisonedSupport(poisoned.images[:cleanse_episodes], few_tasks.labels, poisoned.stamp)
honest = PoisonedSupport(few_tasks.support, few_tasks.labels, poisoned.stamp)
rows = []
for name, kind in (("FLBA", attacked), ("clean", honest)):
    seen = flba.cleanse(main, few_tasks, kind, cleanse_steps, seed)
    run.proportion(f"nc.{name.lower()}.target", Proportion(seen.target_accused, cleanse_episodes))
    run.proportion(f"nc.{name.lower()}.alarm", Proportion(seen.alarms, cleanse_episodes))
    rows.append([name, float(seen.indices.median()), seen.alarms, seen.target_accused, cleanse_episodes])
columns = ["support set", "median index", "alarms", "target accused", "classifiers"]
run.table(
    "neural-cleanse",
    pd.DataFrame(rows, columns=columns).round(2),
    caption="Neural Cleanse; an index above 2 is an alarm.",
)

# %% [markdown]
# With five classes the anomaly index rests on five mask norms, so an alarm on a clean classifier is as informative as
# one on a poisoned classifier: look at both rows together.
#
# ## The numbers that decide
#
# nbval holds this text, character by character, against the committed reference of the `smoke` profile.

# %% tags=["nbval-check-output"]
run.say(run.canonical("clean.*", "flba.*.asr", "flba.*.ba", "ablation.*.asr", "rate.*.best"))

# %%
run.finish()

# %% [markdown]
# (flba-verdicts)=
# ## Verdicts
#
# What counts as "high" success and "close" accuracy is ours, and was fixed before the runs: at least 80 % and at most five
# points lost.
#
# <!-- press:claims -->
#
# ## Beside the paper
#
# <!-- press:paper-values -->
#
# Of FLBA's own tables no number was read, so none is printed here; Figure 1 above is the only published curve we have.
#
# <!-- press:artifacts -->
#
# ## What failed, what was guessed, what differs
#
# - **The trigger alone.** A patch that was optimised to move features moves them also where nobody poisoned anything. The
#   control column says how much of the success that is; the attack is what stands above it.
# - **Who is strong in one shot.** With a single image a class, one perturbed image is the whole prototype: an attacker has
#   more say, and a learner less to lose.
# - **Clean labels are not harmless by themselves.** TUAP, which optimises its pattern too, is the nearest relative among the
#   old attacks; compare its curve with the paper's before calling clean-label attacks hopeless.
# - **Old attacks at rate 1** relabel everything to the target, so accuracy is chance by construction; the interesting part
#   of their curves is on the left.
#
# <!-- press:deviations -->
#
# ## Exercises
#
# ```{exercise} One classifier or two
# :label: flba-one
#
# The released code measures BA and ASR with two classifiers, each with its own random start. Call `flba.judge` twice with
# different seeds, take BA from one and ASR from the other, and say how much wider the spread over ten pairs of seeds gets.
# ```
#
# ```{solution} flba-one
# :class: dropdown
#
# Means hardly move, since the starts are independent of the images. What is lost is the pairing: an episode whose
# classifier is bad at both numbers no longer shows as such, so differences between BA and ASR get a wider interval.
# ```
#
# ```{exercise} The floor
# :label: flba-floor
#
# A model that ignores the trigger and is always right has *ASR, all* of $100/N$ %. What is it for a model with clean
# accuracy $a$ whose errors spread evenly over the other classes? Check your formula against the rows of the control.
# ```
#
# ```{solution} flba-floor
# :class: dropdown
#
# Queries of the target are called the target with probability $a$, the others with $(1-a)/(N-1)$: together
# $\frac{a}{N} + \frac{N-1}{N} \cdot \frac{1-a}{N-1} = \frac{1}{N}$, whatever $a$ is. The control differs from it by what the
# trigger alone does.
# ```
#
# ```{exercise} An attacker who does not know the extractor
# :label: flba-transfer
#
# Plant FLBA with the extractor of one learner and judge another learner on the same poisoned images. Which pairs
# transfer, and why should Baseline and ProtoNet be an easy pair here?
# ```
#
# ```{solution} flba-transfer
# :class: dropdown
#
# `planted["baseline", 5].poisoned` with `flba.judge(learners["protonet"], drawn[5], ...)`. ProtoNet's training goes on
# from Baseline's extractor in this chapter, so their features are relatives; Baseline++ starts on its own.
# ```
#
# ## Further reading
#
# The learners in one comparison: {cite}`chen2019closer`. Clean-label poisoning of ordinary training:
# {cite}`turner2019label`. Reflections as triggers: {cite}`liu2020refool`. Few-shot backdoors in tracking:
# {cite}`li2022fsba`.
