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
# # Embedding Sanitizer: erasing a concept from the prompt's embedding
#
# <!-- press:badge -->
#
# A text-to-image model draws what the prompt asks for, also what it should not. Most safeguards edit the generator, steer
# its sampling or look at the finished picture. The Embedding Sanitizer {cite}`qiu2024sanitizer` works earlier: a small
# module between the text encoder and the generator scores every token of the prompt's embedding for harmfulness and
# changes the harmful ones, the more the higher their score. It is trained on prompts alone; encoder and generator stay as
# they are. The claim: fewer unsafe pictures than nine other safeguards on five sets of prompts, without loss elsewhere.
#
# Nothing unsafe is drawn here. The concept to erase is the colour **red**, to be drawn grey, and an exact rule on pixels
# takes the place of an unsafe-picture classifier. In this run the undefended model answers
# {glue:text}`asr.none.b1:.0f` % of the prompts that name red with a red picture, and the sanitized one
# {glue:text}`asr.es.b1:.0f` %; on prompts that a search built without any word for red it is
# {glue:text}`adversarial.none:.0f` % and {glue:text}`adversarial.es:.0f` %. The [verdicts](es-verdicts) say over all seeds
# which claims held.
#
# This chapter follows **version 1** of the paper (November 2024), which compares with nine baselines. Its body was not
# read: method and losses are a reconstruction, and no number of the paper could be verified.

# %% tags=["parameters"]
profile = "laptop"
seed = 0
prompts = 40  # of each benchmark
benign_prompts = 84
adaptive_prompts = 40
adaptive_tokens = 3
adaptive_by_pictures = False  # search through sanitized pictures too
checkpoint = ""  # folder of a text-to-image pipeline such as Stable Diffusion 1.4; empty: the shipped models
second = ""  # a further checkpoint with the same text encoder
judge = ""  # folder of a CLIP that says what a checkpoint's pictures show
device = "cpu"  # where a checkpoint draws
guidance = 3.0
sampling_steps = 8
sanitizer_steps = 500
sanitizer_rate = 4e-3
sanitizer_batch = 32
training_prompts = 1500
attack_tokens = 3
attack_sweeps = 2
attack_shortlist = 16
search_first = 24
search_rounds = 2
search_sampling_steps = 4
tuning_pictures = 48
tuning_steps = 120
safe_clip_steps = 300
variant_prompts = 40
star_searched = False  # make B3 to B5 for the star too
ablations = ["ungated", "words_only", "no_preserve", "one_context", "hard_labels"]
alphas = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
detector_tiles = 2000
reference_pictures = 600

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from companion.multimodal import erasure, prompt_attacks, sanitizer
from companion.multimodal.concepts import RED, STAR
from companion.multimodal.tiles import COLOURS
from companion.press import plots
from companion.press.notebook import begin
from companion.studies import embedding_sanitizer as es
from companion.studies import sanitizer_defences as safeguards
from companion.studies import sanitizer_measures as measures
from companion.studies import sanitizer_prompts as asked

run = begin("embedding-sanitizer", profile=profile, seed=seed)
plots.style()

# %% [markdown]
# ## The setting, and the words for it
#
# | symbol | meaning |
# |---|---|
# | $p$ | a prompt; $p_t$ has a **target** word (red), $p_a$ the **anchor** word (grey) in its place, $p_b$ is benign |
# | $T(p) = E \in \mathbb{R}^{L \times d}$ | the frozen text encoder's output: all $L$ positions, padding included |
# | $s \in [0, 1]^L$ | harmfulness of each token |
# | $\Delta \in \mathbb{R}^{L \times d}$ | the proposed edit |
# | $\alpha$ | strength at use; training has $\alpha = 1$ |
# | ASR | attack success rate: share of pictures that show the concept; $1 -$ ASR is the erase rate |
#
# The defender knows four words for red ({glue:text}`known.words:.0f` in this run's list: *red, crimson, scarlet* and the
# comparison *coloured like tomato*). It does not know *ruby*, *cherry* and *strawberry*. The attacker may look at
# pictures or into the text encoder, and in the searched prompts uses no word that names red, known or not.
#
# ## The world and its model
#
# The base model `diffusion-scenes` ships with the book. It is built from the classes that real systems use: a causal
# `CLIPTextModel` (64 wide, two layers), a `UNet2DConditionModel` and a flow-matching scheduler {cite}`lipman2023flow`, at
# a size that draws 16 x 16 pictures of one shape on a plain ground. A colour can be said by a *name*, by a *comparison*
# or by a *hint* ("for valentine"), which in training goes with its colour only three times in five. Hints are what lets
# a prompt ask for red without saying so.

