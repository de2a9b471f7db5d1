//! The allow-lists.
//!
//! A test requires that its workloads use each rule, unless the rule is `rare`: then the reason
//! describes when it is used.

use super::super::kind::ThreadKind;
use super::names;

/// A system call that is allowed, if all conditions hold.
#[derive(Debug)]
pub struct Rule {
    /// Its number.
    pub call: libc::c_long,
    name: &'static str,
    /// The conditions on its arguments.
    pub args: &'static [Arg],
    /// Whether ordinary workloads do not make this call.
    pub rare: bool,
    /// The reason for the call.
    pub why: &'static str,
}

impl Rule {
    /// The name of the call.
    pub fn name(&self) -> &'static str {
        names::bare(self.name)
    }
}

/// A condition on the lower 32 bits of an argument.
#[derive(Debug)]
pub enum Arg {
    /// It has this value.
    Is(u8, u64),
    /// It has none of these bits.
    Without(u8, u64),
}

use Arg::{Is, Without};

macro_rules! rule {
    ($call:ident, [$($arg:expr),*], $rare:literal, $why:literal) => {
        Rule {
            call: libc::$call,
            name: stringify!($call),
            args: &[$($arg),*],
            rare: $rare,
            why: $why,
        }
    };
}

/// `SYS_name if condition, …: "why"`, followed by the `rare` ones.
macro_rules! table {
    (
        $($call:ident $(if $($arg:expr),+)? => $why:literal;)*
        $(; rare $($rare:ident $(if $($rare_arg:expr),+)? => $rare_why:literal;)*)?
    ) => {
        &[
            $(rule!($call, [$($($arg),+)?], false, $why),)*
            $($(rule!($rare, [$($($rare_arg),+)?], true, $rare_why),)*)?
        ]
    };
}

const AF_UNIX: u64 = libc::AF_UNIX as u64;
/// linux/fs.h
const BLKDISCARD: u64 = 0x1277;
const BLKGETSIZE64: u64 = 0x8008_1272;
const BLKPBSZGET: u64 = 0x127b;
const BLKSSZGET: u64 = 0x1268;
/// linux/if_tun.h
const TUNGETIFF: u64 = 0x8004_54d2;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETQUEUE: u64 = 0x4004_54d9;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const PUNCH_HOLE: u64 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64;
/// linux/kvm.h
mod kvm {
    pub const GET_API_VERSION: u64 = 0xae00;
    pub const CREATE_VM: u64 = 0xae01;
    pub const CHECK_EXTENSION: u64 = 0xae03;
    pub const GET_VCPU_MMAP_SIZE: u64 = 0xae04;
    pub const GET_SUPPORTED_CPUID: u64 = 0xc008_ae05;
    pub const CREATE_VCPU: u64 = 0xae41;
    pub const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
    pub const SET_TSS_ADDR: u64 = 0xae47;
    pub const SET_IDENTITY_MAP_ADDR: u64 = 0x4008_ae48;
    pub const SET_GSI_ROUTING: u64 = 0x4008_ae6a;
    pub const IRQFD: u64 = 0x4020_ae76;
    pub const IOEVENTFD: u64 = 0x4040_ae79;
    pub const RUN: u64 = 0xae80;
    pub const GET_REGS: u64 = 0x8090_ae81;
    pub const SET_REGS: u64 = 0x4090_ae82;
    pub const GET_SREGS: u64 = 0x8138_ae83;
    pub const SET_SREGS: u64 = 0x4138_ae84;
    pub const SET_MSRS: u64 = 0x4008_ae89;
    pub const SET_FPU: u64 = 0x41a0_ae8d;
    pub const GET_LAPIC: u64 = 0x8400_ae8e;
    pub const SET_LAPIC: u64 = 0x4400_ae8f;
    pub const SET_CPUID2: u64 = 0x4008_ae90;
    pub const ENABLE_CAP: u64 = 0x4068_aea3;
}
/// The flags of libc's clone(2) for a thread. They cannot make a process or a namespace.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;
const PROT_EXEC: u64 = libc::PROT_EXEC as u64;

