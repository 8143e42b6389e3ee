"""The commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from iflab import __version__

__all__ = ["app"]

EXAMPLES = """
A network lab in Python: FreeBSD's interface layer over real Linux TAP devices.

[bold]Begin with[/bold]

  iflab check                            what this machine has and lacks
  iflab list                             the scenarios, a line each
  iflab run scenarios/01_first_ping.py   two hosts, one cable, two pings
  iflab run link_flap --set cut_for=2 --pcap flap.pcap
  iflab replay flap.pcap.record          the same faults, frame for frame
  iflab shell                            a Python prompt with a lab
  iflab bench --quick                    how fast it is, beside references
  iflab stress --duration 60             whether every frame is accounted for

[bold]From another terminal, while a lab runs[/bold]

  iflab ps                               labs, their hosts and NICs
  iflab exec link_flap alice ip addr     a program in a host
  iflab exec link_flap alice bash        a shell in a host
  iflab ifconfig link_flap alice em0     as FreeBSD shows and changes it
  iflab netstat link_flap alice -i       counters; groups -g, routes -r
  iflab monitor link_flap                routing messages as they come
  iflab sniff link_flap alice:em0 arp    what passes, here or in Wireshark
  iflab top link_flap                    NICs, wires, queues, drops: live
  iflab cut link_flap cable0             pull a plug; mend puts it back
  iflab extcap --install                 NICs on Wireshark's start page
