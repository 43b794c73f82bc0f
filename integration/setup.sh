#!/bin/sh
# Makes a Debian 12 machine ready for integration/: Debian packages, and a virtual environment with the development
# tools in the cache folder. Does nothing, in well under a second, where all is there. Run as root.
set -eu

cache=${CONFINED_QEMU_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/confined-qemu}
venv=$cache/venv

# Needed by the project, by the guest's build, by the image's build, by the tests, by the build of Xen's hypervisor.
packages="
python3 python3-venv python3-selinux python3-psutil python3-yaml python3-prctl
mmdebstrap qemu-system-x86 qemu-utils policycoreutils e2fsprogs xfsprogs btrfs-progs openssh-client xz-utils kmod
binutils busybox-static
secilc setools strace attr cpio ovmf swtpm mandoc
dpkg-dev gcc make m4 flex bison checkpolicy
"
tools="ruff mypy pytest pytest-xdist cosmic-ray matplotlib hypothesis jsonschema types-PyYAML types-psutil types-jsonschema hatchling build wheel"

say() { echo "setup: $*" >&2; }
fail() { echo "error: $*" >&2; exit 125; }

# Prints the packages of the list that are not installed.
missing_packages() {
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' $packages 2>/dev/null | sed -n 's/^installed //p' | sort >"$1"
    printf '%s\n' $packages | sort | comm -23 - "$1"
}

install_packages() {
    list=$(mktemp)
    missing=$(missing_packages "$list")
    rm -f "$list"
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || fail "packages are missing; as root: apt-get install" $missing
    say "installing Debian packages:" $missing
    # Another apt may be at work: wait for its lock rather than fail.
    apt="apt-get -o DPkg::Lock::Timeout=600 -qq"
    log=$(mktemp)
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    if ! { $apt update && $apt install -y --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "apt-get could not install" $missing
    fi
    rm -f "$log"
}

make_venv() {
    stamp=$(echo "$tools" | sha256sum | cut -c1-16)
    [ "$(cat "$venv/stamp" 2>/dev/null)" != "$stamp" ] || return 0
    say "installing the development tools into $venv"
    mkdir -p "$cache"
    (
        # Two commands at once make it once. The stamp comes last: without it the next run starts anew.
        flock 9
        [ "$(cat "$venv/stamp" 2>/dev/null)" != "$stamp" ] || exit 0
        # One that works is added to: others may be using it.
        "$venv/bin/pip" install --quiet --disable-pip-version-check $tools 2>/dev/null || {
            rm -rf "$venv"
            /usr/bin/python3 -m venv --system-site-packages "$venv"
            "$venv/bin/pip" install --quiet --disable-pip-version-check $tools
        }
        echo "$stamp" >"$venv/stamp"
    ) 9>"$cache/venv.lock" || fail "the virtual environment $venv could not be made; the reason is above"
}

install_packages
make_venv
