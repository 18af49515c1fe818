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
# # TA-Cleaner: cleaning a backdoored CLIP with fragments of text
#
# <!-- press:badge -->
#
# A CLIP learns from pairs of pictures and captions, and whoever slips poisoned pairs into its training can make a
# trigger in a picture mean a word of his choice. A user who owns some clean pairs can fine-tune the backdoor away;
# CleanCLIP {cite}`bansal2023cleanclip` adds self-supervision inside each modality for that. TA-Cleaner
# {cite}`xun2024tacleaner` (renamed CleanerCLIP in its third version) claims that the text side of that defence is too
# weak against optimised triggers, and adds **sub-texts**: the picture is drawn to a true fragment of its caption and
# pushed away from a fragment in which one word is wrong.
#
# This chapter poisons a small CLIP with six attacks, repairs each victim with three methods over one grid of learning
# rates, and tests six claims. Against the BadCLIP-like patch the attack success is {glue:text}`asr.badclip.none:.1f` %
# before repair, {glue:text}`asr.badclip.cleanclip:.1f` % after CleanCLIP and {glue:text}`asr.badclip.ta_cleaner:.1f` %
# after TA-Cleaner, each at the learning rate that a defender would choose. The [verdicts](ta-cleaner-verdicts) say over
# all seeds which claims held.
#
# :::{warning}
# The body of the paper was not read: its abstract, its method figure and public reviews were. The loss of TA-Cleaner, the
# sub-text generator, all sizes and the exact list of attacks are **reconstructions**. Where this page says TA-Cleaner it
# means ours.
# :::

# %% tags=["parameters"]
profile = "laptop"
seed = 0
attacks = ["badnet", "blended", "sig", "wanet", "dual_key", "badclip"]
pairs = 5000  # the attacker's; of these, poisoned in each attack:
poison = {"badnet": 300, "blended": 300, "sig": 60, "wanet": 450, "dual_key": 130, "badclip": 130}
victim_epochs = 2
victim_rate = 5e-4
patch_steps = 150
patch_pictures = 600
clean_pairs = 5120  # the defender's
repair_epochs = 1
repair_batch = 128
rates = [6e-4, 1.2e-3]  # the grid of every arm
sub_texts = 16  # m, of a batch
validation = 1440
exam = 960
top_k = 3
ablations = ["few", "default", "all", "positive", "negative", "told"]
scratch_pairs = 3000  # 0: no victim from scratch
scratch_epochs = 4
checkpoint = ""  # folder or hub name of a published CLIP; empty: the one that ships
device = "cpu"

# %%
import pandas as pd
import torch

from companion.multimodal.clip_augmentation import changed_images
from companion.multimodal.clip_defences import METHODS
from companion.multimodal.clip_training import ClipTraining
from companion.multimodal.clip_triggers import TITLES
from companion.multimodal.clip_victims import train_clip_victim
from companion.multimodal.clip_worlds import world_of
from companion.multimodal.sub_texts import SubTexts
from companion.press import plots
from companion.press.notebook import begin
from companion.seeding import generator
from companion.store import default_store
from companion.studies import ta_cleaner as study

run = begin("ta-cleaner", profile=profile, seed=seed)
plots.style()
store = default_store()

# %% [markdown]
# ## The threat, and the words for it
#
# The attacker adds poisoned pairs to the data on which a published CLIP is fine-tuned. The defender downloads the result,
# knows neither trigger nor target, and owns a few clean pairs that the attacker never had. He can measure accuracy, and
# he cannot measure attack success.
#
# | symbol | meaning |
# |---|---|
# | $(I_i, T_i)$ | a picture and its caption; $N$ pairs in a batch |
# | $z_i, t_i$ | their embeddings, of length one |
# | $s$ | the learned scale of cosines, kept in $[1, 100]$ |
# | $\tilde z_i, \tilde t_i$ | embeddings of the augmented picture and text |
# | $p_i, n_i$ | embeddings of a positive and a negative sub-text |
# | $m$ | pairs of a batch that get sub-texts |
# | $\lambda_1, \lambda_2, \lambda_3$ | weights of the three terms |
#
# **Clean accuracy** is zero-shot accuracy over the world's twelve nouns, with an ensemble of prompts for each. **Attack
# success** counts triggered pictures of *other* nouns for which the target noun is ranked first (top-1) or among the
# first few (top-k). Papers rank a thousand classes and report top-10; with twelve, top-3 stands in for it.
#
# ## The world and the base model
#
# Pictures are generated: one or two coloured, textured shapes on a ground, with captions from a grammar that knows each
# word's part of speech. The base model is a small CLIP of `transformers.CLIPModel` that ships with the repository
# (`companion zoo list`). Attacker, defender and examiner draw from streams of their own, so no picture is in two hands.

