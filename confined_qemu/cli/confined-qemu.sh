#!/bin/sh
# The `confined-qemu` command, by the Python that it was installed beside. -I: with `sudo -E` the environment would
# have root run the usercustomize of whoever called, or modules from PYTHONPATH. What pip writes cannot say -I.

# The usual `run SPEC` becomes the launch script at once, without a Python that only hands over to it. Where the spec
# may ask for less than SELinux, or cannot be read, cli/unconfined.py decides: it has the same words, more exactly.
launch=/usr/local/libexec/confined-qemu/launch
between="[[:space:]\"']*"
if [ "$1" = run ] && [ "${3:---}" = -- ] && [ -f "$2" ] && [ -x "$launch" ] && [ "${2#-}" = "$2" ]; then
    LC_ALL=C grep -Eqz "(confinement|type|hypervisor)$between[:=]$between(none|landlock|xen)" "$2"
    [ $? -ne 1 ] || exec "$launch" "$@"
fi
here=$(readlink -f -- "$0")
exec "${here%/*}/python3" -I -c 'import sys
del sys.argv[0]
from confined_qemu.__main__ import main
main()' "$0" "$@"
