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
# # RBNN: one set of binary weights, many tasks, one key each
#
# <!-- press:badge -->
#
# A binary neural network keeps one bit for each weight, which suits devices that have little memory. RBNN
# {cite}`qiu2022rbnn` asks two things more of these bits: that the *same* bits serve several tasks, each called up by
# its key, and that they are worth nothing without the key and without the one chip that the key is bound to. The
# paper reports up to seven tasks, six of pictures and one of sounds, in one network of VGG, ResNet or ReActNet kind,
# with "no or negligible" loss of accuracy.
#
# This chapter builds such a network from single bits upwards: layers, keys, a chip's fingerprint, files in which a
# weight really takes one bit, and arithmetic that really counts bits. Then it measures what sharing costs and what a
# thief gets. In this run, four tasks in one small network lose {glue:text}`drop.vgg.m4:.1f` points of accuracy on
# average against a network for each, and seven lose {glue:text}`drop.vgg.m7:.1f`; under a wrong key the accuracy lies
# {glue:text}`wrong_key.mean_excess:.1f` points above guessing. The [verdicts](rbnn-verdicts) say over all seeds
# which claims held.
#
# Only the abstract of the paper could be read. **How** the reconfiguration works is therefore our reconstruction, and
# so are all settings; what the abstract says is marked as such.

# %% tags=["parameters"]
profile = "laptop"
seed = 0
tasks = "embedded"  # or "real"
side = 16  # pixels along a picture
train_size = 1000  # images of each task, at most
test_size = 400
width_vgg = 16
width_resnet = 20
width_reactnet = 16
epochs = 16
batch_size = 50
learning_rate = 0.03
task_counts = [2, 4, 7]  # M for the VGG-like network
compared = 4  # M for the other networks and ways of sharing
wrong_keys = 8  # keys, devices and users that are tried against each task
reads = 400  # of the fingerprint, at each noise
attack_share = 0.1  # of a task's training images that a thief has
attack_steps = 80
timed_images = 200
device = "cpu"

# %%
import numpy as np
import pandas as pd
import torch

from companion.binary import device as devices
from companion.binary.training import BinaryTraining
from companion.press import plots
from companion.press.notebook import begin
from companion.statistics import Proportion
from companion.store import default_store
from companion.studies import rbnn, rbnn_arena

run = begin("rbnn", profile=profile, seed=seed)
plots.style()
store = default_store()

# %% [markdown]
# ## The problem, and the words for it
#
# A maker sells a device that runs classifiers, and sells the right to use each of them. Three parties could cheat: a
# buyer who paid for one task and runs another, a buyer who copies the memory to a second device, and a thief who reads
# the memory of any device. All of them can read every file on the device; none of them can read the key of somebody
# who paid, and none can copy the chip itself.
#
# | symbol | meaning |
# |---|---|
# | $M$ | number of tasks |
# | $W \in [-1, 1]^P$ | latent weights, real numbers that exist during training only |
# | $B = \operatorname{sign}(W)$ | the $P$ stored bits, $\operatorname{sign}(0) = +1$ |
# | $k_m$, $K_m \in \{-1, 1\}^P$ | seed (128 bits) and key stream of task $m$ |
# | $B_m = B \odot K_m$ | weights with which task $m$ computes |
# | $u$, $r_d$ | a user's key, and the root key that only device $d$ can compute |
# | $h_m$ | wrapped seed of task $m$, stored on the device |
#
# **Seven tasks**, all brought to small grey pictures of one size, because one network must be able to serve them all:

# %%
arena = rbnn_arena.Arena(
    tasks,
    side,
    train_size,
    test_size,
    {"vgg": width_vgg, "resnet": width_resnet, "reactnet": width_reactnet},
    BinaryTraining(epochs, batch_size, learning_rate),
    seed,
    device,
)
rows = [list(one.images[:8]) for one in arena.train]
figure = plots.picture_rows(rows, [""] * 8, arena.names)

# %%
run.figure(
    "tasks",
    figure,
    {name: torch.stack(row) for name, row in zip(arena.names, rows, strict=True)},
    alt="Eight small grey pictures of each of seven tasks, one task a row; the second row shows spectrograms.",
    caption="The tasks, in the order in which they join: M tasks are the first M rows. The second row is the audio "
    "task, as log-spectrograms (time from left to right, low notes at the bottom).",
)
rows = [
    [task.name, task.modality, len(one.classes), len(one), len(arena.held[number]), arena.chance(number)]
    for number, (task, one) in enumerate(zip(arena.all_tasks, arena.train, strict=True))
]
columns = ["task", "kind", "classes", "training images", "held-out images", "guessing [%]"]
run.table("task-list", pd.DataFrame(rows, columns=columns).round(1), caption="The tasks and the best blind guess.")