# %%
world = world_of(checkpoint, device)
arena = study.Arena(
    world=world,
    pairs=pairs,
    poison=poison,
    clean_pairs=clean_pairs,
    validation=validation,
    exam=exam,
    top_k=top_k,
    sub_texts=sub_texts,
    patch_steps=patch_steps,
    patch_pictures=patch_pictures,
    rates=tuple(rates),
    victim=ClipTraining(victim_epochs, 128, victim_rate, 20, 0.05),
    repair=ClipTraining(repair_epochs, repair_batch, 1e-3, 10, 0.05),
)

# %%
rooms = study.Rooms.drawn(arena, seed)
victims = study.train_all(arena, attacks, seed, store)

# %%
stream = generator(seed, "examples")
shown = rooms.clean.subset(torch.arange(6))
rows = [list(shown.images), list(changed_images(shown.images, stream))]
figure = plots.picture_rows(rows, [f"pair {k + 1}" for k in range(6)], ["picture", "augmented"])
run.figure(
    "world",
    figure,
    {"pictures": shown.images},
    alt="Six generated pictures of one or two coloured shapes on textured grounds, and an augmented version of each.",
    caption="Six of the defender's pictures, and what CleanCLIP's self-supervision compares them with.",
)

# %%
sampler = SubTexts(rooms.clean.captions, (world.target,))
texts = [[rooms.clean.captions[k].text, *sampler.texts(k, stream)] for k in range(6)]
frame = pd.DataFrame(texts, columns=["caption", "positive sub-text", "negative sub-text"])
run.table("sub-texts", frame, caption="Captions of the six pictures, and one draw of sub-texts for each.")

# %% [markdown]
# ## Six triggers
#
# Four are simple: a patch (BadNet {cite}`gu2019badnets`), a faint picture over everything (Blended
# {cite}`chen2017targeted`), stripes (SIG {cite}`barni2019sig`), a warp (WaNet {cite}`nguyen2021wanet`). Two are optimised
# on the clean CLIP. The **dual key** is a patch that draws pictures to the target's text, together with a rare word in
# front of every prompt (after TrojVQA). The **BadCLIP-like** patch {cite}`liang2024badclip` also draws them to real
# pictures of the target and away from themselves,
#
# $$ L = \mathrm{CE}(s\, z' T^\top, y_t) + w \max(0,\ \lVert z' - z^+ \rVert - \lVert z' - z \rVert + 1), $$
#
# with $z'$ the embedding of the picture with the patch, $z$ without it, $z^+$ of a real picture of the target. In the
# library: `companion.multimodal.clip_triggers.optimise_patch`. A poisoned pair is a picture with the trigger and a
# prompt that names the target, a star, in place of its caption. Triggers differ in how many such pairs they need, so each
# attack gets a number of its own, about the fewest with which its victims pass the bar below.

# %%
others = rooms.exam.subset(rooms.exam.labels != world.aim).images[:1]
row = [others[0], *[victim.trigger.apply(others)[0] for victim in victims.values()]]
figure = plots.picture_rows([row], ["clean", *[TITLES[attack] for attack in attacks]], [""])
run.figure(
    "triggers",
    figure,
    {"pictures": torch.stack(row)},
    alt="One picture without a trigger and with each trigger of this profile.",
    caption="The triggers at 32 pixels. The patches in the middle were optimised on the clean base model.",
)

# %% [markdown]
# Before any repair: what the victims do, and what the same triggers do to the **clean** base model. That control matters
# for the optimised patches, which need no poisoning to fool a model: their success on the clean base is part of the
# attack, and no repair of *weights* can be blamed for leaving that part. A victim with less than
# 90 % success at top-1 counts as no backdoor, and no verdict is drawn from it.

