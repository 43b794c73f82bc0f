"""What QEMU opens that no value names by its path, what only looks like a path, and what is one VM's alone."""

from __future__ import annotations

import pytest

from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.resource import PROBED
from confined_qemu.read.qemu.reader import read

QEMU = "qemu-system-x86_64"
TUN = "/dev/net/tun host_device rw unlabelled"
VHOST_NET = "/dev/vhost-net host_device rw unlabelled"
RENDER = "/dev/dri/renderD* host_device rw unlabelled"
UDMABUF = "/dev/udmabuf host_device rw unlabelled"
CONTAINER = "/dev/vfio/vfio host_device rw unlabelled"
BRAILLE = ["/var/lib/BrlAPI/0 socket connect unlabelled ?", "/etc/brlapi.key secret ro unlabelled ?"]
CANCEL = [f"/sys/class/{group}/tpm0/device/cancel tpm wo unlabelled ?" for group in ("tpm", "misc")]
NODE = "/sys/bus/usb/devices"
PCI = "/sys/bus/pci/devices/0000:01:00.0"


def found(line: str) -> list[str]:
    """Return the resources of a command line; `?` marks what QEMU does without."""
    return [
        f"{r.path} {r.role} {r.access} {r.sharing}{f' {r.format}' if r.format not in {None, PROBED} else ''}"
        + (" ?" if r.optional else "")
        for r in read(QEMU, line.split("|") if "|" in line else line.split()).resources
    ]