"""

app = typer.Typer(
    help=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"iflab {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Tell more; -vv tells everything.")
    ] = 0,
) -> None:
    """Set up what concerns every command."""
    import logging

    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("iflab").setLevel(level)


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]


@app.command()
def run(
    scenario: Annotated[
        str, typer.Argument(help="A file, or the name of a scenario that 'iflab list' shows.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter of the scenario; may be repeated."),
    ] = None,
    pcap: Annotated[
        Path | None, typer.Option(help="Write every frame on every wire to this pcap file.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Write what ran and every fault to this file, for 'iflab replay'; PCAP.record with --pcap."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report of the run to this file: HTML that opens offline.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random choice; printed at the end.")] = None,
    json_: JsonOption = False,
) -> None:
    """Run a scenario and show what happens. Exit status 0 only when all that it asserts held.

    A scenario file is code: run only those that you trust.

    Example: iflab run scenarios/06_link_flap.py --set cut_for=2 --pcap flap.pcapng --report flap.html
    """
    from .run import run_command

    raise typer.Exit(run_command(scenario, set_ or [], pcap, record, report, seed, json_))


@app.command()
def replay(
    record: Annotated[Path, typer.Argument(help="A record that 'iflab run --record' wrote.")],
    pcap: Annotated[
        Path | None, typer.Option(help="Write every frame on every wire to this pcap file.")
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option("--record", help="Write the replay's own record to this file; PCAP.record with --pcap."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report of the run to this file: HTML that opens offline.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Run a recorded scenario again: its faults strike the same frames, whatever the timing.

    Loss, delay, corruption: all that a cable's faults decide is decided as it was, frame by frame.

    What happens at a time (cuts, plugs, a schedule) happens at that time again.

    A record names a scenario file, which is code: replay only those that you trust.

    Example: iflab replay flap.pcap.record
    """
    from .run import replay_command

    raise typer.Exit(replay_command(record, pcap, again, report, json_))


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List the scenarios with what each shows.

    Scenario files are code, and listing loads them: do so only in a folder that you trust.

    Example: iflab list
    """
    from iflab.scenario import NO_DEFAULT, list_scenarios

    from .show import table

    found = list_scenarios(lambda error: typer.echo(f"iflab: {error}", err=True))
    if json_:
        rows = [
            {
                "name": s.name,
                "file": str(s.path),
                "purpose": s.purpose,
                "parameters": {
                    p.name: None if p.default is NO_DEFAULT else p.default for p in s.parameters.values()
                },
            }
            for s in found
        ]
        print(json.dumps(rows, indent=2))
        return
    table(
        ("scenario", "what it shows", "--set"),
        [(s.name, s.purpose, " ".join(str(p) for p in s.parameters.values())) for s in found],
    )


@app.command()
def check(json_: JsonOption = False) -> None:
    """Tell what this machine has of what a lab needs, and the remedy for what it lacks.

    Exit status 3 when something is missing without which no lab runs.
    """
    from iflab.linux import check as look

    from .errors import MISSING
    from .show import table

    findings = look()
    if json_:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        word = {True: "ok", False: "missing"}
        table(
            ("", "what", "found", "remedy"),
            [(word[f.ok] if f.ok or f.required else "without", f.name, f.detail, f.remedy) for f in findings],
        )
    raise typer.Exit(MISSING if any(f.required and not f.ok for f in findings) else 0)


@app.command()
def bench(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NAME", help="Only this measure (a wrong name lists all); may be repeated."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The whole in under a minute, with a wider spread.")
    ] = False,
    json_: JsonOption = False,
    check: Annotated[bool, typer.Option("--check", help="Exit status 1 when a target is missed.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the figures into this file, as PNG and as SVG.")
    ] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="How often each is measured.")] = None,
) -> None:
    """Measure this machine's lab against references in the same run: medians, spread, ratios.

    Example: iflab bench --quick --plot bench.png
    """
    from .bench import bench_command

    raise typer.Exit(bench_command(only or [], quick, json_, check, plot, runs))


@app.command()
def stress(
    duration: Annotated[float, typer.Option(min=1, help="Seconds.")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Decides every random choice of every thread.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="How many change the lab at once.")] = 8,
    rest: Annotated[float, typer.Option(min=0, help="Seconds between two changes of a thread.")] = 0.005,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between two bursts of a sender.")] = 0.002,
    json_: JsonOption = False,
) -> None:
    """Change a lab by many threads while traffic and faults run, and account for every frame.

    Exit status 1 when an account does not hold, something failed, or something is left.

    Example: iflab stress --duration 60 --seed 7
    """
    from .stress import stress_command

    raise typer.Exit(stress_command(duration, seed, threads, rest, pause, json_))


@app.command()
def shell(
    seed: Annotated[int | None, typer.Option(help="Decides every random choice.")] = None,
) -> None:
    """Open a Python prompt with a fresh lab at hand, called lab.

    Example: iflab shell, and then: alice, bob, cable = lab.pair("192.0.2.1/24", "192.0.2.2/24")
    """
    from .run import shell_command

    raise typer.Exit(shell_command(seed))


@app.command()
def ps(json_: JsonOption = False) -> None:
    """List the running labs with their hosts, switches, NICs and wires.

    Example: iflab ps
    """
    from iflab.control import find_labs

    from .show import table

    labs = [
        description
        for description, _ in find_labs(silent=lambda busy: typer.echo(f"iflab: {busy}", err=True))
    ]
    if json_:
        print(json.dumps(labs, indent=2))
        return
    rows: list[tuple[Any, ...]] = []
    for lab in labs:
        for host, nics in {**lab["hosts"], **lab.get("switches", {})}.items():
            for nic, about in (nics or {"": {}}).items():
                rows.append(
                    (
                        lab["name"],
                        lab["pid"],
                        host,
                        nic,
                        about.get("link", ""),
                        " ".join(about.get("addresses", [])),
                    )
                )
        if not lab["hosts"] and not lab.get("switches"):
            rows.append((lab["name"], lab["pid"], "", "", "", ""))
    table(("lab", "pid", "host", "nic", "link", "addresses"), rows)
    wires = [
        (lab["name"], lab["pid"], wire, " ".join(ends)) for lab in labs for wire, ends in lab["wires"].items()
    ]
    if wires:
        print()
        table(("lab", "pid", "wire", "plugged in"), wires)


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec_(
    lab: Annotated[
        str, typer.Argument(help="A running lab ('iflab ps' lists them): its name, its pid, or NAME.PID.")
    ],
    host: Annotated[str, typer.Argument(help="One of its hosts.")],
    command: Annotated[
        list[str] | None, typer.Argument(help="The program and its arguments; a shell without.")
    ] = None,
) -> None:
    """Run a program inside a host of a running lab, on this terminal. Exit status is the program's.

    Example: iflab exec link_flap alice tcpdump -ni em0
    """
    from .join import exec_command

    raise typer.Exit(exec_command(lab, host, command or []))


LabArgument = Annotated[
    str, typer.Argument(help="A running lab ('iflab ps' lists them): its name, its pid, or NAME.PID.")
]
HostArgument = Annotated[str, typer.Argument(help="One of its hosts.")]
WordsArgument = Annotated[list[str] | None, typer.Argument(help="Options and words, as on FreeBSD.")]
_AS_IT_IS = {
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    "help_option_names": ["--help"],
}


@app.command(context_settings=_AS_IT_IS)
def ifconfig(lab: LabArgument, host: HostArgument, words: WordsArgument = None) -> None:
    """Show and change interfaces of a running lab, with FreeBSD's ifconfig syntax and layout.

    Example: iflab ifconfig link_flap alice em0 promisc mtu 1400 group lab descr "uplink"
    """
    from .join import bsd_command

    raise typer.Exit(bsd_command("ifconfig", lab, host, words or []))


@app.command(context_settings=_AS_IT_IS)
def netstat(lab: LabArgument, host: HostArgument, words: WordsArgument = None) -> None:
    """Show counters (-i), multicast groups (-g) or routes (-r) of a host, in FreeBSD's layout.

    Example: iflab netstat link_flap alice -i -b -d
    """
    from .join import bsd_command

    raise typer.Exit(bsd_command("netstat", lab, host, words or []))


@app.command(context_settings=_AS_IT_IS)
def sysctl(lab: LabArgument, words: WordsArgument = None) -> None:
    """Show the settings of a lab's interface layer, or set them with NAME=VALUE.

    Example: iflab sysctl link_flap net.link.log_link_state_change=0
    """
    from .join import bsd_command

    raise typer.Exit(bsd_command("sysctl", lab, None, words or []))


@app.command()
def monitor(
    lab: LabArgument,
    host: Annotated[str | None, typer.Argument(help="Only messages of this host.")] = None,
) -> None:
    """Print routing messages and devctl notices of a running lab as they come, until Ctrl-C or its end.

    Example: iflab monitor link_flap
    """
    from .join import monitor_command

    raise typer.Exit(monitor_command(lab, host))


@app.command(context_settings={"allow_interspersed_args": True})
def sniff(
    lab: LabArgument,
    place: Annotated[
        str, typer.Argument(help="A NIC (alice:em0) or a wire (cable0); 'all' stands for every wire.")
    ],
    filter_: Annotated[
        list[str] | None, typer.Argument(metavar="[FILTER]...", help="An expression of tcpdump.")
    ] = None,
    write: Annotated[
        str | None,
        typer.Option("-w", "--write", metavar="FILE", help="Write pcapng; '-': to standard output."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-c", "--count", min=1, help="End after so many frames.")
    ] = None,
    snaplen: Annotated[
        int | None, typer.Option("-s", "--snaplen", min=1, help="Octets kept of a frame.")
    ] = None,
) -> None:
    """Show what passes on a NIC or a wire of a running lab, or hand it to Wireshark, until Ctrl-C or the lab's end.

    Example: iflab sniff link_flap alice:em0 tcp port 80 -w - | wireshark -k -i -
    """
    from .watch import sniff_command

    places = [] if place == "all" else [place]
    raise typer.Exit(sniff_command(lab, places, filter_ or [], write, count, snaplen))


@app.command()
def top(
    lab: LabArgument,
    interval: Annotated[
        float, typer.Option("-i", "--interval", min=0.1, help="Seconds between two looks.")
    ] = 1.0,
    count: Annotated[int, typer.Option("-n", "--count", min=0, help="Looks; 0: until Ctrl-C.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Show frames, octets, queues and drops of every NIC and wire of a running lab, live.

    Example: iflab top link_flap
    """
    from .watch import top_command

    raise typer.Exit(top_command(lab, interval, count, json_))


