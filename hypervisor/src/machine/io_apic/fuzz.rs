//! A fuzz target for the I/O APIC, with a KVM that records the routes.

use std::sync::{Arc, Mutex};

use super::{IoApic, LINES, MASKED, MESSAGE, Message, REDIRECTION, SELECT, WINDOW};
use crate::fuzz::Script;

/// Arbitrary accesses, in any order.
pub fn io_apic(bytes: &[u8]) {
    let routes = Arc::new(Mutex::new(Vec::new()));
    let kvm = Arc::clone(&routes);
    let mut io_apic = IoApic::new(Box::new(move |messages| {
        let before = std::mem::replace(&mut *kvm.lock().unwrap(), messages.to_vec());
        assert_ne!(before, messages, "routes for nothing");
        Ok(())
    }));
    let mut script = Script::new(bytes);
    while !script.is_over() {
        access(&mut io_apic, &mut script);
        check(&io_apic, &routes.lock().unwrap());
    }
}

fn access(io_apic: &mut IoApic, script: &mut Script<'_>) {
    let what = script.byte();
    let offset = match what >> 6 {
        0 => SELECT,
        1 | 2 => WINDOW,
        _ => script.quad(),
    };
    let width = match what >> 4 & 3 {
        0 => script.below(17),
        _ => 4,
    };
    match what & 7 {
        0 => io_apic.read(offset, &mut vec![0xaa; width]),
        // A register of a line, selected as drivers do.
        1 => {
            let register = REDIRECTION + script.below(2 * LINES) as u8;
            io_apic.write(SELECT, &[register]).unwrap();
        }
        _ => {
            let value = [script.long().to_le_bytes(), [0xff; 4]].concat().repeat(2);
            io_apic.write(offset, &value[..width]).unwrap();
        }
    }
}

/// KVM has a route for each unmasked line, and for no other.
fn check(io_apic: &IoApic, routes: &[Message]) {
    let live = (0..).zip(&io_apic.lines);
    let live = live.filter(|(_, line)| line[0] & MASKED == 0);
    assert!(
        live.map(|(line, words)| (line, words[0] & MESSAGE))
            .eq(routes.iter().map(|route| (route.line, route.data)))
    );
    for route in routes {
        // Messages for local APICs only.
        assert_eq!(route.address & !0x000f_f004, 0xfee0_0000, "{route:x?}");
    }
}
