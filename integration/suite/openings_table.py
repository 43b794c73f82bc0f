"""Command lines of real QEMU that name files, as data: a line at least for each row of the table of options.

`test_openings` runs each under strace, on the host and in the guest, and compares what QEMU opened with the plan. A
word may hold `<NAME>`, a file's whole path in the run's hostile folder, or `<,NAME>`, the same with doubled commas; a
name without brackets lies in the working directory. A name's beginning says what kind of file it is (`openings.make`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class End(Enum):
    """What becomes of the command line."""

    LIVES = "QEMU is up and ends by QMP"
    DIES = "QEMU opens the files and ends by itself: mostly as what it finds in them is not what it wants"
    EITHER = "it depends on the host"


@dataclass(frozen=True, slots=True)
class Run:
    """One start of QEMU. `unopened` holds names that the plan has and QEMU does not open, each with its reason."""

    name: str
    words: tuple[str, ...]
    end: End = End.LIVES
    unopened: Mapping[str, str] = field(default_factory=dict)
    stdio: bool = True
    """Whether the monitor that ends QEMU may be on its standard input."""


def _run(name: str, *lines: str, unopened: Mapping[str, str] | None = None) -> Run:
    return Run(name, tuple(word for line in lines for word in line.split()), unopened=unopened or {})


def _dies(name: str, *lines: str, unopened: Mapping[str, str] | None = None) -> Run:
    return replace(_run(name, *lines, unopened=unopened), end=End.DIES)


NO_DEVICE = "it is found in sysfs by its address, and there is no such device"
_ASKS = "run when the guest asks"
_LAZY_TFTP = "the user network looks into its folder when the guest asks"

TABLE = (
    # ---- disks
    _run(
        "disks as whole arguments",
        "-hda <raw-@hda> -hdb <raw-@hdb> -hdc <raw-@hdc> -hdd <raw-@hdd> -fda <floppy-@a> -fdb floppy-@b",
        "-pflash <pflash-@a> -pflash pflash-@b -snapshot",
    ),
    _run(
        "a disk without an option, and a cdrom",
        "<raw-@first> -cdrom <raw-@cdrom>",
        "-drive if=none,id=@c,file=<,raw-@cd> -device ide-cd,drive=@c,bus=ide.1,unit=1",
    ),
    _dies("sd", "-sd <raw-@sd>"),
    _dies("mtdblock", "-mtdblock <raw-@mtd>"),
    _run(
        "drives",
        "-drive if=none,id=@a,file=<,raw-@a>,format=raw",
        "-drive if=none,id=@b,file=<,raw-@b>,format=raw,readonly=on",
        "-drive if=none,id=@c,file=<,raw-@c>,format=raw,snapshot=on",
        "-drive if=none,id=@d,driver=raw,file.driver=file,file.filename=<,raw-@d>,file.locking=off",
        "-drive if=none,id=@e,file.filename=<,raw-@e>,read-only=on",
        "-drive if=none,id=@f,file=file:<,raw-@f>,format=raw",
        '-drive if=none,id=@g,file=json:{"driver":"raw",,"file":{"driver":"file",,"filename":"raw-@\\u0067"}}',
        "-drive",
        'if=none,id=@h,file=json:{"driver":"raw",,"file":{"driver":"file",,"filename":"raw-@h",,"read-only":true}}',
        "-drive if=none,id=@i,file=blkdebug:debug-@i:<,raw-@i>,format=raw",
        "-drive if=none,id=@j,file=blkverify:raw-@j:raw-@jj,format=raw",
        "-drive if=none,id=@k,driver=quorum,children.0.file.filename=<,raw-@k>,children.1.file.filename=raw-@kk"
        ",children.0.driver=raw,children.1.driver=raw,vote-threshold=1",
        "-drive if=none,id=@l,driver=copy-on-read,file.driver=raw,file.file.driver=file,file.file.filename=raw-@l",
        "-drive if=none,id=@m,file=./raw-@m:colon,format=raw -drive if=virtio,file=<,raw-@n>,format=raw,media=disk",
        "-drive if=none,id=@o,driver=file,filename=<,raw-@o> -drive if=none,id=@p,file=<,raw-@p>,driver=raw",
        "-drive if=none,id=@q,file=sub/../raw-@q,format=raw -drive",
        "if=none,id=@r,file=.//raw-@r,format=raw,auto-read-only=off",
        "-device virtio-blk-pci,drive=@a -device virtio-blk-pci,drive=@c -device virtio-blk-pci,drive=@f",
        "-device virtio-blk-pci,drive=@i -device virtio-blk-pci,drive=@g",
    ),
    _run(
        "chains",
        "-drive if=none,id=@a,file=<,chain-@a>,format=qcow2",
        "-drive if=none,id=@b,file=<,data-@b>,format=qcow2 -drive",
        "if=none,id=@c,file=<,data-@c>,format=qcow2,read-only=on",
        "-drive if=none,id=@d,file=<,chain-@d>,format=qcow2,backing.driver=raw,backing.file.filename=<,raw-@d>",
        "-drive if=none,id=@e,file=<,chain-@e>,format=qcow2,snapshot=on",
        "-drive if=none,id=@f,file=<,data-@f>,format=qcow2,data-file.filename=<,raw-@f>,data-file.driver=file",
        "-drive if=none,id=@g,file=vmdk-@g,format=vmdk",
        "-drive",
        'if=none,id=@h,file=json:{"driver":"qcow2",,"file":{"driver":"file",,"filename":"chain-@h"},,"backing":null}',
        "-drive if=none,id=@i,file=<,chain-@i>,format=qcow2,backing.file.locking=off",
        "-device virtio-blk-pci,drive=@a -device virtio-blk-pci,drive=@b -device virtio-blk-pci,drive=@e",
    ),
    _run(
        "folders as disks",
        "-drive if=none,id=@a,file=fat:<,dir-@a>,format=raw",
        "-drive if=none,id=@b,file=fat:floppy:16:rw:dir-@b,format=raw",
        "-drive if=none,id=@c,driver=vvfat,dir=<,dir-@c> -blockdev vvfat,dir=<,dir-@d>,node-name=@d,read-only=on",
    ),
    _run(
        "nodes",
        "-blockdev driver=file,filename=<,raw-@a>,node-name=@a -blockdev driver=raw,file=@a,node-name=@aa",
        "-blockdev raw,file.driver=file,file.filename=<,raw-@b>,node-name=@b",
        '-blockdev {"driver":"qcow2","node-name":"@c","file":{"driver":"file","filename":"chain-@c"}}',
        "-blockdev driver=file,filename=raw-@d,node-name=@d,read-only=on",
        "-blockdev driver=file,filename=<,chain-@e>,node-name=@ee",
        "-blockdev driver=qcow2,file=@ee,node-name=@e,backing=@d",
        "-blockdev driver=qcow2,file.driver=file,file.filename=<,data-@f>,node-name=@f"
        ",data-file.driver=file,data-file.filename=<,raw-@f>",
        "-blockdev driver=blkdebug,config=<,debug-@g>,image.driver=file,image.filename=raw-@g,node-name=@g",
        "-blockdev",
        "driver=blkverify,test.driver=file,test.filename=raw-@h,raw.driver=file,raw.filename=raw-@hh,node-name=@h",
        "-blockdev driver=blklogwrites,file.driver=file,file.filename=raw-@i,log.driver=file,log.filename=<,raw-@ii>"
        ",node-name=@i",
        "-blockdev",
        "driver=raw,file.driver=file,file.filename=<,raw-@j>,node-name=@j,file.auto-read-only=on,read-only=on",
        '-blockdev {"driver":"qcow2","node-name":"@k","backing":null,"file":{"driver":"file","filename":"chain-@k"}}',
        "-blockdev driver=copy-on-read,file.driver=file,file.filename=raw-@l,node-name=@l",
        "-blockdev driver=preallocate,file.driver=file,file.filename=raw-@m,node-name=@m",
        "-blockdev driver=compress,file.driver=qcow2,file.file.driver=file,file.file.filename=chain-@n,node-name=@n",
        "-blockdev driver=copy-before-write,file.driver=raw,file.file.driver=file,file.file.filename=raw-@o"
        ",target.driver=raw,target.file.driver=file,target.file.filename=raw-@oo,node-name=@o",
        "-object throttle-group,id=@group0",
        "-blockdev null-co,node-name=@q -blockdev null-aio,node-name=@r -blockdev",
        "driver=throttle,throttle-group=@group0,file.driver=file,file.filename=raw-@p,node-name=@p",
        "-device virtio-blk-pci,drive=@aa",
    ),
    *(
        _dies(f"nbd by {form}", line)
        for form, line in {
            "nbd:unix:": "-drive if=none,file=nbd:unix:<,shut-@a>:exportname=x",
            "nbd+unix:": "-drive if=none,file=nbd+unix:///x?socket=shut-@b",
            "server.path=": "-drive if=none,driver=nbd,server.type=unix,server.path=<,shut-@c>",
            "node": '-blockdev {"driver":"nbd","node-name":"@n","server":{"type":"unix","path":"shut-@d"}}',
        }.items()
    ),
    _dies("host_device of a plain file", "-drive if=none,driver=host_device,filename=<,raw-@a>"),
    _dies("host_cdrom of a plain file", "-drive if=none,file=host_cdrom:<,raw-@a>"),
    # ---- character devices
    _run(
        "character devices",
        "-chardev file,id=@a,path=<,new-@a> -chardev file,id=@b,path=new-@b,append=on,logfile=<,new-@bb>,logappend=on",
        "-chardev pipe,id=@c,path=<,fifo-@c>",
        "-chardev socket,id=@d,path=<,new-@d>,server=on,wait=off -chardev socket,id=@e,path=<,peer-@e>",
        "-chardev socket,id=@f,path=new-@f,server,nowait,logfile=new-@ff",
        "-chardev socket,path=<,peer-@g>,id=@g,reconnect=60",
        "-chardev null,id=@i,logfile=<,new-@i> -chardev ringbuf,id=@j,logfile=new-@j -chardev pty,id=@k",
        "-chardev vc,id=@l -chardev msmouse,id=@m -chardev testdev,id=@n -chardev udp,id=@o,host=127.0.0.1,port=9",
        "-mon chardev=@a -add-fd fd=9,set=1",
    ),
    _run(
        "character devices in the old syntax",
        "-serial unix:<,new-@a>,server,nowait -serial file:<new-@b> -serial pipe:<fifo-@c> -serial",
        "mon:unix:new-@d,server=on,wait=off",
        "-parallel file:<new-@e> -monitor unix:new-@f,server,nowait -qmp unix:new-@g,server=on,wait=off",
        "-qmp-pretty unix:peer-@h -debugcon file:<new-@i> -gdb unix:new-@j,server=on,wait=off",
        "-qtest unix:new-@k,server=on,wait=off,logfile=new-@kk -qtest-log <new-@l>",
    ),
    _run(
        "more of them",
        "-serial null -serial chardev:@q1 -chardev null,id=@q1 -serial unix:peer-@a -serial file:new-@b",
        "-parallel pipe:fifo-@b -monitor file:new-@c -qmp file:new-@d -debugcon unix:new-@e,server,nowait",
        "-serial /dev/ptmx -gdb file:/dev/null",
    ),
    _dies("a parallel port that is none", "-chardev parallel,id=@a,path=<,raw-@a>"),
    _run("a serial port that is none", "-chardev serial,id=@a,path=<,raw-@a>"),
    # ---- networks
    _run(
        "networks",
        "-netdev stream,id=@a,server=on,addr.type=unix,addr.path=<,new-@a>",
        "-netdev stream,id=@b,server=off,addr.type=unix,addr.path=<,peer-@b>",
        "-netdev dgram,id=@c,local.type=unix,local.path=<,new-@c>,remote.type=unix,remote.path=<,new-@cc>",
        "-netdev user,id=@d,tftp=<,dir-@d>,bootfile=/x,guestfwd=tcp:10.0.2.100:80-file:new-@d",
        '-netdev {"type":"user","id":"e","tftp":"dir-@e"}',
        "-netdev hubport,id=@f,hubid=1 -object filter-dump,id=@g,netdev=@d,file=<,new-@g>",
        "-nic user,id=@h,tftp=<,dir-@h> -net user,tftp=dir-@i -net nic",
        unopened={
            **dict.fromkeys(("dir-@d", "dir-@e", "dir-@h", "dir-@i"), _LAZY_TFTP),
            "new-@cc": "a datagram's address, sent to and not connected",
        },
    ),
    _run(
        "taps",
        "-netdev tap,id=@a,script=<,script-@a>,downscript=<,script-@b>,ifname=cq@-a -netdev tap,id=@b,ifname=cq@-b",
        "-nic tap,script=script-@c,downscript=script-@d,ifname=cq@-c",
        "-net nic -net tap,script=script-@e,downscript=script-@f,ifname=cq@-d",
    ),
    *(
        _dies(f"{words}'s helper", f"-{words},helper=script-@a")
        for words in ("netdev tap,id=@a", "netdev bridge,id=@a", "nic tap", "nic bridge", "net tap", "net bridge")
    ),
    *(_dies(f"{name} vde", f"-{name} vde,sock=<,dir-@a>,id=@a") for name in ("netdev", "nic", "net")),
    *(_dies(f"{name} vdpa", f"-{name} vhost-vdpa,vhostdev=<,raw-@a>,id=@a") for name in ("netdev", "nic")),
    *(
        replace(
            _run(
                f"{name} smb", f"-{name} user,smb=<,dir-@a>,id=@a", unopened={"dir-@a": "Samba opens it", "smbd": _ASKS}
            ),
            end=End.EITHER,  # it lives where Samba is installed
        )
        for name in ("netdev", "nic", "net")
    ),
    # ---- objects
    _run(
        "objects",
        "-object memory-backend-file,id=@a,size=64K,mem-path=<,new-@a>,share=on",
        "-object memory-backend-file,id=@b,size=64K,mem-path=<,raw-@b>,readonly=on",
        "-object memory-backend-file,id=@c,size=64K,mem-path=dir-@c",
        "-object secret,id=@d,file=<,text-@d> -object rng-random,id=@e,filename=<,raw-@e>",
        "-object tls-creds-psk,id=@g,endpoint=client,username=a,dir=<,keys-@g> -object",
        "tls-creds-anon,id=@h,endpoint=client,dir=keys-@h",
        "-object tls-cipher-suites,id=@i,priority=NORMAL",
        "-object throttle-group,id=@j -object iothread,id=@k -object memory-backend-memfd,id=@l,size=64K",
        "-device virtio-rng-pci,rng=@e",
        unopened={"keys-@h": "a client has none, and a server without its own makes them for minutes"},
    ),
    _dies("tls-creds-x509", "-object tls-creds-x509,id=@a,endpoint=server,dir=<,keys-@a>"),
    _dies("pr-manager-helper", "-object pr-manager-helper,id=@a,path=<,shut-@a>"),
    _dies("input-linux", "-object input-linux,id=@a,evdev=<,raw-@a>"),
    _dies("dbus-vmstate", "-object dbus-vmstate,id=@a,addr=unix:path=shut-@a"),
    _run("qtest", "-chardev null,id=@a -object qtest,id=@b,chardev=@a,log=<,new-@a>"),
    _run("guest memory", "-m 64 -mem-path <new-@a>", "-mem-prealloc"),
    _run("guest memory in a folder", "-m 64 -mem-path dir-@b"),
    # ---- devices
    _run(
        "devices",
        "-device loader,file=<,text-@a>,addr=0x100000,force-raw=on -device virtio-net-pci,romfile=<,rom-@b>",
        '-device {"driver":"virtio-net-pci","romfile":"rom-@c"}',
        "-device ipmi-bmc-sim,id=@d,sdrfile=<,text-@d>,frudatafile=<,text-@dd> -device qemu-xhci",
        "-device usb-mtp,rootdir=<,dir-@e> -device usb-tablet,pcap=<,new-@f>",
        "-fsdev local,id=@g,path=<,dir-@g>,security_model=none -device virtio-9p-pci,fsdev=@g,mount_tag=/dev/root",
        "-virtfs local,path=dir-@h,mount_tag=h,security_model=none,readonly=on",
        "-fsdev synth,id=@i",
        unopened={"dir-@e": "looked into when the guest asks"},
    ),
    _run(
        "properties of devices",
        "-global virtio-net-pci.romfile=<rom-@a> -device virtio-net-pci,id=@b -set device.@b.mac=52:54:00:12:34:56",
    ),
    _dies(
        "a CXL device's table",
        "-M q35,cxl=on,cxl-fmw.0.targets.0=cxl.1,cxl-fmw.0.size=4G -device pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl.1",
        "-device cxl-rp,port=0,bus=cxl.1,id=@rp,chassis=0,slot=2 -object memory-backend-ram,id=@m,size=256M",
        "-object memory-backend-ram,id=@l,size=256M -device cxl-type3,bus=@rp,memdev=@m,lsa=@l,id=@p,cdat=<,new-@a>",
    ),
    _dies(
        "tpmdev",
        "-tpmdev passthrough,id=@a,path=<,raw-@a>,cancel-path=<,raw-@b>",
        unopened={"raw-@b": "opened once the device is known to be a TPM"},
    ),
    _dies("usb-host", "-device qemu-xhci -device usb-host,hostdevice=<,raw-@a>"),
    _dies("virtio-input-host", "-device virtio-input-host-pci,evdev=<,raw-@a>"),
    _dies("u2f-passthru", "-device qemu-xhci -device u2f-passthru,hidraw=<,raw-@a>"),
    _dies(
        "vfio",
        "-device vfio-pci,sysfsdev=<,dir-@a>",
        unopened=dict.fromkeys(("iommu_group", "config", "vfio"), "no such device"),
    ),
    _dies("guest-loader", "-device guest-loader,kernel=<,text-@a>,addr=0x100000"),
    _dies("guest-loader's initrd", "-device guest-loader,initrd=<,text-@a>,addr=0x100000"),
    _dies("fsdev proxy", "-fsdev proxy,id=@a,socket=<,shut-@a> -device virtio-9p-pci,fsdev=@a,mount_tag=a"),
    _dies("virtfs proxy", "-virtfs proxy,socket=shut-@a,mount_tag=x"),
    _dies(
        "smartcard",
        "-device qemu-xhci -device usb-ccid -device ccid-card-emulated,backend=certificates,db=dir-@a"
        ",cert1=a,cert2=b,cert3=c",
    ),
    # ---- kernel, firmware, tables
    _run(
        "kernel and tables",
        "-kernel <linux-@a> -initrd text-@b -dtb <text-@c> -append root=/dev/sda",
        "-acpitable sig=TEST,data=<,text-@d> -acpitable file=table-@e -smbios file=<,smbios-@f>",
        "-smbios type=11,path=<,text-@g> -smbios type=1,product=/x -fw_cfg name=opt/x,file=<,text-@h>",
        "-fw_cfg opt/y,string=/z -option-rom <,rom-@i> -boot order=c,splash=<,splash-@j>,menu=on -k <text-@kk> -vnc",
        "none",
        "-L <dir-@k> -L dir-@l",
        unopened={
            "text-@kk": "a layout is read by a screen",
            "dir-@k": "nothing is looked for there",
            "dir-@l": "the same",
        },
    ),
    *(
        _run(
            f"{name}'s kernel",
            f"-{name} kernel=<,linux-@a>,initrd=<,text-@b>,dtb=<,text-@c>,dumpdtb=<,new-@d>",
            unopened={"new-@d": "a pc has no device tree"},
        )
        for name in ("machine", "M")
    ),
    _run("bios", "-bios <bios-@a>"),
    _run("bios by -L", "-L <dir-@a> -L <roms-@b> -bios rom.bin", unopened={"dir-@a": "rom.bin is not there"}),
    _run("firmware that nobody names", "-L roms-@a"),
    _run(
        "JSON in single quotes",
        "-blockdev {'driver':'raw','node-name':'@s','file':{'driver':'file','filename':'raw-@s'}}",
        "-drive if=none,id=@t,file=json:{'driver':'raw',,'file':{'driver':'file',,'filename':'raw-@t'}}",
    ),
    _run("one pipe for both ways", "-chardev pipe,id=@a,path=<,single-@a> -serial pipe:single-@b"),
    _run("a migration by a program", "-incoming exec:cat"),
    _dies("a replay", "-icount shift=1,rr=replay,rrfile=text-@a"),
    _run(
        "a program for the guest's network",
        "-netdev user,id=@a,guestfwd=tcp:10.0.2.4:80-cmd:./script-@a,guestfwd=tcp:10.0.2.4:81-cmd:missing-@a",
        unopened={"script-@a": _ASKS},
    ),
    _run("firmware", "-machine firmware=<,bios-@a>"),
    _run("M's firmware", "-M firmware=bios-@a"),
    # ---- displays, sound, traces, the process
    _run(
        "displays",
        "-vnc unix:<,new-@a>,password=off -display vnc=unix:new-@b",
        "-spice unix=on,addr=<,new-@c>,disable-ticketing=on -vga qxl",
    ),
    _dies("spice's keys", "-spice tls-port=15999,x509-dir=<,keys-@a>,disable-ticketing=on"),
    _dies(
        "spice's keys one by one",
        "-spice tls-port=15999,x509-cert-file=<,text-@a>,x509-key-file=<,text-@b>,x509-cacert-file=<,text-@c>"
        ",x509-dh-key-file=<,text-@d>,disable-ticketing=on",
        unopened=dict.fromkeys(("text-@b", "text-@c", "text-@d"), "read after the certificate, which is none"),
    ),
    _dies("spice's device", "-spice gl=on,unix=on,addr=new-@a,disable-ticketing=on,rendernode=<,raw-@a>"),
    _dies("egl", "-display egl-headless,rendernode=<,raw-@a>"),
    _dies("dbus", "-display dbus,addr=unix:path=shut-@a"),
    _run(
        "sound",
        "-audiodev wav,id=@a,path=<,new-@a> -device AC97,audiodev=@a",
        "-audio wav,model=ac97,path=<,new-@c>",
        "-audiodev oss,id=@b,in.dev=raw-@b,out.dev=<,raw-@bb> -device intel-hda -device hda-duplex,audiodev=@b",
    ),
    _run("traces", "-trace enable=qmp_*,events=<,events-@a>,file=<,new-@b> -D <new-@c> -d guest_errors"),
    _run("record", "-icount shift=1,rr=record,rrfile=<,new-@a>"),
    _dies("plugin", "-plugin <,raw-@a>.so"),
    _run("process", "-pidfile <new-@a> -name a,debug-threads=on -sandbox on,spawn=deny -chroot ."),
    _run("incoming", "-incoming unix:<new-@a>"),
    _dies("vmstate", "-dump-vmstate <new-@a>"),
    _run(
        "options that name no file",
        "-accel tcg,thread=single -action panic=none -audio driver=none,model=ac97 -compat deprecated-input=accept",
        "-cpu max -d guest_errors -dfilter 0..1 -echr 20 -iscsi user=a -m 64 -msg timestamp=on -name a -no-acpi",
        "-object memory-backend-ram,id=@r,size=64M -numa node,memdev=@r -overcommit mem-lock=off -rotate 90 -rtc",
        "base=utc -runas nobody -sandbox on -seed 3 -smp 1",
        "-usbdevice tablet -uuid 12345678-1234-1234-1234-123456789012 -vga std -watchdog-action none",
        "-enable-sync-profile -full-screen -no-fd-bootchk -no-hpet -no-reboot -no-shutdown",
        "-no-user-config -nodefaults -only-migratable -portrait -S -singlestep -usb -win2k-hack",
    ),
    _run("a configuration file", "-readconfig <config-@a>"),
    _run("no screen", "-nographic -serial none -parallel none -monitor none"),
    _run("before the machine", "-preconfig"),
    _dies("a snapshot that is not there", "-loadvm x"),
    _dies("KVM", "-enable-kvm"),
    replace(
        _run(
            "in the background",
            "-daemonize -chardev pipe,id=@q1,path=fifo-q -mon chardev=@q1,mode=control -pidfile new-@a",
        ),
        stdio=False,
    ),
)
"""Every start of QEMU, `@` standing for what keeps its names and ids apart from another's."""


def apart(run: Run, mark: str) -> Run:
    """Return a start of QEMU with its names kept apart from another's by `mark`."""
    unopened = {name.replace("@", mark): reason for name, reason in run.unopened.items()}
    return replace(run, words=tuple(word.replace("@", mark) for word in run.words), unopened=unopened)


RUNS = tuple(apart(run, "") for run in TABLE)
"""Every start of QEMU by itself."""
