//! The threads that run the guest's CPUs.
//!
//! ```text
//!   main thread                         vCPU thread
//!     Gate: wanted = Run   ── wakes ──▶   KVM_RUN ⇄ exits answered by the Bus
//!     Gate: wanted = Pause ── kick ───▶   leaves KVM_RUN, parks, reports it
//!     Gate: wanted = Stop  ── kick ───▶   returns
//! ```
//!
//! A kick sets `immediate_exit` in the page shared with KVM, then sends a signal. The flag ends
//! a `KVM_RUN` that is about to start; the signal ends one that is running. The thread clears
//! the flag *before* it checks the wanted state, so no kick is lost.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::MachineError;
use super::bus::Bus;
use super::exit::{Ending, GuestExit};
use crate::jail::{self, ThreadKind};
use crate::sync::{lock, recover};

/// The time that a vCPU may take to leave the guest. It takes microseconds, unless the host's
/// KVM hangs.
const PARK_LIMIT: Duration = Duration::from_secs(10);

/// The state that the vCPUs must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Pause,
    Run,
    Stop,
}

/// The synchronisation between the main thread and the vCPUs.
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

struct GateState {
    wanted: Wanted,
    parked: usize,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        lock(&self.state)
    }

    /// For a vCPU: parks during a pause; returns false if the vCPU must end.
    fn park_while_paused(&self) -> bool {
        let mut state = self.lock();
        if state.wanted == Wanted::Pause {
            state.parked += 1;
            self.changed.notify_all();
            let resumed = self
                .changed
                .wait_while(state, |state| state.wanted == Wanted::Pause);
            state = recover(resumed);
            state.parked -= 1;
        }
        state.wanted == Wanted::Run
    }

    /// For a vCPU that cannot continue: it counts as parked until the end.
    fn park_for_good(&self) {
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        let ended = |state: &mut GateState| state.wanted != Wanted::Stop;
        drop(self.changed.wait_while(state, ended));
    }
}

/// All vCPUs of a machine. Dropping them ends their threads.
pub(super) struct Vcpus {
    gate: Arc<Gate>,
    threads: Vec<Thread>,
}

struct Thread {
    handle: JoinHandle<VcpuFd>,
    immediate_exit: ImmediateExit,
}

/// Whether `KVM_RUN` returns at once: a byte of the page shared with KVM.
#[derive(Clone, Copy)]
struct ImmediateExit(*const AtomicU8);

// SAFETY: the byte belongs to no thread, and all accesses are atomic.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    /// The byte of `vcpu`. Must not be used after its end.
    fn of(vcpu: &mut VcpuFd) -> ImmediateExit {
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        ImmediateExit(flag.cast_const().cast())
    }

    fn set(self, value: u8) {
        // SAFETY: the page is mapped for the lifetime of the `VcpuFd`: its thread returns it at
        // its end, and no kick follows the join.
        unsafe { &*self.0 }.store(value, Ordering::SeqCst);
    }
}

impl Vcpus {
    /// Starts the threads in the parked state.
    pub fn start(
        vcpus: Vec<VcpuFd>,
        bus: &Arc<Bus>,
        ending: &Ending,
    ) -> Result<Vcpus, MachineError> {
        install_handler();
        let mut this = Vcpus {
            gate: Arc::new(Gate {
                state: Mutex::new(GateState {
                    wanted: Wanted::Pause,
                    parked: 0,
                }),
                changed: Condvar::new(),
            }),
            threads: Vec::new(),
        };
        for (id, mut vcpu) in (0..).zip(vcpus) {
            let immediate_exit = ImmediateExit::of(&mut vcpu);
            let runner = Runner {
                id,
                immediate_exit,
                gate: Arc::clone(&this.gate),
                bus: Arc::clone(bus),
                ending: ending.clone(),
            };
            let name = format!("vcpu-{id}");
            let handle = jail::spawn(ThreadKind::Vcpu, &name, move || runner.run(vcpu))
                .map_err(MachineError::Thread)?;
            this.threads.push(Thread {
                handle,
                immediate_exit,
            });
        }
        Ok(this)
    }

