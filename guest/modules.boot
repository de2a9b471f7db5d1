# Kernel modules that the guest needs at boot, one a line. Those that the kernel has built in are skipped,
# dependencies are added. Each costs boot time under emulation, so only what a pod cannot start without is here.

# The agent's line to the host.
vmw_vsock_virtio_transport
# The transport of the microvm machine (described in ACPI) and of q35.
virtio_mmio
virtio_pci
# The containers' files.
virtiofs
# Layered file systems mounted inside a pod.
overlay
# Free memory goes back to the host, and memory can be added.
virtio_balloon
virtio_mem
