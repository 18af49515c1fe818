"""Few-shot classification: episodes, learners that adapt to them, and the training of their feature extractors."""
