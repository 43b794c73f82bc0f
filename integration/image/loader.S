# The image's boot loader. It knows nothing of file systems: a table says which sectors go where, then it starts Linux.
#
# SeaBIOS reads IDE disks word by word, each an exit to QEMU: 200 KB a second under nested KVM. So disks on a PIIX IDE
# controller are read by bus-master DMA; everything else (virtio, SCSI, AHCI) through the BIOS.
#
# Sector 0 is the MBR, the next ones follow it in memory. linux_disk.py writes the partition table and the load table.

        .code16
        .globl  _start

        .set    SECTORS, 3              # loaded after sector 0
        .set    TABLE, 0x8200           # sector 3: the load table
        .set    BOUNCE, 0x20000         # where the BIOS may read to
        .set    CHUNK, 128              # sectors in one transfer: 64 KiB, which a DMA entry can't exceed
        .set    SETUP_SEGMENT, 0x1000   # where Linux's real-mode part goes
        .set    STACK, 0xde00           # above it, below the command line
        .set    TICKS, 0x46c            # the BIOS counts 18 a second here
        .set    PATIENCE, 90            # ticks

_start: ljmp    $0, $1f
1:      xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $_start, %sp
        sti
        cld
        movb    %dl, packet_drive       # as the BIOS gave it
        movw    $packet, %si
        movb    $0x42, %ah              # extended read
        int     $0x13
        jc      failed
        jmp     stage2

failed: movw    $message, %si
1:      lodsb
        testb   %al, %al
        jz      2f
        movb    $0x0e, %ah              # to the screen
        movw    $7, %bx
        int     $0x10
        jmp     1b
2:      hlt
        jmp     2b

message:
        .asciz  "boot loader: cannot read the disk\r\n"
        .balign 4
packet: .byte   16, 0                   # extended read: size, sectors, to segment:offset, from sector
packet_count:
        .word   SECTORS
packet_offset:
        .word   0x7e00
packet_segment:
        .word   0
packet_sector:
        .long   1, 0
packet_drive:
        .byte   0

        .org    _start + 0x1b8          # disk signature and partition table
        .org    _start + 0x1fe
        .word   0xaa55

stage2: movw    $0x2401, %ax            # memory above 1 MiB
        int     $0x15
        call    find_dma
        movw    $TABLE, %bp             # rows: first sector, sectors, address; a row of 0 sectors ends it
row:    movl    (%bp), %eax
        movl    4(%bp), %ecx
        movl    8(%bp), %edi
        testl   %ecx, %ecx
        jz      start_linux
        cmpl    $CHUNK, %ecx
        jbe     1f
        movl    $CHUNK, %ecx
1:      addl    %ecx, (%bp)
        subl    %ecx, 4(%bp)
        movl    %ecx, %edx
        shll    $9, %edx
        addl    %edx, 8(%bp)
        call    read
        jc      failed
        cmpl    $0, 4(%bp)
        jne     row
        addw    $12, %bp
        jmp     row

start_linux:
        movw    $0x3f6, %dx             # the controller's interrupts as they were
        xorb    %al, %al
        outb    %al, %dx
        cli
        movw    $SETUP_SEGMENT, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        movw    %ax, %ss
        movw    $STACK, %sp
        ljmp    $SETUP_SEGMENT + 0x20, $0

# Reads %ecx sectors (at most CHUNK) from sector %eax to the address %edi. Carry: failed.
read:   cmpw    $0, bus_master
        jne     dma_read

bios_read:
        movw    %cx, packet_count
        movw    $0, packet_offset
        movw    $BOUNCE >> 4, packet_segment
        movl    %eax, packet_sector
        movl    %edi, to_base           # 24 bits here, the top 8 at the descriptor's end
        shrl    $24, %edi
        movw    $0x93, %ax
        movb    %al, to_base + 3
        movw    %di, %ax
        movb    %al, to_base + 5
        pushw   %cx
        movw    $packet, %si
        movb    packet_drive, %dl
        movb    $0x42, %ah
        int     $0x13
        popw    %cx
        jc      1f
        shlw    $8, %cx                 # words
        movw    $move_table, %si
        movb    $0x87, %ah              # move a block of memory, also above 1 MiB
        int     $0x15
