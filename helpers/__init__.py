"""What the notebooks call: one thin module a notebook, and what those share.

Importing this package imports nothing: every step up to 02_torch must work before torch is installed.
"""
