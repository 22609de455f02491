"""Whether the choices of a definition can work together, proven on the lock before anything is carried.

Rules are pure functions from facts to findings; tables hold what vendors document, each with its source.
"""
