#!/bin/sh
# The guest's initramfs: drivers, the network, then the real root.
export PATH=/bin
/bin/busybox --install -s /bin
@modules@
mount -t devtmpfs dev /dev
# User-mode networking always has these addresses. Set here, no service in the guest has to.
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
mount -t ext4 -o rw,noatime /dev/vda /root
umount /dev
exec switch_root /root /sbin/init
