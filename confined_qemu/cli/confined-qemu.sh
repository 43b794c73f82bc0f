#!/bin/sh
# The `confined-qemu` command, by the Python that it was installed beside. -I: with `sudo -E` the environment would
# have root run the usercustomize of whoever called, or modules from PYTHONPATH. What pip writes cannot say -I.
here=$(dirname -- "$(readlink -f -- "$0")")
exec "$here/python3" -I -c 'import sys
del sys.argv[0]
from confined_qemu.__main__ import main
main()' "$0" "$@"