/// The calls of the standard library, the allocator and the log in any thread.
const COMMON: &[Rule] = table! {
    SYS_close => "descriptors";
    SYS_exit => "the end of the thread";
    SYS_futex => "locks, channels, threads that wait for each other";
    SYS_madvise => "memory given back, above all the stack of a thread that ends";
    SYS_mmap if Without(2, PROT_EXEC) => "memory; never for code";
    SYS_munmap => "memory";
    SYS_rt_sigprocmask => "the end of the thread";
    SYS_sigaltstack => "the end of the thread";
    SYS_write => "event counters, the log";
    ; rare
    SYS_brk => "the heap grows";
    SYS_clock_gettime => "the vDSO has no usable clock";
    SYS_exit_group => "the end of the process, also after a forbidden call";
    SYS_fcntl if Is(1, libc::F_GETFD as u64) => "a debug build looks before it closes";
    SYS_getpid => "abort";
    SYS_getrandom => "the seeds of hash tables";
    SYS_gettid => "abort";
    SYS_mprotect if Without(2, PROT_EXEC) => "the heap of a thread grows; never for code";
    SYS_mremap => "a big allocation grows";
    SYS_restart_syscall => "a wait goes on after SIGSTOP and SIGCONT";
    SYS_rt_sigaction => "abort; the default action after a segmentation fault";
    SYS_rt_sigreturn => "the segmentation fault comes again, to its default action";
    SYS_sched_yield => "a lock or channel is contended";
    SYS_tgkill => "abort";
};

/// Waiting for events.
const EVENTS: &[Rule] = table! {
    SYS_epoll_create1 => "one set a thread";
    SYS_epoll_ctl => "what it waits for";
    SYS_epoll_wait => "waits";
};

/// Starting and stopping a device's queues.
const QUEUES: &[Rule] = table! {
    SYS_eventfd2 => "the stop event of a thread";
    SYS_fcntl if Is(1, libc::F_DUPFD_CLOEXEC as u64) => "the kick of a queue, for its thread";
};

/// The FUSE server. Paths are names in opened directories, or links in /proc/self/fd.
const FILES: &[Rule] = table! {
    SYS_dup => "FLUSH";
    SYS_fallocate => "FALLOCATE";
    SYS_fchmodat => "SETATTR";
    SYS_fchownat => "SETATTR";
    SYS_fcntl => "flags of an open file follow the guest's";
    SYS_fdatasync => "FSYNC";
    SYS_fsync => "FSYNC";
    SYS_fstatfs => "STATFS";
    SYS_ftruncate => "SETATTR";
    SYS_getdents64 => "READDIR";
    SYS_fgetxattr => "GETXATTR";
    SYS_linkat => "LINK";
    SYS_flistxattr => "LISTXATTR";
    SYS_lseek => "LSEEK, READDIR";
    SYS_mkdirat => "MKDIR";
    SYS_mknodat => "MKNOD: FIFOs, sockets, files; devices are refused by the kernel";
    SYS_openat => "LOOKUP, OPEN, CREATE";
    SYS_preadv => "READ";
    SYS_pwritev => "WRITE";
    SYS_readlinkat => "READLINK";
    SYS_fremovexattr => "REMOVEXATTR";
    SYS_renameat2 => "RENAME";
    SYS_setresgid => "new files belong to the guest's group";
    SYS_setresuid => "new files belong to the guest's user";
    SYS_fsetxattr => "SETXATTR";
    SYS_statx => "LOOKUP: which file is it? GETATTR";
    SYS_symlinkat => "SYMLINK";
    SYS_unlinkat => "UNLINK, RMDIR";
    SYS_utimensat => "SETATTR";
    ; rare
    SYS_fchmod => "set-id bits that a write must not take away";
};