1:      ret

# Sets bus_master to the IDE controller's DMA ports where this disk can be read so.
find_dma:
        movw    $0xb103, %ax            # find by class: IDE, legacy ports, bus master
        movl    $0x010180, %ecx
        xorw    %si, %si
        int     $0x1a
        jc      1f
        movw    $0xb109, %ax            # base address 4
        movw    $0x20, %di
        int     $0x1a
        jc      1f
        andw    $0xfff0, %cx
        jz      1f
        movw    %cx, bus_master
        movw    $0xb109, %ax            # the command register: ports on, may master the bus
        movw    $4, %di
        int     $0x1a
        orw     $5, %cx
        movw    $0xb10c, %ax
        int     $0x1a
        xorl    %eax, %eax              # is the first IDE disk the one that we came from? Compare the partition tables
        movl    $1, %ecx
        movl    $BOUNCE, %edi
        call    dma_read
        jc      no_dma
        movw    $BOUNCE >> 4, %ax
        movw    %ax, %es
        movw    $0x1b8, %di
        movw    $_start + 0x1b8, %si
        movw    $(0x200 - 0x1b8) / 2, %cx
        repe    cmpsw
        movw    %cx, %ax
        pushw   %ds
        popw    %es
        je      1f
no_dma: movw    $0, bus_master
1:      ret

dma_read:
        movl    %edi, region
        movw    %cx, %dx
        shlw    $9, %dx                 # 0 stands for 64 KiB
        movw    %dx, region + 4
        movl    TICKS, %ebx
        addl    $PATIENCE, %ebx
        pushl   %eax
        movw    $0x3f6, %dx
        movb    $2, %al                 # no interrupts: the end is polled for
        outb    %al, %dx
        movw    $0x1f7, %dx
1:      cmpl    TICKS, %ebx
        jb      dma_none
        inb     %dx, %al
        testb   %al, %al                # no disk
        jz      dma_none
        testb   $0x80, %al              # busy
        jnz     1b
        popl    %eax
        pushl   %eax
        movw    $0x1f6, %dx             # first disk, sector numbers, their top 4 bits
        shrl    $24, %eax
        orb     $0xe0, %al
        outb    %al, %dx
        movw    $0x1f2, %dx
        movb    %cl, %al
        outb    %al, %dx
        popl    %eax
        movw    $0x1f3, %dx
        outb    %al, %dx
        shrl    $8, %eax
        incw    %dx
        outb    %al, %dx
        shrl    $8, %eax
        incw    %dx
        outb    %al, %dx
        movw    bus_master, %dx
        addw    $4, %dx
        movl    $region, %eax
        outl    %eax, %dx
        subw    $2, %dx
        movb    $6, %al                 # forget the last transfer
        outb    %al, %dx
        subw    $2, %dx
        movb    $8, %al                 # into memory
        outb    %al, %dx
        pushw   %dx
        movw    $0x1f7, %dx
        movb    $0xc8, %al              # READ DMA
        outb    %al, %dx
        popw    %dx
        movb    $9, %al                 # go
        outb    %al, %dx
        addw    $2, %dx
1:      cmpl    TICKS, %ebx
        jb      2f
        inb     %dx, %al
        testb   $1, %al                 # at it
        jnz     1b
        testb   $2, %al
        jnz     2f
        subw    $2, %dx
        xorb    %al, %al
        outb    %al, %dx
        movw    $0x1f7, %dx
        inb     %dx, %al
        testb   $0x21, %al              # error, fault
        jnz     2f
        clc
        ret
dma_none:
        popl    %eax
2:      stc
        ret

        .balign 4
region: .long   0                       # a DMA entry: address, bytes, "the last one"
        .word   0, 0x8000
bus_master:
        .word   0
        .balign 8
move_table:                             # descriptors of INT 15h function 87h
        .skip   16
        .word   0xffff                  # from
        .byte   BOUNCE & 0xff, (BOUNCE >> 8) & 0xff, BOUNCE >> 16, 0x93
        .word   0
        .word   0xffff                  # to
to_base:
        .byte   0, 0, 0, 0x93
        .word   0
        .skip   16

        .org    _start + 0x600          # TABLE
        .org    _start + 0x800
