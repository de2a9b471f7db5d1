//! The I/O APIC (82093AA): it converts interrupt lines to messages.
//!
//! ```text
//!   device ── eventfd ──▶ KVM: line ── route ──▶ message ──▶ local APIC ──▶ vCPU
//!                                        ▲
//!   guest ── MMIO ──▶ IoApic ── KVM_SET_GSI_ROUTING
//! ```
//!
//! KVM has an I/O APIC, too, but an irqfd for it needs a work item of the host's kernel. An
//! irqfd for a message is delivered by the thread that writes the eventfd. So the registers are
//! here, since the guest seldom uses them, and the lines bypass them: each unmasked line is a
//! route in KVM to the message that the guest wrote.
//!
//! Lines are always edge-triggered, even if the guest requests levels: an edge is one
//! interrupt. An edge on a masked line is lost, as on the chip.

use super::MachineError;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;

/// The number of input lines of the chip.
pub(super) const LINES: usize = 24;
/// Length of the registers.
pub(super) const LEN: u64 = 0x20;

/// 82093AA §3.1: selects the register of the window …
const SELECT: u64 = 0x00;
/// … the window.
const WINDOW: u64 = 0x10;
/// 82093AA §3.2, behind the window: identification …
const ID: u8 = 0;
/// … version and last line …
const VERSION: u8 = 1;
/// … the identification once more …
const ARBITRATION: u8 = 2;
/// … and two words for each line.
const REDIRECTION: u8 = 0x10;

/// Bits of the identification.
const ID_BITS: u32 = 0xf << 24;
/// A chip without an end-of-interrupt register, which edges do not need.
const VERSION_82093AA: u32 = 0x11;

/// 82093AA §3.2.4, the first word of a line. Vector and delivery mode …
const MESSAGE: u32 = 0x7ff;
/// … whether the destination is a set of CPUs …
const LOGICAL: u32 = 1 << 11;
/// … whether the line is masked …
const MASKED: u32 = 1 << 16;
/// … and the bits that the guest cannot write: delivery status and remote IRR.
const READ_ONLY: u32 = 1 << 12 | 1 << 14;
/// The second word: the destination.
const DESTINATION_SHIFT: u32 = 24;

/// Intel SDM 3A §11.11.1: the address of messages, followed by the destination …
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
const MESSAGE_DESTINATION_SHIFT: u32 = 12;
/// … which is a set.
const MESSAGE_LOGICAL: u32 = 1 << 2;

/// The message of a line (Intel SDM 3A §11.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    /// The line, KVM's "global system interrupt".
    pub line: u32,
    /// Lower half of the address; the upper one is zero.
    pub address: u32,
    /// Vector and delivery mode; an edge.
    pub data: u32,
}

/// Activates these messages, and replaces all previous ones.
pub(super) type Route = Box<dyn Fn(&[Message]) -> Result<(), MachineError> + Send>;

/// See the module.
pub(super) struct IoApic {
    select: u8,
    id: u32,
    lines: [[u32; 2]; LINES],
    in_force: Vec<Message>,
    route: Route,
}

impl IoApic {
    /// An I/O APIC with all lines masked.
    pub fn new(route: Route) -> IoApic {
        IoApic {
            select: 0,
            id: 0,
            lines: [[MASKED, 0]; LINES],
            in_force: Vec::new(),
            route,
        }
    }

    /// A read at `offset`. Other addresses read as zeroes.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            SELECT => self.select.into(),
            WINDOW => self.register(),
            _ => 0,
        };
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    /// A write at `offset`. Returns the error of activating new routes.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), MachineError> {
        match (offset, data) {
            (SELECT, [select, ..]) => self.select = *select,
            (WINDOW, &[a, b, c, d]) => {
                self.set_register(u32::from_le_bytes([a, b, c, d]));
                return self.put_in_force();
            }
            _ => {}
        }
        Ok(())
    }

    fn register(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_82093AA | (LINES as u32 - 1) << 16,
            select => line(select).map_or(0, |(line, word)| self.lines[line][word]),
        }
    }

    fn set_register(&mut self, value: u32) {
        if self.select == ID {
            self.id = value & ID_BITS;
        } else if let Some((line, word)) = line(self.select) {
            let read_only = if word == 0 { READ_ONLY } else { 0 };
            self.lines[line][word] = value & !read_only;
        }
    }

    fn put_in_force(&mut self) -> Result<(), MachineError> {
        let messages: Vec<_> = (0..).zip(&self.lines).filter_map(message).collect();
        if messages != self.in_force {
            (self.route)(&messages)?;
            self.in_force = messages;
        }
        Ok(())
    }
}

/// The line of a register, and the number of its word.
fn line(select: u8) -> Option<(usize, usize)> {
    let index = usize::from(select.checked_sub(REDIRECTION)?);
    (index < 2 * LINES).then_some((index / 2, index % 2))
}