/// The socket device. Sockets are in /vsock.
const SOCKETS: &[Rule] = table! {
    SYS_accept4 => "a host program connects";
    SYS_bind => "the socket by which the guest is reached";
    SYS_connect => "a guest program connects";
    SYS_ioctl if Is(1, libc::FIONBIO) => "sockets that do not block";
    SYS_listen => "the socket by which the guest is reached";
    SYS_recvfrom => "the CONNECT line of a host program";
    SYS_recvmsg => "data, into the guest's buffers";
    SYS_sendmsg => "data, from the guest's buffers";
    SYS_sendto => "the answer to a host program that reached a listener in the guest";
    SYS_shutdown => "one direction ends";
    SYS_socket if Is(0, AF_UNIX) => "no other family";
    SYS_timerfd_create => "a busy listener is tried again";
    SYS_unlink => "a socket that was left over";
    ; rare
    SYS_timerfd_settime => "the listener that a guest program wants is busy";
};

/// The block device. Its file was opened before.
const BLOCKS: &[Rule] = table! {
    SYS_fallocate => "discards and zeroes of a file";
    SYS_fcntl => "how the file was opened";
    SYS_fdatasync => "FLUSH";
    SYS_ioctl if Is(1, BLKDISCARD) => "discards of a device";
    SYS_ioctl if Is(1, BLKGETSIZE64) => "the size of a device";
    SYS_ioctl if Is(1, BLKPBSZGET) => "the block size of a device";
    SYS_ioctl if Is(1, BLKSSZGET) => "the sector size of a device";
    SYS_preadv2 => "IN";
    SYS_pwrite64 => "zeroes where fallocate cannot";
    SYS_pwritev2 => "OUT";
    SYS_statx => "the size of a file";
};

/// The network device. Its taps were opened before.
const TAP: &[Rule] = table! {
    SYS_eventfd2 => "the driver enables a queue";
    SYS_fcntl => "taps do not block";
    SYS_ioctl if Is(1, TUNGETIFF) => "what the tap is";
    SYS_ioctl if Is(1, TUNSETOFFLOAD) => "what the driver can do";
    SYS_ioctl if Is(1, TUNSETQUEUE) => "the driver enables or disables a queue";
    SYS_ioctl if Is(1, TUNSETVNETHDRSZ) => "frames have virtio's header";
    SYS_readv => "packets to the guest";
    SYS_writev => "packets from the guest";
};

/// Setting up a VM on KVM. Its images and `/dev/kvm` were opened before.
const MACHINE: &[Rule] = table! {
    SYS_eventfd2 => "kicks and interrupts of the devices";
    SYS_fcntl => "descriptors that the owner sent";
    SYS_ioctl if Is(1, kvm::GET_API_VERSION) => "the check that a device is KVM";
    SYS_ioctl if Is(1, kvm::CHECK_EXTENSION) => "what it can do";
    SYS_ioctl if Is(1, kvm::CREATE_VM) => "the VM";
    SYS_ioctl if Is(1, kvm::SET_TSS_ADDR) => "three pages that Intel's processors need";
    SYS_ioctl if Is(1, kvm::SET_IDENTITY_MAP_ADDR) => "a page that Intel's processors need";
    SYS_ioctl if Is(1, kvm::ENABLE_CAP) => "interrupts: local APICs alone";
    SYS_ioctl if Is(1, kvm::SET_USER_MEMORY_REGION) => "memory";
    SYS_ioctl if Is(1, kvm::IRQFD) => "interrupts of devices";
    SYS_ioctl if Is(1, kvm::IOEVENTFD) => "kicks of devices";
    SYS_ioctl if Is(1, kvm::GET_VCPU_MMAP_SIZE) => "where vCPUs tell why they stopped";
    SYS_ioctl if Is(1, kvm::CREATE_VCPU) => "vCPUs";
    SYS_ioctl if Is(1, kvm::GET_SUPPORTED_CPUID) => "what vCPUs can be";
    SYS_ioctl if Is(1, kvm::SET_CPUID2) => "what vCPUs are";
    SYS_ioctl if Is(1, kvm::SET_MSRS) => "their state at boot";
    SYS_ioctl if Is(1, kvm::SET_REGS) => "their state at boot";
    SYS_ioctl if Is(1, kvm::GET_SREGS) => "their state at boot";
    SYS_ioctl if Is(1, kvm::SET_SREGS) => "their state at boot";
    SYS_ioctl if Is(1, kvm::SET_FPU) => "their state at boot";
    SYS_ioctl if Is(1, kvm::GET_LAPIC) => "their state at boot";
    SYS_ioctl if Is(1, kvm::SET_LAPIC) => "their state at boot";
    SYS_lseek => "reads the images";
    SYS_prctl if Is(0, libc::PR_SET_VMA as u64) => "names the guest's memory, for /proc/PID/smaps";
    SYS_read => "reads the images";
    ; rare
    SYS_ftruncate => "the size of a guest's memory on huge pages";
    SYS_memfd_create => "a guest's memory on huge pages, which an operator must have reserved";
};