    /// Lets them run.
    pub fn run(&self) {
        self.set(Wanted::Run);
    }

    /// Stops them; returns when all have left the guest.
    pub fn pause(&self) -> Result<(), MachineError> {
        self.set(Wanted::Pause);
        let end = Instant::now() + PARK_LIMIT;
        let mut state = self.gate.lock();
        while state.parked < self.threads.len() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(MachineError::Stuck(PARK_LIMIT));
            }
            let waited = self.gate.changed.wait_timeout(state, left);
            state = recover(waited).0;
        }
        Ok(())
    }

    fn set(&self, wanted: Wanted) {
        self.gate.lock().wanted = wanted;
        self.gate.changed.notify_all();
        if wanted != Wanted::Run {
            for thread in &self.threads {
                thread.kick();
            }
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.set(Wanted::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.handle.join();
        }
    }
}

impl Thread {
    fn kick(&self) {
        use std::os::unix::thread::JoinHandleExt;

        self.immediate_exit.set(1);
        // SAFETY: the thread is not joined yet, so the handle is valid.
        unsafe { libc::pthread_kill(self.handle.as_pthread_t(), signal()) };
    }
}

/// One vCPU's thread.
struct Runner {
    id: u32,
    immediate_exit: ImmediateExit,
    gate: Arc<Gate>,
    bus: Arc<Bus>,
    ending: Ending,
}

impl Runner {
    fn run(self, mut vcpu: VcpuFd) -> VcpuFd {
        loop {
            self.immediate_exit.set(0);
            if !self.gate.park_while_paused() {
                return vcpu;
            }
            if let Err(exit) = self.enter(&mut vcpu) {
                self.ending.report(exit);
                self.gate.park_for_good();
                return vcpu;
            }
        }
    }

    /// Runs the guest until the gate has to be checked; the error is the guest's end.
    fn enter(&self, vcpu: &mut VcpuFd) -> Result<(), GuestExit> {
        loop {
            match vcpu.run() {
                Ok(VcpuExit::IoIn(port, data)) => self.bus.read_port(port, data),
                Ok(VcpuExit::IoOut(port, data)) => self.bus.write_port(port, data),
                Ok(VcpuExit::MmioRead(address, data)) => self.bus.read(address, data),
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    let written = self.bus.write(address, data);
                    written.map_err(|err| self.failed(err.to_string()))?;
                }
                Ok(VcpuExit::Intr) => return Ok(()),
                Ok(VcpuExit::Shutdown) => return Err(GuestExit::TripleFault),
                Ok(VcpuExit::SystemEvent(kind, _)) => return Err(system_event(kind)),
                Ok(VcpuExit::FailEntry(reason, cpu)) => {
                    return Err(self.failed(format!(
                        "the CPU refused to enter the guest: reason {reason:#x} on CPU {cpu}"
                    )));
                }
                Ok(VcpuExit::InternalError) => {
                    let reason = internal_error(vcpu);
                    return Err(self.failed(reason));
                }
                Ok(other) => {
                    let reason = format!("unexpected exit {other:?}");
                    return Err(self.failed(reason));
                }
                Err(err) => match err.errno() {
                    libc::EINTR | libc::EAGAIN => return Ok(()),
                    _ => return Err(self.failed(err.to_string())),
                },
            }
        }
    }

    fn failed(&self, reason: String) -> GuestExit {
        GuestExit::Failed {
            vcpu: self.id,
            reason,
        }
    }
}

fn system_event(kind: u32) -> GuestExit {
    match kind {
        kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => GuestExit::PowerOff,
        kvm_bindings::KVM_SYSTEM_EVENT_RESET => GuestExit::Reset,
        _ => GuestExit::TripleFault,
    }
}

