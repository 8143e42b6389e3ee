"""Any octets at all, from the wire and from the kernel: no crash, no hang, no wrong counter.

``beds.py`` has the targets, ``inputs.py`` what is fed to them, ``corpus`` the inputs
that once did harm, and others, fed in every test run. A long run, by hand::

    python -m tests.fuzz --inputs 1000000 --seed 1
"""
