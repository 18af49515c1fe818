"""Learning to hash: views, token backbones, weighted contrastive hashing and its rivals, packed codes, retrieval."""