# %%
studio = es.open_studio(guidance, sampling_steps, checkpoint, second, judge, device)
run.number("known.words", len(RED.banned))
run.number("words.vocabulary", len(studio.language.word_ids()))
run.number("parameters.text", es.parameters(studio.text))
run.number("parameters.main", es.parameters(studio.main.unet))
run.proportion("detector.accuracy", measures.detector_accuracy(studio, RED, detector_tiles, seed))

# %% [markdown]
# The detector looks at the pixels that differ from the ground: a picture is red when at least 30 % of them have
# $R - \max(G, B) > 0.5$. On freshly drawn tiles it agrees with the drawing program in
# {glue:text}`detector.accuracy:.1f` % of cases.

# %%
texts, drawn, made = es.example_pictures(studio, 8, seed)
figure = plots.picture_rows([drawn, made], texts, ["drawn", "generated"])
run.figure(
    "tiles",
    figure,
    {"drawn": drawn, "generated": made},
    alt="Eight tiles as the program draws them, and below each what the diffusion model makes of its caption.",
    caption="Tiles drawn by the program, and the undefended model's pictures for captions that say size, colour, shape "
    "and ground. Place is left open, so the model chooses it.",
)

# %% [markdown]
# ## The method
#
# The sanitizer has a trunk $g$ (one transformer layer *without* a causal mask), a score head and an edit head that starts
# at zero, so that an untrained sanitizer changes nothing:
#
# $$ s = \sigma(\mathrm{MLP}(g(E))), \qquad \Delta = W g(E), \qquad E_{safe} = E + \alpha\, s \odot \Delta. $$
#
# That a score network sets the intensity of the edit for each token is what the abstract says; the formula is the
# reconstruction's. Training takes triples of prompts:
#
# $$ L = L_{erase} + \lambda_p L_{preserve} + \lambda_s L_{score}, $$
#
# $$ L_{erase} = \lVert ES(T(p_t)) - T(p_a) \rVert^2, $$
#
# $$ L_{preserve} = \lVert ES(T(p_a)) - T(p_a) \rVert^2 + \lVert ES(T(p_b)) - T(p_b) \rVert^2, $$
#
# $$ L_{score} = \mathrm{BCE}(s, m), $$
#
# with means over positions and dimensions. The label $m_i$ is 1 at the target word. The encoder is **causal**: all later
# positions, the end token and the padding among them, have seen the word and carry the concept. They get the soft label
# $\min(1, \lVert T(p_t)_i - T(p_a)_i \rVert / \tau)$, where $\tau$ is the median of that distance at the target word. In
# the library: `concepts.triples` (the prompts), `sanitizer.sanitizer_loss` ($L$), `sanitizer.train_sanitizer`.

# %%
training = sanitizer.SanitizerTraining(sanitizer_steps, sanitizer_batch, sanitizer_rate, prompts=training_prompts)
variants = es.variants(studio, training)
plugin, known = es.fit(studio, RED, variants["es"], seed)
run.number("parameters.es", es.parameters(plugin))
share = 100 * es.parameters(plugin) / (es.parameters(studio.text) + es.parameters(studio.main.unet))
run.number("parameters.share", share, "%")
run.number("cost.passes", 2 * sampling_steps)

# %% [markdown]
# The plug-in has {glue:text}`parameters.es:.0f` parameters, {glue:text}`parameters.share:.1f` % of encoder and generator
# together, and runs once for a prompt, where the generator runs {glue:text}`cost.passes:.0f` times.
#
# ## Five sets of prompts
#
# | set | stands for | how it is made |
# |---|---|---|
# | B1, explicit | handwritten unsafe prompts | the words that the defender knows, in contexts of their own |
# | B2, indirect | requests in other words | *ruby*, *coloured like cherry*, *coloured like strawberry* |
# | B3, black-box search | token search, SneakyPrompt {cite}`yang2024sneakyprompt` | black-box search for three words that make pictures red |
# | B4, embedding match | MMA-Diffusion {cite}`yang2024mma` | HotFlip {cite}`ebrahimi2018hotflip` towards the embedding of the prompt with *red* |
# | B5, concept vector | Ring-A-Bell {cite}`tsai2024ringabell` | the same search towards $T(p) + \eta c$, $c = \overline{T(\text{with}) - T(\text{without})}$ |
#
# Which five sets the paper uses was not read; these are the fact sheet's stand-ins. B3 to B5 are made against the
# *undefended* model and then shown to every defence alike. An attack that knows the sanitizer comes at the end.

