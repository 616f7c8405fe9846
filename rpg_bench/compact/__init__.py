"""Compact files: a network as its degrees of freedom, in one `.safetensors` file.

`container` is the file as bytes, `recipe` what a network is rebuilt from, `parts` which numbers of it are stored,
`encoding` in how many bits, `write` and `load` the two directions.
"""
