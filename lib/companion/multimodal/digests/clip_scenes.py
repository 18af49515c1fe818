"""The shipped weights of clip-scenes. Written by `companion zoo build clip-scenes`; do not edit."""

SHA256 = ""
