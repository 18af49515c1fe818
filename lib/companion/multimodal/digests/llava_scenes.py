"""The shipped weights of llava-scenes. Written by `companion zoo build llava-scenes`; do not edit."""

SHA256 = "ddc25ad53cadd8f5f32e077c20e8605f71c381d11e2304313daa7fc5a58e132f"