WireArgument = Annotated[str, typer.Argument(help="One of its wires ('iflab top' lists them).")]
TowardsOption = Annotated[
    str | None, typer.Option(metavar="PORT", help="Only the direction towards this port, alice:em0 for one.")
]


@app.command()
def cut(lab: LabArgument, wire: WireArgument, towards: TowardsOption = None) -> None:
    """Cut a wire of a running lab: nothing passes, and both ends lose their carrier.

    Example: iflab cut link_flap cable0
    """
    from .watch import plug_command

    raise typer.Exit(plug_command("cut", lab, wire, towards))


@app.command()
def mend(lab: LabArgument, wire: WireArgument, towards: TowardsOption = None) -> None:
    """Mend a wire that was cut.

    Example: iflab mend link_flap cable0
    """
    from .watch import plug_command

    raise typer.Exit(plug_command("mend", lab, wire, towards))


@app.command(context_settings={**_AS_IT_IS, "allow_extra_args": True})
def extcap(
    context: typer.Context,
    install: Annotated[
        bool, typer.Option("--install", help="Put the script where Wireshark looks for it.")
    ] = False,
    folder: Annotated[Path | None, typer.Option("--dir", help="Another folder to put it in.")] = None,
) -> None:
    """List NICs on Wireshark's start page. Wireshark itself calls this with options of its own.

    Example: iflab extcap --install
    """
    from .extcap import extcap_command
    from .extcap import install as put

    if install:
        print(put(folder))
        return
    raise typer.Exit(extcap_command(context.args))