# %% [markdown]
# ## The idea: flip the weights by a key
#
# Write $B$ for the stored signs. The effective weights of task $m$ are $B_m = B \odot K_m$: where the key says $-1$, the
# stored sign is flipped. With a bit 1 for $+1$ and 0 for $-1$ that is one XNOR of stored bit and key bit, which costs a
# device next to nothing. Because key streams look random, the weights of two tasks agree in about half of all places,
# although the stored bits are the same. Superposing models by random signs in this way is known from
# {cite}`cheung2019superposition`; new here is that the stored weights are binary and the signs a secret.

# %%
joint = rbnn_arena.train_network(arena, "vgg", range(compared), store)
layer = joint.layers()["convs.0"]
patch = [layer.effective(0)[:16, :, 1, 1], layer.keys[0][:16, :, 1, 1], layer.keys[1][:16, :, 1, 1]]
stored = patch[0] * patch[1]
shown = [stored, patch[1], patch[0], patch[2], stored * patch[2]]
titles = ["stored bits", "key of task 1", "bits of task 1", "key of task 2", "bits of task 2"]
figure, axes = plots.panels(5, height=1.7)
for ax, bits, title in zip(axes[0], shown, titles, strict=True):
    ax.imshow(bits.detach(), cmap="gray", vmin=-1.6, vmax=1.6, interpolation="nearest")
    ax.set(title=title, xticks=[], yticks=[])
    ax.grid(False)
run.number("alike.vgg", rbnn.alike(joint, 0, 1), "%", n=joint.binary_weights())

# %%
run.figure(
    "idea",
    figure,
    {f"bits{number}": bits for number, bits in enumerate(shown)},
    alt="Five panels of black and white cells: stored bits, the key of task 1, their product, the key of task 2 and "
    "that product.",
    caption="A piece of the second layer of a trained network (16 output channels by 16 input channels, middle of the "
    "kernel). Each task's weights are the stored bits XNOR its key.",
)

# %% [markdown]
# In the network of this run, tasks 1 and 2 use {glue:text}`alike.vgg:.1f` % of the weights with the same sign, as two
# coins would.

# %% [markdown]
# ## The method, step by step
#
# ### Binary layers
#
# A sign has no useful slope, so training invents one. The **straight-through estimator** {cite}`hubara2016binarized`
# lets the gradient pass where $|x| \le 1$; ReActNet {cite}`liu2020reactnet` uses the slope of a piecewise polynomial
# (from Bi-Real Net {cite}`liu2018bireal`),
#
# $$ \frac{\partial \operatorname{sign}(x)}{\partial x} \approx \max(0,\ 2 - 2|x|). $$
#
# `companion.binary.binarize` has both. `companion.binary.layers.KeyedConv` is the convolution with $B_m$; its gradient
# sums what all tasks want of a latent weight, each in the sign of its own key:
#
# $$ \frac{\partial L}{\partial W} = \mathbb{1}[|W| \le 1] \odot \sum_m \frac{\partial L_m}{\partial B_m} \odot K_m. $$
#
# Each task has a batch norm of its own (`TaskBatchNorm`), and in the ReActNet-like network its own shifts and slopes
# (`RSign`, `RPReLU`). The head is binary and keyed too; it has as many outputs as the task with the most classes needs.
#
# ### Training all tasks at once
#
# `companion.binary.training.train_tasks` draws a batch of *every* task in each step, adds the gradients and updates $W$
# once, with Adam; then it clips $W$ to $[-1, 1]$. A task sees the same batches whether it is alone or in company, and
# every network starts from the same latent weights, so that a difference comes from the company alone.

# %%
count = len(arena.names)
separate = {"vgg": [rbnn_arena.train_network(arena, "vgg", [task], store) for task in range(count)]}
shared = {("vgg", m): rbnn_arena.train_network(arena, "vgg", range(m), store) for m in task_counts}
for architecture in ("resnet", "reactnet"):
    separate[architecture] = [rbnn_arena.train_network(arena, architecture, [task], store) for task in range(compared)]
    shared[architecture, compared] = rbnn_arena.train_network(arena, architecture, range(compared), store)