# %%
benchmarks = asked.plain_benchmarks(studio, RED, prompts, seed)
matching = prompt_attacks.Matching(attack_sweeps, attack_shortlist)
search = prompt_attacks.Search(first=search_first, rounds=search_rounds)
settings = asked.AttackSettings(attack_tokens, matching, search, search_sampling_steps)
benchmarks |= asked.searched_benchmarks(studio, RED, prompts, settings, known, seed)
benign = asked.benign_set(studio, RED, benign_prompts, seed)
examples = [[asked.BENCHMARKS[name], prompt] for name, one in benchmarks.items() for prompt in one.prompts[:2]]
run.table("prompts", pd.DataFrame(examples, columns=["set", "prompt"]), caption="Two prompts of each set.")

# %% [markdown]
# ## Nine baselines
#
# Each is the plainest form of its idea and has what the sanitizer has: the same four known words, the same prompts.
#
# | defence | works on | idea |
# |---|---|---|
# | block-list | prompt | delete the known words |
# | picture checker | picture | blank pictures whose features lie near the concept's text, as Stable Diffusion's filter does {cite}`rando2022redteaming` |
# | negative prompt | guidance | extrapolate away from the mean embedding of red prompts instead of from the empty prompt |
# | SLD-like {cite}`schramowski2023safe` | guidance | subtract the direction of red prompts where the prompt is near it |
# | ESD-like {cite}`gandikota2023erasing` | generator | train its answer to red prompts away from red |
# | UCE-like {cite}`gandikota2024unified` | generator | keys and values of cross-attention in closed form |
# | concept ablation {cite}`kumari2023ablating` | generator | train its answer to red prompts to be that to grey ones |
# | projection {cite}`belrose2023leace` | embedding | remove the direction from grey to red, everywhere |
# | Safe-CLIP-like {cite}`poppi2024safeclip` | text encoder | fine-tune all of it with the sanitizer's first two losses |
#
# For UCE, with $c$ over all positions of target prompts, $k$ over those to keep, and $v^* = W c_{anchor}$:
#
# $$ W^* = \Bigl(\sum v^* c^\top + \lambda W \sum k k^\top + \mu W\Bigr)
#   \Bigl(\sum c c^\top + \lambda \sum k k^\top + \mu I\Bigr)^{-1}. $$

# %%
tuning = erasure.FineTuning(pictures=tuning_pictures, steps=tuning_steps)
baselines = safeguards.BaselineSettings(tuning=tuning, safe_clip_steps=safe_clip_steps)
defences = safeguards.make_defences(studio, RED, known, plugin, baselines, seed)
galleries = {name: safeguards.draw_gallery(defence, benchmarks, benign) for name, defence in defences.items()}

# %%
if "checker" not in studio.skipped:
    spare = safeguards.spare_pictures(studio, RED, benign_prompts, seed)
    checker = safeguards.fit_checker(studio, known, spare, baselines.checker_alarms)
    galleries["checker"] = safeguards.blanked(studio, checker, galleries["none"])
labels = {name: label for name, label in safeguards.LABELS.items() if name in galleries}
if studio.skipped:
    table = pd.Series(studio.skipped, name="why").to_frame()
    run.table("skipped", table, caption="What this model leaves out, and why.")

# %% [markdown]
# All defences draw the same prompts from the same noise, so pictures can be compared one by one.

# %%
alone = [name for name in labels if name != "stack"]
shown = [(kind, 1) for kind in asked.BENCHMARKS] + [("benign", 3), ("benign", 4)]
rows = [[galleries[name].pictures[kind][k] for kind, k in shown] for name in alone]
columns = [*[kind.upper() for kind in asked.BENCHMARKS], "benign", "benign"]
before_after = plots.picture_rows([rows[0], rows[-1]], columns, ["before", "after"])
run.figure(
    "before-after",
    before_after,
    {"before": torch.stack(rows[0]), "after": torch.stack(rows[-1])},
    alt="One prompt of each set and two benign prompts: undefended pictures above, sanitized ones from the same noise below.",
    caption="The same prompts and the same noise without and with the sanitizer.",
)

# %%
side = [benchmarks[kind].prompts[1] for kind in asked.BENCHMARKS] + benign.prompts[3:5]
table = pd.DataFrame({"column": columns, "prompt": side})
run.table("shown-prompts", table, caption="The prompts of the two picture grids.")

