"""The shipped weights of diffusion-scenes. Written by `companion zoo build diffusion-scenes`; do not edit."""

SHA256 = ""