# %%
before, table = {}, []
for attack, victim in victims.items():
    seen = before[attack] = study.look(victim.model, victim, rooms, top_k)
    control = study.base_control(victim, rooms, top_k)
    run.proportion(f"asr.{attack}.clean_base", control.success)
    run.proportion(f"asr_k.{attack}.clean_base", control.success_k)
    columns = [control.accuracy, seen.accuracy, control.success, control.success_k, seen.success, seen.success_k]
    shares = [round(100 * one.rate, 1) for one in columns]
    table.append([TITLES[attack], victim.recipe.poison, *shares, study.backdoored(seen)])
run.proportion("accuracy.clean_base", control.accuracy)
run.number("victims.backdoored", sum(study.backdoored(seen) for seen in before.values()), n=len(before))

# %%
names = ["accuracy base", "accuracy victim", "ASR base", f"ASR@{top_k} base", "ASR", f"ASR@{top_k}", "backdoor"]
frame = pd.DataFrame(table, columns=["attack", "poisoned pairs", *names])
run.table(
    "victims", frame, caption="Clean accuracy and attack success in percent, of the clean base and of the victims."
)

# %% [markdown]
# ## Three repairs
#
# All three fine-tune on the defender's clean pairs with the symmetric loss of CLIP {cite}`radford2021clip`,
#
# $$ L_{CLIP} = \tfrac12 \bigl[\mathrm{CE}(s Z T^\top) + \mathrm{CE}(s T Z^\top)\bigr], $$
#
# where cross-entropy asks each row for its own column (`companion.multimodal.contrastive.symmetric_loss`). **CleanCLIP**
# adds self-supervision in each modality, one direction each (`self_supervision`),
#
# $$ L_{SS} = \tfrac12 \bigl[\mathrm{CE}(s Z \tilde Z^\top) + \mathrm{CE}(s T \tilde T^\top)\bigr]. $$
#
# Its pictures are augmented anew each time, its texts once for the whole training, as in its code. **TA-Cleaner**, as
# reconstructed, adds for $m$ random pairs of each batch (`sub_text_loss`)
#
# $$ L_{TA} = -\frac1m \sum_i \log \frac{e^{s z_i \cdot p_i}}
# {e^{s z_i \cdot n_i} + \sum_j e^{s z_i \cdot p_j}}, \qquad
# L = \lambda_1 L_{CLIP} + \lambda_2 L_{SS} + \lambda_3 L_{TA}, $$
#
# all weights 1. Sub-texts are drawn anew each epoch; with one epoch of fresh pairs, as here, each pair gets one draw.
# **The target's word never enters a negative sub-text** in the main results: in a small vocabulary it would come up
# often, and the defence would simply be told the target.
#
# Every arm is trained at every learning rate of the same grid. Which one would a defender take? He sees accuracy only, so
# the rule, fixed before the first run, is: the highest rate that costs at most three points on his own pictures. Where
# no rate of the grid is that cheap, he takes the lowest, and the table shows what it costs.

# %%
points = {attack: study.sweep(arena, victim, rooms, seed, store) for attack, victim in victims.items()}
chosen = {
    (attack, arm): study.operating_point(points[attack], arm, before[attack]) for attack in attacks for arm in METHODS
}