alone = {
    name: [rbnn.correct(arena, one, [task])[0] for task, one in enumerate(networks)]
    for name, networks in separate.items()
}
together = {pair: rbnn.correct(arena, one, range(pair[1])) for pair, one in shared.items()}

# %% [markdown]
# ## What sharing costs
#
# The *drop* is the accuracy of a network of one's own minus the accuracy in the shared one, in points, averaged over
# the tasks that share. Its interval is over images and leaves the spread over trainings to the seeds.

# %%
drops = {}
for (architecture, m), right in together.items():
    drops[architecture, m] = drop = rbnn.mean_drop(alone[architecture][:m], right)
    run.number(f"drop.{architecture}.m{m}", drop.value, "points", n=drop.n, ci=drop.interval)
for architecture, own in alone.items():
    for task, right in enumerate(own):
        run.proportion(f"accuracy.{architecture}.alone.{arena.names[task]}", rbnn.share_of(right))
for (architecture, m), answers in together.items():
    for task, right in enumerate(answers):
        run.proportion(f"accuracy.{architecture}.m{m}.{arena.names[task]}", rbnn.share_of(right))
audio = arena.index("audio")
for architecture in separate:
    drop = rbnn.mean_drop([alone[architecture][audio]], [together[architecture, compared][audio]])
    run.number(f"drop_audio.{architecture}", drop.value, "points", n=drop.n, ci=drop.interval)
    drop = drops[architecture, compared]
    run.number(f"drop_compared.{architecture}", drop.value, "points", n=drop.n, ci=drop.interval)
run.number("compared", compared)
run.number("weights.vgg", shared["vgg", compared].binary_weights())

# %%
table = {"task": arena.names}
for architecture, own in alone.items():
    table[f"{architecture} alone"] = rbnn.column(own, count)
    for m in [m for name, m in together if name == architecture]:
        table[f"{architecture} M = {m}"] = rbnn.column(together[architecture, m], count)
run.table(
    "accuracy",
    pd.DataFrame(table).round(1),
    caption="Held-out accuracy in percent of every task, in a network of its own and in networks that M tasks share; "
    "a dash where a task is not among the M.",
)

# %%
figure, axes = plots.panels(2, height=3.2, width_ratios=[1.5, 1])
lines = {"alone": alone["vgg"], **{f"M = {m}": together["vgg", m] for m in task_counts}}
for number, (label, answers) in enumerate(lines.items()):
    shares = [100 * rbnn.share_of(right).rate for right in answers]
    look = {"marker": "oDs^"[number % 4], "color": plots.PALETTE[number], "linestyle": "none", "label": label}
    axes[0, 0].plot(shares, [task + 0.12 * number - 0.18 for task in range(len(shares))], **look)
axes[0, 0].set(xlabel="accuracy [%]", yticks=range(count), yticklabels=arena.names, xlim=(0, 101))
axes[0, 0].invert_yaxis()
axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=4, columnspacing=0.8, handletextpad=0.1)
for number, architecture in enumerate(separate):
    rbnn.draw_drops(axes[0, 1], drops, architecture, number, color=plots.PALETTE[number + 4])
axes[0, 1].axhline(1, color="black", linestyle="--", linewidth=0.8)
axes[0, 1].set(xlabel="tasks M", ylabel="mean drop [points]", xticks=[1, *task_counts])
axes[0, 1].legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3, columnspacing=0.8, handletextpad=0.1)

# %%
run.figure(
    "sharing",
    figure,
    {"names": arena.names, **{f"drop_{name}_{m}": [one.value, *rbnn.ends(one)] for (name, m), one in drops.items()}},
    alt="Left: accuracy of each task alone and with M tasks in the VGG-like network. Right: mean drop against M with "
    "intervals for three architectures.",
    caption="Left: the VGG-like network, task by task. Right: mean drop against the number of tasks, with 95 % "
    "intervals over images; the dashed line is the one point of the abstract.",
)

# %% [markdown]
# The drop of the VGG-like network is {glue:text}`drop.vgg.m2:.1f` points with two tasks, {glue:text}`drop.vgg.m4:.1f`
# with four and {glue:text}`drop.vgg.m7:.1f` with seven. With {glue:text}`compared` tasks, the audio task among them, the
# ResNet-like network loses {glue:text}`drop_compared.resnet:.1f` and the ReActNet-like one
# {glue:text}`drop_compared.reactnet:.1f` points. These networks are tiny and trained for seconds: the VGG-like one has
# {glue:text}`weights.vgg:,.0f` binary weights. One bit cannot please everybody, and how many bits there are to go round
# should decide the drop.