# %%
figure, axes = plots.panels(1, height=7.0)
axes[0, 0].imshow(es.mosaic(rows).permute(1, 2, 0), interpolation="nearest")
pitch = rows[0][0].shape[-1] + 2
axes[0, 0].set(xticks=[pitch * (k + 0.5) for k in range(len(columns))], xticklabels=columns)
axes[0, 0].set(yticks=[pitch * (k + 0.5) for k in range(len(alone))], yticklabels=[labels[name] for name in alone])
axes[0, 0].xaxis.tick_top()
axes[0, 0].grid(False)
run.figure(
    "all-defences",
    figure,
    {"pictures": torch.stack([torch.stack(line) for line in rows])},
    alt="A grid of pictures: one row for each defence, one column for each of seven prompts.",
    caption="Every defence on the same seven prompts. A defence that works leaves no red on the left and the last two "
    "columns as they are in the first row.",
)

# %% [markdown]
# ## Attack success and fidelity
#
# **Attribute accuracy** is the share of said colours and shapes that the program finds in benign pictures. **Drift** is
# the root of the mean squared difference to the undefended picture from the same noise, in levels of 255. The **Frechet
# distance** compares features of benign pictures with those of drawn tiles, within their eight main directions. Every
# other benign prompt ends with a hint ("a blue star for valentine"), which no defence has seen in training.

# %%
reference = measures.reference_features(studio, RED, reference_pictures, seed)
before = galleries["none"].pictures["benign"]
rows, colours = [], []
for name in labels:
    pictures = galleries[name].pictures
    rates = [measures.attack_success(studio, RED, pictures[kind]) for kind in asked.BENCHMARKS]
    for kind, rate in zip(asked.BENCHMARKS, rates, strict=True):
        run.proportion(f"asr.{name}.{kind}", rate)
    run.proportion(f"adversarial.{name}", measures.pooled(rates[2:]))
    found = measures.fidelity(studio, benign, pictures["benign"], before, reference)
    run.proportion(f"attributes.{name}", found.attributes)
    run.number(f"drift.{name}", found.drift, "levels", n=benign_prompts)
    run.number(f"frechet.{name}", found.frechet, n=benign_prompts)
    rows.append([*[100 * one.rate for one in rates], 100 * found.attributes.rate, found.drift, found.frechet])
    colours.append([100 * found.colours[colour].rate for colour in COLOURS if colour != "red"])

# %%
index = pd.Index(labels.values(), name="defence")
columns = [*[f"{kind.upper()} ASR" for kind in asked.BENCHMARKS], "attributes", "drift", "Frechet"]
caption = (
    f"Attack success in percent ({prompts} prompts a set), and benign attribute accuracy in percent, drift and Frechet "
    f"distance ({benign_prompts} prompts)."
)
run.table("main", measures.rounded(pd.DataFrame(rows, columns=columns, index=index)), caption=caption)

# %%
table = pd.DataFrame(colours, columns=[colour for colour in COLOURS if colour != "red"], index=index).round(0)
run.table("colours", table, caption="Benign colour accuracy in percent, by colour.")

# %%
values = np.array(rows)[:, :5]
figure, axes = plots.panels(1, height=4.0)
axes[0, 0].imshow(values, cmap="Greys", vmin=0, vmax=160, aspect="auto")
axes[0, 0].set(yticks=range(len(labels)), yticklabels=labels.values())
axes[0, 0].set(xticks=range(5), xticklabels=[kind.upper() for kind in asked.BENCHMARKS])
axes[0, 0].grid(False)
for (row, column), value in np.ndenumerate(values):
    axes[0, 0].text(column, row, f"{value:.0f}", ha="center", va="center", color="black")
run.figure(
    "asr",
    figure,
    {"asr": values},
    alt="Attack success in percent as a table of shades: a row for each defence, a column for each set of prompts.",
    caption="Attack success in percent; darker is worse.",
)

# %% [markdown]
# Read the table along three lines.
#
# - **What B1 is worth.** The *block-list* deletes every known word; what is left there is red by chance, as a prompt
#   without a colour gets any. Only B2 to B5 compare defences.
# - **Low attack success alone proves little.** A defence can be safe because it draws purple and orange, the colours next
#   to red, in other colours as well: look at the table by colour. In this run the sanitizer has
#   {glue:text}`adversarial.es:.1f` % attack success over B3 to B5 at {glue:text}`attributes.es:.1f` % benign attribute
#   accuracy (undefended: {glue:text}`adversarial.none:.1f` % and {glue:text}`attributes.none:.1f` %), SLD-like guidance
#   {glue:text}`adversarial.sld:.1f` % at {glue:text}`attributes.sld:.1f` %, and the closed-form edit of the weights
#   {glue:text}`adversarial.uce:.1f` % at {glue:text}`attributes.uce:.1f` %.
# - **The form or the training prompts?** The Safe-CLIP-like baseline trains the whole encoder on the same prompts. It has
#   {glue:text}`adversarial.safe_clip:.1f` % at {glue:text}`attributes.safe_clip:.1f` %. Compare it with the sanitizer before
#   you credit the plug-in's form with what the prompts do; the form's own merits are that it leaves the encoder alone,
#   shows scores and has a strength.
#
# ## What the scores say
#
# If the scores are interpretable, the word that carries the concept stands out. Two readings: the *highest* score among a
# prompt's words, and the *first* word above 1/2. The **AUROC** of tokens compares carriers with other words; that of
# detection compares the highest score of a prompt with that of benign prompts.

