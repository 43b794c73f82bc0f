"""Command lines and what QEMU would make of them: the files, the sockets, the accelerator."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from confined_qemu.model.commas import escape
from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.invocation import Accel, Invocation
from confined_qemu.model.resource import PROBED, Access, Listener, Role, Takes
from confined_qemu.read.qemu.options import OPTIONS
from confined_qemu.read.qemu.reader import read
from tests.messages import is_message
from tests.strategies import paths

QEMU = "qemu-system-x86_64"


def found(line: str) -> list[str]:
    """Return the resources of a command line, each as `PATH role access class [format]`."""
    return [
        " ".join(filter(None, (r.path, r.role, r.access, r.sharing, r.format if r.format != PROBED else None)))
        for r in read(QEMU, line.split()).resources
    ]


FILES = {
    # disks
    "-hda a.img": ["a.img disk rw private"],
    "--hdb a,b.img": ["a,b.img disk rw private"],
    "a.img": ["a.img disk rw private"],
    "-fda f.img": ["f.img floppy rw private"],
    "-cdrom x.iso": ["x.iso cdrom ro content"],
    "-cdrom /dev/cdrom": ["/dev/cdrom cdrom ro content"],
    "-hda /dev/vg/lv": ["/dev/vg/lv disk rw private"],
    "-hda /dev/null": ["/dev/null disk rw unlabelled"],
    "-hda /dev/../srv/a": ["/dev/../srv/a disk rw private"],
    "-pflash vars.fd": ["vars.fd nvram rw private"],
    "-sd s.img -mtdblock m.img": ["s.img disk rw private", "m.img disk rw private"],
    "-drive file=a,,b.img,format=raw": ["a,b.img disk rw private raw"],
    "-drive file=a.img,file=b.img": ["b.img disk rw private"],
    "-drive file=a,readonly": ["a disk ro content"],
    "-drive file=a,readonly=on": ["a disk ro content"],
    "-drive file=a,read-only=yes": ["a disk ro content"],
    "-drive file=a,readonly=off": ["a disk rw private"],
    "-drive file=a,media=cdrom": ["a cdrom ro content"],
    "-drive file=a,if=floppy": ["a floppy rw private"],
    "-drive if=ide,media=cdrom": [],
    "-drive file=,if=ide": [],
    "-drive file=x.iso,if=none,id=c -device ide-cd,drive=c": ["x.iso cdrom ro content"],
    "-drive file=x,if=none,id=c -device ide-cd,drive=c -device ide-hd,drive=c": ["x disk rw private"],
    "-drive file=x,if=none,id=c,auto-read-only=off -device ide-cd,drive=c": ["x cdrom rw private"],
    "-drive if=pflash,file=c.fd,readonly=on": ["c.fd firmware ro content"],
    "-drive if=pflash,file=/usr/share/OVMF/C.fd,readonly=on": ["/usr/share/OVMF/C.fd firmware ro unlabelled"],
    "-drive file=a,snapshot=on": ["a disk ro content"],
    "-drive file=a -snapshot": ["a disk ro content"],
    "-drive file=a,snapshot=off -snapshot": ["a disk rw private"],
    "-drive file=file:a:b": ["a:b disk rw private"],
    "-drive file=./a:b": ["./a:b disk rw private"],
    "-drive file=fat:rw:/srv/d": ["/srv/d filesystem dir unlabelled"],
    "-drive file=fat:floppy:16:d": ["d filesystem ro unlabelled"],
    "-drive file=nbd:unix:/s:exportname=x": ["/s socket connect unlabelled"],
    "-drive file=nbd+unix:///e?socket=/a%2cb": ["/a,b socket connect unlabelled"],
    "-drive file=nbd://host/x": [],
    "-drive file=https://host/x.iso,readonly=on": [],
    "-drive file=blkdebug:c:i": ["c config ro content", "i disk rw private"],
    "-drive file=blkverify:r:i": ["i disk rw private", "r disk rw private"],
    "-drive file=rbd:pool/i:id=x:conf=/a:key=k": ["/a config ro content"],
    "-drive driver=qcow2,file.filename=a,file.locking=off": ["a disk rw private qcow2"],
    "-drive file=a,format=qcow2,backing.file.filename=b,backing.driver=raw": [
        "a disk rw private qcow2",
        "b backing ro content raw",
    ],
    "-drive file=a,format=qcow2,data-file.filename=d": ["a disk rw private qcow2", "d data-file rw private raw"],
    "-drive driver=quorum,children.0.file.filename=a,children.1.file.filename=b": [
        "a disk rw private",
        "b disk rw private",
    ],
    "-drive driver=nbd,server.type=unix,server.path=/s": ["/s socket connect unlabelled"],
    '-drive file=json:{"driver":"raw",,"file":{"driver":"file",,"filename":"j"}}': ["j disk rw private raw"],
    '-hda json:{"driver":"raw","file":{"driver":"file","filename":"j"}}': ["j disk rw private raw"],
    # nodes
    "-blockdev driver=file,filename=a,node-name=f": ["a disk rw private raw"],
    "-blockdev file,filename=a,read-only=on": ["a disk ro content raw"],
    "-blockdev driver=qcow2,file.driver=file,file.filename=a": ["a disk rw private qcow2"],
    "-blockdev driver=qcow2,file.driver=file,file.filename=a,read-only=on": ["a disk ro content qcow2"],
    '-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"a,b"}}': ["a,b disk rw private qcow2"],
    "-blockdev driver=file,filename=a,node-name=f -blockdev driver=qcow2,file=f": ["a disk rw private qcow2"],
    "-blockdev driver=file,filename=a,node-name=f -blockdev driver=raw,file=f,read-only=on": ["a disk rw private raw"],
    "-blockdev driver=file,filename=a,node-name=f,auto-read-only=on -blockdev driver=raw,file=f,read-only=on": [
        "a disk ro content raw"
    ],
    "-blockdev driver=file,filename=b,node-name=bf,auto-read-only=on"
    " -blockdev driver=raw,file=bf,node-name=b,read-only=on"
    " -blockdev driver=file,filename=t,node-name=tf"
    " -blockdev driver=qcow2,file=tf,backing=b": ["b backing ro content raw", "t disk rw private qcow2"],
    "-blockdev driver=file,filename=v,node-name=v -machine q35,pflash0=v": ["v nvram rw private raw"],
    "-blockdev driver=host_device,filename=/dev/sdb": ["/dev/sdb disk rw private raw"],
    # inherited descriptors
    "-add-fd fd=3,set=1 -drive file=/dev/fdset/1": [],
    "-hda /proc/self/fd/5": ["/proc/self/fd/5 disk rw unlabelled"],
    "-serial file:/dev/stdout": ["/dev/stdout chardev create unlabelled"],
    "-chardev file,id=c,path=/dev/fd/3": ["/dev/fd/3 chardev create unlabelled"],
    "-kernel //proc/77/fd/3": ["//proc/77/fd/3 kernel ro unlabelled"],
    # character devices
    "-chardev file,id=c,path=a,,b,logfile=l": ["l log create private", "a,b chardev create private"],
    "-chardev socket,id=c,path=/s,reconnect=1": ["/s socket connect unlabelled"],
    "-chardev socket,id=c,path=s,abstract=on": [],
    "-chardev socket,id=c,host=::1,port=1,server=on,logfile=l": ["l log create private"],
    "-chardev pipe,id=c,path=p": ["p.in chardev rw private", "p.out chardev rw private"],
    "-chardev serial,id=c,path=/dev/ttyS0": ["/dev/ttyS0 chardev rw unlabelled"],
    "-serial file:a,b.log": ["a,b.log chardev create private"],
    "-serial mon:stdio -monitor none -qmp tcp::1,server,logfile=/l": ["/l log create private"],
    "-serial /dev/ttyS0": ["/dev/ttyS0 chardev rw unlabelled"],
    "-serial chardev:c -parallel null -gdb tcp::1234": [],
    # kernel, firmware, tables
    "-kernel k -initrd i -dtb d -append root=/dev/sda": [
        "k kernel ro content",
        "i initrd ro content",
        "d dtb ro content",
    ],
    "-kernel a,b": ["a,b kernel ro content"],
    "-kernel old -kernel new": ["new kernel ro content"],
    "-initrd one,two": ["one initrd ro content", "two initrd ro content"],
    "-machine pc,kernel=k,initrd=i,dtb=d,firmware=f": [
        "k kernel ro content",
        "i initrd ro content",
        "d dtb ro content",
        "f firmware ro content",
    ],
    "-bios bios-256k.bin": ["bios-256k.bin firmware ro content"],
    "-bios OVMF.fd": ["OVMF.fd firmware ro content"],
    "-bios /usr/share/ovmf/OVMF.fd": ["/usr/share/ovmf/OVMF.fd firmware ro unlabelled"],
    "-L dir -L /usr/share/qemu": ["dir firmware dir unlabelled", "/usr/share/qemu firmware dir unlabelled"],
    "-acpitable file=a:b": ["a acpi_table ro content", "b acpi_table ro content"],
    "-smbios file=a -smbios type=11,path=b,path=c": [
        "a smbios ro content",
        "b smbios ro content",
        "c smbios ro content",
    ],
    "-smbios type=1,product=/x": [],
    "-fw_cfg opt/x,file=f -fw_cfg name=opt/y,string=/z": ["f fw_cfg ro content"],
    "-option-rom r": ["r option_rom ro content"],
    "-boot order=c,splash=./s.bmp": ["./s.bmp firmware ro content"],
    "-k fr": ["fr firmware ro content"],
    # created files
    "-pidfile p,q -D l": ["p,q pidfile create private", "l log create private"],
    "-trace enable=x,file=t,events=e": ["t log create private", "e config ro content"],
    "-audiodev wav,id=a,path=w": ["w log create private"],
    "-object filter-dump,id=f,netdev=n,file=p": ["p log create private"],
    # memory, objects, devices
    "-mem-path /dev/shm/m": ["/dev/shm/m memory create private"],  # noqa: S108 - text only
    "-mem-path /dev/hugepages": ["/dev/hugepages memory dir unlabelled"],
    "-object memory-backend-file,id=m,size=1M,mem-path=m,share=on": ["m memory create private"],
    "-object memory-backend-file,id=m,size=1M,mem-path=m,readonly=on": ["m memory ro content"],
    "-object secret,id=s,file=s": ["s secret ro private"],
    "-object secret,id=s,data=/base64": [],
    '-object {"qom-type":"secret","id":"s","file":"a,b"}': ["a,b secret ro private"],
    "-object tls-creds-anon,id=t,dir=/srv/pki,endpoint=server": [
        "/srv/pki/dh-params.pem config ro content",
        "/srv/pki secret dir unlabelled",
    ],
    "-object rng-random,id=r,filename=/dev/urandom": ["/dev/urandom host_device ro unlabelled"],
    "-object input-linux,id=i,evdev=/dev/input/event1": ["/dev/input/event1 evdev rw private"],
    "-device virtio-net-pci,romfile=r": ["r option_rom ro content"],
    "-device virtio-net-pci,romfile=": [],
    "-device usb-host,hostdevice=/dev/bus/usb/001/002": ["/dev/bus/usb/001/002 usb rw private"],
    "-device loader,file=l,addr=0": ["l kernel ro content"],
    "-device vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:01:00.0": [
        "/sys/bus/pci/devices/0000:01:00.0/iommu_group vfio rw unlabelled",
        "/sys/bus/pci/devices/0000:01:00.0/config host_device ro unlabelled",
        "/dev/vfio/vfio host_device rw unlabelled",
    ],
    "-device vfio-pci,host=01:00.0": [
        "/sys/bus/pci/devices/0000:01:00.0/iommu_group vfio rw unlabelled",
        "/sys/bus/pci/devices/0000:01:00.0/config host_device ro unlabelled",
        "/dev/vfio/vfio host_device rw unlabelled",
    ],
    "-device vfio-pci,host=0001:01:00.0": [
        "/sys/bus/pci/devices/0001:01:00.0/iommu_group vfio rw unlabelled",
        "/sys/bus/pci/devices/0001:01:00.0/config host_device ro unlabelled",
        "/dev/vfio/vfio host_device rw unlabelled",
    ],
    "-device virtio-9p-pci,fsdev=f,mount_tag=/dev/root": [],
    "-global virtio-net-pci.romfile=r": ["r option_rom ro content"],
    "-global driver=virtio-net-pci,property=romfile,value=r": ["r option_rom ro content"],
    "-tpmdev passthrough,id=t,path=/dev/tpm1,cancel-path=/dev/null": [
        "/dev/tpm1 tpm rw private",
        "/dev/null tpm wo unlabelled",
    ],
    # shares and networks
    "-fsdev local,id=f,path=/,security_model=none": ["/ filesystem dir unlabelled"],
    "-fsdev local,id=f,path=/usr,security_model=none,readonly=on": ["/usr filesystem ro unlabelled"],
    "-virtfs local,path=d,mount_tag=/t,security_model=none": ["d filesystem dir unlabelled"],
    "-virtfs proxy,socket=/s,mount_tag=t": ["/s socket connect unlabelled"],
    "-netdev user,id=n,tftp=/t,bootfile=/pxe.0,smb=/d,hostfwd=tcp::2-:2": [
        "/t share dir unlabelled",
        "/d share dir unlabelled",
        "/usr/sbin/smbd helper ro unlabelled",
    ],
    "-netdev user,id=n,guestfwd=tcp:10.0.2.9:1-unix:/s": ["/s socket connect unlabelled"],
    "-nic tap,script=no,downscript=no": ["/dev/net/tun host_device rw unlabelled"],
    "-nic tap,script=/s,downscript=no": ["/s helper ro unlabelled", "/dev/net/tun host_device rw unlabelled"],
    "-netdev tap,id=n": [
        "/etc/qemu-ifup helper ro unlabelled",
        "/etc/qemu-ifdown helper ro unlabelled",
        "/dev/net/tun host_device rw unlabelled",
    ],
    "-drive if=none,id=d,format=raw,file=x -device virtio-blk,drive=d,share-rw=on": ["x disk rw shared raw"],
    "-drive if=none,id=d,format=raw,file=x -device virtio-blk,drive=d,share-rw=off": ["x disk rw private raw"],
    "-drive if=none,id=d,format=raw,file=x -device virtio-blk,drive=e,share-rw=on": ["x disk rw private raw"],
    "-drive if=none,id=d,file=x -device virtio-blk,id=v,drive=d -set device.v.share-rw=on": ["x disk rw shared"],
    "-blockdev file,node-name=f,filename=x -blockdev raw,node-name=d,file=f -device scsi-hd,drive=d,share-rw=on": [
        "x disk rw shared raw"
    ],
    "-drive if=none,id=d,format=qcow2,file=x,backing.file.filename=b -device scsi-hd,drive=d,share-rw=on": [
        "x disk rw shared qcow2",
        "b backing ro content",
    ],
    "-drive if=none,id=d,format=raw,file=x -device floppy,drive=d": ["x floppy rw private raw"],
    "-netdev tap,id=n,fd=3,vhostfd=4": [],
    "-netdev bridge,id=n,helper=/h": ["/h helper ro unlabelled"],
    "-netdev dgram,id=n,local.type=unix,local.path=/l,remote.type=unix,remote.path=/r": [
        "/l socket listen private",
        "/r socket connect unlabelled",
    ],
    # displays, migration
    "-object iommufd,id=i -object memory-backend-epc,id=e,size=1M": [
        "/dev/iommu host_device rw unlabelled",
        "/dev/sgx_vepc host_device rw unlabelled",
    ],
    "-object iommufd,id=i,fd=5": [],
    "-object authz-listfile,id=a,filename=f": ["f config ro content"],
    "-shim s -kernel k": ["s kernel ro content", "k kernel ro content"],
    "-netdev stream,id=n,addr.type=unix,addr.path=/s,reconnect=1": ["/s socket connect unlabelled"],
    "-netdev stream,id=n,addr.type=unix,addr.path=s,addr.abstract=on": [],
    "-nic stream,server=on,addr.type=unix,addr.path=/s": ["/s socket listen private"],
    '-chardev {"id":"c","backend":{"type":"file","data":{"out":"o","in":"i","logfile":"l"}}}': [
        "l log create private",
        "o chardev create private",
        "i chardev ro content",
    ],
    '-chardev {"id":"c","backend":{"type":"serial","data":{"device":"/dev/ttyS0"}}}': [
        "/dev/ttyS0 chardev rw unlabelled"
    ],
    '-chardev {"id":"c","backend":{"type":"socket","data":{"addr":{"type":"unix","data":{"path":"/s"}}}}}': [
        "/s socket listen private"
    ],
    '-chardev {"backend":{"type":"socket","data":{"addr":{"type":"unix","data":{"path":"/s"}},"server":false}}}': [
        "/s socket connect unlabelled"
    ],
    "-vnc unix:/v,reverse=on": ["/v socket connect unlabelled"],
    "-vnc :1 -display none": [],
    "-display egl-headless,rendernode=/dev/dri/renderD128": ["/dev/dri/renderD128 host_device rw unlabelled"],
    "-display dbus,addr=unix:path=/b": ["/b socket connect unlabelled"],
    "-spice port=1,addr=::1": [],
    "-incoming file:m,offset=4": ["m state ro private"],
    "-incoming tcp:0:1 -loadvm /tag": [],
    # what QEMU itself refuses
    "-kernel": [],
    "-m 1G -drive": [],
    "-serial": [],
}


STATED = {
    "-drive file=a,format=qcow2": "",
    "-drive file=a,format=qcow2,backing.driver=raw": "",
    "-drive file=a,format=qcow2,backing.file.locking=off": "",
    "-drive file=a,format=qcow2,backing.file.filename=b": "backing",
    "-drive file=a,format=qcow2,backing=": "backing",
    "-drive file=a,format=qcow2,data-file.filename=d": "data-file",
    "-drive driver=qcow2,file.filename=a,backing.driver=raw,backing.file.filename=b": "backing",
    """-drive file=json:{"driver":"qcow2",,"backing":null,,"file":{"driver":"file",,"filename":"a"}}""": "backing",
    "-blockdev file,filename=a,node-name=f -blockdev qcow2,file=f,node-name=q": "",
    "-blockdev file,filename=a,node-name=f -blockdev qcow2,file=f,backing=b,data-file=d": "backing data-file",
    "-blockdev file,filename=a,node-name=f -blockdev throttle,file=f,node-name=t -blockdev qcow2,file=t,backing=": (
        "backing"
    ),
    """-blockdev {"driver":"qcow2","file":{"driver":"file","filename":"a"},"backing":null}""": "backing",
}


@pytest.mark.parametrize("line", STATED)
def test_layers_that_the_command_line_gives_itself(line: str) -> None:
    first = read(QEMU, line.split()).resources[0]
    assert first.path == "a"
    assert first.layered
    assert " ".join(sorted(first.stated)) == STATED[line]


@pytest.mark.parametrize(
    ("line", "layered"),
    [
        ("-hda a", True),
        ("-cdrom a", True),
        ("-drive file=a,if=pflash,readonly=on", True),
        ("-drive file=a,format=raw", False),
        ("-drive file=a,format=vdi", False),
        ("-drive file=/usr/share/a,readonly=on", False),
        ("-drive file=/dev/fd/3", False),
        ("-bios a", False),
        ("-kernel a", False),
        ("-blockdev file,filename=a", False),
        ("-drive file=a,format=vmdk", True),
        ("-drive driver=quorum,children.0.file.filename=a", True),
    ],
)
def test_images_that_are_looked_into(line: str, layered: bool) -> None:
    assert read(QEMU, line.split()).resources[0].layered is layered


@pytest.mark.parametrize("line", FILES)
def test_files(line: str) -> None:
    assert found(line) == FILES[line]


@pytest.mark.parametrize("line", FILES)
def test_a_command_line_stays_as_it_is(line: str) -> None:
    assert read(QEMU, line.split()).arguments == tuple(line.split())


def test_every_kind_of_option_has_a_case() -> None:
    named = {word.lstrip("-") for line in FILES for word in line.split() if word.startswith("-")}
    kinds = {option.kind for option in OPTIONS.values()}
    assert {OPTIONS[name].kind for name in named & OPTIONS.keys()} == kinds


def test_a_source_names_the_option_and_the_key() -> None:
    line = "-drive file=a -blockdev driver=raw,file.driver=file,file.filename=b -kernel k -chardev file,id=c,path=d"
    assert [resource.source for resource in read(QEMU, line.split()).resources] == [
        "-drive file=",
        "-blockdev file.filename=",
        "-kernel",
        "-chardev path=",
    ]


LISTENERS = {
    "-chardev socket,id=c,path=/a,,b,server=on,wait=off,logfile=l,,m": (
        "-chardev socket,id=c,fd={c},server=on,wait=off,logfile=l,,m",
        Listener("c", "/a,b", "-chardev path=", 1, "socket,id=c,fd=", ",server=on,wait=off,logfile=l,,m"),
    ),
    "-S -chardev socket,server,nowait,telnet,id=c,path=p": (
        "-S -chardev socket,server,nowait,telnet,id=c,fd={c}",
        Listener("c", "p", "-chardev path=", 2, "socket,server,nowait,telnet,id=c,fd=", ""),
    ),
    "-serial unix:/s,server,nowait -m 1": (
        "-chardev socket,id=confined-serial0,fd={confined-serial0},server=on,wait=off"
        " -serial chardev:confined-serial0 -m 1",
        Listener("confined-serial0", "/s", "-serial unix:", 1, "socket,id=confined-serial0,fd=", ",server=on,wait=off"),
    ),
    "--qmp-pretty unix:/q,server=on": (
        "-chardev socket,id=confined-qmp-pretty0,fd={confined-qmp-pretty0},server=on"
        " --qmp-pretty chardev:confined-qmp-pretty0",
        Listener(
            "confined-qmp-pretty0", "/q", "-qmp-pretty unix:", 1, "socket,id=confined-qmp-pretty0,fd=", ",server=on"
        ),
    ),
    "-serial mon:unix:/s,server": (
        "-chardev socket,id=confined-serial0,fd={confined-serial0},mux=on,server=on"
        " -serial chardev:confined-serial0 -mon chardev=confined-serial0,mode=readline",
        Listener("confined-serial0", "/s", "-serial unix:", 1, "socket,id=confined-serial0,fd=", ",mux=on,server=on"),
    ),
    "-debugcon unix:/d,server": (
        "-chardev socket,id=debugcon,fd={debugcon},server=on -debugcon chardev:debugcon",
        Listener("debugcon", "/d", "-debugcon unix:", 1, "socket,id=debugcon,fd=", ",server=on"),
    ),
    "-serial unix:/s,server -chardev null,id=confined-serial0": (
        "-chardev socket,id=confined-serial1,fd={confined-serial1},server=on -serial chardev:confined-serial1"
        " -chardev null,id=confined-serial0",
        Listener("confined-serial1", "/s", "-serial unix:", 1, "socket,id=confined-serial1,fd=", ",server=on"),
    ),
}


_PATH, _LISTED, _DESCRIPTOR = Takes.PATH, Takes.LISTED_PATH, Takes.DESCRIPTOR
OTHER_SOCKETS = {
    "-vnc unix:/v,,w,password=on": ("-vnc vnc=unix:{vnc},password=on", "/v,w", _LISTED),
    "-vnc password=on,vnc=:1,vnc=unix:/v": ("-vnc password=on,vnc=unix:{vnc}", "/v", _LISTED),
    "-vnc unix:/v,,w=x,password=on": ("-vnc vnc=unix:{vnc},password=on", "/v,w=x", _LISTED),
    "-display vnc=unix:/v,to=1": ("-display vnc=vnc=unix:{vnc},to=1", "/v", _LISTED),
    "-spice addr=/o,unix,addr=/s,tls-port=1": ("-spice unix,addr={spice},tls-port=1", "/s", _LISTED),
    "-incoming unix:/m,n": ("-incoming unix:{incoming}", "/m,n", _PATH),
    "-netdev stream,id=n,server=on,addr.type=unix,addr.path=/s,,t": (
        "-netdev stream,id=n,server=on,addr.type=fd,addr.str={n}", "/s,t", _DESCRIPTOR,
    ),
    "-netdev addr.path=/s,type=stream,id=n,addr.type=unix,server=off": (
        "-netdev addr.type=fd,addr.str={n},type=stream,id=n,server=off", "/s", _DESCRIPTOR,
    ),
    '-netdev {"type":"stream","addr":{"type":"unix","path":"/s"},"id":"n","server":true}': (
        '-netdev {"type": "stream", "id": "n", "server": true, "addr": {"type": "fd", "str": "{n}"}}', "/s",
        _DESCRIPTOR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", OTHER_SOCKETS)
def test_sockets_of_displays_networks_and_migration(line: str) -> None:
    arguments, path, takes = OTHER_SOCKETS[line]
    invocation = read(QEMU, line.split())
    assert " ".join(invocation.arguments) == arguments
    [listener] = invocation.listeners
    assert (listener.path, listener.takes, listener.given) == (path, takes, line.split()[1])
    connects = "off" in line
    assert listener.access is (Access.CONNECT if connects else Access.LISTEN)
    assert [resource.path for resource in invocation.resources] == (["/s"] if connects else [])


@pytest.mark.parametrize("line", LISTENERS)
def test_sockets_that_listen_are_made_by_the_launcher(line: str) -> None:
    arguments, listener = LISTENERS[line]
    invocation = read(QEMU, line.split())
    assert invocation.arguments == tuple(arguments.split())
    assert invocation.listeners == (listener,)
    assert invocation.resources == () or invocation.resources[0].role is Role.LOG


def test_two_sockets_have_two_names_and_later_arguments_move() -> None:
    line = "-monitor unix:/a,server -monitor unix:/b,server"
    line += " -chardev socket,id=x,path=/c,server -chardev socket,id=x,path=/d,server"
    invocation = read(QEMU, line.split())
    assert [listener.name for listener in invocation.listeners] == [
        "confined-monitor0",
        "confined-monitor1",
        "x",
        "x-4",
    ]
    for listener in invocation.listeners:
        text = f"{listener.before}{{{listener.name}}}{listener.after}"
        assert invocation.arguments[listener.index] == text


ACCELS = {
    "": Accel.TCG,
    "-accel tcg,thread=multi": Accel.TCG,
    "-accel kvm": Accel.KVM,
    "-accel accel=kvm": Accel.KVM,
    "-accel kvm -accel tcg": Accel.AUTO,
    "-accel tcg -accel kvm": Accel.TCG,
    "-enable-kvm": Accel.KVM,
    "-no-kvm": Accel.TCG,
    "-machine pc,accel=kvm:tcg": Accel.AUTO,
    "-M accel=kvm:hvf:tcg": Accel.AUTO,
    "-machine accel=kvm -machine accel=tcg": Accel.TCG,
    "-M pc -M accel=kvm": Accel.KVM,
    "-machine accel=qtest": Accel.TCG,
}


@pytest.mark.parametrize("line", ACCELS)
def test_accelerators(line: str) -> None:
    assert read(QEMU, line.split()).accel is ACCELS[line]


def test_an_emulator_called_kvm_tries_kvm_first() -> None:
    assert read("/usr/libexec/qemu-kvm", []).accel is Accel.AUTO
    assert read("/usr/libexec/qemu-kvm", ["-accel", "tcg"]).accel is Accel.TCG


@pytest.mark.parametrize(
    ("line", "given_name", "expected"),
    [
        ("", None, "qemu"),
        ("", "mine", "mine"),
        ("-name vm", "mine", "vm"),
        ("-name guest=a,,b,process=p", None, "a,b"),
        ("-name one -name debug-threads=on", None, "one"),
        ("-name process=p", None, "qemu"),
    ],
)
def test_names(line: str, given_name: str | None, expected: str) -> None:
    assert read(QEMU, line.split(), name=given_name).name == expected


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("-hda a", (False, False, False)),
        ("-hda a -snapshot", (True, True, False)),
        ("-snapshot", (False, True, False)),
        ("-drive file=a,snapshot=on", (True, False, False)),
        ("-drive file=fat:d", (True, False, False)),
        ("-drive file=a,snapshot=off -snapshot", (False, True, False)),
        ("-daemonize", (False, False, True)),
    ],
)
def test_flags(line: str, flags: tuple[bool, bool, bool]) -> None:
    invocation = read(QEMU, line.split())
    assert (invocation.needs_tmpdir, invocation.snapshot, invocation.daemonize) == flags


REFUSED = {
    "-frobnicate x": "-frobnicate",
    "--frobnicate": "--frobnicate",
    "-": "-: unknown option",
    "-set drive.d.file=/x": "no -drive with id=d",
    "-set chardev.c.path=x": "no -chardev with id=c",
    "-set chardev.c": "-set GROUP.ID.KEY=VALUE",
    "-set object.o.x=y -object rng-random,id=o": "no -object with id=o",
    "-hda weird:x": "weird",
    "-drive file=weird:x": "./NAME",
    "-drive a,,b=c": "comma",
    "-blockdev driver=raw,file=/x": "block node",
    "-blockdev {": "JSON",
    "-blockdev {'driver':'file'": "JSON",
    "-chardev {": "JSON",
    "-netdev stream,id=n,server=on,addr.type=unix,addr.path=s,addr.abstract=on": "abstract",
    "-chardev socket,id=c,path=a,abstract=on,server=on": "abstract",
    "-device new-thing,image=/x": "image=",
    "-object new-thing,image=/x": "image=",
    "-global new-thing.image=/x": "image=",
    "-drive file=a,format=new,index-file=/x": "index-file=",
    "-D log.%d": "without %",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refusals_name_the_option_and_how_to_mend_it(line: str) -> None:
    with pytest.raises(CommandLineError) as caught:
        read(QEMU, line.split())
    text = str(caught.value)
    assert REFUSED[line] in text
    assert is_message(text)
    assert text.startswith(line.split(maxsplit=1)[0])
    assert caught.value.hint


# ---- any text


words = st.sampled_from(
    """
    -drive -blockdev -chardev -serial -qmp -hda -object -device -netdev -machine -incoming -vnc -spice -display -set
    -readconfig -readconfig x a drive.d.file=b chardev.c.path=b chardev.c.server=off device..=
    -global -initrd -snapshot -D -name -accel file=json:{ file=blkdebug:a:b driver=raw,file.file.file.filename=x
    socket,path=a,server unix:a,server,nowait mon:unix: {"driver":{"a":[1,null,true]}} memory-backend-file,mem-path=
    stream,addr.path=a,server=on user,guestfwd=tcp:a-unix:b [{"addr":1}] {} { ,,, = a= =b nbd+unix:?socket=% rbd:a:b\\
    """.split()  # noqa: SIM905 - a table, not a line for each word
)


@given(
    st.lists(
        words | paths | st.sampled_from(sorted(f"-{name}" for name in OPTIONS)) | st.text(max_size=20), max_size=12
    )
)
@example(["-blockdev", "[" * 100_000])
@example(["-blockdev", '{"a":' * 100_000])
@example(["-drive", "file=" + "blkdebug:a:" * 5_000])
@example(["-drive", "file." * 5_000 + "filename=x"])
@example(["-blockdev", '{"a":' + "9" * 5_000 + "}"])
@example(["-drive", "file=a"] * 10_000)
@example([*["-drive", "id=d"], *["-set", "drive.d.file=a"] * 3_000])
@example([*["-readconfig", "x"] * 1_000, "-set", "chardev.c.path=b"])
@example(["-serial", "unix:a,server"] * 10_000)
def test_any_arguments_are_read_or_refused(arguments: list[str]) -> None:
    invocation = Invocation("", QEMU, ())
    refusal = ""
    files = {"x": '[chardev "c"]\nbackend = "socket"\npath = "a"\nserver = "on"\n', "{": "[", "a": '[drive "d"]\n'}
    try:
        invocation = read(QEMU, arguments, config=files.get)
    except CommandLineError as error:
        refusal = str(error)
    assert refusal == "" or is_message(refusal)
    for listener in invocation.listeners:
        assert listener.takes is not Takes.DESCRIPTOR or listener.before.endswith(("fd=", "str=", '"str": "'))


@given(paths)
def test_any_path_in_a_list_is_read_back(path: str) -> None:
    invocation = read(QEMU, ["-drive", f"driver=raw,file.driver=file,file.filename={escape(path)},if=none"])
    assert [resource.path for resource in invocation.resources] == [path]
    invocation = read(QEMU, ["-drive", f"if=none,format=raw,file=file:{escape(path)},readonly=on"])
    assert [resource.path for resource in invocation.resources] == [path]


@given(paths.filter(lambda path: not path.startswith("-")))
def test_any_path_as_a_whole_argument_is_read_back(path: str) -> None:
    for option, role in (("-kernel", Role.KERNEL), ("-pidfile", Role.PIDFILE)):
        [resource] = read(QEMU, [option, path]).resources
        assert (resource.path, resource.role) == (path, role)
    [resource] = read(QEMU, [f"./{path}"]).resources
    assert (resource.path, resource.access) == (f"./{path}", Access.READ_WRITE)


@given(paths)
def test_any_path_in_json_is_read_back(path: str) -> None:
    value = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": path}})
    [resource] = read(QEMU, ["-blockdev", value]).resources
    assert (resource.path, resource.role, resource.format) == (path, Role.DISK, "qcow2")


@given(paths)
def test_any_path_of_a_socket_is_taken_out_and_the_rest_kept(path: str) -> None:
    value = f"socket,id=c,logfile={escape(path)},path={escape(path)},server=on,wait=off"
    invocation = read(QEMU, ["-chardev", value])
    [listener] = invocation.listeners
    assert listener.path == path
    assert f"{listener.before}7{listener.after}" == f"socket,id=c,logfile={escape(path)},fd=7,server=on,wait=off"