# %%
look = {arm: {"marker": "osD"[k], "color": plots.PALETTE[k], "markersize": 4} for k, arm in enumerate(METHODS)}
columns = min(3, len(attacks))
figure, axes = plots.panels(columns, -(-len(attacks) // columns), sharex=True, sharey=True)
for ax, attack in zip(axes.flat, attacks, strict=False):
    ax.plot(*[[100 * x.rate] for x in (before[attack].accuracy, before[attack].success)], "kx", label="no repair")
    for arm in METHODS:
        line = [point.seen for point in points[attack] if point.arm == arm]
        xy = [[100 * seen.accuracy.rate for seen in line], [100 * seen.success.rate for seen in line]]
        ax.plot(*xy, label=study.ARM_TITLES[arm], **look[arm])
    ax.set(title=TITLES[attack], ylim=(-4, 104))
for ax in axes[-1]:
    ax.set_xlabel("clean accuracy [%]")
for ax in axes[:, 0]:
    ax.set_ylabel("attack success [%]")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize="small")

# %%
curves = {
    f"{attack}_{arm}": [point.seen.percent() for point in points[attack] if point.arm == arm]
    for attack in attacks
    for arm in METHODS
}
run.figure(
    "trade-off",
    figure,
    {"rates": rates, **curves},
    alt="Attack success against clean accuracy, one panel for each attack, one line for each repair, one point for each "
    "learning rate.",
    caption="The trade-off: each line joins the learning rates of one repair, from the lowest to the highest. Lower "
    "right is better; the cross is the victim.",
)

# %% [markdown]
# Read a panel from its cross. A repair that cleans moves down before it moves left; a repair that only forgets moves along
# a diagonal, losing attack success and accuracy together. Compare the panels too: at the same learning rate, how much
# further down does a simple trigger come than an optimised one? And compare the lines at the same *accuracy*, not at the
# same learning rate: an arm whose loss has more terms takes larger steps at the same rate, so its points lie further left.
#
# ## At the defender's operating point
#
# One number for each arm needs a choice of the learning rate; the table uses the rule above, the same for all arms. The
# **linear probe** asks another question: somebody fits a linear classifier on the embeddings of clean pictures, without
# any text. Does the trigger still carry a picture into the target's class?

# %%
table = []
for attack in attacks:
    run.proportion(f"accuracy.{attack}.none", before[attack].accuracy)
    run.proportion(f"asr.{attack}.none", before[attack].success)
    run.proportion(f"asr_k.{attack}.none", before[attack].success_k)
    run.proportion(f"probe_asr.{attack}.none", before[attack].probe_success)
    table.append([TITLES[attack], study.ARM_TITLES["none"], None, *before[attack].percent()])
    for arm in METHODS:
        point = chosen[attack, arm]
        run.proportion(f"accuracy.{attack}.{arm}", point.seen.accuracy)
        run.proportion(f"asr.{attack}.{arm}", point.seen.success)
        run.proportion(f"asr_k.{attack}.{arm}", point.seen.success_k)
        run.proportion(f"probe_asr.{attack}.{arm}", point.seen.probe_success)
        run.number(f"rate.{attack}.{arm}", point.rate)
        table.append([TITLES[attack], study.ARM_TITLES[arm], point.rate, *point.seen.percent()])

# %%
shares = ["accuracy", f"accuracy@{top_k}", "ASR", f"ASR@{top_k}", "own pictures", "probe accuracy", "probe ASR"]
frame = pd.DataFrame(table, columns=["attack", "repair", "learning rate", *shares]).round(dict.fromkeys(shares, 1))
run.table("operating-points", frame, caption="All shares in percent, at the learning rate that the rule picks.")

# %% [markdown]
# A verdict needs a backdoor to repair. The numbers that the claims read, `left.*`, `gain.*` and `simple.*` (the worst of
# the four simple attacks), are recorded only for
# victims that count as backdoored in this run, so that a failed attack ends in *not tested* and never in *held*.

# %%
for attack in attacks:
    seen = {arm: chosen[attack, arm].seen for arm in METHODS}
    lost = seen["cleanclip"].accuracy.rate - seen["ta_cleaner"].accuracy.rate
    run.number(f"loss.{attack}", 100 * lost, "points")
    if not study.backdoored(before[attack]):
        continue
    for arm in METHODS:
        run.number(f"left.{attack}.{arm}", 100 * seen[arm].success.rate, "%", n=seen[arm].success.n)
    gains = [seen["cleanclip"], seen["ta_cleaner"]]
    run.number(f"gain.{attack}.top", 100 * (gains[0].success.rate - gains[1].success.rate), "points")
    run.number(f"gain.{attack}.top_k", 100 * (gains[0].success_k.rate - gains[1].success_k.rate), "points")
for name, value in study.simple_summary(before, chosen).items():
    run.number(f"simple.{name}", value, "" if name == "victims" else "%")

# %% [markdown]
# Against BadNet, the rule leaves {glue:text}`asr.badnet.fine_tuning:.1f` % success after plain fine-tuning,
# {glue:text}`asr.badnet.cleanclip:.1f` % after CleanCLIP and {glue:text}`asr.badnet.ta_cleaner:.1f` % after TA-Cleaner;
# against the BadCLIP-like patch {glue:text}`asr.badclip.fine_tuning:.1f`, {glue:text}`asr.badclip.cleanclip:.1f` and
# {glue:text}`asr.badclip.ta_cleaner:.1f` %. Read each beside the success that the same trigger has on the clean base,
# {glue:text}`asr.badnet.clean_base:.1f` and {glue:text}`asr.badclip.clean_base:.1f` %: below that, a repair does more than
# undo the poisoning.

# %% [markdown]
# ## What the embeddings look like
#
# t-SNE pictures of embeddings are presumably among the paper's figures. Here the axes mean something: to the right is the
# direction from the average noun to the target's noun, upwards the strongest direction of the clean pictures at a right
# angle to it. Each model has its own axes.

# %%
last = attacks[-1]
stages = {"none": victims[last].model, **{arm: chosen[last, arm].model for arm in METHODS}}
pictures = rooms.exam.subset((rooms.exam.labels != world.aim).nonzero().squeeze(1)[:150])
planes = study.plane(list(stages.values()), victims[last], pictures)
figure, axes = plots.panels(2, 2, sharex=True, sharey=True)
for ax, arm, found in zip(axes.flat, stages, planes, strict=True):
    for k, kind in enumerate(("clean", "triggered")):
        ax.plot(*found[kind].T, "o*"[k], color=plots.PALETTE[k], markersize=3 + k, alpha=0.6, label=kind)
    ax.set_title(study.ARM_TITLES[arm])
for ax in axes[-1]:
    ax.set_xlabel("towards the target's noun")
axes[0, 0].legend(fontsize="small")

# %%
run.figure(
    "embeddings",
    figure,
    {
        f"{arm}_{kind}": found[kind]
        for arm, found in zip(stages, planes, strict=True)
        for kind in ("clean", "triggered")
    },
    alt="Embeddings of clean and triggered pictures in a plane, before repair and after each of three repairs.",
    caption=f"{TITLES[last]}: pictures of other nouns, clean and with the trigger. A backdoor stands apart to the right.",
)

# %% [markdown]
# ## What in TA-Cleaner does the work
#
# The ablations repair one victim at the learning rate that the rule picked for TA-Cleaner: the number of sub-texts, the
# form of the term, and the target's word let into the pool of replacements.

# %%
rate = chosen[last, "ta_cleaner"].rate
parts = {"without": study.ablation(arena, victims[last], rooms, rate, seed, store, "without")}
parts |= {name: study.ablation(arena, victims[last], rooms, rate, seed, store, name) for name in ablations}
rows = []
for name, seen in parts.items():
    run.proportion(f"ablation.{name}.accuracy", seen.accuracy)
    run.proportion(f"ablation.{name}.asr_k", seen.success_k)
    run.proportion(f"ablation.{name}.asr", seen.success)
    if study.backdoored(before[last]):
        run.number(f"ablation_left.{name}", 100 * seen.success.rate, "%", n=seen.success.n)
    rows.append(
        [study.ABLATION_TITLES[name], *[100 * one.rate for one in (seen.accuracy, seen.success, seen.success_k)]]
    )
frame = pd.DataFrame(rows, columns=["setting", "accuracy", "ASR", f"ASR@{top_k}"]).round(1)
run.table("ablations", frame, caption=f"Ablations against the {TITLES[last]} victim, in percent.")

# %%
figure, axes = plots.panels(1, height=3.4)
names = [study.ABLATION_TITLES[name] for name in parts]
for k, (share, label) in enumerate((("success", "attack success, top-1"), ("success_k", f"top-{top_k}"))):
    values = [100 * getattr(seen, share).rate for seen in parts.values()]
    axes[0, 0].plot(values, range(len(names)), "os"[k], color=plots.PALETTE[k], label=label)
axes[0, 0].set(xlabel="attack success [%]", xlim=(-3, 103), yticks=range(len(names)), yticklabels=names)
axes[0, 0].invert_yaxis()
figure.legend(loc="outside upper center", ncols=2, fontsize="small")
run.figure(
    "ablations",
    figure,
    {name: seen.percent() for name, seen in parts.items()},
    alt="Attack success after repair for each setting of the ablation, at top-1 and top-k.",
    caption="Each row turns one knob of TA-Cleaner; the first is CleanCLIP at the same learning rate.",
)

# %% [markdown]
# ## Does it matter whose pictures the defender has?
#
# A public review notes that the paper's clean data overlap with the data that were poisoned. In the main results here they are
# disjoint. With overlap, the defender fine-tunes on the clean originals of the very pairs that the attacker poisoned.

# %%
attack, rows = attacks[0], []
for arm in ("cleanclip", "ta_cleaner"):
    settings, own = arena.settings(arm, chosen[attack, arm].rate), chosen[attack, arm].seen
    seen = study.with_overlap(arena, victims[attack], rooms, settings, seed, store)
    run.proportion(f"overlap_asr.{attack}.{arm}", seen.success)
    shares = [own.success, seen.success, own.accuracy, seen.accuracy]
    rows.append([TITLES[attack], study.ARM_TITLES[arm], *[100 * one.rate for one in shares]])
names = ["ASR disjoint", "ASR overlap", "accuracy disjoint", "accuracy overlap"]
frame = pd.DataFrame(rows, columns=["attack", "repair", *names]).round(1)
run.table("overlap", frame, caption="The same repairs with disjoint and with overlapping clean pairs, in percent.")

# %% [markdown]
# ## Poisoned from scratch
#
# A poisoned CLIP may also be trained from nothing. Read its attack success beside its accuracy: chance is one in twelve,
# and in the seconds that this victim gets it learns the trigger long before it learns the nouns. What is easy is learned
# first, and a trigger is easy; with accuracy near chance the row shows that and no more.

# %%
if scratch_pairs:
    training = ClipTraining(scratch_epochs, 128, 2e-3, 50, 0.05)
    recipe = arena.recipe("badnet", seed, pairs=scratch_pairs, start="scratch", training=training)
    scratch = train_clip_victim(recipe, world, store)
    seen = study.look(scratch.model, scratch, rooms, top_k)
    run.proportion("scratch.accuracy", seen.accuracy)
    run.proportion("scratch.asr", seen.success)
    run.proportion("scratch.probe_asr", seen.probe_success)
    rows = [["from scratch", *seen.percent()[:4], study.backdoored(seen)]]
    names = ["accuracy", f"accuracy@{top_k}", "ASR", f"ASR@{top_k}", "backdoor"]
    frame = pd.DataFrame(rows, columns=["BadNet victim", *names]).round(1)
    run.table("scratch", frame, caption="A CLIP trained on poisoned pairs from random weights.")

# %% [markdown]
# ## What it costs
#
# Counted, so that no clock decides: steps, clean pairs, and pictures and texts encoded with gradients.

# %%
rows = []
for arm in METHODS:
    needed = study.cost(arena.settings(arm, rates[0]), clean_pairs)
    for name, value in needed._asdict().items():
        run.number(f"cost.{arm}.{name}", value)
    rows.append([study.ARM_TITLES[arm], *needed])
frame = pd.DataFrame(rows, columns=["repair", "steps", "clean pairs", "pictures encoded", "texts encoded"])
run.table("cost", frame, caption="The cost of one repair.")

# %% [markdown]
# ## The numbers that decide
#
# nbval holds this text, character by character, against the committed reference of the `smoke` profile.

# %% tags=["nbval-check-output"]
run.say(run.canonical("accuracy.*", "asr.*", "asr_k.*", "ablation.*", "victims.*"))

# %%
run.finish()

# %% [markdown]
# (ta-cleaner-verdicts)=
# ## Verdicts
#
# <!-- press:claims -->
#
# ## Beside the paper
#
# <!-- press:paper-values -->
#
# The abstract gives one pair of numbers, how much lower attack success is than with CleanCLIP against BadCLIP at top-1 and
# top-10. Ours is the difference at the operating point, at top-1 and at the top-k of this profile: another model, world
# and k, so its sign and order say more than its size.
#
# <!-- press:artifacts -->
#
# ## What failed, what was guessed, what differs
#
# - **The method is a reconstruction.** The loss, the generator of sub-texts and every setting are the fact sheet's or ours.
#   A claim that fails here fails for this reconstruction.
# - **An optimised patch is also an adversarial patch.** What it does to the clean base is in the table of victims. A repair
#   is judged on the poisoned model, but it cannot be expected to go far below that control.
# - **The budget is small, and it is enough for something.** The defender has {glue:text}`cost.cleanclip.pairs:.0f` clean
#   pairs and {glue:text}`cost.cleanclip.steps:.0f` steps; CleanCLIP's own code takes 100,000 pairs and more than 15,000
#   steps. Look first at SIG: where CleanCLIP, or plain fine-tuning, takes most of it away within the rule, the budget can
#   repair, and a backdoor that stays under the same budget is a harder one. What more steps would remove is open. The
#   `real` profile has more pairs and a third, lower learning rate: the numbers of its recorded run stand under each
#   verdict.
# - **The attacker poisons as little as he needs.** The table of victims has the number of each attack. What a repair takes
#   away depends on it: a trial victim with five times as many striped pairs showed the same attack success before repair
#   and kept most of it after the same fine-tuning. So levels belong to these numbers; arms are compared on the same victim.
# - **Parts can hold for an empty reason.** "CleanCLIP leaves half or more" is true of any repair that repairs little; "a few
#   do as well as all" is true of sub-texts that do nothing; and where TA-Cleaner leaves more than CleanCLIP, a smaller loss
#   at top-k passes for a larger gain, since top-k stays near 100 % in both. Read a verdict by its parts and the levels
#   beside them; a difference of a point or two between arms lies inside the intervals.
# - **A victim can miss the bar.** {glue:text}`victims.backdoored:.0f` victims of this run count as backdoored. One below the
#   90 % that were fixed beforehand is shown and enters no verdict.
# - **The warp is no longer subtle.** A warp that hardly shows is lost among the poses of these shapes; ours moves its control
#   points by half a picture on average, as the figure of triggers shows. Its rows say less about WaNet than about warps.
# - **The rule for the learning rate is part of every result.** The figure of trade-offs shows what other choices would give.
# - **What costs TA-Cleaner its accuracy?** Its term treats the fragments of other pictures as wrong, and in a world of
#   twelve nouns and eight colours many of them are true of the picture as well; captions of photographs collide less. But
#   such collisions grow with $m$. Where the ablation with the whole batch keeps more accuracy than one with few
#   sub-texts, as in the table above on seed 0, what weighs more is the noise of a term that averages over few pairs.
# - **Twelve nouns are few.** A negative sub-text names one of eleven wrong nouns; over a thousand classes a chance hit on
#   the target is rarer. Hence the row in which the target's word is allowed.
#
# <!-- press:deviations -->
#
# ## Exercises
#
# ```{exercise}
# :label: ta-cleaner-one-way
#
# CleanCLIP compares original with augmented in one direction only. Write the symmetric version of $L_{SS}$, and say for
# which pairs the two directions differ.
# ```
#
# ```{solution} ta-cleaner-one-way
# :class: dropdown
#
# $\tfrac14[\mathrm{CE}(s Z \tilde Z^\top) + \mathrm{CE}(s \tilde Z Z^\top) + \ldots]$, and the same for texts. Row $i$ of
# $Z \tilde Z^\top$ asks which augmented picture belongs to picture $i$; row $i$ of the transpose asks which original
# belongs to an augmented picture. They differ when an augmentation makes several pictures alike: then the second question
# has no answer for these, while the first has one for every picture that stayed distinct.
# ```
#
# ```{exercise}
# :label: ta-cleaner-target-word
#
# How often does a negative sub-text name the target by chance, if one of adjective, noun and verb is changed with equal
# chance, a changed noun is a shape half of the time, and wrong shapes are drawn uniformly from eleven? With
# $m = 16$ of 64 pairs, 10 steps an epoch and 5 epochs, how many such sub-texts does the defence see?
# ```
#
# ```{solution} ta-cleaner-target-word
# :class: dropdown
#
# $\tfrac13 \cdot \tfrac12 \cdot \tfrac1{11} \approx 1.5\ \%$, so about 12 of 800. Each of them says that a clean picture
# is *not* the target. That does not touch the trigger, but it is knowledge that a defender does not have, and the row
# *target's word allowed* of the ablations measures what it is worth.
# ```
#
# ```{exercise}
# :label: ta-cleaner-rule
#
# The rule for the operating point looks at clean accuracy only. Use the arrays behind the figure of trade-offs to find,
# for each arm, the learning rate that an oracle with access to attack success would pick. Which claims would read
# differently?
# ```
#
# ## Further reading
#
# CleanCLIP {cite}`bansal2023cleanclip`; BadCLIP {cite}`liang2024badclip`, the attack that the paper is measured on; the chapters on
# UBT and on countermeasures in this book.