/// Running a vCPU.
const RUN: &[Rule] = table! {
    SYS_ioctl if Is(1, kvm::RUN) => "the guest";
    SYS_ioctl if Is(1, kvm::SET_GSI_ROUTING) => "where the guest wants its interrupts";
    SYS_read => "a reset forgets the kicks of a queue";
    SYS_sendto => "the console";
    ; rare
    SYS_ioctl if Is(1, kvm::GET_REGS) => "where the guest was when KVM failed";
};

/// Returning memory to the host.
const DISCARDS: &[Rule] = table! {
    SYS_fallocate if Is(1, PUNCH_HOLE) => "free pages of a guest's memory, a memfd";
};

/// The control channel.
const CONTROL: &[Rule] = table! {
    SYS_getsockopt => "checks its channel";
    SYS_poll => "waits for a request or the guest's end";
    SYS_recvmsg => "requests";
    SYS_sendmsg => "answers";
    SYS_setsockopt => "answers have a deadline";
    SYS_fcntl => "descriptors of the devices' sockets";
    ; rare
    SYS_sendto => "what a guest on KVM has left of a line on its console";
    SYS_shutdown => "devices end in order: the owner closed the channel and lives";
};

/// A vhost-user front end's requests.
const FRONT_END: &[Rule] = table! {
    SYS_fcntl => "descriptors that the front end sent";
    SYS_recvmsg => "requests";
    SYS_sendmsg => "answers";
    ; rare
    SYS_shutdown => "the front end is gone, and the owner did not kill us first";
};

/// Starting and confining threads; for the spawner only.
const THREADS: &[Rule] = table! {
    SYS_capset => "a thread gives up the capabilities that it does not need";
    SYS_clone if Is(0, THREAD) => "a thread, and nothing else";
    SYS_clone3 => "answered with ENOSYS, so that libc takes clone";
    SYS_prctl if Is(0, libc::PR_SET_NAME as u64) => "its name";
    SYS_prctl if Is(0, libc::PR_SET_NO_NEW_PRIVS as u64) => "seccompiler, before each filter";
    SYS_rseq => "libc, in each thread";
    SYS_sched_getaffinity => "libc, when a thread looks for the end of its stack";
    SYS_seccomp => "its filter";
    SYS_set_robust_list => "libc, in each thread";
};

/// The groups of a kind's list.
fn groups(kind: ThreadKind) -> &'static [&'static [Rule]] {
    match kind {
        ThreadKind::Main => &[COMMON, CONTROL],
        ThreadKind::Machine => &[COMMON, MACHINE],
        ThreadKind::Vcpu => &[COMMON, QUEUES, RUN],
        ThreadKind::VhostUser => &[COMMON, QUEUES, FRONT_END],
        ThreadKind::Fs => &[COMMON, EVENTS, FILES],
        ThreadKind::Vsock => &[COMMON, EVENTS, SOCKETS],
        ThreadKind::Block => &[COMMON, EVENTS, BLOCKS],
        ThreadKind::Net => &[COMMON, EVENTS, TAP],
        ThreadKind::Simple => &[COMMON, EVENTS, DISCARDS],
        ThreadKind::Spawner => &[
            THREADS, COMMON, EVENTS, QUEUES, FILES, SOCKETS, BLOCKS, TAP, DISCARDS, MACHINE, RUN,
            CONTROL, FRONT_END,
        ],
    }
}

/// The allowed calls of a thread of this kind.
pub fn rules(kind: ThreadKind) -> impl Iterator<Item = &'static Rule> {
    groups(kind).iter().copied().flatten()
}
