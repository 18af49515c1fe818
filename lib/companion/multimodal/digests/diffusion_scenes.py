"""The shipped weights of diffusion-scenes. Written by `companion zoo build diffusion-scenes`; do not edit."""

SHA256 = "8f4993bc87c8b51df5ed8eb67fb01af4281bdf77f549bc41f9c2004ad4fb41e1"
