"""What is drawn: one module a generator or what several share. `generators.py` lists the generators."""
