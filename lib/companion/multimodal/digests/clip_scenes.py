"""The shipped weights of clip-scenes. Written by `companion zoo build clip-scenes`; do not edit."""

SHA256 = "29cca60dd8b7f78b08822182b41221806d41ce8be612367a21289c5d8afd9a07"