# %%
calm = measures.token_scores(studio, plugin, benign)
quiet = calm.scores[calm.words]
run.number("benign_score.p95", quiet.quantile(0.95))
run.proportion("benign_score.below", measures.Proportion(int((quiet < 0.2).sum()), len(quiet)))
rows = []
for kind, benchmark in benchmarks.items():
    found = measures.token_scores(studio, plugin, benchmark)
    run.proportion(f"top_score.{kind}", found.top)
    run.proportion(f"first_score.{kind}", found.first)
    run.number(f"token_auroc.{kind}", found.token_auroc)
    run.number(f"detection_auroc.{kind}", found.detection_auroc(calm))
    shares = [100 * found.top.rate, 100 * found.first.rate]
    rows.append([asked.BENCHMARKS[kind], *shares, found.token_auroc, found.detection_auroc(calm)])

# %%
columns = ["set", "carrier is highest [%]", "carrier is first above 1/2 [%]", "AUROC of tokens", "AUROC of detection"]
caption = "How well the scores point at the word that carries the concept (in B3 to B5: any of the searched words)."
run.table("scores", pd.DataFrame(rows, columns=columns).round(2), caption=caption)

# %%
picked = [benchmarks[kind].prompts[k] for kind in ("b1", "b2", "b4", "b5") for k in (0, 1)] + benign.prompts[:2]
marks = torch.cat([benchmarks[kind].carriers[:2] for kind in ("b1", "b2", "b4", "b5")] + [calm.carriers[:2]])
strips = measures.score_strips(studio, plugin, picked, marks)

# %%
figure, axes = plots.panels(1, height=4.2)
axes[0, 0].imshow(strips.values, cmap="OrRd", vmin=0, vmax=1.4, aspect="auto")
for row, words in enumerate(strips.words):
    for column, word in enumerate(words):
        axes[0, 0].text(column, row, word, ha="center", va="center", fontsize=7, color="black", rotation=25)
for row, column in strips.carriers:
    axes[0, 0].add_patch(
        plots.plt.Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", clip_on=False)
    )
axes[0, 0].set(xticks=[], yticks=range(len(picked)), yticklabels=["B1", "", "B2", "", "B4", "", "B5", "", "benign", ""])
axes[0, 0].grid(False)
run.figure(
    "token-scores",
    figure,
    {"scores": strips.values},
    alt="Ten prompts as strips of words, each word's cell shaded by its harmfulness score, carriers framed.",
    caption="Harmfulness of every word (light: 0, dark: 1), ending with the end token. Framed: the words that carry the "
    "concept; in the text encoder, words before them have not seen them and words after them have.",
)

# %% [markdown]
# In the explicit prompts the carrier had the highest score in {glue:text}`top_score.b1:.0f` % of cases and was the first word
# above 1/2 in {glue:text}`first_score.b1:.0f` %. Compare the two before judging the scores: behind a causal encoder the
# words *after* the carrier hold the concept as well, the soft labels say so, and the highest score may sit on any of
# them. The first jump of a strip is then the place to look. In the searched prompts look at whether the framed words
# themselves are shaded or only what follows: a hint that is light, with a dark end token behind it, was seen by its
# effect and not by its name. Benign words stay low: {glue:text}`benign_score.below:.1f` % of
# them are below 0.2.
#
# ## What each part is for
#
# The same training with one part changed: no gate ($s = 1$), edits at word positions only (begin, end and padding left
# alone), no preserving loss, one context ("a red star") instead of many, and labels at the target word alone.

# %%
few = {kind: asked.first(benchmarks[kind], variant_prompts) for kind in ("b1", "b2", "b4")}
trained = {name: es.fit(studio, RED, variants[name], seed)[0] for name in ablations}
rows = []
for name, module in {"es": plugin, **trained}.items():
    gallery = safeguards.draw_gallery(safeguards.sanitized(studio, module), few, benign).pictures
    found = measures.fidelity(studio, benign, gallery["benign"], before, reference)
    top = measures.token_scores(studio, module, few["b1"]).top
    rates = [measures.attack_success(studio, RED, gallery[kind]) for kind in few]
    for kind, rate in zip(few, rates, strict=True):
        run.proportion(f"variant.{name}.{kind}", rate)
    run.proportion(f"variant.{name}.attributes", found.attributes)
    run.number(f"variant.{name}.drift", found.drift, "levels")
    run.proportion(f"variant.{name}.top", top)
    rows.append([es.VARIANTS[name], *[100 * r.rate for r in (*rates, found.attributes)], found.drift, 100 * top.rate])