USB = {
    "-device usb-host,hostbus=1,hostaddr=2": ["/dev/bus/usb/001/002 usb rw private"],
    "-device usb-host,hostbus=0x0a,hostaddr=010": ["/dev/bus/usb/010/008 usb rw private"],
    "-device usb-host,hostbus=1,hostport=2.3": [f"{NODE}/bus=1,port=2.3 usb rw unlabelled"],
    "-device usb-host,hostport=4": [f"{NODE}/port=4 usb rw unlabelled"],
    "-device usb-host,vendorid=0x1a86,productid=0x7523": [f"{NODE}/vendor=1a86,product=7523 usb rw unlabelled"],
    "-device usb-host,vendorid=1133": [f"{NODE}/vendor=046d usb rw unlabelled"],
    "-device usb-host,hostbus=1,hostaddr=2,vendorid=0x1": [f"{NODE}/bus=1,addr=2,vendor=0001 usb rw unlabelled"],
    '-device {"driver":"usb-host","hostbus":3,"hostaddr":4}': ["/dev/bus/usb/003/004 usb rw private"],
    "-device usb-host,hostbus=1,hostaddr=2,hostdevice=/dev/bus/usb/003/004": ["/dev/bus/usb/003/004 usb rw private"],
}
NODES = {
    "-netdev tap,id=n,ifname=t,script=no,downscript=no": [TUN],
    "-netdev tap,id=n,ifname=t,script=no,downscript=no,vhost=on": [TUN, VHOST_NET],
    "-netdev tap,id=n,ifname=t,script=no,downscript=no,vhostforce": [TUN, VHOST_NET],
    "-netdev tap,id=n,ifname=t,script=no,downscript=no,vhost=off,vhostforce": [TUN],
    "-nic tap,fd=3,vhost=on": [VHOST_NET],
    "-netdev tap,id=n,fd=3,vhost=on,vhostfd=4": [],
    "-netdev|bridge,id=n,helper=/usr/lib/qemu/qemu-bridge-helper --br=b": [
        "/bin/sh helper ro unlabelled",
        "/usr/lib/qemu/qemu-bridge-helper helper ro unlabelled",
    ],
    "-netdev|tap,id=n,vhost=on,helper=/h\t--br=b": [
        VHOST_NET,
        "/bin/sh helper ro unlabelled",
        "/h helper ro unlabelled",
    ],
    "-nic tap,helper=/h": ["/h helper ro unlabelled"],
    "-netdev bridge,id=n,br=b": ["/usr/lib/qemu/qemu-bridge-helper helper ro unlabelled"],
    "-device vhost-vsock-pci,guest-cid=3": ["/dev/vhost-vsock host_device rw unlabelled"],
    "-device vhost-vsock-pci-non-transitional,guest-cid=3": ["/dev/vhost-vsock host_device rw unlabelled"],
    "-device vhost-vsock-device,guest-cid=3,vhostfd=5": [],
    "-device vhost-scsi-pci,wwpn=naa.1": ["/dev/vhost-scsi host_device rw unlabelled"],
    "-device vhost-user-scsi-pci,chardev=c": [],
    "-netdev vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0": ["/dev/vhost-vdpa-0 host_device rw private"],
    "-device vhost-vdpa-device-pci,vhostdev=/dev/vhost-vdpa-1": ["/dev/vhost-vdpa-1 host_device rw private"],
    "-blockdev virtio-blk-vhost-vdpa,path=/dev/vhost-vdpa-2": ["/dev/vhost-vdpa-2 host_device rw private raw"],
    "-tpmdev passthrough,id=t": ["/dev/tpm0 tpm rw private", *CANCEL],
    "-tpmdev passthrough,id=t,path=/dev/tpm0": ["/dev/tpm0 tpm rw private", *CANCEL],
    "-tpmdev emulator,id=t,chardev=c": [],
    "-object sev-guest,id=s -machine q35,confidential-guest-support=s": ["/dev/sev host_device rw unlabelled"],
    "-object sev-snp-guest,id=s -M memory-encryption=s": ["/dev/sev host_device rw unlabelled"],
    "-object sev-guest,id=s": [],
    "-object sev-guest,id=s,sev-device=/dev/sev1 -M memory-encryption=s": ["/dev/sev1 host_device rw unlabelled"],
    "-cpu host,+sgx-provisionkey": ["/dev/sgx_provision host_device ro unlabelled ?"],
    "-cpu host,-sgx-provisionkey": [],
    "-device ccid-card-emulated,backend=certificates,db=sql:/n": ["/n secret dir unlabelled"],
    "-device ccid-card-emulated,backend=certificates,db=/n": ["/n secret dir unlabelled"],
    "-device ccid-card-emulated": ["/etc/pki/nssdb secret dir unlabelled ?"],
    "-object rng-random,id=r": ["/dev/urandom host_device ro unlabelled"],
    "-object memory-backend-epc,id=e,size=1M": ["/dev/sgx_vepc host_device rw unlabelled"],
    "-display egl-headless": [RENDER],
    "-display egl-headless,gl=off": [RENDER],
    "-display gtk,gl=on": [f"{RENDER} ?"],
    "-display sdl,gl=core": [f"{RENDER} ?"],
    "-display dbus,gl=es": [RENDER],
    "-display gtk": [],
    "-display gtk,gl=off": [],
    "-spice gl=on,disable-ticketing=on": [RENDER],
    "-spice gl=on,rendernode=/dev/dri/renderD129": ["/dev/dri/renderD129 host_device rw unlabelled"],
    "-device virtio-gpu-pci,blob=on": [UDMABUF],
    "-device virtio-vga-gl,blob=true": [f"{UDMABUF} ?"],
    "-device virtio-gpu-pci": [],
    "-device vhost-user-gpu-pci,chardev=c": [],
    "-audiodev alsa,id=a": ["/dev/snd/controlC0 host_device rw unlabelled ?"],
    "-audiodev oss,id=a": ["/dev/dsp host_device rw unlabelled"] * 2,
    "-audiodev oss,id=a,out.dev=/dev/dsp1": [
        "/dev/dsp1 host_device rw unlabelled",
        "/dev/dsp host_device rw unlabelled",
    ],
    "-audio alsa,model=hda": ["/dev/snd/controlC0 host_device rw unlabelled ?"],
    "-audiodev none,id=a": [],
    "-audiodev pa,id=a": ["$PULSE_SERVER socket connect unlabelled ?"],
    "-audiodev pa,id=a,server=h": [],
    "-audio pipewire,model=hda": ["$PIPEWIRE_REMOTE socket connect unlabelled ?"],
    "-chardev braille,id=b": BRAILLE,
    "-serial braille": BRAILLE,
    "-serial mon:braille": BRAILLE,
    '-chardev {"id":"b","backend":{"type":"braille","data":{}}}': BRAILLE,
    "-accel kvm,device=/srv/kvm": ["/srv/kvm host_device rw unlabelled"],
    "-accel kvm,rapl=on,rapl-helper-socket=/run/r": ["/run/r socket connect unlabelled"],
}
VFIO = {
    "-drive file=nvme://0000:01:00.0/1,if=none": [f"{PCI}/iommu_group vfio rw unlabelled", CONTAINER],
    "-blockdev nvme,device=0000:01:00.0,namespace=1": [f"{PCI}/iommu_group vfio rw unlabelled", CONTAINER],
    '-blockdev {"driver":"raw","file":{"driver":"nvme","device":"0000:01:00.0","namespace":1}}': [
        f"{PCI}/iommu_group vfio rw unlabelled", CONTAINER,
    ],
    f"-blockdev virtio-blk-vfio-pci,path={PCI}": [
        f"{PCI}/iommu_group vfio rw unlabelled", f"{PCI}/config host_device ro unlabelled", CONTAINER,
    ],
    "-object iommufd,id=i -device vfio-pci,host=01:00.0,iommufd=i": [
        "/dev/iommu host_device rw unlabelled", f"{PCI}/vfio-dev vfio rw unlabelled",
        f"{PCI}/config host_device ro unlabelled",
    ],
    "-device vfio-pci-nohotplug,sysfsdev=/sys/bus/mdev/devices/cf46b956-0c8f-4cf2-ba50-3f4db4e765c4,display=on": [
        "/sys/bus/mdev/devices/cf46b956-0c8f-4cf2-ba50-3f4db4e765c4/iommu_group vfio rw unlabelled",
        CONTAINER,
    ],
    f"-device vfio-pci,sysfsdev={PCI}/cf46b956-0c8f-4cf2-ba50-3f4db4e765c4": [
        f"{PCI}/cf46b956-0c8f-4cf2-ba50-3f4db4e765c4/iommu_group vfio rw unlabelled", CONTAINER,
    ],
    "-device vfio-ap,sysfsdev=/sys/devices/vfio_ap/matrix/x": [
        "/sys/devices/vfio_ap/matrix/x/iommu_group vfio rw unlabelled", CONTAINER,
    ],
    f"-object iommufd,id=i,fd=3 -device vfio-pci,sysfsdev={PCI},iommufd=i": [
        f"{PCI}/vfio-dev vfio rw unlabelled", f"{PCI}/config host_device ro unlabelled",
    ],
}  # fmt: skip
OWN = {
    "-object memory-backend-file,id=m,size=1M,mem-path=/dev/dax0.0,share=on": ["/dev/dax0.0 memory rw private"],
    "-object memory-backend-file,id=m,size=1M,mem-path=/dev/kvmfr0,share=on": ["/dev/kvmfr0 memory rw private"],
    "-object memory-backend-file,id=m,size=1M,mem-path=/dev/dax1.0,readonly=on": ["/dev/dax1.0 memory ro private"],
    "-mem-path /dev/dax0.0": ["/dev/dax0.0 memory rw private"],
    "-device u2f-passthru,hidraw=/dev/hidraw0": ["/dev/hidraw0 usb rw private"],
    "-blockdev host_device,filename=/dev/sg1,node-name=b -device scsi-generic,drive=b": [
        "/dev/sg1 disk rw private raw"
    ],
    "-drive file=/dev/sg2,if=none,id=d -device scsi-generic,drive=d": ["/dev/sg2 disk rw private raw"],
    "-hda /dev/bsg/0:0:0:0": ["/dev/bsg/0:0:0:0 disk rw private raw"],
    "-blockdev nvme-io_uring,path=/dev/ng0n1": ["/dev/ng0n1 disk rw private raw"],
    "-blockdev host_device,filename=/dev/sg1,read-only=on": ["/dev/sg1 disk ro private raw"],
    "-chardev file,id=c,path=/dev/ttyUSB0": ["/dev/ttyUSB0 chardev rw unlabelled"],
    "-D /dev/ttyS0": ["/dev/ttyS0 log rw unlabelled"],
}
PROGRAMS = {
    "-incoming|exec:gzip -c -d state.gz": ["/bin/sh helper ro unlabelled"],
    '-incoming|{"channel-type":"main","addr":{"transport":"exec","args":["/usr/bin/cat","/x"]}}': [
        "/usr/bin/cat helper ro unlabelled"
    ],
    "-netdev|user,id=u,guestfwd=tcp:10.0.2.4:445-cmd:/srv/smb 'a b'": ["/srv/smb helper ro unlabelled"],
    "-nic|user,guestfwd=tcp:10.0.2.4:1-cmd:netcat -l": ["$PATH/netcat helper ro unlabelled ?"],
    "-netdev|user,id=u,guestfwd=tcp:10.0.2.4:1-cmd:./own.sh": ["./own.sh helper ro unlabelled"],
    '-incoming|{"channel-type":"main","addr":{"transport":"exec","args":["own"]}}': ["./own helper ro unlabelled"],
    "-netdev passt,id=n": ["$PATH/passt helper ro unlabelled ?"],
    "-netdev passt,id=n,path=/opt/passt": ["/opt/passt helper ro unlabelled"],
    "-netdev user,id=u,smb=/srv/d": ["/srv/d share dir unlabelled", "/usr/sbin/smbd helper ro unlabelled"],
}
SECRETS = {
    "-drive file=rbd:p/i:conf=/c:id=a:keyring=/k,format=raw": ["/c config ro content", "/k secret ro private"],
    "-drive driver=rbd,pool=p,image=i,conf=/c,key-secret=s": ["/c config ro content"],
    "-vnc :0,sasl=on": ["/etc/sasl2/qemu.conf config ro unlabelled ?", "/etc/sasldb2 secret ro unlabelled ?"],
    "-spice port=1,sasl": ["/etc/sasl2/qemu.conf config ro unlabelled ?", "/etc/sasldb2 secret ro unlabelled ?"],
    "-drive driver=rbd,pool=p,image=i": [
        "$CEPH_CONF config ro content ?", "$CEPH_KEYRING secret ro private ?",
    ],
    "-hda rbd:p/i:conf=/c:key=/AQ==:mon_host=h": ["/c config ro content"],
    "-hda|rbd:p/i:conf=/c:keyfile=/f:log-file=/l": [
        "/c config ro content", "/f secret ro private", "/l log create private",
    ],
    "-object tls-creds-x509,id=t,dir=/p,endpoint=server": [
        *(f"/p/{name} config ro content ?" for name in ("ca-cert.pem", "ca-crl.pem", "server-cert.pem")),
        "/p/server-key.pem secret ro private ?",
        "/p/client-cert.pem config ro content ?",
        "/p/client-key.pem secret ro private ?",
        "/p/dh-params.pem config ro content ?",
        "/p secret dir unlabelled",
    ],
    "-object tls-creds-psk,id=t,dir=/p": [
        "/p/keys.psk secret ro private ?", "/p/dh-params.pem config ro content ?", "/p secret dir unlabelled",
    ],
    "-spice tls-port=1,x509-dir=/p": [
        "/p secret dir unlabelled",
        "/p/ca-cert.pem config ro content ?",
        "/p/server-cert.pem config ro content ?",
        "/p/server-key.pem secret ro private ?",
    ],
    "-spice tls-port=1,x509-dir=/p,x509-key-file=/k,x509-cert-file=/c": [
        "/p secret dir unlabelled", "/k secret ro private", "/c config ro content",
        "/p/ca-cert.pem config ro content ?",
    ],
    "-object secret,id=s,file=/k -blockdev luks,file.driver=file,file.filename=i,key-secret=s,header=h": [
        "/k secret ro private", "i disk rw private luks",
    ],
    "-blockdev file,filename=/h,node-name=h -blockdev luks,file.driver=file,file.filename=i,header=h": [
        "/h disk rw private luks", "i disk rw private luks",
    ],
    "-icount shift=auto,rr=replay,rrfile=r": ["r state ro private"],
    "-icount shift=auto,rr=record,rrfile=r": ["r log create private"],
}  # fmt: skip
NO_FILES = {
    "-audiodev alsa,id=a,in.dev=/dev/dsp0,out.dev=hw:1,0": ["/dev/snd/controlC0 host_device rw unlabelled ?"],
    "-audiodev sndio,id=a,dev=snd/0": [],
    "-audiodev pa,id=a,server=localhost": [],
    "-audiodev pa,id=a,server=tcp:10.0.0.1:4713": [],
    "-audiodev pa,id=a,server=/run/pulse": ["/run/pulse socket connect unlabelled"],
    "-audiodev pa,id=a,server=unix:/run/pulse": ["/run/pulse socket connect unlabelled"],
    "-audiodev|pa,id=a,server={f00}unix:/run/pulse tcp:h": ["/run/pulse socket connect unlabelled"],
    "-object sev-snp-guest,id=s,guest-visible-workarounds=/AAA==,id-block=/A,host-data=/A": [],
    "-object tdx-guest,id=t,mrconfigid=/A,mrowner=/A,mrownerconfig=/A": [],
    "-object authz-simple,id=a,identity=/C=DE": [],
    "-blockdev {'driver':'qcow2','file':{'driver':'file','filename':'a.img'}}": ["a.img disk rw private qcow2"],
    "-hda json:{'driver':'raw','file':{'driver':'file','filename':'a\"b'}}": ['a"b disk rw private raw'],
    "-device {'driver':'virtio-net-pci','romfile':'it\\'s'}": ["it's option_rom ro content"],
    "-object {'qom-type':'secret','id':'s','file':\"it's\"}": ["it's secret ro private"],
    "-plugin /p.so,interval=100000,inline=on": ["/p.so helper ro unlabelled"],
}
ALL = USB | NODES | VFIO | OWN | PROGRAMS | SECRETS | NO_FILES


