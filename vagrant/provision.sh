#!/usr/bin/env bash
# Installs the lab on a Debian or Ubuntu machine: the packages of the system, the virtual environment with iflab and
# all its extras, the completion of the shells, and /dev/net/tun for the ordinary user. Run again, it changes nothing
# that is as it should be. What it makes is listed in README.md beside this file.
set -euo pipefail
shopt -s lastpipe # what 'put' counts at the end of a pipe, it counts here
umask 022

{ # read to its end before it begins: the checkout that it lies in may change meanwhile

usage() {
    cat <<'END'
usage: provision.sh [--repo DIR] [--venv DIR]

  --repo DIR   the checkout to install from; it is used in place, so changes in it take effect at once
               (default: the one that this script lies in)
  --venv DIR   where the virtual environment goes (default: /opt/iflab)
END
}

fail() {
    echo "provision: $2" >&2
    exit "$1"
}

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=/opt/iflab
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --repo | --venv)
        [ -n "${2-}" ] || fail 2 "$1 needs a directory"
        if [ "$1" = --repo ]; then repo=$2; else venv=$2; fi
        shift 2
        ;;
    *) fail 2 "$1 is not known; 'provision.sh --help' tells what is" ;;
    esac
done
[ -f "$repo/pyproject.toml" ] || fail 2 "$repo is no checkout of iflab: it has no pyproject.toml; name one with --repo"
[[ $venv == /* ]] || fail 2 "--venv $venv is not absolute"
# A virtual environment is made afresh where one does not fit: never in place of anything else.
[ ! -e "$venv" ] || [ -f "$venv/pyvenv.cfg" ] || { [ -d "$venv" ] && [ -z "$(ls -A "$venv")" ]; } ||
    fail 2 "--venv $venv is there and no virtual environment; name another, or an empty directory"
repo=$(cd "$repo" && pwd)
command -v dpkg-query >/dev/null || fail 3 "this is no Debian or Ubuntu; see README.md for what to install by hand"
[ "$(id -u)" = 0 ] || fail 3 "only root can install; run it with sudo"

changes=0
changed() {
    changes=$((changes + 1))
    echo "provision: $1"
}

put() { # put FILE: what comes in becomes the file, unless it is that already
    local text
    text=$(cat)
    if [ "$text" != "$(cat "$1" 2>/dev/null)" ] || [ ! -e "$1" ]; then
        mkdir -p "$(dirname "$1")"
        printf '%s\n' "$text" >"$1"
        changed "wrote $1"
    fi
}

# Packages. The lab itself needs Python alone; the rest is what people run inside its hosts, and what its tests look with.

packages=(
    bash-completion ca-certificates dnsmasq-base ethtool git iperf3 iproute2 iputils-ping kmod netbase procps
    python3 python3-venv tcpdump tshark util-linux
)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    # A fresh machine may be busy with its own updates: wait for them rather than fail.
    apt-get -q -o DPkg::Lock::Timeout=600 update
    apt-get -q -y -o DPkg::Lock::Timeout=600 install --no-install-recommends "${missing[@]}"
    changed "installed ${missing[*]}"
fi

# The virtual environment, in place of which nothing of the system's Python is touched.

python_version=$(python3 -c 'import platform; print(platform.python_version())')
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail 3 "Python $python_version is too old; iflab needs 3.11, which Debian 12 and Ubuntu 24.04 have"
in_venv=$("$venv/bin/python" -c 'import pip, platform; print(platform.python_version())' 2>/dev/null || true)
if [ "$in_venv" != "$python_version" ]; then
    python3 -m venv --clear "$venv"
    changed "made $venv with Python $python_version"
fi

extras=$(python3 - "$repo/pyproject.toml" <<'END'
import sys, tomllib
print(",".join(tomllib.load(open(sys.argv[1], "rb"))["project"].get("optional-dependencies", {})))
END
)
# What decides about the outcome of pip: the same again needs no pip.
stamp=$(printf '%s\n' "$repo" "$python_version" && sha256sum <"$repo/pyproject.toml" &&
    sha256sum <"$repo/iflab/__init__.py")
if [ "$stamp" != "$(cat "$venv/provisioned" 2>/dev/null)" ] || [ ! -x "$venv/bin/iflab" ]; then
    "$venv/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --editable "$repo${extras:+[$extras]}"
    printf '%s\n' "$stamp" >"$venv/provisioned"
    changed "installed iflab${extras:+[$extras]} from $repo into $venv"
fi
if [ "$(readlink /usr/local/bin/iflab || true)" != "$venv/bin/iflab" ]; then
    [ ! -e /usr/local/bin/iflab ] || [ -L /usr/local/bin/iflab ] ||
        fail 1 "/usr/local/bin/iflab is a file that is not ours; move it away and run this again"
    mkdir -p /usr/local/bin
    ln -sfn "$venv/bin/iflab" /usr/local/bin/iflab
    changed "linked /usr/local/bin/iflab"
fi

# Completion: the folders in which each shell looks by itself.

for shell in bash:bash-completion/completions/iflab zsh:zsh/site-functions/_iflab \
    fish:fish/vendor_completions.d/iflab.fish; do
    _IFLAB_COMPLETE=source_${shell%%:*} "$venv/bin/iflab" | put "/usr/local/share/${shell#*:}"
done

# The device behind every NIC. Debian's udev opens it to everybody, as the kernel's own document advises; where
# something else decided otherwise, a rule of ours says it again.

echo tun | put /etc/modules-load.d/iflab.conf
if [ ! -c /dev/net/tun ] && ! grep -q -s container= /proc/1/environ; then
    modprobe -q tun 2>/dev/null || true
fi
if [ -c /dev/net/tun ] && [ "$(stat -c %a /dev/net/tun)" != 666 ]; then
    echo 'KERNEL=="tun", MODE="0666", OPTIONS+="static_node=net/tun"' | put /etc/udev/rules.d/60-iflab-tun.rules
    chmod 0666 /dev/net/tun
    changed "opened /dev/net/tun to every user"
fi

put /etc/motd.d/iflab <<END

  iflab, a network lab in Python, lies in $repo.
    iflab check          what this machine has of what a lab needs
    iflab list           the scenarios
    iflab run $repo/scenarios/01_first_ping.py
    cd $repo && $venv/bin/pytest

END

[ "$changes" -gt 0 ] || echo "provision: nothing to change"
exit 0
}