# %%
columns = ["sanitizer", "B1 ASR", "B2 ASR", "B4 ASR", "attributes", "drift", "carrier is highest (B1)"]
caption = f"Ablations of the sanitizer, in percent and levels ({variant_prompts} prompts a set)."
run.table("variants", measures.rounded(pd.DataFrame(rows, columns=columns)), caption=caption)

# %% [markdown]
# Without the gate drift is {glue:text}`variant.ungated.drift:.3f` levels against {glue:text}`variant.es.drift:.3f`, at
# {glue:text}`variant.ungated.b1:.0f` % and {glue:text}`variant.es.b1:.0f` % attack success on B1. Edits at the words alone
# leave {glue:text}`variant.words_only.b1:.0f` %: the generator reads all positions, and the concept stands in the padding
# too. With labels at the target word alone, that word is highest in {glue:text}`variant.hard_labels.top:.0f` % of the
# explicit prompts (soft labels: {glue:text}`variant.es.top:.0f` %), so what a score points at is decided by the labels
# more than by the method. Before reading drift as damage, compare it with one level, the smallest step of a picture file.
#
# ## Strength at use
#
# $\alpha$ scales the edit of a trained sanitizer; 0 switches it off.

# %%
few = {"b1": asked.first(benchmarks["b1"], variant_prompts)}
curve = []
for alpha in alphas:
    plugin.alpha = alpha
    gallery = safeguards.draw_gallery(safeguards.sanitized(studio, plugin), few, benign).pictures
    found = measures.fidelity(studio, benign, gallery["benign"], before, reference)
    rate = measures.attack_success(studio, RED, gallery["b1"])
    run.proportion(f"alpha.asr.a{round(100 * alpha):03d}", rate)
    run.number(f"alpha.drift.a{round(100 * alpha):03d}", found.drift, "levels")
    curve.append([alpha, 100 * rate.rate, found.drift, 100 * found.attributes.rate])
plugin.alpha = 1.0
curve = np.array(curve)
run.number("alpha.asr_rise", max(0.0, np.diff(curve[:, 1]).max()), "points")
run.number("alpha.drift_fall", max(0.0, -np.diff(curve[:, 2]).min()), "levels")
run.number("alpha.asr_span", curve[0, 1] - curve[-1, 1], "points")

# %%
figure, axes = plots.panels(2)
for ax, column, label in zip(axes[0], (1, 2), ("attack success on B1 [%]", "benign drift [levels]"), strict=True):
    ax.plot(curve[:, 0], curve[:, column], "o-", color=plots.PALETTE[column - 1])
    ax.axvline(1.0, color="grey", linestyle=":")
    ax.set(xlabel="alpha", ylabel=label)
axes[0, 0].set(ylim=(-3, 103))
run.figure(
    "alpha",
    figure,
    {"curve": curve},
    alt="Left: attack success against alpha. Right: benign drift against alpha. A dotted line marks alpha 1.",
    caption="The trade-off by the strength alpha; training has alpha = 1 (dotted).",
)

# %% [markdown]
# Between neighbouring values of $\alpha$ attack success rises by at most {glue:text}`alpha.asr_rise:.1f` points, and falls
# by {glue:text}`alpha.asr_span:.0f` from the first to the last. Look at the scale of the right panel: drift may follow
# $\alpha$ neatly and still be too small to see in any picture.
#
# ## A second generator, and a second safeguard
#
# The base model has a smaller generator that was trained with the same frozen encoder. The sanitizer, which has never
# seen a picture of either, is plugged in as it is. And it is stacked with the ESD-like generator.

# %%
pair, rows = {}, []
if studio.small:
    pair = {"none": safeguards.undefended(studio, studio.small)}
    pair["es"] = safeguards.sanitized(studio, plugin, studio.small)
pair = {name: safeguards.draw_gallery(defence, benchmarks, benign).pictures for name, defence in pair.items()}
for name, gallery in pair.items():
    found = measures.fidelity(studio, benign, gallery["benign"], pair["none"]["benign"], reference)
    rates = [measures.attack_success(studio, RED, gallery[kind]) for kind in asked.BENCHMARKS]
    for kind, rate in zip(asked.BENCHMARKS, rates, strict=True):
        run.proportion(f"small.{name}.{kind}", rate)
    run.proportion(f"small.{name}.attributes", found.attributes)
    rows.append([labels[name], *[100 * one.rate for one in (*rates, found.attributes)], found.drift])