/// KVM's report of an instruction that it could not handle, with the guest's position.
fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: this exit reason uses this member of the union.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let place = vcpu.get_regs().map_or(0, |regs| regs.rip);
    format!("KVM's internal error {suberror} with the guest at {place:#x}")
}

/// The first real-time signal that libc does not use.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn nothing(_: libc::c_int) {}

/// The signal only interrupts `KVM_RUN`.
fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler: extern "C" fn(libc::c_int) = nothing;
        // SAFETY: all zero is a valid sigaction; the handler does nothing.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // SAFETY: the action is valid, and this signal had no handler before.
        if unsafe { libc::sigaction(signal(), &action, std::ptr::null_mut()) } < 0 {
            let err = io::Error::last_os_error();
            log::error!("Cannot install the handler of the vCPUs' signal: {err}");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_support::require;

    fn gate() -> Arc<Gate> {
        Arc::new(Gate {
            state: Mutex::new(GateState {
                wanted: Wanted::Pause,
                parked: 0,
            }),
            changed: Condvar::new(),
        })
    }

    fn want(gate: &Gate, wanted: Wanted) {
        gate.lock().wanted = wanted;
        gate.changed.notify_all();
    }

    fn wait_parked(gate: &Gate, count: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        while gate.lock().parked != count {
            assert!(Instant::now() < end, "{} are parked", gate.lock().parked);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_vcpu_parks_until_it_may_run_or_must_end() {
        for (wanted, runs) in [(Wanted::Run, true), (Wanted::Stop, false)] {
            let gate = gate();
            let parks = || {
                let gate = Arc::clone(&gate);
                std::thread::spawn(move || gate.park_while_paused())
            };
            let vcpus = [parks(), parks()];
            wait_parked(&gate, 2);
            want(&gate, wanted);
            assert_eq!(vcpus.map(|vcpu| vcpu.join().unwrap()), [runs; 2]);
            assert_eq!(gate.lock().parked, 0);
            // Without a pause it does not park.
            assert_eq!(gate.park_while_paused(), runs);
        }
    }

    #[test]
    fn a_vcpu_that_failed_is_parked_until_the_end() {
        let gate = gate();
        let failed = Arc::clone(&gate);
        let failed = std::thread::spawn(move || failed.park_for_good());
        wait_parked(&gate, 1);
        want(&gate, Wanted::Run);
        want(&gate, Wanted::Pause);
        // A vCPU that passes the gate shows that the other one had its turn.
        let other = Arc::clone(&gate);
        let other = std::thread::spawn(move || other.park_while_paused());
        wait_parked(&gate, 2);
        want(&gate, Wanted::Run);
        assert!(other.join().unwrap());
        assert!(!failed.is_finished());
        want(&gate, Wanted::Stop);
        failed.join().unwrap();
        assert_eq!(gate.lock().parked, 1);
    }

    /// linux/kvm.h, KVM_SYSTEM_EVENT_*.
    #[test]
    fn events_of_the_system_end_the_guest() {
        let exits = [1, 2, 3, 4, 0].map(system_event);
        let other = GuestExit::TripleFault;
        let expected = [
            GuestExit::PowerOff,
            GuestExit::Reset,
            other.clone(),
            other.clone(),
            other,
        ];
        assert_eq!(exits, expected);
    }

    #[test]
    fn an_internal_error_tells_its_kind_and_place() {
        let kvm = super::super::kvm::open(require!(test_support::kvm())).unwrap();
        let vm = super::super::kvm::create_vm(&kvm).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let mut regs = vcpu.get_regs().unwrap();
        regs.rip = 0xabcd;
        vcpu.set_regs(&regs).unwrap();
        vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror = 3;
        let told = internal_error(&mut vcpu);
        assert_eq!(told, "KVM's internal error 3 with the guest at 0xabcd");
    }
}
