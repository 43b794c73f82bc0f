#!/bin/bash
# Boots VMs as shell scripts of a CI do, and prints what each came to: the same with whatever is qemu-system-x86_64.
# usage: ci.sh FIRMWARE; its files lie in the folder that it is started in.
set -u
vm="-m 32M -no-reboot -bios $1 -drive file=disk.img,format=raw,if=ide -device isa-debug-exit,iobase=0xf4,iosize=4"
quiet="-accel ${ACCEL:-kvm} -nodefaults -display none $vm"
truncate -s 1M disk.img

ready() { tail -s 0.1 --pid="$2" -n +1 -f "$1" | grep -q -m1 'guest: ready'; }
gone() { tail -s 0.1 --pid="$1" -f /dev/null; }

echo '== a log in the own folder, keys from a here-document'
timeout 300 qemu-system-x86_64 -accel ${ACCEL:-kvm} -nographic -net none $vm > boot.log 2>&1 << END; echo $?
q
END
grep -a -c 'guest: ready' boot.log

echo '== a log in a folder under /tmp, keys from a here-document that is too long for a pipe'
folder=$(mktemp -d)
timeout 300 qemu-system-x86_64 $quiet -serial stdio > "$folder/boot.log" 2>&1 << END; echo $?
q$(head -c 70000 /dev/zero | tr '\0' q)
END
tr -d '\r' < "$folder/boot.log"
rm -r "$folder"

echo '== a pipe into a grep that leaves at once'
printf .q | qemu-system-x86_64 $quiet -serial stdio 2>&1 | grep -a -o -m1 'guest: ready'
echo "${PIPESTATUS[*]}"

echo '== a pipe into a reader that kills: its end comes'
qemu-system-x86_64 $quiet -serial stdio -pidfile piped.pid < /dev/null | { grep -a -o -m1 'guest: ready'; kill -9 "$(cat piped.pid)"; cat; }
echo "${PIPESTATUS[*]}"
rm -f piped.pid

echo '== expect'
expect -c "
log_user 0
set timeout 300
spawn -noecho qemu-system-x86_64 $quiet -serial stdio
expect {guest: ready} {puts {seen}} timeout {puts {never}} eof {puts \$expect_out(buffer)}
send x
expect eof
puts [lindex [wait] 3]"

echo '== daemonize'
: > serial.log
qemu-system-x86_64 $quiet -serial file:serial.log -daemonize -pidfile qemu.pid; echo $?
pid=$(cat qemu.pid)
cat "/proc/$pid/comm"
ready serial.log "$pid"; echo $?
kill "$(cat qemu.pid)"; echo $?
gone "$pid"

echo '== in the background'
: > serial.log
qemu-system-x86_64 $quiet -serial file:serial.log < /dev/null > out.log 2>&1 & pid=$!
sleep 0.25
kill -0 $pid; echo $?
ready serial.log $pid; echo $?
kill -9 $pid
wait $pid 2> /dev/null; echo $?
cat out.log

echo '== a trap'
(
    trap 'kill $pid; wait $pid; echo "trap: $?"' EXIT
    : > serial.log
    qemu-system-x86_64 $quiet -serial file:serial.log < /dev/null > out.log 2>&1 & pid=$!
    ready serial.log $pid
    exit 3
); echo $?
sed 's/from pid .*/from pid/' out.log

echo '== a judge: the debug port, and nothing on standard error'
said=$(printf x | qemu-system-x86_64 $quiet -serial stdio 2> err.log | tr -d '\r'; exit "${PIPESTATUS[1]}")
echo "$? $said $(wc -c < err.log)"