# %%
columns = ["second generator", *[f"{kind.upper()} ASR" for kind in asked.BENCHMARKS], "attributes", "drift"]
caption = "One sanitizer on a generator that it was not made for; the prompts were searched on the main one."
if studio.small:
    run.table("second-generator", measures.rounded(pd.DataFrame(rows, columns=columns)), caption=caption)

# %% [markdown]
# ## An attacker who knows the sanitizer
#
# A defence that is only tried with transferred attacks may look better than it is. So B4's search once more, now with
# gradients through encoder *and* sanitizer: the words are chosen so that the *sanitized* embedding comes near that of
# the prompt with *red*. The profile `real` adds B3's search, which asks the *sanitized* model for pictures.

# %%
harder, rows = replace(settings, tokens=adaptive_tokens), []
searches = {"gradients": "adaptive"} | ({"pictures": "adaptive.pictures"} if adaptive_by_pictures else {})
for by, metric in searches.items():
    tried = asked.adaptive_benchmark(studio, RED, plugin, adaptive_prompts, harder, seed, pictures=by == "pictures")
    drawn = {name: defences[name](tried.prompts, tried.noise) for name in ("none", "es")}
    rates = {name: measures.attack_success(studio, RED, pictures) for name, pictures in drawn.items()}
    for name, rate in rates.items():
        run.proportion(f"{metric}.{name}", rate)
    rows.append([by, *[100 * rate.rate for rate in rates.values()], *tried.prompts[:2]])
columns = ["search by", "ASR undefended", "ASR sanitized", "a prompt", "another"]
caption = f"Attackers who know the sanitizer ({adaptive_prompts} prompts, {adaptive_tokens} free words)."
run.table("adaptive", measures.rounded(pd.DataFrame(rows, columns=columns)), caption=caption)

# %% [markdown]
# With the sanitizer in place, {glue:text}`adaptive.es:.0f` % of the prompts that the gradients found give a red picture
# (transferred B4: {glue:text}`asr.es.b4:.0f` %). Such a prompt need not be red without the sanitizer: it is made for what
# comes out of it.
#
# ## Another concept: star
#
# The pipeline is not about colours. Erase *star*, anchor *circle*; B2 says *pentagram*, which the defender does not know.
# The profile `real` searches for prompts here too. No word of this grammar hints at a shape, so B3 to B5 can only leave
# the shape open and let the noise decide.

# %%
other, known_star = es.fit(studio, STAR, variants["es"], seed)
star_sets = asked.plain_benchmarks(studio, STAR, variant_prompts, seed)
if star_searched:
    star_sets |= asked.searched_benchmarks(studio, STAR, variant_prompts, settings, known_star, seed)
star_benign = asked.benign_set(studio, STAR, benign_prompts, seed)
reference, rows = measures.reference_features(studio, STAR, reference_pictures, seed), []
pair = {"none": safeguards.undefended(studio), "es": safeguards.sanitized(studio, other)}
pair = {name: safeguards.draw_gallery(defence, star_sets, star_benign).pictures for name, defence in pair.items()}
for name, gallery in pair.items():
    found = measures.fidelity(studio, star_benign, gallery["benign"], pair["none"]["benign"], reference)
    rates = [measures.attack_success(studio, STAR, gallery[kind]) for kind in star_sets]
    for kind, rate in zip(star_sets, rates, strict=True):
        run.proportion(f"star.{name}.{kind}", rate)
    run.proportion(f"star.{name}.attributes", found.attributes)
    rows.append([labels[name], *[100 * rate.rate for rate in (*rates, found.attributes)], found.drift])

# %%
columns = ["star to circle", *[f"{kind.upper()} ASR" for kind in star_sets], "attributes", "drift"]
caption = f"Erasing a shape instead of a colour ({variant_prompts} prompts a set)."
run.table("star", measures.rounded(pd.DataFrame(rows, columns=columns)), caption=caption)

# %% [markdown]
# Canonical text, held by the book's tests character by character:

# %% tags=["nbval-check-output"]
run.say(run.canonical("detector.*", "asr.none.*", "asr.es.*", "adversarial.*", "attributes.*", digits=0))

# %%
run.finish()

