"""Every function of the interface layer is there under its own name, and says what it does and where it comes from."""

import importlib
import inspect
import pkgutil
import re

import pytest

import iflab.net

MODULES = [
    importlib.import_module(f"iflab.net.{module.name}") for module in pkgutil.iter_modules(iflab.net.__path__)
]

FUNCTIONS = re.findall(
    r"\w+",
    """
ifnet_byindex ifnet_byindex_locked ifnet_byindex_ref ifindex_alloc_locked ifindex_free ifnet_setbyindex
ifaddr_byindex if_grow vnet_if_init vnet_if_uninit if_alloc if_free if_free_internal if_ref if_rele
if_register_com_alloc if_deregister_com_alloc ifq_init ifq_delete if_qflush if_handoff if_start if_attach
if_attach_internal if_attachdomain if_attachdomain1 if_detach if_detach_internal if_purgeaddrs if_purgemaddrs
if_dead if_vmove if_vmove_loan if_vmove_reclaim if_reassign if_addgroup if_delgroup if_delgroups if_getgroup
if_getgroupmembers if_rtdel if_addr_rlock if_addr_runlock if_maddr_rlock if_maddr_runlock ifa_alloc ifa_ref
ifa_free ifa_add_loopback_route ifa_del_loopback_route ifa_switch_loopback_route ifa_ifwithaddr
ifa_ifwithaddr_check ifa_ifwithbroadaddr ifa_ifwithdstaddr ifa_ifwithnet ifaof_ifpforaddr ifa_preferred
link_rtrequest link_alloc_sdl link_free_sdl link_init_sdl if_unroute if_route if_up if_down
if_link_state_change do_link_state_change ifunit ifunit_ref if_initname if_printf ifhwioctl ifioctl ifconf
if_setflag ifpromisc if_allmulti if_findmulti if_allocmulti if_freemulti if_addmulti if_delmulti
if_delallmulti if_delmulti_ifma if_delmulti_locked if_setlladdr
""",
)


def public_things():
    for module in MODULES:
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield f"{module.__name__}.{name}", thing
            if inspect.isclass(thing):
                for key, member in vars(thing).items():
                    function = member.fget if isinstance(member, property) else member
                    if not key.startswith("_") and inspect.isfunction(function):
                        yield f"{module.__name__}.{name}.{key}", function


def test_everything_public_says_what_it_is():
    assert [name for name, thing in public_things() if not thing.__doc__] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_the_original_is_there_and_cites_its_lines(name):
    found = [thing for where, thing in public_things() if where.rsplit(".", 1)[-1] == name]
    assert found, f"{name} is not there"
    assert any(re.search(r"\b\d{3,4}-\d{3,4}\b|called at \d{3,4}", thing.__doc__) for thing in found), found[
        0
    ].__doc__
