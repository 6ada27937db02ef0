"""What gpu.py runs on a machine with a GPU: its parts, and how they are kept to their time.

``running`` starts each part in a process of its own, ``parts`` lists them; the other files measure.
"""