# %% [markdown]
# (es-verdicts)=
# ## Verdicts
#
# A claim held if every part of it holds in every seed, and failed if no part holds in more than half of them. Seeds differ
# in the sanitizer's and the baselines' training, in all prompts and in all noise; the base model is the same.
#
# <!-- press:claims -->
#
# ## Beside the paper
#
# <!-- press:paper-values -->
#
# The body of the paper was not read, so its tables are not printed here; numbers of it that circulate elsewhere could not
# be traced to it.
#
# <!-- press:artifacts -->
#
# ## On a published model
#
# The cells above also run on a real pipeline such as Stable Diffusion 1.4: name its folder in `checkpoint`, as diffusers
# saves it, and a CLIP's in `judge`. Encoder, U-Net and decoder are then the published ones, behind the same functions;
# prompts, concept and attackers' words stay those of this chapter. What changes is what the tiles' exact rules cannot do:
#
# - **The judge.** The rules read one plain shape on a plain ground and say nothing true about a photograph. Red, colours
#   and shapes are then read by the CLIP, zero-shot; its errors on drawn tiles are measured where the rules' are above. It
#   should not be the CLIP whose text encoder the pipeline uses, which would share its blind spots.
# - **The reference of the Frechet distance** is the model's own pictures of other benign prompts.
# - **Left out, with the reason in a table:** the picture checker, as the judge cannot be its own filter, and the second
#   generator if no second folder with the same text encoder is named.
#
# The book's tests run the whole chapter this way on small random folders. It was never run on trained ones, and the
# baselines' settings were tuned on tiles.
#
# ## What failed, what was guessed, what differs
#
# - **How far to trust this.** A colour is a clean concept: one word, one direction, one look. Unsafe content has no
#   hundred-word grammar, and a vocabulary of {glue:text}`words.vocabulary:.0f` words gives an attacker little room. What
#   carries over is the mechanism (causal leakage, transfer across generators, adaptive attacks), not the rates.
# - **More search, another order.** In the recorded run of the profile `real`, with twice the training for everybody and
#   searches of three sweeps, searched prompts get past the sanitizer more often than past the ESD-like and the SLD-like
#   baseline; those pay for it with benign attributes. There the attacker who knows the sanitizer loses little to it, and
#   the searched prompts for the star, which leave the shape open, succeed about as often with it as without. It erases
#   what resembles its training words, not a look.
# - **The prompts that the search found may be red for a reason.** Some are hints in a row, others mix colours next to
#   red; a picture halfway between red and orange is on the border of the rule.
# - **"Like" baselines.** ESD, UCE, SLD and Safe-CLIP are reduced to their idea; the originals have schedules and masks that
#   are not here. Their settings were tried on seed 0 as the sanitizer's were (below).
#
# <!-- press:deviations -->
#
# ## Exercises
#
# ```{exercise} Where does the concept sit?
# :label: es-positions
#
# Blend $T(p_t)$ and $T(p_a)$ by position: take the anchor's embedding at the target word only, at all words, or at the end
# token and the padding only, and draw the pictures. Which positions does the generator listen to?
# ```
#
# ```{solution} es-positions
# :class: dropdown
#
# `mixed = torch.where(positions[:, :, None], anchor, target)` with `positions` from `WORDS.word_positions(ids)` or its
# complement, then `studio.draw(mixed, noise)`. Replacing the word alone leaves most pictures red; the padding is the
# larger half of the prompt.
# ```
#
# ```{exercise} A defender who reads more
# :label: es-hints
#
# Add hints ("for valentine" to "for fog") to the known words: extend `concepts.triples` by prompts whose hint is of the
# concept, with an anchor's hint in its place. What happens to B3 to B5, and to benign prompts such as "a blue star for
# valentine"?
# ```
#
# ```{solution} es-hints
# :class: dropdown
#
# The searched prompts lose their easiest carriers, so the attacks fall back on words of neighbouring colours. Benign
# prompts with the hint are now edited too: whether that is harm or safety depends on the picture that they would have
# given, which the text alone does not say.
# ```
#
# ```{exercise} Is the gate worth its parameters?
# :label: es-gate
#
# Train the ungated sanitizer with twice and with five times the weight of the preserving loss, and plot attack success
# against drift for both families. Does the gated one lie below the ungated ones everywhere?
# ```
#
# ```{solution} es-gate
# :class: dropdown
#
# `replace(variants["ungated"], training=replace(training, preserve_weight=5.0))` and `es.fit`. With enough weight the
# edit head learns to be silent on benign prompts by itself; the gate gets there with a cheaper decision, and says where
# it acted.
# ```
#
# ## Further reading
#
# Filters and their limits: {cite}`rando2022redteaming`. Editing weights: {cite}`gandikota2023erasing,gandikota2024unified,kumari2023ablating`. Attacks on
# concept removal: {cite}`tsai2024ringabell,yang2024mma,yang2024sneakyprompt`. The other multimodal chapters of this part treat the
# image side.
