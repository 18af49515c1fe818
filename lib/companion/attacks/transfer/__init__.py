"""Adversarial examples that travel: the methods of the transferability survey (Gu et al., TMLR 2024) as parts that fit.

A method is put together from a gradient source, an input transform, an objective, a change inside the network and a
momentum rule; `companion.attacks.transfer.method` runs it and `companion.attacks.transfer.registry` lists them all.
"""
