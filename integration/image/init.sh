#!/bin/sh
# The image's init: a disk driver, then a shell on the serial line and one on the screen. Nothing else: it boots often.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
# Loading waits for the probes, so /dev/sda is there afterwards.
@modules@
# What the commands poweroff, reboot and halt send to process 1; nothing here needs a slow goodbye.
trap 'sync; poweroff -f' USR2
trap 'sync; reboot -f' TERM
trap 'sync; halt -f' USR1
# A shell with its own session and terminal, again whenever it ends.
console() {
    while :; do
        setsid -c sh -c 'echo "linux-0.2: ready"; exec sh -i' <"$1" >"$1" 2>&1
    done
}
console /dev/ttyS0 &
console /dev/tty1 &
while :; do wait; done