@pytest.mark.parametrize("line", ALL)
def test_what_is_opened(line: str) -> None:
    assert found(line) == ALL[line]


REFUSED = {
    "-device usb-host": "every USB device",
    "-device usb-host,vendorid=beef": "not a number",
    "-device u2f-passthru": "hidraw=",
    "-serial pty:./console": "a VM may not make the link './console'\n  leave the path out",
    "-chardev pty,id=c,path=/run/console": "a VM may not make the link",
    "-monitor pty:m": "a VM may not make the link",
    "-plugin /p.so,outfile=/srv/bbv": "outfile=",
    "-plugin /p.so,sockpath=/srv/s": "sockpath=",
    "-accel kvm,image=/srv/x": "image=",
    "-hda rbd:p/i:admin_socket=/srv/s": "admin_socket=",
    "-device pvrdma,ibdev=rxe0": "ibdev='rxe0'",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_nobody_can_follow_is_refused(line: str) -> None:
    with pytest.raises(CommandLineError) as caught:
        read(QEMU, line.split())
    assert REFUSED[line] in str(caught.value)


@pytest.mark.parametrize("line", PROGRAMS)
def test_a_program_that_qemu_runs_is_said_to_be_confined_with_it(line: str) -> None:
    arguments = line.split("|") if "|" in line else line.split()
    [remark] = read(QEMU, arguments).remarks
    program = next(r for r in read(QEMU, arguments).resources if r.role == "helper")
    assert remark.startswith(f"{program.path.removeprefix('$PATH/')} ({arguments[0]} ")
    assert "QEMU runs it, confined like the VM" in remark


def test_a_display_that_starts_a_viewer_says_so() -> None:
    [remark] = read(QEMU, ["-display", "spice-app,gl=off"]).remarks
    assert "start the viewer yourself" in remark


@pytest.mark.parametrize(("arguments", "told"), [("outfile=bbv", 1), ("a=b,outfile=c", 1), ("interval=1,inline=on", 0)])
def test_relative_names_in_a_plugins_arguments_are_told_once(arguments: str, told: int) -> None:
    assert len(read(QEMU, ["-plugin", f"/p.so,{arguments}"]).remarks) == told
