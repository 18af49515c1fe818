"""Models that join pictures and words (CLIP, text-to-image diffusion, LLaVA): attacks on them and defences."""
