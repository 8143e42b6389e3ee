"""A network lab in Python: FreeBSD's interface layer over real Linux TAP devices."""

__version__ = "0.1.0"