fn message((line, [low, high]): (u32, &[u32; 2])) -> Option<Message> {
    if low & MASKED != 0 {
        return None;
    }
    let destination = high >> DESTINATION_SHIFT << MESSAGE_DESTINATION_SHIFT;
    let logical = if low & LOGICAL != 0 {
        MESSAGE_LOGICAL
    } else {
        0
    };
    Some(Message {
        line,
        address: MESSAGE_ADDRESS | destination | logical,
        data: low & MESSAGE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    type Routed = Arc<Mutex<Vec<Vec<Message>>>>;

    fn io_apic() -> (IoApic, Routed) {
        let routed = Routed::default();
        let log = Arc::clone(&routed);
        let io_apic = IoApic::new(Box::new(move |messages| {
            log.lock().unwrap().push(messages.to_vec());
            Ok(())
        }));
        (io_apic, routed)
    }

    fn set(io_apic: &mut IoApic, register: u8, value: u32) {
        io_apic.write(SELECT, &[register, 0, 0, 0]).unwrap();
        io_apic.write(WINDOW, &value.to_le_bytes()).unwrap();
    }

    fn get(io_apic: &mut IoApic, register: u8) -> u32 {
        io_apic.write(SELECT, &[register, 0, 0, 0]).unwrap();
        let mut data = [0xff; 4];
        io_apic.read(WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn it_says_what_it_is() {
        let (mut io_apic, _) = io_apic();

        assert_eq!(get(&mut io_apic, VERSION), 0x17_0011);
        set(&mut io_apic, VERSION, 0);
        assert_eq!(get(&mut io_apic, VERSION), 0x17_0011);
        set(&mut io_apic, ID, u32::MAX);
        assert_eq!(get(&mut io_apic, ID), 0x0f00_0000);
        assert_eq!(get(&mut io_apic, ARBITRATION), 0x0f00_0000);
        for line in 0..LINES as u8 {
            assert_eq!(get(&mut io_apic, REDIRECTION + 2 * line), MASKED);
            assert_eq!(get(&mut io_apic, REDIRECTION + 2 * line + 1), 0);
        }
    }

    #[test]
    fn a_line_that_is_not_masked_is_a_route() {
        let (mut io_apic, routed) = io_apic();

        // Line 6: first to CPU 3, which has no effect yet; then vector 0x35, lowest priority.
        set(&mut io_apic, 0x10 + 13, 3 << 24);
        assert!(routed.lock().unwrap().is_empty());
        set(&mut io_apic, 0x10 + 12, 0x135);
        // Line 23: NMI to a set.
        set(&mut io_apic, 0x10 + 46, 0xc00);
        set(&mut io_apic, 0x10 + 47, 0x81 << 24);
        // The same value again.
        set(&mut io_apic, 0x10 + 12, 0x135);
        set(&mut io_apic, 0x10 + 12, MASKED | 0x135);

        let message = |line, address, data| Message {
            line,
            address,
            data,
        };
        let first = message(6, 0xfee0_3000, 0x135);
        let second = message(23, 0xfee8_1004, 0x400);
        assert_eq!(
            *routed.lock().unwrap(),
            [
                vec![first],
                vec![first, message(23, 0xfee0_0004, 0x400)],
                vec![first, second],
                vec![second],
            ]
        );
    }

    #[test]
    fn level_triggered_lines_are_edges() {
        let (mut io_apic, routed) = io_apic();

        set(&mut io_apic, REDIRECTION, !MASKED);

        assert_eq!(get(&mut io_apic, REDIRECTION), !MASKED & !READ_ONLY);
        assert_eq!(routed.lock().unwrap()[0][0].data, MESSAGE);
    }

    #[test]
    fn what_is_no_register_takes_nothing() {
        let (mut io_apic, routed) = io_apic();

        for register in (3..REDIRECTION).chain(REDIRECTION + 2 * LINES as u8..=u8::MAX) {
            set(&mut io_apic, register, 0x30);
            assert_eq!(get(&mut io_apic, register), 0);
        }
        for (offset, data) in [(WINDOW, &[0; 2][..]), (WINDOW, &[0; 8]), (8, &[0; 4])] {
            io_apic.write(SELECT, &[REDIRECTION]).unwrap();
            io_apic.write(offset, data).unwrap();
            io_apic.read(offset + 1, &mut [0; 8]);
        }

        assert!(routed.lock().unwrap().is_empty());
    }

    #[test]
    fn a_route_that_fails_is_reported_and_tried_again() {
        let failing = |_: &[Message]| Err(MachineError::Missing("routes".into()));
        let mut io_apic = IoApic::new(Box::new(failing));

        for _ in 0..2 {
            io_apic.write(SELECT, &[REDIRECTION]).unwrap();
            let failed = io_apic.write(WINDOW, &[0x30, 0, 0, 0]);
            assert!(matches!(failed, Err(MachineError::Missing(what)) if what == "routes"));
        }
    }

    #[test]
    fn registers_are_read_in_any_width_and_all_else_as_zeroes() {
        let (mut io_apic, _) = io_apic();
        io_apic.write(SELECT, &[VERSION]).unwrap();
        let read = |offset, width: usize| {
            let mut data = [0xee; 8];
            io_apic.read(offset, &mut data[..width]);
            data[..width].to_vec()
        };
        assert_eq!(read(SELECT, 4), [1, 0, 0, 0]);
        assert_eq!(read(WINDOW, 4), [0x11, 0, 0x17, 0]);
        assert_eq!(read(WINDOW, 1), [0x11]);
        assert_eq!(read(WINDOW, 8), [0x11, 0, 0x17, 0, 0, 0, 0, 0]);
        assert_eq!(read(WINDOW + 4, 4), [0; 4]);
    }
}
