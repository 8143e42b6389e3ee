"""iflab in pytest: the plug-in that is installed with the package.

::

    def test_bob_answers(lab):
        alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
        alice.ping("192.0.2.2")
        lab.expect("alice:em0", "icmp[icmptype] == icmp-echoreply", within=1)
"""