# %% [markdown]
# ### At equal bytes
#
# So give the tasks fewer bits. A network of half the width has about a quarter of the weights, so that four narrow
# networks take as many bytes as one wide one. That is also the comparison that a maker should ask for before sharing
# anything: **one wide network with keys, or narrow networks for each task?**

# %%
half = max(2, width_vgg // 2)
narrow = [rbnn_arena.train_network(arena, "vgg", [task], store, width=half) for task in range(compared)]
crowded = rbnn_arena.train_network(arena, "vgg", range(compared), store, width=half)
wide = shared["vgg", compared]
answers = {
    "one wide network for all": (wide, 1, together["vgg", compared]),
    "a narrow network each": (crowded, compared, [rbnn.correct(arena, one, [t])[0] for t, one in enumerate(narrow)]),
    "one narrow network for all": (crowded, 1, rbnn.correct(arena, crowded, range(compared))),
    "a wide network each": (wide, compared, alone["vgg"][:compared]),
}
rows = []
for name, (network, copies, right) in answers.items():
    accuracies = [100 * rbnn.share_of(one).rate for one in right]
    rows.append([name, network.binary_weights() * copies, np.mean(accuracies), *accuracies])
    run.number(f"equal_bytes.{name.replace(' ', '_')}", np.mean(accuracies), "%", n=sum(map(len, right)))

# %%
drop = rbnn.mean_drop(answers["a narrow network each"][2], answers["one narrow network for all"][2])
run.number("drop_narrow.vgg", drop.value, "points", n=drop.n, ci=drop.interval)
gain = rbnn.mean_drop(answers["one wide network for all"][2], answers["a narrow network each"][2])
run.number("equal_bytes.gain", gain.value, "points", n=gain.n, ci=gain.interval)
columns = ["networks", "binary weights in all", "mean", *arena.names[:compared]]
caption = f"Accuracy in percent of {compared} tasks in VGG-like networks of two widths, shared and separate."
run.table("equal-bytes", pd.DataFrame(rows, columns=columns).round(1), caption=caption)

# %% [markdown]
# At half the width, sharing costs {glue:text}`drop_narrow.vgg:.1f` points, at full width
# {glue:text}`drop_compared.vgg:.1f`. And at about equal bytes, the wide shared network is {glue:text}`equal_bytes.gain:.1f`
# points better than narrow networks of their own (worse, where negative).

# %% [markdown]
# ### Do the keys matter?
#
# Three other ways of sharing, each changing one thing: **no keys** (all tasks use $B$ itself, with their own batch norm),
# **one after the other** (keys, but each task is trained after the one before it, as in the continual learning for
# which superposition was proposed), and **one batch norm** for all tasks.

# %%
rows = []
for sharing in rbnn_arena.SHARING:
    network = rbnn_arena.train_network(arena, "vgg", range(compared), store, sharing)
    right = rbnn.correct(arena, network, range(compared))
    drop = rbnn.mean_drop(alone["vgg"][:compared], right)
    rows.append([sharing, *[100 * rbnn.share_of(one).rate for one in right], drop.value, *rbnn.ends(drop)])
    run.number(f"sharing.{sharing.replace(' ', '_')}", drop.value, "points", n=drop.n, ci=drop.interval)
columns = ["way of sharing", *arena.names[:compared], "mean drop", "from", "to"]
run.table(
    "sharing-ways",
    pd.DataFrame(rows, columns=columns).round(1),
    caption=f"Accuracy in percent of {compared} tasks in one VGG-like network, by how they share it; mean drop in "
    "points with its 95 % interval.",
)

# %% [markdown]
# Keys protect, but do they also help the tasks out of each other's way? The keyed network drops
# {glue:text}`sharing.keyed:.1f` points and the one without keys {glue:text}`sharing.no_keys:.1f`. There is an argument for
# either order: random signs keep tasks from pulling on the same weight in the same direction, and they also forbid two
# tasks to share a useful edge detector. Trained one after the other, the tasks lose
# {glue:text}`sharing.one_after_the_other:.1f` points, most of it by the first ones; with one batch norm,
# {glue:text}`sharing.one_batch_norm:.1f`, because the
# statistics of activations under one key do not fit the weights under another.

# %% [markdown]
# ## Memory: the size of a file
#
# `companion.binary.storage` writes the weights as packed bits, and for each task a second file with its batch norm in
# float32 and its wrapped seed. These are sizes of files on disk, not products of numbers.

# %%
rows = []
for m in sorted({1, *task_counts}):
    network = separate["vgg"][0] if m == 1 else shared["vgg", m]
    sizes, apart = rbnn.file_sizes(network), rbnn.sizes_of_separate(separate["vgg"][:m])
    run.number(f"memory.weights.m{m}", sizes.weights, "bytes")
    run.number(f"memory.everything.m{m}", sizes.everything, "bytes")
    run.number(f"memory.separate_weights.m{m}", apart.weights, "bytes")
    run.number(f"memory.separate_everything.m{m}", apart.everything, "bytes")
    rows.append([m, sizes.weights, apart.weights, apart.float32, sizes.everything, apart.everything])
columns = ["M", "shared weights", "separate weights", "separate in float32", "shared, all files", "separate, all files"]
memory = pd.DataFrame(rows, columns=columns)
run.table("memory", memory, caption="Sizes in bytes of the files of M tasks, VGG-like network.")

# %%
figure, axes = plots.panels(1, height=2.8)
styles = ["-", "-", ":", "--", "--"]
colours = [plots.PALETTE[k] for k in (0, 1, 2, 0, 1)]
for column, dash, colour in zip(columns[1:], styles, colours, strict=True):
    axes[0, 0].plot(memory["M"], memory[column] / 1000, dash, marker="o", color=colour, label=column)
axes[0, 0].set(xlabel="tasks M", ylabel="kilobytes", yscale="log", xticks=memory["M"])
axes[0, 0].legend(loc="center left", bbox_to_anchor=(1, 0.5))
run.figure(
    "memory",
    figure,
    {column.replace(", ", "_").replace(" ", "_"): memory[column] for column in columns},
    alt="Sizes of files against the number of tasks on a logarithmic axis: shared weights stay level, all others grow.",
    caption="What M tasks take on disk. The shared weights are one file whatever M is; what each task has for itself "
    "makes the dashed line rise.",
)

# %% [markdown]
# The weights of seven tasks take {glue:text}`memory.weights.m7:,.0f` bytes, those of one task
# {glue:text}`memory.weights.m1:,.0f`. With everything that a task has for itself it is
# {glue:text}`memory.everything.m7:,.0f` bytes against {glue:text}`memory.separate_everything.m7:,.0f` for seven networks:
# in nets as small as these, 32-bit batch norms weigh beside 1-bit weights.

# %% [markdown]
# ## Arithmetic with bits
#
# For $a, b \in \{-1, 1\}^K$ stored as bits, $a \cdot b = K - 2\,\mathrm{popcount}(a \oplus b)$: one XOR and one count handle
# 64 products. `companion.binary.packed` runs the network in this way, the 8-bit pixels of the first layer as eight
# planes of bits. All sums are whole numbers, so the answers must equal those of the float emulation exactly, not nearly.

# %%
rows, most = [], {"vgg": max(task_counts), "resnet": compared, "reactnet": compared}
for architecture, m in most.items():
    network = shared[architecture, m]
    emulated, counted = rbnn.packed_answers(arena, network, audio, timed_images)
    same = Proportion(int((emulated == counted).sum()), emulated.numel())
    run.proportion(f"packed.equal.{architecture}", same)
    seconds = rbnn.seconds_an_image(arena, network, audio, timed_images)
    for way, value in seconds.items():
        run.number(f"seconds.{architecture}.{way.replace(' ', '_')}", 1e6 * value, "µs")
    run.number(f"seconds.{architecture}.ratio", seconds["float32"] / seconds["packed bits"])
    rows.append([architecture, network.binary_weights(), 100 * same.rate, *[1e6 * s for s in seconds.values()]])
columns = ["network", "binary weights", "equal logits [%]", "float32 [µs/image]", "packed bits [µs/image]"]
run.table("speed", pd.DataFrame(rows, columns=columns).round(1), caption="Packed inference beside float32, one core.")

# %% [markdown]
# Of the logits of the VGG-like network, {glue:text}`packed.equal.vgg:.0f` % are the same number bit for bit. Speed is as
# found on the machine of this page, and no test depends on it: the packed network runs at
# {glue:text}`seconds.vgg.ratio:.2f` times the speed of float32. The float path is a tuned library; the packed path is NumPy,
# and at these widths it spends most of its time on cutting and packing patches, not on counting
# (`benchmarks/packed_inference.py` times the parts). What the bits save for certain is memory.

# %% [markdown]
# ## Keys and devices
#
# ### From 128 bits to a key for every weight
#
# `companion.binary.keys` expands a seed with SHAKE-128 {cite}`nist2015sha3`:
#
# $$ K_m^{(\ell)} = \mathrm{SHAKE128}(\text{domain} \,\Vert\, k_m \,\Vert\, \ell) $$
#
# for the layer named $\ell$. One flipped bit of the seed changes half of the stream.
#
# ### A fingerprint that is not stored
#
# An **SRAM PUF** is what memory cells happen to hold after power-up: different on each chip, nearly the same each time.
# *Nearly* is the difficulty. A **fuzzy extractor** {cite}`dodis2008fuzzy` makes a key of it. At enrolment it draws a
# secret $s$ and publishes $w = C(s) \oplus x$ for the fingerprint $x$ and a code $C$; later, with a noisy read $x'$,
#
# $$ w \oplus x' = C(s) \oplus (x \oplus x'), $$
#
# a code word with as many errors as the read has, which the code removes. Here $C$ is the Golay code
# {cite}`golay1949notes` outside and a sevenfold repetition inside, as proposed for PUFs by {cite}`bosch2008efficient`.
# The root key is $r_d = \mathrm{HKDF}(s)$ {cite}`rfc5869`, and the helper data carry an HMAC so that tampering is
# noticed. The simulated cells are uniform and independent; real ones are biased, which costs secrecy that this
# simulation does not show.
#
# ### Binding
#
# The device stores $h_m = k_m \oplus \mathrm{HKDF}(r_d, u, m)$ and computes $k_m = h_m \oplus \mathrm{HKDF}(r_d, u, m)$ when
# it needs it (`companion.binary.device.wrap`). All of it is hashlib and hmac; nothing is home-made but the arrangement.

# %%
noises = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
failures = rbnn.key_failures(arena, noises, reads)
for noise, found in zip(noises, failures, strict=True):
    run.proportion(f"puf.failures.noise{round(100 * noise):02d}", found)
fine = np.linspace(0.04, 0.32, 29)
exact = [100 * devices.failure_rate(noise) for noise in fine]
figure, axes = plots.panels(1, height=2.6)
axes[0, 0].plot(fine, exact, color="black", linewidth=1, label="exact")
plots.share_with_band(axes[0, 0], noises, [one.successes for one in failures], reads, marker="o", label="counted")
axes[0, 0].set(xlabel="chance of a wrong cell in a read", ylabel="key not recovered [%]")
axes[0, 0].legend()

# %%
run.figure(
    "puf",
    figure,
    {"noises": noises, "failures": [one.successes for one in failures], "reads": reads, "exact": exact},
    alt="Share of reads from which the root key is not recovered, against read noise: near zero up to 15 percent noise, "
    "then rising steeply.",
    caption=f"Failures of the fuzzy extractor over {reads} reads a point with 95 % bands, and the exact curve. SRAM "
    "cells are said to err at 5 to 15 %.",
)

# %% [markdown]
# ## What a thief gets
#
# The network with all seven tasks is attacked. First, the right batch norm and a wrong key: seeds drawn at random, seeds
# with one bit flipped, and the keys of other tasks. Then the right user on another device, and another user on the right
# device. **Guessing** is the best constant answer.

# %%
victim = shared["vgg", max(task_counts)]
trials = {
    "random key": [rbnn.under_keys(arena, victim, t, rbnn.wrong_seeds(arena, t, wrong_keys)) for t in range(count)],
    "one seed bit": [rbnn.under_keys(arena, victim, t, rbnn.near_seeds(arena, t, wrong_keys)) for t in range(count)],
    "other tasks' keys": [rbnn.other_tasks_keys(arena, victim, t) for t in range(count)],
}
access = rbnn.access(arena, victim, wrong_keys, noise=0.1)
trials |= {"wrong device": access.wrong_device, "wrong user": access.wrong_user}
images = [one.images for one in arena.train]
seeds = [rbnn.wrong_seeds(arena, t, wrong_keys) for t in range(count)]
trials["wrong key, new batch norm"] = [
    rbnn.recalibration_attack(arena, victim, t, seeds[t], min(200, train_size)) for t in range(count)
]

# %%
chance = np.array([arena.chance(task) for task in range(count)])
names = {"random key": "wrong_key", "one seed bit": "seed_bit", "other tasks' keys": "other_task"}
names |= {"wrong device": "wrong_device", "wrong user": "wrong_user", "wrong key, new batch norm": "recalibrated"}
rows = [["guessing", *chance], ["right user and device", *access.right[:, 0]]]
for what, values in trials.items():
    means = np.array([one.mean() for one in values])
    rows.append([what, *means])
    run.number(f"{names[what]}.mean_excess", (means - chance).mean(), "points", n=count * wrong_keys)
    run.number(f"{names[what]}.worst_excess", (means - chance).max(), "points", n=wrong_keys)
    run.number(f"{names[what]}.best_try", max((one - c).max() for one, c in zip(values, chance, strict=True)), "points")
kept = access.right[:, 0] - [100 * rbnn.share_of(right).rate for right in together["vgg", max(task_counts)]]
run.number("right_key.loss", abs(kept).max(), "points")
caption = (
    f"Accuracy in percent with the right and with wrong keys, means over {wrong_keys} tries (VGG-like, all tasks)."
)
run.table("access", pd.DataFrame(rows, columns=["who", *arena.names]).round(1), caption=caption)

# %% [markdown]
# Averaged over keys and tasks, a random key lies {glue:text}`wrong_key.mean_excess:.1f` points above guessing (below,
# where negative: a network of unrelated bits tends to give one answer to everything, and rarely the best one). Single
# keys scatter: the luckiest of all tries was {glue:text}`wrong_key.best_try:.1f` points above. A thief who also computes
# new batch-norm statistics from unlabelled images of the task reaches {glue:text}`recalibrated.mean_excess:.1f` points.
#
# ### How wrong may a key be?
#
# Seeds are all or nothing. But whoever could reach into the *expanded* key might have most of its bits right:

# %%
shares = [0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]
curves = np.stack([rbnn.flipped_curve(arena, victim, task, shares) for task in range(count)])
above = (curves - chance[:, None]).mean(0)  # points above guessing, averaged over the tasks
for share in (0.05, 0.2, 0.5):
    run.number(f"flipped.kept{round(100 * share):02d}", 100 * above[shares.index(share)] / above[0], "%", n=count)
figure, axes = plots.panels(1, height=3.0)
for task, name in enumerate(arena.names):
    style = {"color": plots.PALETTE[task], "marker": "osD^vPX"[task], "markersize": 4}
    axes[0, 0].plot([100 * share for share in shares], curves[task], label=name, **style)
    axes[0, 0].plot([50.5, 52], [chance[task]] * 2, color=plots.PALETTE[task], linewidth=2)
axes[0, 0].set(xlabel="wrong bits of the expanded key [%]", ylabel="accuracy [%]", ylim=(0, 101))
axes[0, 0].legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %%
run.figure(
    "flipped",
    figure,
    {"shares": shares, "accuracy": curves, "chance": chance},
    alt="Accuracy of each task against the share of wrong key bits, falling towards guessing as half of the bits are "
    "wrong.",
    caption="Half of the bits wrong is a random key. The marks at the right edge are the best blind guess of each task.",
)

# %% [markdown]
# With 5 % of the bits wrong the tasks keep {glue:text}`flipped.kept05:.0f` % of their accuracy above guessing, with 20 %
# {glue:text}`flipped.kept20:.0f` %. A binary network forgives; it is the seed, not the stream, that has to stay secret.

# %% [markdown]
# ### Fine-tuning the stolen bits
#
# A thief with some labelled images can train. Do the stored bits help, compared with random ones? `right key` is for
# comparison: somebody who paid, and trains on with the same few images and the same learning rate, which also forgets.

# %%
rows = []
for task in (0, audio):
    for start in rbnn.STARTS:
        found = rbnn.fine_tuning_attack(arena, victim, task, start, attack_share, attack_steps)
        run.proportion(f"fine_tuned.{arena.names[task]}.{start.replace(' ', '_')}", found)
        rows.append([arena.names[task], start, 100 * found.rate])
tuned = pd.DataFrame(rows, columns=["task", "start", "accuracy"])
table = tuned.pivot(index="task", columns="start", values="accuracy")[list(rbnn.STARTS)].reset_index()
gains = tuned[tuned.start == "wrong key"].accuracy.to_numpy() - tuned[tuned.start == "random bits"].accuracy.to_numpy()
run.number("fine_tuned.gain", gains.mean(), "points")
run.table(
    "fine-tuning",
    table.round(1),
    caption=f"Accuracy in percent after {attack_steps} steps on {100 * attack_share:.0f} % of the training images.",
)

# %% [markdown]
# Starting from the stored bits under a wrong key instead of from random bits changes the accuracy by
# {glue:text}`fine_tuned.gain:.1f` points on average. Near zero, the bits are worth no more than noise to whoever lacks the
# key.
#
# What the keys do **not** give: XNOR is malleable. Who knows the effective weights $B_1$ and the key of *one* task knows
# $B = B_1 \odot K_1$, and every other task is then as safe as its own key, not more. And a device computes with $B_m$ in
# the clear, so whoever reads its working memory has the model. The second exercise looks at that.

# %% [markdown]
# ## The numbers that decide
#
# nbval holds this text, character by character, against the committed reference of the `smoke` profile.

# %% tags=["nbval-check-output"]
run.say(
    run.canonical(
        "drop*", "sharing.*", "equal_bytes.*", "memory.weights.*", "packed.*", "*.mean_excess", "puf.*", "flipped.*"
    )
)

# %%
run.finish()

# %% [markdown]
# (rbnn-verdicts)=
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
# Of the paper's tables no value could be verified; the statements of the abstract stand in for them.
#
# <!-- press:artifacts -->
#
# ## What failed, what was guessed, what differs
#
# - **Capacity decides the first claim.** The loss by sharing grows with $M$ and with fewer bits, and it is not the same
#   for all tasks: look at the sounds beside the digits. The paper's networks are larger and probably trained for longer, so
#   a failure here says that a small network trained for seconds cannot hold so many tasks, not that theirs cannot.
# - **Spread.** Two trainings of one recipe with other seeds differ by several points on the harder tasks, alone as well
#   as together, so a drop of one seed means little. That is why verdicts wait for three.
# - **Chance needs care.** A wrong key gives an unrelated random network. Its accuracy is not exactly guessing for a given
#   key: it scatters, because all its errors go the same way. Look at means over keys, and at the luckiest one.
# - **The simulated fingerprint is kind.** Independent, unbiased cells with one noise level; no ageing, no temperature.
# - **Batch norm tells something.** Each task's statistics lie on the device unprotected. The attack that replaces them
#   shows that they alone carry no usable model here.
#
# <!-- press:deviations -->
#
# ## Exercises
#
# ```{exercise} More bits to go round
# :label: rbnn-width
#
# Double `width_vgg` and train $M = 4$ again (`dataclasses.replace(arena, widths={...})` and `rbnn_arena.train_network`). How much of
# the mean drop is left, and what does it cost in bytes? Would four separate networks of the old width take less?
# ```
#
# ```{solution} rbnn-width
# :class: dropdown
#
# The hidden layer's weights grow fourfold, so the shared file grows by nearly four, which is what four separate networks
# would take. Compare at equal bytes: sharing is only a gain in memory where the wide shared network beats the narrow
# separate ones.
# ```
#
# ```{exercise} One paid task opens the rest?
# :label: rbnn-malleable
#
# A buyer of task 1 dumps the working memory and finds $B_1$. They know $k_1$. Compute $B$. Then suppose that they also get
# hold of $B_2$ from a friend who paid for task 2, but not of $k_2$. What do they know about $K_2$, and can they compute
# $k_2$ or run task 3?
# ```
#
# ```{solution} rbnn-malleable
# :class: dropdown
#
# $B = B_1 \odot K_1$ and $K_2 = B_2 \odot B$, all of it: check with `layer.effective(1) * layer.weight.sign()` against
# `layer.keys[1]`. The seed $k_2$ stays hidden, because SHAKE-128 cannot be inverted, and $K_3$ stays unknown. A stream
# that is never repeated across versions of the weights limits the damage to the versions that leaked.
# ```
#
# ```{exercise} How many repeats?
# :label: rbnn-repeats
#
# With which odd number of repeats would a read at 20 % noise fail less than once in ten thousand? Use the formula of
# `companion.binary.device.failure_rate` and count the cells.
# ```
#
# ```{solution} rbnn-repeats
# :class: dropdown
#
# Let $p_r$ be the chance that most of $r$ repeats are wrong and $q$ the chance of more than three wrong symbols among 23;
# the read fails with $1 - (1 - q)^{11}$. Step $r$ through 7, 9, 11, ... with `scipy.stats.binom.sf`; the cells are
# $253\,r$.
# ```
#
# ## Further reading
#
# Binarized networks {cite}`hubara2016binarized` and XNOR-Net {cite}`rastegari2016xnor`; ReActNet {cite}`liu2020reactnet`;
# superposition of models {cite}`cheung2019superposition`; fuzzy extractors {cite}`dodis2008fuzzy` and their use with PUFs
# {cite}`bosch2008efficient`.
