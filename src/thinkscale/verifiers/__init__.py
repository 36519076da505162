"""What judges candidates: the answer itself (voting needs equal strings for equal answers), a check, code, a judge.

Import from the modules: `answers` and `equivalence` for extraction and equality, `checker`, `code`, `judge` and
`confidence` for verifiers, `base` for the protocol. Nothing is loaded here, so that each costs only what it needs.
"""
