"""The shipped weights of llava-scenes. Written by `companion zoo build llava-scenes`; do not edit."""

SHA256 = ""
